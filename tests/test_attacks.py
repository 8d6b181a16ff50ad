"""The relearning attacks see only what they may see, stop when they must, and find what is there to find."""

import copy

import pytest
import torch

from unlearn_utils import attacks, models
from unlearn_utils.attacks import draw_shots, few_shot, fine_tune, prototype
from unlearn_utils.data import Dataset
from unlearn_utils.heads import class_means
from unlearn_utils.metrics import accuracy_per_class
from unlearn_utils.representation import Features, features_of, output_predictions
from unlearn_utils.settings import Attack, Network

K = 5


@pytest.fixture
def separated(clusters):
    """Features of five far clusters, training labels, test labels."""
    train, train_labels = clusters(K, 8, 20, 0.2)
    test, test_labels = clusters(K, 8, 20, 0.2)
    return Features(train.float(), test.float()), train_labels, test_labels


def mean_accuracy(readings):
    return torch.tensor([reading["accuracy"] for reading in readings]).mean().item()


# --- drawing


def test_shots_are_k_different_images_of_each_class(rng):
    labels = torch.randint(K, (200,), generator=rng)
    index = draw_shots(labels, 7, rng)
    assert len(index.unique()) == len(index)
    assert torch.bincount(labels[index], minlength=K).tolist() == [7] * K


# --- few-shot


def test_one_shot_reads_separated_clusters_perfectly(clusters, rng):
    train, train_labels = clusters(K, K, 20, 0.2)
    test, test_labels = clusters(K, K, 20, 0.2)
    features = Features(train.float(), test.float())
    readings = few_shot(features, train_labels, test_labels, shots=[1, 3], draws=2, generator=rng)
    assert [(r["x"], r["draw"]) for r in readings] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert mean_accuracy(readings) == 1


def test_one_shot_with_shuffled_labels_reads_one_kth(separated, rng):
    readings = few_shot(*separated, shots=[1], draws=60, generator=rng, shuffled=True)
    assert mean_accuracy(readings) == pytest.approx(1 / K, abs=0.08)


# --- prototype


def with_head(kind, features, labels, forget):
    """A model with a head that fits the clusters, but for forget rows that vote against their class."""
    model = models.build(Network(width=8, blocks=[1]), channels=1, classes=K, seed=0)
    if kind == "cmf":
        models.use_class_mean_head(model, "none")
        model.head.refit(features.train, labels)
    else:
        means = class_means(features.train, labels, K)
        with torch.no_grad():
            model.head.weight.copy_(means - means.mean(0))
            model.head.bias.copy_(-model.head.weight @ means.mean(0))
    with torch.no_grad():
        model.head.weight[list(forget)] *= -1
    return model


@pytest.mark.parametrize("head, forget", [("linear", (2,)), ("linear", (0, 3)), ("cmf", (0, 3))])
def test_prototype_restores_rows_that_vote_against_their_class(head, forget, separated, rng):
    features, train_labels, test_labels = separated
    model = with_head(head, features, train_labels, forget)
    before = accuracy_per_class(output_predictions(model, features.test), test_labels, K)
    assert before[list(forget)].max() == 0
    readings = prototype(model, *separated, forget, [1, 5], 2, rng)
    assert [r["x"] for r in readings] == [1, 1, 5, 5]
    assert all(r["accuracy"] == [1] * K for r in readings)


def test_prototype_does_not_find_a_class_that_the_features_have_lost(separated, rng):
    """Forget features are spread over the other clusters: there is no cluster to point at."""
    features, train_labels, test_labels = separated
    for part, labels in ((features.train, train_labels), (features.test, test_labels)):
        lost = (labels == 2).nonzero()[:, 0]
        others = (labels != 2).nonzero()[:, 0]
        part[lost] = part[others[torch.randperm(len(others), generator=rng)[: len(lost)]]]
    model = with_head("linear", features, train_labels, (2,))
    readings = prototype(model, *separated, (2,), [10], 5, rng)
    assert torch.tensor([r["accuracy"][2] for r in readings]).mean() < 0.3


