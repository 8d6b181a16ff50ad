"""Every metric against its literal definition, at its null value, and in its direction."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unlearn_utils.heads import class_means, class_moments
from unlearn_utils.metrics import (
    accuracy_per_class, alignment, centre_distance, centred_means, linear_probe, nc1, nc1_of_moments, nc2, nc3,
    nearest_class_centre, recovery, turned,
)
from unlearn_utils.settings import BadInput, Probe
from unlearn_utils.theory import simplex_etf

K = 5


def rising(values, by=1e-6):
    return all(b > a + by for a, b in zip(values, values[1:]))


@pytest.fixture
def etf(rng):
    return simplex_etf(K, 8, rng)


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


def test_accuracy_of_guessing_is_one_kth(rng):
    labels = torch.arange(K).repeat(4000)
    guessed = torch.randint(K, labels.shape, generator=rng)
    assert accuracy_per_class(guessed, labels, K).tolist() == pytest.approx([1 / K] * K, abs=0.03)


def test_accuracy_falls_only_in_the_class_that_is_misread():
    labels = torch.arange(K).repeat_interleave(4)
    readings = []
    for wrong in range(5):
        predicted = labels.clone()
        predicted[:wrong] = 1
        readings.append(accuracy_per_class(predicted, labels, K).tolist())
    assert [r[0] for r in readings] == [1, 0.75, 0.5, 0.25, 0]
    assert all(r[1:] == [1] * (K - 1) for r in readings)


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


def test_probe_is_momentum_sgd_and_keeps_the_best_held_out_epoch(clusters):
    features, labels = clusters(K, 7, 40, 2.0)
    recipe = Probe(epochs=12, lr=0.05, batch_size=32)
    weight, bias, best = probe_by_hand(features, labels, recipe, seed=3)
    assert 0 < best < recipe.epochs - 1, "this test needs a best epoch that is neither the first nor the last"
    probe = linear_probe(features.float(), labels, K, recipe, seed=3)
    np.testing.assert_allclose(probe.weight.detach(), weight, atol=1e-4)
    np.testing.assert_allclose(probe.bias.detach(), bias, atol=1e-4)


def test_probe_ends_when_patience_is_spent_though_a_better_epoch_would_have_come(clusters):
    features, labels = clusters(K, 7, 40, 2.0)
    recipe = Probe(epochs=12, lr=0.05, batch_size=32, patience=2)
    weight, bias, best = probe_by_hand(features, labels, recipe, seed=3)
    *_, later = probe_by_hand(features, labels, replace(recipe, patience=0), seed=3)
    assert best < later, "this test needs a better epoch after the end"
    probe = linear_probe(features.float(), labels, K, recipe, seed=3)
    np.testing.assert_allclose(probe.weight.detach(), weight, atol=1e-4)
    np.testing.assert_allclose(probe.bias.detach(), bias, atol=1e-4)


def test_probes_rate_falls_along_a_cosine_to_0(clusters):
    features, labels = clusters(K, 7, 40, 2.0)
    recipe = Probe(epochs=12, lr=0.2, batch_size=32, schedule="cosine")
    weight, bias, best = probe_by_hand(features, labels, recipe, seed=1)
    assert best > 2, "this test needs a best epoch to which the rate has changed"
    probe = linear_probe(features.float(), labels, K, recipe, seed=1)
    np.testing.assert_allclose(probe.weight.detach(), weight, atol=1e-4)
    np.testing.assert_allclose(probe.bias.detach(), bias, atol=1e-4)
    constant = linear_probe(features.float(), labels, K, replace(recipe, schedule="constant"), seed=1)
    assert (constant.weight - probe.weight).abs().max() > 0.01


def test_what_a_probe_cannot_be_is_refused():
    for name, value in {"epochs": 2.5, "patience": -1, "momentum": float("nan"), "batch_size": "a", "validation": 1}.items():
        with pytest.raises(BadInput, match=f"{name} of a probe is .*, but it must be a"):
            Probe(**{"epochs": 1, name: value})
    with pytest.raises(BadInput, match="schedule of a probe is 'step', but it must be constant or cosine"):
        Probe(epochs=1, schedule="step")


def probe_accuracy(clusters, noise, shuffle=False):
    features, labels = clusters(K, 7, 200, noise)
    fit, test = slice(0, 500), slice(500, None)
    seen = labels[fit][torch.randperm(500, generator=torch.Generator().manual_seed(1))] if shuffle else labels[fit]
    probe = linear_probe(features[fit].float(), seen, K, Probe(epochs=10), seed=0)
    with torch.no_grad():
        predicted = probe(features[test].float()).argmax(1)
    return accuracy_per_class(predicted, labels[test], K).mean().item()


def test_probe_on_labels_that_mean_nothing_reads_one_kth(clusters):
    assert np.mean([probe_accuracy(clusters, 5.0, shuffle=True) for _ in range(5)]) == pytest.approx(1 / K, abs=0.04)


def test_probe_accuracy_falls_from_1_as_the_classes_blur(clusters):
    readings = [probe_accuracy(clusters, noise) for noise in (0.1, 1.5, 4.0)]
    assert readings[0] == 1 and rising(readings[::-1], 0.1)


def test_probe_leaves_the_global_random_numbers_alone(clusters):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    probe_accuracy(clusters, 1.0)
    assert torch.equal(torch.rand(1), expected)


# --- nearest class centre


def test_ncc_picks_the_centre_with_the_smallest_squared_distance(unbalanced, rng):
    features, _ = unbalanced
    means = torch.randn(K, 7, generator=rng, dtype=torch.float64)
    expected = []
    for f in features.numpy():
        expected.append(min(range(K), key=lambda c: sum((a - b) ** 2 for a, b in zip(f, means[c].numpy()))))
    assert nearest_class_centre(features, means).tolist() == expected


def ncc_accuracy(clusters, noise, centres_from=None):
    features, labels = clusters(K, 7, 200, noise)
    means = class_means(features, labels if centres_from is None else centres_from(labels), K)
    test, test_labels = clusters(K, 7, 200, noise)
    return accuracy_per_class(nearest_class_centre(test, means), test_labels, K).mean().item()


def test_ncc_with_centres_of_shuffled_labels_reads_one_kth(clusters, rng):
    shuffled = lambda labels: labels[torch.randperm(len(labels), generator=rng)]  # noqa: E731
    readings = [ncc_accuracy(clusters, 4.0, shuffled) for _ in range(20)]
    assert np.mean(readings) == pytest.approx(1 / K, abs=0.04)


def test_ncc_accuracy_falls_from_1_as_the_classes_blur(clusters):
    readings = [ncc_accuracy(clusters, noise) for noise in (0.1, 1.5, 4.0)]
    assert readings[0] == 1 and rising(readings[::-1], 0.1)


def test_ncc_tells_apart_centres_that_single_precision_cannot():
    """Far from the origin the expanded square loses in float32 what separates the centres."""
    means = torch.tensor([[1000.0, 0.0], [1000.0, 0.01]])
    assert nearest_class_centre(means.repeat(20, 1), means).tolist() == [0, 1] * 20


# --- centred means


def test_centred_means_are_class_means_less_the_mean_of_all_samples(unbalanced):
    features, labels = (part.numpy() for part in unbalanced)
    expected = [features[labels == c].mean(0) - features.mean(0) for c in range(K)]
    np.testing.assert_allclose(centred_means(*unbalanced, K), expected, atol=1e-12)


def test_centred_means_do_not_move_with_the_features(unbalanced):
    features, labels = unbalanced
    torch.testing.assert_close(centred_means(features + 7, labels, K), centred_means(features, labels, K))


# --- NC1


def test_nc1_of_two_classes_by_hand():
    """Means at -1 and 1, so S_B = 1; variance 1/4 along that line, and the spread across it does not count."""
    features = torch.tensor([[-1.5, 3.0], [-0.5, -3.0], [1.5, -3.0], [0.5, 3.0]])
    assert nc1(features, torch.tensor([0, 0, 1, 1]), 2) == pytest.approx(0.25 / 1 / 2, abs=1e-12)


def test_nc1_is_the_trace_of_within_over_between_scatter(unbalanced):
    features, labels = (part.numpy() for part in unbalanced)
    overall = features.mean(0)
    within, between = np.zeros((7, 7)), np.zeros((7, 7))
    for c in range(K):
        mean = features[labels == c].mean(0)
        between += np.outer(mean - overall, mean - overall) / K
        for f in features[labels == c]:
            within += np.outer(f - mean, f - mean) / len(features)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / K
    assert nc1(*unbalanced, K) == pytest.approx(expected, rel=1e-8)


def test_nc1_is_0_for_collapsed_classes_and_rises_with_the_noise(clusters):
    readings = [nc1(*clusters(K, 7, 100, noise), K) for noise in (0.0, 0.1, 1.0, 3.0)]
    assert readings[0] == pytest.approx(0, abs=1e-20)
    assert rising(readings)


def test_nc1_does_not_change_with_the_scale_of_the_features(unbalanced):
    features, labels = unbalanced
    assert nc1(100 * features, labels, K) == pytest.approx(nc1(features, labels, K))


def test_nc1_of_features_without_any_class_information_is_large(clusters, rng):
    features, labels = clusters(K, 7, 100, 1.0)
    assert nc1(torch.randn(features.shape, generator=rng), labels, K) > 5 * nc1(features, labels, K)


def test_nc1_needs_no_more_than_moments_and_counts(unbalanced):
    features, labels = unbalanced
    means, within = class_moments(features, labels, K)
    counts = torch.bincount(labels).double()
    assert nc1_of_moments(means, counts / counts.sum() @ means, within) == pytest.approx(nc1(*unbalanced, K), rel=1e-12)


def without_direction_of(k, features, labels):
    """Single-precision features without the direction of class k's centred mean, as POUR-P leaves them."""
    direction = torch.nn.functional.normalize(centred_means(features, labels, K)[k], dim=0)
    return (features - torch.outer(features @ direction, direction)).float()


