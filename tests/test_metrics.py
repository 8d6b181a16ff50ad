"""Every metric against its literal definition, at its null value, and in its direction."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit

from unlearn_utils.metrics import (
    accuracy_per_class,
    binary_probes,
    fitted,
    linear_probe,
    membership_inference,
    nearest_class_centre,
)
from unlearn_utils.settings import Probe

K = 5


def rising(values, by=1e-6):
    return all(b > a + by for a, b in zip(values, values[1:]))


@pytest.fixture
def unbalanced(clusters):
    """Noisy features of classes of different size."""
    features, labels = clusters(K, 7, 12, 1.0)
    return features[:47], labels[:47]


# --- accuracy per class


def test_accuracy_counts_the_hits_of_each_class(rng):
    labels, predicted = (torch.randint(K, (60,), generator=rng) for _ in range(2))
    expected = []
    for c in range(K):
        mine = [p for p, y in zip(predicted.tolist(), labels.tolist()) if y == c]
        expected.append(sum(p == c for p in mine) / len(mine))
    assert accuracy_per_class(predicted, labels, K).tolist() == pytest.approx(expected, abs=1e-12)


def test_accuracy_is_not_a_number_for_a_class_without_test_images():
    assert math.isnan(accuracy_per_class(torch.tensor([0, 1]), torch.tensor([0, 1]), 3)[2])


# --- linear probe


def probe_by_hand(features, labels, recipe, seed):
    """The recipe in numpy: split, momentum SGD on the rest, first epoch with the most held-out hits.

    It ends once ``patience`` epochs in a row have had no more hits than an epoch before them.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    held = int(recipe.validation * len(labels))
    torch.manual_seed(seed)
    layer = torch.nn.Linear(features.shape[1], K)
    parameters = [layer.weight.detach().double().numpy().copy(), layer.bias.detach().double().numpy().copy()]
    velocity = [np.zeros_like(p) for p in parameters]
    x, y = features.double().numpy(), labels.numpy()
    scores, snapshots = [], []
    for epoch in range(recipe.epochs):
        lr = recipe.lr * (0.5 + 0.5 * math.cos(math.pi * epoch / recipe.epochs) if recipe.schedule == "cosine" else 1)
        fit = order[held:]
        fit = fit[torch.randperm(len(fit), generator=generator)].numpy()
        for start in range(0, len(fit), recipe.batch_size):
            batch = fit[start : start + recipe.batch_size]
            logits = x[batch] @ parameters[0].T + parameters[1]
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            d = (p - np.eye(K)[y[batch]]) / len(batch)
            velocity = [recipe.momentum * v + g for v, g in zip(velocity, (d.T @ x[batch], d.sum(0)))]
            parameters = [q - lr * v for q, v in zip(parameters, velocity)]
        validation = order[:held].numpy()
        scores.append(((x[validation] @ parameters[0].T + parameters[1]).argmax(1) == y[validation]).sum())
        snapshots.append(parameters)
        if recipe.patience and max(scores[: -recipe.patience], default=-1) >= max(scores[-recipe.patience :]):
            break
    best = len(scores) - 1 - int(np.argmax(scores[::-1]))  # of equally good ones the last
    return *snapshots[best], best


@pytest.mark.parametrize(
    "changes, seed, best_of",
    [
        ({}, 3, range(1, 11)),  # neither the first nor the last
        ({"patience": 2}, 3, range(1, 9)),  # a better one would have come
        ({"schedule": "cosine", "lr": 0.2}, 1, range(3, 12)),  # the rate has changed by then
    ],
)
def test_probe_is_momentum_sgd_and_keeps_the_best_held_out_epoch(changes, seed, best_of, clusters):
    features, labels = clusters(K, 7, 40, 2.0)
    recipe = replace(Probe(epochs=12, lr=0.05, batch_size=32), **changes)
    weight, bias, best = probe_by_hand(features, labels, recipe, seed)
    *_, later = probe_by_hand(features, labels, replace(recipe, patience=0), seed)
    assert best in best_of and (best < later) == ("patience" in changes), "this test needs another best epoch"
    probe = linear_probe(features.float(), labels, K, recipe, seed)
    np.testing.assert_allclose(probe.weight.detach(), weight, atol=1e-4)
    np.testing.assert_allclose(probe.bias.detach(), bias, atol=1e-4)


def probe_accuracy(clusters, noise, shuffle=False):
    features, labels = clusters(K, 7, 200, noise)
    fit, test = slice(0, 500), slice(500, None)
    seen = labels[fit][torch.randperm(500, generator=torch.Generator().manual_seed(1))] if shuffle else labels[fit]
    probe = linear_probe(features[fit].float(), seen, K, Probe(epochs=10), seed=0)
    with torch.no_grad():
        predicted = probe(features[test].float()).argmax(1)
    return accuracy_per_class(predicted, labels[test], K).mean().item()


def test_probe_accuracy_falls_from_1_to_one_kth_as_the_classes_blur_or_the_labels_mean_nothing(clusters):
    readings = [probe_accuracy(clusters, noise) for noise in (0.1, 1.5, 4.0)]
    assert readings[0] == 1 and rising(readings[::-1], 0.1)
    assert np.mean([probe_accuracy(clusters, 5.0, shuffle=True) for _ in range(5)]) == pytest.approx(1 / K, abs=0.04)


# --- nearest class centre


