"""The relearning attacks see only what they may see, stop when they must, and find what is there to find."""

import pytest
import torch

from unlearn_utils import models
from unlearn_utils.attacks import draw_shots, few_shot, fine_tune
from unlearn_utils.data import Dataset
from unlearn_utils.representation import Features, features_of
from unlearn_utils.settings import Attack

K = 5


def mean_accuracy(readings):
    return torch.tensor([reading["accuracy"] for reading in readings]).mean().item()


def test_shots_are_k_different_images_of_each_class(rng):
    labels = torch.randint(K, (200,), generator=rng)
    index = draw_shots(labels, 7, rng)
    assert len(index.unique()) == len(index)
    assert torch.bincount(labels[index], minlength=K).tolist() == [7] * K


def test_one_shot_reads_separated_clusters_perfectly_and_with_shuffled_labels_one_kth(clusters, rng):
    (train, train_labels), (test, test_labels) = (clusters(K, K, 20, 0.2) for _ in range(2))
    given = Features(train.float(), test.float()), train_labels, test_labels
    readings = few_shot(*given, shots=[1, 3], draws=2, generator=rng)
    assert [(r["x"], r["draw"]) for r in readings] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert mean_accuracy(readings) == 1
    shuffled = few_shot(*given, shots=[1], draws=60, generator=rng, shuffled=True)
    assert mean_accuracy(shuffled) == pytest.approx(1 / K, abs=0.08)


# --- fine-tuning


def budget(**settings):
    return Attack(**{"shots": 4, "steps": 6, "lr": 0.05, "batch_size": 5, **settings})


@pytest.mark.parametrize("head", ["linear", "cmf"])
def test_fine_tuning_leaves_the_given_model_as_it_is(head, resnet, dataset, rng, state_of, same):
    if head == "cmf":
        models.use_class_mean_head(resnet, "none")
        resnet.head.refit(features_of(resnet, dataset, dataset.train), dataset.train.labels)
    resnet.eval()
    before = state_of(resnet)
    readings = fine_tune(resnet, dataset, budget(), rng)
    assert same(before, state_of(resnet)) and not resnet.training
    assert all(len(r["accuracy"]) == 4 and 0 <= min(r["accuracy"]) <= max(r["accuracy"]) <= 1 for r in readings)


@pytest.mark.parametrize("steps, read", [(1, [0, 1]), (6, [0, 1, 2, 4, 6])])
def test_fine_tuning_takes_its_steps_and_reads_at_powers_of_two_and_at_the_end(
    steps, read, resnet, dataset, rng, monkeypatch
):
    taken, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, *args: taken.append(1) or step(self, *args))
    readings = fine_tune(resnet, dataset, budget(steps=steps), rng)
    assert [r["x"] for r in readings] == read
    assert len(taken) == steps


def test_fine_tuning_shows_k_images_of_each_class(resnet, dataset, rng, monkeypatch):
    shown, batches = [], Dataset.batches
    monkeypatch.setattr(Dataset, "batches", lambda *args: (shown.append(y) or (x, y) for x, y in batches(*args)))
    fine_tune(resnet, dataset, budget(steps=4), rng)
    assert torch.bincount(torch.cat(shown)).tolist() == [4] * 4  # 16 images in four batches: one whole epoch


@pytest.mark.parametrize("favourite", [0, 3])
def test_fine_tuning_starts_from_the_head_of_the_given_model_and_learns_the_classes(favourite, resnet, dataset, rng):
    with torch.no_grad():
        resnet.head.weight.zero_()
        resnet.head.bias.copy_(torch.eye(4)[favourite])
    readings = fine_tune(resnet, dataset, budget(steps=64, shots=12, batch_size=16), rng)
    assert readings[0]["accuracy"] == torch.eye(4)[favourite].tolist()
    assert mean_accuracy(readings[-1:]) > 0.9


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fine_tuning_runs_on_a_gpu(resnet, dataset):
    assert fine_tune(resnet.cuda(), dataset.to("cuda"), budget(), torch.Generator("cuda").manual_seed(0))
