"""The neural-collapse argument on exact constructions (paper, theory; derivation ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from .settings import BadInput


def simplex_etf(classes: int, dimension: int, generator: torch.Generator) -> Tensor:
    """Unit class means (K, d) with pairwise inner product -1/(K-1), in a random orientation, float64.

    Raises BadInput when K < 2, or d < K - 1, where no simplex fits.
    """
    if classes < 2 or dimension < classes - 1:
        raise BadInput(f"a simplex of {classes} classes, at least 2, needs at least {classes - 1} dimensions.")
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    vectors, values, _ = torch.linalg.svd(centred)
    corners = (vectors * values)[:, : classes - 1]  # (K, K-1), the last singular value is 0
    corners = corners / corners.norm(dim=1, keepdim=True)
    random = torch.randn(dimension, classes - 1, generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(random)
    return corners @ basis.T


def unlearned_weight(means: Tensor, forget: int, gamma: float) -> Tensor:
    """Minimiser over W of -gamma sum_{j != k} <w_j, mu_j> + (1 - gamma) <w_k, mu_k> + ||W||^2 / 2.

    That is descent on the retain classes with weight gamma, ascent on the forget class k with weight
    1 - gamma, in the linearised loss with weight decay: w_j = gamma mu_j and w_k = -(1 - gamma) mu_k. The
    paper reports this form for w_k; the objective is our reading of it. Raises BadInput unless 0 < gamma < 1.
    """
    if not 0 < gamma < 1:
        raise BadInput(f"gamma is {gamma}, but the weight of the retain loss must lie between 0 and 1.")
    weight = gamma * means
    weight[forget] = -(1 - gamma) * means[forget]
    return weight


def forgetting_range(classes: int) -> tuple[float, float]:
    """Open interval of gamma in which ``unlearned_weight`` has forget accuracy 0 and retain accuracy 1.

    On the forget class: -(1-gamma) < -gamma/(K-1), so gamma < (K-1)/K; on a retain class:
    gamma > (1-gamma)/(K-1), so gamma > 1/K.
    """
    return 1 / classes, (classes - 1) / classes


def accuracy(weight: Tensor, means: Tensor, forget: int) -> tuple[float, float]:
    """(retain, forget) accuracy of W on features that have collapsed to their class means."""
    right = (means @ weight.T).argmax(1) == torch.arange(len(means))
    retain = torch.arange(len(means)) != forget
    return right[retain].double().mean().item(), right[forget].double().item()
