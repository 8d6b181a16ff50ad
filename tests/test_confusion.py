"""Confusion counts and what is read off them, and one class against the rest, by definition, null and direction."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from unlearn_utils.heads import class_means
from unlearn_utils.metrics import (
    accuracy_per_class,
    group_accuracy,
    auroc,
    centre_scores,
    class_accuracies,
    confusion,
    destinations,
    false_positives,
    linear_probe,
    nearest_class_centre,
    pooled_accuracy,
    probe_scores,
    refitted_head,
)
from unlearn_utils.settings import Probe

K, FORGET, RETAIN = 4, (1, 3), (0, 2)

# 10 images of class 0, 20 of class 1, 5 of class 2 and 5 of class 3.
COUNTS = torch.tensor([[7, 2, 1, 0], [4, 6, 2, 8], [0, 0, 4, 1], [0, 5, 0, 0]])


@pytest.fixture
def guessed(rng):
    """Counts of uniform guesses on classes of different size."""
    labels = torch.arange(K).repeat_interleave(torch.tensor([4000, 8000, 12000, 16000]))
    return confusion(torch.randint(K, labels.shape, generator=rng), labels, K)


def counts_of(labels, predicted):
    return confusion(torch.tensor(predicted), torch.tensor(labels), K)


# --- confusion


def test_confusion_counts_each_pair_of_true_and_read_class():
    assert counts_of([0, 0, 0, 1, 3, 3], [0, 2, 2, 1, 0, 3]).tolist() == [
        [1, 0, 2, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 1],
    ]


def test_confusion_of_guesses_spreads_every_class_evenly(guessed):
    assert guessed.sum(1).tolist() == [4000, 8000, 12000, 16000]
    np.testing.assert_allclose(guessed / guessed.sum(1, keepdim=True), np.full((K, K), 1 / K), atol=0.03)


def test_confusion_moves_to_the_right_column_of_the_right_row():
    labels = [0, 1, 1, 2, 3]
    moved = counts_of(labels, [0, 1, 2, 2, 3]) - counts_of(labels, labels)
    assert moved.tolist() == [[0, 0, 0, 0], [0, -1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_confusion_refuses_a_class_that_it_has_no_column_for():
    with pytest.raises(IndexError):
        counts_of([0, 1], [0, K])


# --- accuracies from counts


def test_class_accuracies_are_the_accuracies_per_class_to_the_last_bit(rng):
    labels, predicted = (torch.randint(7, (500,), generator=rng) for _ in range(2))
    counts = confusion(predicted, labels, 7)
    assert torch.equal(class_accuracies(counts), accuracy_per_class(predicted, labels, 7))


def test_class_accuracies_by_hand_and_for_a_class_without_images():
    assert class_accuracies(COUNTS).tolist() == [0.7, 0.3, 0.8, 0]
    assert class_accuracies(COUNTS).dtype == torch.float64
    assert math.isnan(class_accuracies(counts_of([0, 1, 2], [0, 1, 2]))[3])


def test_pooled_accuracy_counts_images_and_not_classes():
    assert pooled_accuracy(COUNTS, FORGET) == pytest.approx(6 / 25, abs=1e-15)
    assert pooled_accuracy(COUNTS, RETAIN) == pytest.approx(11 / 15, abs=1e-15)
    assert pooled_accuracy(COUNTS, (2,)) == 0.8


def test_pooled_accuracy_of_guesses_is_one_kth(guessed):
    assert pooled_accuracy(guessed, FORGET) == pytest.approx(1 / K, abs=0.02)


def test_pooled_accuracy_rises_with_the_hits_of_the_chosen_classes_alone():
    labels = [0, 1, 1, 2, 3, 3]
    read = [counts_of(labels, predicted) for predicted in ([0, 0, 0, 2, 0, 0], [3, 1, 0, 0, 0, 0], [3, 1, 1, 0, 3, 3])]
    assert [pooled_accuracy(counts, FORGET) for counts in read] == [0, 0.25, 1]
    assert [pooled_accuracy(counts, RETAIN) for counts in read] == [1, 0, 0]


# --- where images go


def test_destinations_are_the_shares_of_the_pooled_row():
    assert destinations(COUNTS, FORGET).tolist() == pytest.approx([4 / 25, 11 / 25, 2 / 25, 8 / 25], abs=1e-15)


def test_destinations_of_guesses_are_even(guessed):
    assert destinations(guessed, FORGET).tolist() == pytest.approx([1 / K] * K, abs=0.02)


def test_destinations_move_with_the_images():
    labels = [0, 1, 1, 1, 1, 2, 3]
    shares = [destinations(counts_of(labels, [0, *[1] * (4 - n), *[2] * n, 2, 3]), (1,)).tolist() for n in range(5)]
    assert shares == [[0, 1 - n / 4, n / 4, 0] for n in range(5)]


def test_group_accuracy_counts_every_forget_class_as_right():
    assert group_accuracy(COUNTS, FORGET) == pytest.approx((6 + 8 + 5 + 0) / 25, abs=1e-15)
    assert group_accuracy(COUNTS, (2,)) == pooled_accuracy(COUNTS, (2,))


def test_false_positives_are_the_retain_images_among_the_forget_classes():
    assert false_positives(COUNTS, FORGET) == pytest.approx((2 + 0 + 0 + 1) / 15, abs=1e-15)


def test_group_accuracy_and_false_positives_of_guesses_are_the_share_of_forget_classes(guessed):
    for forget in ((0,), FORGET, (1, 2, 3)):
        assert group_accuracy(guessed, forget) == pytest.approx(len(forget) / K, abs=0.03)
        assert false_positives(guessed, forget) == pytest.approx(len(forget) / K, abs=0.03)


def test_group_accuracy_sees_a_group_whose_members_are_merged_and_falls_when_the_group_is_lost():
    labels = [0, 2] + [1, 3] * 4
    merged = counts_of(labels, [0, 2] + [1] * 8)
    assert pooled_accuracy(merged, FORGET) == 0.5 and group_accuracy(merged, FORGET) == 1
    lost = [group_accuracy(counts_of(labels, [0, 2] + [1] * (8 - n) + [0] * n), FORGET) for n in (0, 2, 8)]
    assert lost == [1, 0.75, 0]


def test_false_positives_expose_a_readout_that_reads_a_forget_class_everywhere():
    labels = [0, 0, 2, 2, 1, 3]
    read = [counts_of(labels, predicted) for predicted in ([0, 0, 2, 2, 1, 1], [0, 1, 2, 1, 1, 1], [1] * 6)]
    assert [group_accuracy(counts, FORGET) for counts in read] == [1, 1, 1]
    assert [false_positives(counts, FORGET) for counts in read] == [0, 0.5, 1]


# --- one class against the rest


def test_auroc_of_four_images_by_hand():
    """Class 0 has 3 and 1, the others 2 and 1: of four pairs two are won, one is a tie and one is lost."""
    scores = torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
    assert auroc(scores, torch.tensor([0, 0, 1, 1])).tolist() == [2.5 / 4, 1]


def test_auroc_is_scikit_learns_with_and_without_ties(rng):
    labels = torch.randint(K, (300,), generator=rng)
    smooth = torch.randn(300, K, generator=rng, dtype=torch.float64)
    smooth[torch.arange(300), labels] += 0.7
    for scores in (smooth, smooth.round()):
        expected = [roc_auc_score(labels == c, scores[:, c]) for c in range(K)]
        assert auroc(scores, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_auroc_is_one_half_for_scores_without_information(rng):
    labels = torch.arange(K).repeat(2000)
    assert auroc(torch.randn(8000, K, generator=rng), labels).tolist() == pytest.approx([0.5] * K, abs=0.03)
    assert auroc(torch.zeros(8000, K), labels).tolist() == [0.5] * K


def test_auroc_rises_to_1_as_the_classes_part_and_does_not_heed_a_class_that_is_favoured(rng):
    labels, noise = torch.arange(K).repeat(500), torch.randn(2000, K, generator=rng)
    of_class = torch.nn.functional.one_hot(labels, K)
    read = [auroc(noise + apart * of_class, labels)[1].item() for apart in (-1, 0, 1, 10)]
    assert read[0] < 0.4 < read[1] < 0.6 < read[2] < 0.9 < read[3] == 1
    favoured = noise + of_class
    favoured[:, 1] += 100
    assert accuracy_per_class(favoured.argmax(1), labels, K)[1] == 1
    assert auroc(favoured, labels)[1].item() == pytest.approx(read[2], abs=1e-4)


def test_auroc_is_not_a_number_for_a_class_without_images():
    assert math.isnan(auroc(torch.rand(4, 3), torch.tensor([0, 1, 0, 1]))[2])


def test_probe_scores_are_the_log_odds_of_the_softmax(rng):
    logits = torch.randn(20, K, generator=rng)
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    np.testing.assert_allclose(probe_scores(logits), np.log(p / (1 - p)), atol=1e-12)


def test_probe_scores_still_order_images_whose_softmax_is_1_and_are_minus_log_of_the_others_for_equal_logits():
    sure = probe_scores(torch.tensor([[100.0, 0, 0, 0], [200.0, 0, 0, 0]]))[:, 0]
    assert sure.tolist() == pytest.approx([100 - math.log(3), 200 - math.log(3)], abs=1e-12)
    assert probe_scores(torch.ones(1, K)).tolist() == [pytest.approx([-math.log(3)] * K)]


def test_centre_scores_are_the_squared_distance_to_the_nearest_other_centre_less_that_to_ones_own():
    """Centres at 0, 3 and 10 on a line; an image at 1 is 1, 4 and 81 away from them."""
    means = torch.tensor([[0.0], [3.0], [10.0]])
    assert centre_scores(torch.tensor([[1.0]]), means).tolist() == [[3, -3, -80]]
    assert centre_scores(torch.tensor([[1.5]]), means)[0, :2].tolist() == [0, 0]


def test_centre_scores_are_positive_where_ncc_reads_the_class(clusters):
    features, labels = clusters(K, 6, 100, 3.0)
    means = class_means(features, labels, K)
    scores = centre_scores(features, means)
    assert torch.equal(scores > 0, torch.nn.functional.one_hot(nearest_class_centre(features, means), K).bool())
    assert 0.6 < auroc(scores, labels).min() < auroc(scores, labels).max() < 0.95


# --- refitted head


def test_refitted_head_is_the_probe_of_the_retain_samples(clusters):
    features, labels = clusters(K, 6, 40, 1.0)
    kept = [i for i, y in enumerate(labels.tolist()) if y not in FORGET]
    recipe = Probe(epochs=3, lr=0.05)
    head = refitted_head(features.float(), labels, K, FORGET, recipe, seed=2)
    expected = linear_probe(features[kept].float(), labels[kept], K, recipe, seed=2)
    assert torch.equal(head.weight, expected.weight) and torch.equal(head.bias, expected.bias)


def read_by_refitted_head(clusters, forget, shared, seeds=20):
    """Mean accuracy per class on clusters at right angles, to which a ``shared`` direction is added."""
    features, labels = clusters(K, 6, 200, 0.5)
    features, read = (features + shared).float(), []
    for seed in range(seeds):
        head = refitted_head(features, labels, K, forget, Probe(epochs=2, lr=0.05), seed)
        read.append(accuracy_per_class(head(features).argmax(1), labels, K))
    return torch.stack(read).mean(0).tolist()


def test_refitted_head_reads_every_class_where_none_is_left_out(clusters):
    assert min(read_by_refitted_head(clusters, (), 0, seeds=3)) > 0.98


def test_refitted_head_reads_a_class_in_a_direction_of_its_own_as_its_start_would(clusters):
    read = read_by_refitted_head(clusters, FORGET, 0)
    assert 0.1 < (read[1] + read[3]) / 2 < 0.4 and min(read[0], read[2]) > 0.98


def test_refitted_head_hides_a_class_the_more_the_more_it_shares_with_the_others(clusters):
    read = [read_by_refitted_head(clusters, FORGET, shared) for shared in (0, 0.25, 2)]
    forgotten = [(r[1] + r[3]) / 2 for r in read]
    assert forgotten[0] > forgotten[1] + 0.05 and forgotten[1] > forgotten[2] + 0.05 and forgotten[2] < 0.01
    assert min(read[2][0], read[2][2]) > 0.98
