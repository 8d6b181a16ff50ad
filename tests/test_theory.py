"""The neural-collapse argument, checked against its own objective and by hand-written softmax gradients."""

import numpy as np
import pytest
import torch

from unlearn_utils.settings import BadInput
from unlearn_utils.theory import accuracy, forgetting_range, simplex_etf, unlearned_weight

SIZES = [3, 10]


@pytest.mark.parametrize("classes", SIZES)
@pytest.mark.parametrize("spare_dimensions", [0, 20])
def test_simplex_has_unit_corners_and_equal_angles(classes, spare_dimensions, rng):
    means = simplex_etf(classes, classes - 1 + spare_dimensions, rng)
    expected = np.full((classes, classes), -1 / (classes - 1))
    np.fill_diagonal(expected, 1)
    np.testing.assert_allclose(means @ means.T, expected, atol=1e-12)
    np.testing.assert_allclose(means.sum(0), 0, atol=1e-12)


def test_simplex_refuses_too_few_dimensions():
    with pytest.raises(BadInput, match="at least 4 dimensions"):
        simplex_etf(5, 3, torch.Generator())


@pytest.mark.parametrize("gamma", [0, 2])
def test_a_weight_outside_of_its_range_is_refused(gamma, rng):
    means = simplex_etf(4, 4, rng)
    with pytest.raises(BadInput, match=f"gamma is {gamma}"):
        unlearned_weight(means, 1, gamma)


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_unlearned_weight_minimises_the_stated_objective(gamma, rng):
    means, forget = simplex_etf(5, 7, rng), 2
    weight = torch.randn(5, 7, generator=rng, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def objective():
        optimiser.zero_grad()
        loss = weight.square().sum() / 2
        for j in range(5):
            loss = loss + (1 - gamma if j == forget else -gamma) * weight[j] @ means[j]
        loss.backward()
        return loss

    optimiser.step(objective)
    torch.testing.assert_close(unlearned_weight(means, forget, gamma), weight.detach(), rtol=0, atol=1e-9)


def test_accuracy_is_that_of_the_retain_classes_and_of_the_forget_class():
    means = torch.eye(4, dtype=torch.float64)
    assert accuracy(means, means, 1) == (1, 1)
    assert accuracy(means[[0, 1, 3, 2]], means, 1) == (pytest.approx(1 / 3), 1)
    assert accuracy(means[[1, 0, 2, 3]], means, 1) == (pytest.approx(2 / 3), 0)


@pytest.mark.parametrize("classes", SIZES)
def test_forgetting_is_perfect_inside_the_range_and_only_there(classes, rng):
    means, forget = simplex_etf(classes, classes + 2, rng), classes - 1
    low, high = forgetting_range(classes)
    read = lambda gamma: accuracy(unlearned_weight(means, forget, gamma), means, forget)  # noqa: E731
    for inside in np.linspace(low + 1e-6, high - 1e-6, 7):
        assert read(inside) == (1, 0)
    assert read(low - 1e-6) == (0, 0)
    assert read(high + 1e-6) == (1, 1)
