"""Neural collapse, alignment, margins and biases by definition, at their null values, and in their direction."""

import math

import numpy as np
import pytest
import torch

from unlearn_utils.geometry import (
    alignment,
    bias_numbers,
    centred_means,
    in_plane,
    margin_parts,
    mean_distance,
    nc1,
    nc2,
    nc3,
    plane_of,
    turned,
)
from unlearn_utils.theory import simplex_etf

K = 5
MEANS = torch.tensor([[3.0, 1.0, 0.0, 2.0], [1.0, 0.0, 5.0, 2.0], [0.0, 4.0, 1.0, -1.0]])


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


def test_centred_means_are_class_means_less_the_mean_of_all_samples(unbalanced):
    features, labels = (part.numpy() for part in unbalanced)
    expected = [features[labels == c].mean(0) - features.mean(0) for c in range(K)]
    np.testing.assert_allclose(centred_means(*unbalanced, K), expected, atol=1e-12)


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


def without_direction_of(k, features, labels):
    """Single-precision features without the direction of class k's centred mean, as POUR-P leaves them."""
    direction = torch.nn.functional.normalize(centred_means(features, labels, K)[k], dim=0)
    return (features - torch.outer(features @ direction, direction)).float()


def test_nc1_is_not_a_number_where_a_class_mean_was_projected_onto_the_centre(clusters):
    """Whether the pseudo-inverse drops that direction or inverts its rounding error would be chance."""
    features, labels = clusters(K, 7, 100, 1.0)
    assert nc1(features, labels, K) < 1
    assert math.isnan(nc1(without_direction_of(2, features, labels), labels, K))


def distance_to_etf(product):
    """|| A / ||A|| - (I - 11^T/K) / sqrt(K-1) || entry by entry."""
    size = math.sqrt(sum(v * v for row in product for v in row))
    return math.sqrt(
        sum((product[i][j] / size - ((i == j) - 1 / K) / math.sqrt(K - 1)) ** 2 for i in range(K) for j in range(K))
    )


def products(a, b):
    return [[sum(x * y for x, y in zip(p, q)) for q in b.tolist()] for p in a.tolist()]


def test_nc2_and_nc3_are_distances_to_the_etf_of_the_gram_matrix_and_of_weights_times_means(unbalanced, rng):
    means, weight = centred_means(*unbalanced, K), torch.randn(K, 7, generator=rng)
    assert nc2(means) == pytest.approx(distance_to_etf(products(means, means)), abs=1e-12)
    assert nc3(weight, means) == pytest.approx(distance_to_etf(products(weight, means)), abs=1e-12)


def test_nc2_and_nc3_are_0_for_a_simplex_of_any_size_and_rise_as_one_class_merges_into_another_or_turns(etf):
    assert [nc2(3 * etf), nc3(0.1 * etf, etf), nc3(-etf, etf)] == pytest.approx([0, 0, 2], abs=1e-7)
    readings = []
    for merged in (0, 0.3, 0.6, 1):
        means = etf.clone()
        means[0] = (1 - merged) * etf[0] + merged * etf[1]
        readings.append(nc2(means - means.mean(0)))
    assert rising(readings) and readings[-1] < math.sqrt(2)


def test_alignment_is_the_cosine_of_each_row_with_its_own_mean(unbalanced, rng):
    means, weight = centred_means(*unbalanced, K), torch.randn(K, 7, generator=rng, dtype=torch.float64)
    expected = [np.dot(w, m) / math.sqrt(np.dot(w, w) * np.dot(m, m)) for w, m in zip(weight.numpy(), means.numpy())]
    assert alignment(weight, means).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_vector_turned_by_as_many_degrees_as_it_was_turned_by():
    before = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0], [1.0, 0.0]])
    after = torch.tensor([[0.5, 0.0], [1.0, 0.0], [0.0, 1.0], [-4.0, 0.0]])
    assert turned(before, after).tolist() == pytest.approx([0, 90, 45, 180], abs=1e-5)


def test_alignment_is_not_a_number_for_a_class_at_the_centre_and_for_no_other(clusters):
    """The direction of such a mean is rounding noise, which a cosine would report as anything from -1 to 1."""
    features, labels = clusters(K, 7, 100, 0.1)
    means = centred_means(without_direction_of(2, features, labels), labels, K)
    weight = means.clone()
    weight[:2] = 0
    read = alignment(weight, means).tolist()
    assert math.isnan(read[2]) and read[:2] + read[3:] == pytest.approx([0, 0, 1, 1], abs=1e-12)


