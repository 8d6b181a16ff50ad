"""SalUn without saliency: a control for its mask (arXiv 2607.21353), an extension."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import method
from .salun import SalUn


@method("salun_random_mask", "SalUn, random mask", citation="control, ours", role="extension", recipe_of="salun")
@dataclass(frozen=True)
class SalUnRandomMask(SalUn):
    """Random Label on as many weights as SalUn keeps, drawn uniformly: what differs from SalUn is its saliency."""

    def scores(self, run, parameters: list[Tensor]) -> list[Tensor]:
        return [torch.rand(p.shape, generator=run.generator, device=p.device) for p in parameters]