def test_ncc_picks_the_centre_with_the_smallest_squared_distance(unbalanced, rng):
    features, _ = unbalanced
    means = torch.randn(K, 7, generator=rng, dtype=torch.float64)
    expected = []
    for f in features.numpy():
        expected.append(min(range(K), key=lambda c: sum((a - b) ** 2 for a, b in zip(f, means[c].numpy()))))
    assert nearest_class_centre(features, means).tolist() == expected


def test_ncc_tells_apart_centres_that_single_precision_cannot():
    """Far from the origin the expanded square loses in float32 what separates the centres."""
    means = torch.tensor([[1000.0, 0.0], [1000.0, 0.01]])
    assert nearest_class_centre(means.repeat(20, 1), means).tolist() == [0, 1] * 20


# --- membership inference


def logistic_by_hand(x, y):
    """Threshold and sign of min over (w, b) of w^2 / 2 + sum log(1 + exp(-t (w x + b))), t = 2y - 1."""
    t = 2 * y - 1
    w, b = minimize(lambda p: p[0] ** 2 / 2 + np.logaddexp(0, -t * (p[0] * x + p[1])).sum(), [0, 0], tol=1e-10).x
    return lambda values: (w * values + b > 0).astype(int)


def test_membership_is_logistic_regression_on_the_loss_over_five_splits(rng):
    members, others = torch.randn(60, generator=rng) - 1, torch.randn(60, generator=rng)
    order = torch.Generator().manual_seed(0)
    x = np.concatenate([part[torch.randperm(60, generator=order)].double().numpy() for part in (members, others)])
    y = np.repeat([1, 0], 60)
    right = []
    for fit, test in StratifiedShuffleSplit(5, test_size=12, random_state=0).split(x[:, None], y):
        right.append((logistic_by_hand(x[fit], y[fit])(x[test]) == y[test]).mean())
    accuracy, normalised = membership_inference(members, others)
    assert 0.55 < accuracy < 0.9
    assert accuracy == pytest.approx(np.mean(right), abs=1e-12)
    assert normalised == pytest.approx(2 * accuracy - 1, abs=1e-12)


def test_membership_of_losses_from_one_distribution_is_one_half_and_never_negative(rng):
    read = [membership_inference(torch.rand(500, generator=rng), torch.rand(500, generator=rng), s) for s in range(10)]
    assert np.mean([accuracy for accuracy, _ in read]) == pytest.approx(0.5, abs=0.03)
    assert min(accuracy for accuracy, _ in read) < 0.5 and min(normalised for _, normalised in read) == 0


def test_a_larger_group_gives_no_head_start(rng):
    """Five members to one other: without sub-sampling, guessing "member" would be right five times out of six."""
    accuracy, _ = membership_inference(torch.rand(2500, generator=rng), torch.rand(500, generator=rng))
    assert accuracy == pytest.approx(0.5, abs=0.1)


def test_membership_rises_to_1_as_the_losses_part_on_either_side(rng):
    members, others = torch.rand(400, generator=rng), torch.rand(400, generator=rng)
    read = [membership_inference(members, others + apart)[0] for apart in (0, 0.3, 0.6, 2)]
    assert read == sorted(read) and read[0] < 0.6 < 0.75 < read[2] < read[3] == 1
    assert membership_inference(others + 2, members) == (1, 1)


# --- binary probes


def test_binary_probes_are_logistic_regressions_with_balanced_classes(clusters):
    (train, labels), (test, test_labels) = clusters(K, 7, 40, 2.0), clusters(K, 7, 40, 2.0)
    found = binary_probes(train.float(), labels, test.float(), test_labels, K)
    mean, std = train.mean(0), train.std(0, unbiased=False)
    for c in range(K):
        fitted = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-9).fit(
            (train - mean) / std, labels == c
        )
        predicted, own = torch.from_numpy(fitted.predict((test - mean) / std)), test_labels == c
        assert found["recall"][c].item() == pytest.approx(predicted[own].double().mean().item(), abs=0.03)
        assert found["false_positives"][c].item() == pytest.approx(predicted[~own].double().mean().item(), abs=0.01)
        scores = fitted.decision_function((test - mean) / std)
        assert found["auroc"][c].item() == pytest.approx(roc_auc_score(own, scores), abs=1e-3)
        assert (found["hits"][own].double().mean() - found["recall"][c]).abs() < 1e-6


def test_binary_probes_of_features_without_the_class_are_at_chance(clusters, rng):
    features, labels = clusters(K, 7, 400, 1.0)
    donors = features.clone()  # each image of class 0 gets the features of another class's image
    others = (labels != 0).nonzero()[:, 0]
    donors[labels == 0] = features[others[torch.randint(len(others), (400,), generator=rng)]]
    fit, test = slice(0, 1000), slice(1000, None)
    found = binary_probes(donors[fit], labels[fit], donors[test], labels[test], K)
    assert found["auroc"][0].item() == pytest.approx(0.5, abs=0.06) and found["auroc"][1:].min() > 0.8


# --- further probes


@pytest.mark.parametrize("kind", ["logistic regression", "ridge", "5 nearest neighbours", "MLP, 64 hidden units"])
def test_a_further_probe_finds_classes_on_any_scale_and_none_in_noise(kind, clusters, rng):
    features, labels = clusters(K, 7, 60, 0.3)
    features = features * torch.logspace(-3, 3, 7)
    found = fitted(kind, features[:200], labels[:200], features[200:], seed=0)
    assert accuracy_per_class(found, labels[200:], K).min() > 0.9
    noise = torch.randn(len(labels), 7, generator=rng)
    found = fitted(kind, noise[:200], labels[:200], noise[200:], seed=0)
    assert accuracy_per_class(found, labels[200:], K).mean() < 2 / K
