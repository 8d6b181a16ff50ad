"""Membership inference by definition, at its null value, and in its direction."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.model_selection import StratifiedShuffleSplit

from unlearn_utils.membership import membership_inference


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