def test_nc1_is_not_a_number_where_a_class_mean_was_projected_onto_the_centre(clusters):
    """Whether the pseudo-inverse drops that direction or inverts its rounding error would be chance."""
    features, labels = clusters(K, 7, 100, 1.0)
    assert nc1(features, labels, K) < 1
    assert math.isnan(nc1(without_direction_of(2, features, labels), labels, K))


def test_nc1_is_a_number_up_to_a_centre_distance_of_1_percent(etf):
    within = torch.eye(8, dtype=torch.float64)
    read = {}
    for moved in (0.5, 0.02, 0.005):
        means = etf.clone()
        means[2] *= moved
        read[moved] = nc1_of_moments(means, torch.zeros(8), within)
    assert read[0.02] > read[0.5] and math.isnan(read[0.005])


# --- NC2 and NC3


def distance_to_etf(product):
    """|| A / ||A|| - (I - 11^T/K) / sqrt(K-1) || entry by entry."""
    size = math.sqrt(sum(v * v for row in product for v in row))
    return math.sqrt(sum(
        (product[i][j] / size - ((i == j) - 1 / K) / math.sqrt(K - 1)) ** 2 for i in range(K) for j in range(K)
    ))


def products(a, b):
    return [[sum(x * y for x, y in zip(p, q)) for q in b.tolist()] for p in a.tolist()]


