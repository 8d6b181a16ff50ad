"""NegGrad+, as in the paper's official code."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import Method, method


@method("neggrad_plus", "NegGrad+", citation="Kurmanji et al. 2023")
@dataclass(frozen=True)
class NegGradPlus(Method):
    """min CE(D_r) - scale * CE(D_f).

    For every retain batch one forget batch; their cycle goes on across epochs. The official code clips only the ascent
    gradient, before it adds the descent gradient; with the CMF head it scales the ascent by 0.5 and clips the sum
    instead (``ascent_clip`` 0 and the recipe's ``clip``).
    """

    ascent_scale: float = 1.0
    ascent_clip: float = 1.0

    def begin(self, run) -> Iterator[tuple[Tensor, Tensor]]:
        """The forget batches."""
        return run.endless_batches(run.forget)

    def losses(self, run, epoch):
        for (x, y), (x_forget, y_forget) in zip(run.batches(run.retain), run.begun):  # in this order: none is lost
            (-self.ascent_scale * cross_entropy(run.model(x_forget), y_forget)).backward()
            if self.ascent_clip:
                torch.nn.utils.clip_grad_norm_(run.model.parameters(), self.ascent_clip)
            yield cross_entropy(run.model(x), y)
