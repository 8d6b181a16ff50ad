"""SalUn (Fan et al. 2024; as in the paper's official code)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import Method, method
from .random_label import RandomLabel


@method("salun", "SalUn")
@dataclass(frozen=True)
class SalUn(RandomLabel):
    """Random Label on the salient weights: the fraction ``kept`` with the largest |gradient of CE(D_f)|.

    The mask multiplies the gradient before clipping; as in the official code weight decay still moves the
    other weights. It is one mask over all trainable weights, taken at the start with true labels in eval mode.
    """

    kept: float = 0.5

    def begin(self, run) -> list[Tensor]:
        trainable = [p for p in run.model.parameters() if p.requires_grad]
        masks = self.masks(run, trainable)
        for parameter, mask in zip(trainable, masks):
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
        return masks

    def masks(self, run, parameters: list[Tensor]) -> list[Tensor]:
        """One mask of zeros and ones per parameter."""
        run.model.eval()
        for x, y in run.batches(run.forget):
            cross_entropy(run.model(x), y).backward()
        size = torch.cat([p.grad.abs().flatten() for p in parameters])
        run.model.zero_grad(set_to_none=True)
        mask = torch.zeros_like(size)
        mask[size.topk(round(self.kept * len(size))).indices] = 1
        return [part.view_as(p) for part, p in zip(mask.split([p.numel() for p in parameters]), parameters)]