def test_prototype_is_the_formula_of_its_docstring(clusters, rng):
    """On blurred clusters, where direction, length and bias all decide."""
    train, train_labels = clusters(K, 8, 30, 1.5)
    test, test_labels = clusters(K, 8, 400, 1.5)
    features, forget = Features(train.float() + 1, test.float() + 1), 2
    model = with_head("linear", features, train_labels, (forget,))
    with torch.no_grad():
        model.head.bias += torch.randn(K, generator=rng)
    w, b = (p.detach().double() for p in (model.head.weight, model.head.bias))

    m = torch.stack([features.train[train_labels == c].double().mean(0) for c in range(K)])
    centre, retain = sum(m) / K, [c for c in range(K) if c != forget]
    row = (m[forget] - centre) / (m[forget] - centre).norm() * sum(w[c].norm() for c in retain) / 4
    w[forget], b[forget] = row, sum(w[c] @ centre + b[c] for c in retain) / 4 - row @ centre
    predicted = (features.test.double() @ w.T + b).argmax(1)
    expected = accuracy_per_class(predicted, test_labels, K)

    (reading,) = prototype(model, features, train_labels, test_labels, (forget,), [30], 1, rng)
    assert 0.3 < expected[forget] < 0.99, "this test needs clusters that overlap"
    assert reading["accuracy"] == pytest.approx(expected.tolist(), abs=0.003)


# --- fine-tuning


def budget(**settings):
    return Attack(**{"shots": 4, "steps": 6, "lr": 0.05, "batch_size": 5, **settings})


@pytest.fixture
def shown(monkeypatch):
    """The labels that every batch showed to the attack."""
    labels, batches = [], Dataset.batches

    def recorded(self, *args):
        for x, y in batches(self, *args):
            labels.append(y)
            yield x, y

    monkeypatch.setattr(Dataset, "batches", recorded)
    return labels


@pytest.mark.parametrize("attack, head", [("fresh_head", "linear"), ("own_head", "cmf"), ("retain_only", "linear")])
def test_fine_tuning_leaves_the_given_model_as_it_is(attack, head, resnet, dataset, rng, state_of, same):
    if head == "cmf":
        models.use_class_mean_head(resnet, "none")
        resnet.head.refit(features_of(resnet, dataset, dataset.train), dataset.train.labels)
    resnet.eval()
    before = state_of(resnet)
    readings = fine_tune(resnet, dataset, attack, (1,), budget(), rng)
    assert same(before, state_of(resnet)) and not resnet.training
    assert all(len(r["accuracy"]) == 4 and 0 <= min(r["accuracy"]) <= max(r["accuracy"]) <= 1 for r in readings)


@pytest.mark.parametrize("steps, read", [(1, [0, 1]), (6, [0, 1, 2, 4, 6])])
def test_fine_tuning_takes_its_steps_and_reads_at_powers_of_two_and_at_the_end(
    steps, read, resnet, dataset, rng, monkeypatch
):
    taken, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *args: taken.append(1) or step(self, *args))
    readings = fine_tune(resnet, dataset, "own_head", (1,), budget(steps=steps), rng)
    assert [r["x"] for r in readings] == read
    assert len(taken) == steps


def test_retain_only_never_shows_a_forget_image_and_shows_all_the_others(resnet, dataset, rng, shown):
    fine_tune(resnet, dataset, "retain_only", (1, 3), budget(steps=5), rng)
    seen = torch.cat(shown)
    assert seen.unique().tolist() == [0, 2]
    assert torch.bincount(seen).tolist() == [12, 0, 12]  # 24 images in five batches: one whole epoch


@pytest.mark.parametrize("attack", ["own_head"])
def test_attacks_on_all_classes_show_k_images_of_each(attack, resnet, dataset, rng, shown):
    fine_tune(resnet, dataset, attack, (), budget(steps=4), rng)
    assert torch.bincount(torch.cat(shown)).tolist() == [4] * 4  # 16 images in four batches: one whole epoch


def test_own_head_starts_from_the_head_of_the_given_model_and_fresh_head_ignores_it(resnet, dataset):
    def first_readings(attack):
        readings = []
        for favourite in range(4):
            with torch.no_grad():
                resnet.head.weight.zero_()
                resnet.head.bias.copy_(torch.eye(4)[favourite])
            random = torch.Generator().manual_seed(0)
            readings.append(fine_tune(resnet, dataset, attack, (), budget(steps=1), random)[0]["accuracy"])
        return readings

    assert first_readings("own_head") == torch.eye(4).tolist()
    fresh = first_readings("fresh_head")
    assert fresh == [fresh[0]] * 4


def test_fine_tuning_learns_the_classes(resnet, dataset, rng):
    readings = fine_tune(resnet, dataset, "fresh_head", (), budget(steps=64, shots=12, batch_size=16), rng)
    assert mean_accuracy(readings[:1]) < 0.5 and mean_accuracy(readings[-1:]) > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("attack", attacks.FINE_TUNING)
def test_fine_tuning_runs_on_a_gpu(attack, resnet, dataset):
    random = torch.Generator("cuda").manual_seed(0)
    assert fine_tune(copy.deepcopy(resnet).cuda(), dataset.to("cuda"), attack, (1,), budget(), random)
