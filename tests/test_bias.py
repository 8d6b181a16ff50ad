"""What the head's rows and biases do to a class, by definition, null value and direction."""

import math

import numpy as np
import pytest
import torch

from unlearn_utils.bias import bias_numbers, margin_parts
from unlearn_utils.heads import ClassMeanHead

K = 4


@pytest.fixture
def head(rng):
    return torch.randn(K, 6, generator=rng, dtype=torch.float64), torch.randn(K, generator=rng, dtype=torch.float64)


# --- margin


def test_margin_parts_of_three_images_by_hand():
    """Logits (3, 2, 1.5) and (1, 2, 5.5) for class 0, rivals 1 and 2; (1, 8, 1.5) for class 1, rival 2."""
    weight, bias = torch.eye(3), torch.tensor([1.0, -1.0, 1.5])
    features, labels = torch.tensor([[2.0, 3.0, 0.0], [0.0, 3.0, 4.0], [0.0, 9.0, 0.0]]), torch.tensor([0, 0, 1])
    row, of_bias = margin_parts(features, labels, weight, bias)
    assert row[:2].tolist() == [((2 - 3) + (0 - 4)) / 2, 9 - 0]
    assert of_bias[:2].tolist() == [((1 + 1) + (1 - 1.5)) / 2, -1 - 1.5]
    assert math.isnan(row[2]) and math.isnan(of_bias[2])


def test_margin_parts_add_up_to_the_margin(head, clusters):
    (weight, bias), (features, labels) = head, clusters(K, 6, 30, 2.0)
    logits, expected = (features @ weight.T + bias).tolist(), []
    for k in range(K):
        of_class = [z for z, y in zip(logits, labels.tolist()) if y == k]
        expected.append(np.mean([z[k] - max(z[:k] + z[k + 1 :]) for z in of_class]))
    row, of_bias = margin_parts(features, labels, weight, bias)
    assert (row + of_bias).tolist() == pytest.approx(expected, abs=1e-12)


def test_margin_is_0_where_all_logits_tie_and_its_bias_part_is_0_for_equal_biases(head, clusters):
    features, labels = clusters(K, 6, 30, 2.0)
    row, of_bias = margin_parts(features, labels, head[0][:1].expand(K, 6), torch.full((K,), 3.0))
    assert row.tolist() == of_bias.tolist() == [0] * K
    row, of_bias = margin_parts(features, labels, head[0], torch.full((K,), 3.0))
    assert (row != 0).all() and of_bias.tolist() == [0] * K


def test_margin_falls_in_the_bias_part_for_a_lowered_bias_and_in_the_row_part_for_a_turned_row(clusters):
    features, labels = clusters(K, 6, 30, 0.1)
    weight, bias = torch.eye(K, 6), torch.zeros(K)
    before = torch.stack(margin_parts(features, labels, weight, bias))
    bias[1] = -5
    lowered = torch.stack(margin_parts(features, labels, weight, bias))
    assert (lowered - before)[1, 1] == -5 and torch.equal(lowered[0, 1], before[0, 1])
    weight[1] *= -1
    turned = torch.stack(margin_parts(features, labels, weight, bias))
    assert (turned - lowered)[0, 1].item() == pytest.approx(-6, abs=0.2) and turned[1, 1] == -5


def test_margin_of_a_cmf_head_is_all_in_its_rows(clusters):
    features, labels = clusters(K, 6, 30, 1.0)
    cmf = ClassMeanHead(6, K, "centred").double()
    cmf.refit(features, labels)
    row, of_bias = margin_parts(cmf.embed(features), labels, cmf.weight, None)
    cosines = cmf(features)
    others = cosines.masked_fill(torch.nn.functional.one_hot(labels, K).bool(), -math.inf).amax(1)
    margins = cosines[torch.arange(len(labels)), labels] - others
    assert row.tolist() == pytest.approx([margins[labels == k].mean().item() for k in range(K)], abs=1e-12)
    assert of_bias.tolist() == [0] * K


# --- bias numbers


def read(bias, forget):
    numbers = bias_numbers(torch.tensor(bias), forget)
    return [numbers[name] for name in ("bias_stability", "median_bias_gap", "minimal_bias_score")]


def test_bias_numbers_by_hand():
    """Forget biases -1, -3, -4 (mean -8/3, median -3); retain biases 0, 2 and -2."""
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    expected = [1 / (1 + 8 / 3), sigmoid(-3 + 2), sigmoid(-4 + 2)]
    assert read([-1.0, 0.0, -3.0, 2.0, -2.0, -4.0], (0, 2, 5)) == pytest.approx(expected, abs=1e-12)


def test_the_median_of_two_forget_biases_lies_between_them():
    assert read([0.0, 0.0, -1.0, -3.0], (2, 3))[1] == pytest.approx(1 / (1 + math.exp(2)), abs=1e-12)


@pytest.mark.parametrize("forget", [(1,), (0, 3)])
def test_bias_numbers_of_equal_biases_are_1_and_one_half(forget):
    assert read([0.7] * 5, forget) == pytest.approx([1, 0.5, 0.5], abs=1e-12)


def test_bias_numbers_fall_to_0_as_the_forget_bias_is_lowered():
    shifted = [read([0.1, -shift, -0.1, 0.0], (1,)) for shift in (0.0, 1.0, 5.0, 1e4)]
    for values in zip(*shifted):
        assert list(values) == sorted(values, reverse=True) and len(set(values)) == 4
        assert values[-1] < 1e-3
    assert shifted[0][0] == 1 and shifted[0][1] > 0.5, "a class like any other does not stand out"


def test_a_raised_bias_lowers_bias_stability_alone():
    raised = read([0.0, 5.0, 0.0], (1,))
    assert raised[0] == pytest.approx(1 / 6) and min(raised[1:]) > 0.99
