"""POUR-P (Le et al. 2025, arXiv 2511.19339): an extension, the paper does not have it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..heads import class_means
from . import Method, method


@method("pour_p", "POUR-P", citation="Le et al. 2025, arXiv 2511.19339", role="extension", variants=("linear",))
@dataclass(frozen=True)
class PourP(Method):
    """f <- P f, P the orthogonal projection onto the complement of the forget classes' centred means, in closed form.

    The direction of class k is its centred class mean mu_k - (1/K) sum_c mu_c. At neural collapse the retain
    means stay a simplex ETF, and the forget means all fall on the global mean. The head stays as it is.
    """

    @torch.no_grad()
    def begin(self, run) -> None:
        features = run.features(run.everything)
        means = class_means(features, run.everything.labels, len(run.model.head.weight))
        run.model.projection = complement(means[list(run.forget_classes)] - means.mean(0))


def complement(directions: Tensor) -> Tensor:
    """Orthogonal projection (d, d) onto the complement of the span of directions (n, d)."""
    basis, _ = torch.linalg.qr(directions.T)
    return torch.eye(len(basis), dtype=basis.dtype, device=basis.device) - basis @ basis.T
