"""SCRUB, as in the paper's official code."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from . import Method, method


@method("scrub", "SCRUB", citation="Kurmanji et al. 2023")
@dataclass(frozen=True)
class Scrub(Method):
    """max KL(p || q) on D_f, then min a CE + b KL(p || q) on D_r, p the Original and q the model.

    The first only in the first ``max_epochs`` epochs; a is ``ce_weight`` and b ``kl_weight``. KL at temperature T,
    times T^2.
    """

    max_epochs: int = 2
    ce_weight: float = 0.99
    kl_weight: float = 0.001
    temperature: float = 4.0

    def losses(self, run, epoch):
        if epoch < self.max_epochs:
            for x, _ in run.batches(run.forget):
                yield -self.divergence(run, x, run.model(x))
        for x, y in run.batches(run.retain):
            logits = run.model(x)
            yield self.ce_weight * cross_entropy(logits, y) + self.kl_weight * self.divergence(run, x, logits)

    def divergence(self, run, x: Tensor, logits: Tensor) -> Tensor:
        """T^2 KL(teacher || student), mean over the batch."""
        with torch.no_grad():
            teacher = log_softmax(run.teacher(x) / self.temperature, dim=1)
        student = log_softmax(logits / self.temperature, dim=1)
        return self.temperature**2 * kl_div(student, teacher, log_target=True, reduction="batchmean")
