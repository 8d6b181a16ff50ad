"""SVD class forgetting, as in the paper's official code."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import Method, method


@method("svd", "SVD", citation="Kodge et al. 2024", head_only=True)
@dataclass(frozen=True)
class Svd(Method):
    """W <- W P^T with P = I - (M_f - M_f M_r), in closed form.

    M = U diag(alpha s / ((alpha - 1) s + 1)) U^T for the head's inputs on the retain and on the forget set, U
    their left singular vectors and s the squared singular values, scaled to sum 1. Each space is that of at most
    ``images``: the first ones of every retain class, equally many, and a random draw from the forget set. The
    original method edits all layers; the official code, and with it the paper's numbers, only the head, so its
    features are the Original's. There a second forget class counts as retained; here no forget class does.
    """

    alpha_retain: float = 100.0
    alpha_forget: float = 3.0
    images: int = 900

    @torch.no_grad()
    def begin(self, run) -> None:
        per_class = max(1, self.images // len(run.retain.labels.unique()))
        drawn = torch.randperm(len(run.forget), generator=run.generator, device=run.generator.device)
        retain, forget = run.retain.first_per_class(per_class), run.forget.select(drawn[: self.images])
        spaces = [
            self.space(run.features(images), alpha)
            for images, alpha in ((retain, self.alpha_retain), (forget, self.alpha_forget))
        ]
        run.model.head.weight.copy_(run.model.head.weight @ projection(*spaces).T)

    def space(self, features: Tensor, alpha: float) -> Tensor:
        """M (d, d) of features (N, d)."""
        _, values, vectors = torch.linalg.svd(features, full_matrices=False)
        s = values.square() / values.square().sum()
        return vectors.T @ torch.diag(alpha * s / ((alpha - 1) * s + 1)) @ vectors


def projection(retain: Tensor, forget: Tensor) -> Tensor:
    """P = I - (M_f - M_f M_r); the identity where nothing is to be forgotten (M_f = 0)."""
    return torch.eye(len(retain), dtype=retain.dtype, device=retain.device) - (forget - forget @ retain)