@pytest.mark.parametrize("moved", [1, 0.1, 0.009])
def test_mean_distance_is_1_in_an_etf_of_any_size_and_falls_to_0_as_a_class_moves_to_the_centre(moved, etf):
    etf[2] *= moved
    mean_norm = (K - 1 + moved) / K
    expected = [moved / mean_norm if k == 2 else 1 / mean_norm for k in range(K)]
    assert mean_distance(3 * etf).tolist() == pytest.approx(expected, abs=1e-12)


def test_mean_distance_is_not_a_number_under_1_percent_and_for_no_other_class(etf):
    etf[2] *= 0.007
    read = mean_distance(etf)
    assert math.isnan(read[2]) and (read[[0, 1, 3, 4]] > 1).all()


# --- margins and biases


@pytest.fixture
def head(rng):
    return torch.randn(K, 6, generator=rng, dtype=torch.float64), torch.randn(K, generator=rng, dtype=torch.float64)


def test_margin_parts_of_three_images_by_hand():
    """Logits (3, 2, 1.5) and (1, 2, 5.5) for class 0, rivals 1 and 2; (1, 8, 1.5) for class 1, rival 2."""
    weight, bias = torch.eye(3), torch.tensor([1.0, -1.0, 1.5])
    features, labels = torch.tensor([[2.0, 3.0, 0.0], [0.0, 3.0, 4.0], [0.0, 9.0, 0.0]]), torch.tensor([0, 0, 1])
    row, of_bias = margin_parts(features, labels, weight, bias)
    assert row[:2].tolist() == [((2 - 3) + (0 - 4)) / 2, 9 - 0]
    assert of_bias[:2].tolist() == [((1 + 1) + (1 - 1.5)) / 2, -1 - 1.5]
    assert math.isnan(row[2]) and math.isnan(of_bias[2])
    assert margin_parts(features, labels, weight, None)[1][:2].tolist() == [0, 0]


def test_margin_parts_add_up_to_the_margin(head, clusters):
    (weight, bias), (features, labels) = head, clusters(K, 6, 30, 2.0)
    logits, expected = (features @ weight.T + bias).tolist(), []
    for k in range(K):
        of_class = [z for z, y in zip(logits, labels.tolist()) if y == k]
        expected.append(np.mean([z[k] - max(z[:k] + z[k + 1 :]) for z in of_class]))
    row, of_bias = margin_parts(features, labels, weight, bias)
    assert (row + of_bias).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "bias, forget, stability",  # forget biases -1, -3, -4 (mean -8/3) and retain biases 0, 2, -2; like any other
    [([-1.0, 0.0, -3.0, 2.0, -2.0, -4.0], (0, 2, 5), 1 / (1 + 8 / 3)), ([0.1, 0.0, -0.1, 0.0], (1,), 1)],
)
def test_bias_stability_by_hand(bias, forget, stability):
    assert bias_numbers(torch.tensor(bias), forget) == {"bias_stability": pytest.approx(stability, abs=1e-12)}


# --- the plane of three class means


def test_the_plane_keeps_the_distances_of_its_three_means_and_the_first_lies_on_the_first_axis():
    seen = in_plane(MEANS, *plane_of(MEANS))  # in units of the distance of the first two
    assert torch.allclose(torch.pdist(seen), torch.pdist(MEANS.double()) / (MEANS[0] - MEANS[1]).norm())
    assert torch.allclose(seen.mean(0), torch.zeros(2).double(), atol=1e-6)
    assert seen[0, 0] > 0 and seen[0, 1].abs() < 1e-6 and seen[1, 1] > 0


def test_what_leaves_the_plane_at_a_right_angle_is_seen_where_it_left(rng):
    origin, axes = plane_of(MEANS)
    away = torch.linalg.svd(axes.T, full_matrices=True).Vh[2:].T @ torch.randn(2, 5, dtype=torch.float64, generator=rng)
    assert torch.allclose(
        in_plane(origin + axes @ torch.ones(2).double() + away.T, origin, axes),
        in_plane(origin + axes @ torch.ones(2).double(), origin, axes).expand(5, 2),
    )


def test_means_on_one_line_or_one_point_give_finite_places():
    for means in (torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), torch.ones(3, 4)):
        assert in_plane(means, *plane_of(means)).isfinite().all()