def test_nc2_is_the_distance_of_the_gram_matrix_to_the_etf(unbalanced):
    means = centred_means(*unbalanced, K)
    assert nc2(means) == pytest.approx(distance_to_etf(products(means, means)), abs=1e-12)


def test_nc3_is_the_distance_of_weights_times_means_to_the_etf(unbalanced, rng):
    means, weight = centred_means(*unbalanced, K), torch.randn(K, 7, generator=rng)
    assert nc3(weight, means) == pytest.approx(distance_to_etf(products(weight, means)), abs=1e-12)


def test_nc2_is_0_for_a_simplex_of_any_size_and_rises_as_one_class_merges_into_another(etf):
    assert nc2(3 * etf) == pytest.approx(0, abs=1e-12)
    readings = []
    for merged in (0, 0.3, 0.6, 1):
        means = etf.clone()
        means[0] = (1 - merged) * etf[0] + merged * etf[1]
        readings.append(nc2(means - means.mean(0)))
    assert rising(readings) and readings[-1] < math.sqrt(2)


def test_nc3_is_0_for_the_means_themselves_and_2_for_the_opposite(etf):
    assert nc3(0.1 * etf, etf) == pytest.approx(0, abs=1e-7)
    assert nc3(-etf, etf) == pytest.approx(2, abs=1e-7)


def test_nc3_of_unrelated_weights_is_root_2_in_the_mean_square(etf, rng):
    squares = [nc3(torch.randn(K, 8, generator=rng), etf) ** 2 for _ in range(400)]
    assert np.mean(squares) == pytest.approx(2, abs=0.1)


def test_nc3_rises_as_the_row_of_one_class_turns_against_it(etf):
    readings = []
    for turned in (0, 0.5, 1, 1.5, 2):
        weight = etf.clone()
        weight[0] *= 1 - turned
        readings.append(nc3(weight, etf))
    assert rising(readings)


# --- alignment


def test_alignment_is_the_cosine_of_each_row_with_its_own_mean(unbalanced, rng):
    means, weight = centred_means(*unbalanced, K), torch.randn(K, 7, generator=rng, dtype=torch.float64)
    expected = [np.dot(w, m) / math.sqrt(np.dot(w, w) * np.dot(m, m)) for w, m in zip(weight.numpy(), means.numpy())]
    assert alignment(weight, means).tolist() == pytest.approx(expected, abs=1e-12)


