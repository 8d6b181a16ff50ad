"""Random Label, as in the paper's official code."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from ..data import is_in
from . import Method, method


@method("random_label", "Random Label", citation="Golatkar et al. 2020")
@dataclass(frozen=True)
class RandomLabel(Method):
    """min CE(D_r) + CE(D_f with labels drawn uniformly from the retain classes).

    One shuffled mix. A forget image gets a fresh label each time it is drawn.
    """

    def losses(self, run, epoch):
        retained = torch.unique(run.retain.labels)
        for x, y in run.batches(run.everything):
            drawn = torch.randint(len(retained), y.shape, generator=run.generator, device=y.device)
            y = torch.where(is_in(y, run.forget_classes), retained[drawn], y)
            yield cross_entropy(run.model(x), y)
