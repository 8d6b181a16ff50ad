"""SalUn, as in the paper's official code."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import method
from .random_label import RandomLabel


@method("salun", "SalUn", citation="Fan et al. 2024")
@dataclass(frozen=True)
class SalUn(RandomLabel):
    """Random Label on the salient weights.

    They are the fraction ``kept`` with the largest sum over the batches of D_f of |gradient of the batch's summed
    cross-entropy|, at the start, with true labels, in eval mode.

    The mask multiplies the gradient before clipping; as in the official code weight decay still moves the
    other weights. It ranks all weights of the network, and frozen ones come last: with a frozen encoder the
    head, much less than half of the weights, is kept whole, and SalUn is Random Label.
    """

    kept: float = 0.5

    def begin(self, run) -> list[Tensor]:
        """The masks; the hooks that apply them stay on the model."""
        trainable = [p for p in run.model.parameters() if p.requires_grad]
        masks = self.masks(run, trainable)
        for parameter, mask in zip(trainable, masks):
            parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
        return masks

    def masks(self, run, parameters: list[Tensor]) -> list[Tensor]:
        """One mask of zeros and ones per parameter."""
        ranked = torch.cat([score.flatten() for score in self.scores(run, parameters)])
        kept = int(self.kept * sum(p.numel() for p in run.model.parameters()))
        mask = torch.zeros_like(ranked)
        mask[ranked.topk(min(kept, len(ranked))).indices] = 1
        return [part.view_as(p) for part, p in zip(mask.split([p.numel() for p in parameters]), parameters)]

    def scores(self, run, parameters: list[Tensor]) -> list[Tensor]:
        """The saliency of every weight."""
        run.model.eval()
        saliency = [torch.zeros_like(p) for p in parameters]
        for x, y in run.batches(run.forget):
            loss = cross_entropy(run.model(x), y, reduction="sum")
            for total, gradient in zip(saliency, torch.autograd.grad(loss, parameters)):
                total += gradient.abs()
        return saliency