def test_alignment_is_minus_1_for_a_flipped_row_and_0_for_a_zero_row(etf):
    weight = 0.01 * etf.clone()
    weight[1] *= -1
    weight[2] = 0
    assert alignment(weight, 5 * etf).tolist() == pytest.approx([1, -1, 0, 1, 1], abs=1e-12)


def test_a_vector_turned_by_as_many_degrees_as_it_was_turned_by():
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    after = torch.tensor([[0.5, 0.0], [1.0, 0.0], [0.0, 1.0], [-4.0, 0.0]])
    assert turned(before, after).tolist() == pytest.approx([0, 90, 45, 180], abs=1e-5)


def test_alignment_of_unrelated_rows_is_0_on_average(etf, rng):
    readings = torch.stack([alignment(torch.randn(K, 8, generator=rng), etf) for _ in range(400)])
    assert readings.mean().item() == pytest.approx(0, abs=0.03)


def test_alignment_is_the_cosine_of_the_angle_a_row_was_turned_by(etf):
    """Turned towards a direction that no class uses."""
    _, _, directions = torch.linalg.svd(etf)
    for angle in (0.3, 1.2, 2.5):
        weight = math.cos(angle) * etf + math.sin(angle) * directions[-1]
        assert alignment(weight, etf).tolist() == pytest.approx([math.cos(angle)] * K, abs=1e-10)


def test_alignment_is_not_a_number_for_a_class_at_the_centre_and_for_no_other(clusters):
    """The direction of such a mean is rounding noise, which a cosine would report as anything from -1 to 1."""
    features, labels = clusters(K, 7, 100, 0.1)
    means = centred_means(without_direction_of(2, features, labels), labels, K)
    weight = means.clone()
    weight[:2] = 0
    read = alignment(weight, means).tolist()
    assert math.isnan(read[2]) and read[:2] + read[3:] == pytest.approx([0, 0, 1, 1], abs=1e-12)


def test_alignment_is_a_number_from_a_centre_distance_of_1_percent_on(etf):
    for moved, known in ((0.02, True), (0.009, True), (0.007, False), (0.0, False)):
        means = etf.clone()
        means[2] *= moved  # over the mean norm 0.8 this is 2.5, 1.1, 0.9 and 0 percent
        assert math.isnan(alignment(etf, means)[2]) != known


# --- centre distance


def test_centre_distance_is_each_norm_over_the_mean_norm(unbalanced):
    means = centred_means(*unbalanced, K)
    norms = [math.sqrt(np.dot(m, m)) for m in means.numpy()]
    assert centre_distance(means).tolist() == pytest.approx([n / (sum(norms) / K) for n in norms], abs=1e-12)


def test_centre_distance_is_1_for_an_etf_of_any_size_and_falls_to_0_as_a_class_moves_to_the_centre(etf):
    assert centre_distance(3 * etf).tolist() == pytest.approx([1] * K, abs=1e-12)
    for moved in (0.5, 0.1, 0.009):
        means = etf.clone()
        means[2] *= moved
        mean_norm = (K - 1 + moved) / K
        assert centre_distance(means)[2].item() == pytest.approx(moved / mean_norm, abs=1e-12)


def test_centre_distance_is_not_a_number_under_1_percent_and_for_no_other_class(etf):
    etf[2] *= 0.007
    read = centre_distance(etf)
    assert math.isnan(read[2]) and (read[[0, 1, 3, 4]] > 1).all()


# --- recovery


def test_recovery_is_0_like_retrain_1_like_the_original_and_linear_between_and_beyond():
    readings = [recovery(value, retrain=0.4, original=0.8) for value in (0.2, 0.4, 0.6, 0.8, 0.9)]
    assert readings == pytest.approx([-0.5, 0, 0.5, 1, 1.25])


@pytest.mark.parametrize("original", [0.919, 0.9, 0.881])
def test_recovery_is_not_a_number_where_retrain_reads_the_class_as_well_as_the_original(original):
    assert math.isnan(recovery(0.5, retrain=0.9, original=original))


def test_recovery_is_given_from_the_smallest_denominator_on():
    assert recovery(0.5, retrain=0.5, original=0.53) == 0


def test_recovery_is_not_a_number_where_retrain_reads_the_class_better_than_the_original():
    """Else a model that lost the class altogether would read as recovered many times over."""
    assert math.isnan(recovery(0.1, retrain=0.95, original=0.9))
