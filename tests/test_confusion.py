"""Confusion counts and what is read off them, and one class against the rest, by definition, null and direction."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import one_hot

from unlearn_utils.heads import class_means
from unlearn_utils.metrics import (
    accuracy_per_class,
    auroc,
    centre_scores,
    confusion,
    destinations,
    false_positives,
    group_accuracy,
    nearest_class_centre,
    pooled_accuracy,
    probe_scores,
)

K, FORGET, RETAIN = 4, (1, 3), (0, 2)

# 10 images of class 0, 20 of class 1, 5 of class 2 and 5 of class 3.
COUNTS = torch.tensor([[7, 2, 1, 0], [4, 6, 2, 8], [0, 0, 4, 1], [0, 5, 0, 0]])


def counts_of(labels, predicted):
    return confusion(torch.tensor(predicted), torch.tensor(labels), K)


# --- counts, and accuracies from them


def test_confusion_counts_each_pair_of_true_and_predicted_class():
    counts = [[1, 0, 2, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]]
    assert counts_of([0, 0, 0, 1, 3, 3], [0, 2, 2, 1, 0, 3]).tolist() == counts
    with pytest.raises(IndexError):
        counts_of([0, 1], [0, K])


@pytest.mark.parametrize(
    ("metric", "classes", "value"),
    [
        (pooled_accuracy, FORGET, 6 / 25),  # images count, not classes
        (pooled_accuracy, RETAIN, 11 / 15),
        (pooled_accuracy, (2,), 4 / 5),
        (destinations, FORGET, [4 / 25, 11 / 25, 2 / 25, 8 / 25]),
        (group_accuracy, FORGET, (6 + 8 + 5 + 0) / 25),  # any forget class is right
        (group_accuracy, (2,), 4 / 5),
        (false_positives, FORGET, (2 + 0 + 0 + 1) / 15),  # retain images predicted as a forget class
    ],
)
def test_a_metric_of_counts_by_hand(metric, classes, value):
    assert np.asarray(metric(COUNTS, classes)).tolist() == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("labels, predictions, values", [
    ([0, 1, 1, 2, 3, 3], [0, 0, 0, 2, 0, 0], {"pooled": 0, "group": 0, "retain": 1}),
    ([0, 1, 1, 2, 3, 3], [3, 1, 0, 0, 0, 0], {"pooled": 0.25, "group": 0.25, "retain": 0, "false": 0.5}),
    ([0, 2, *[1, 3] * 4], [0, 2, *[1] * 8], {"pooled": 0.5, "group": 1, "false": 0}),  # merged members
    ([0, 0, 2, 2, 1, 3], [1] * 6, {"group": 1, "false": 1}),  # a forget class everywhere
])  # fmt: skip
def test_a_metric_moves_with_the_images_it_is_about(labels, predictions, values):
    counts = counts_of(labels, predictions)
    found = {"pooled": pooled_accuracy(counts, FORGET), "retain": pooled_accuracy(counts, RETAIN)}
    found |= {"group": group_accuracy(counts, FORGET), "false": false_positives(counts, FORGET)}
    assert {name: found[name] for name in values} == values


# --- one class against the rest


def test_auroc_of_four_images_by_hand():
    """Class 0 has 3 and 1, the others 2 and 1: of four pairs two are won, one is a tie and one is lost."""
    scores = torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
    assert auroc(scores, torch.tensor([0, 0, 1, 1])).tolist() == [2.5 / 4, 1]
    assert math.isnan(auroc(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))[2])  # without images


def test_auroc_is_scikit_learns_with_and_without_ties(rng):
    labels = torch.randint(K, (300,), generator=rng)
    smooth = torch.randn(300, K, generator=rng, dtype=torch.float64)
    smooth[torch.arange(300), labels] += 0.7
    for scores in (smooth, smooth.round(), torch.zeros(300, K)):
        expected = [roc_auc_score(labels == c, scores[:, c]) for c in range(K)]
        assert auroc(scores, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_auroc_rises_to_1_as_the_classes_part_and_does_not_heed_a_class_that_is_favoured(rng):
    labels, noise = torch.arange(K).repeat(500), torch.randn(2000, K, generator=rng)
    of_class = one_hot(labels, K)
    found = [auroc(noise + apart * of_class, labels)[1].item() for apart in (-1, 0, 1, 10)]
    assert found[0] < 0.4 < found[1] < 0.6 < found[2] < 0.9 < found[3] == 1
    favoured = noise + of_class
    favoured[:, 1] += 100
    assert accuracy_per_class(favoured.argmax(1), labels, K)[1] == 1
    assert auroc(favoured, labels)[1].item() == pytest.approx(found[2], abs=1e-4)
    favoured[7, 2] = math.nan
    assert auroc(favoured, labels).isnan().tolist() == [False, False, True, False]


def test_probe_scores_are_the_log_odds_of_the_softmax_even_where_it_is_1(rng):
    logits = torch.randn(20, K, generator=rng)
    p = logits.double().softmax(1).numpy()
    np.testing.assert_allclose(probe_scores(logits), np.log(p / (1 - p)), atol=1e-12)
    sure = probe_scores(torch.tensor([[100.0, 0, 0, 0], [200.0, 0, 0, 0]]))[:, 0]
    assert sure.tolist() == pytest.approx([100 - math.log(3), 200 - math.log(3)], abs=1e-12)


def test_centre_scores_are_the_squared_distance_to_the_nearest_other_mean_minus_that_to_ones_own(clusters):
    """Means at 0, 3 and 10 on a line; an image at 1 is 1, 4 and 81 away from them."""
    means = torch.tensor([[0.0], [3.0], [10.0]])
    assert centre_scores(torch.tensor([[1.0]]), means).tolist() == [[3, -3, -80]]
    features, labels = clusters(K, 6, 100, 3.0)
    means = class_means(features, labels, K)
    scores = centre_scores(features, means)
    assert torch.equal(scores > 0, one_hot(nearest_class_centre(features, means), K).bool())
    assert 0.6 < auroc(scores, labels).min() < auroc(scores, labels).max() < 0.95
