"""Two references that change the head alone: whatever reads features must see through them."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from . import Method, method


@method(
    "prune", "Pruned head", role="reference", variants=("linear",), head_only=True,
    why="only a linear head has a row of its own for each class",
)
@dataclass(frozen=True)
class Prune(Method):
    """w_k <- 0 and b_k <- 0 for every forget class k, as in the official code.

    A logit of 0 is not the smallest: where the other logits are negative the class is still predicted.
    """

    @torch.no_grad()
    def begin(self, run) -> None:
        run.model.head.weight[list(run.forget_classes)] = 0
        run.model.head.bias[list(run.forget_classes)] = 0


@method(
    "distilled_head", "Distilled head", role="reference", variants=("classifier",),
    why="it is defined with the encoder frozen",
)
@dataclass(frozen=True)
class DistilledHead(Method):
    """min CE(softmax(z), head) on all images, z the original's logits with the forget logits at minus infinity."""

    def losses(self, run, epoch):
        for x, _ in run.batches(run.everything):
            with torch.no_grad():
                target = run.teacher(x)
                target[:, list(run.forget_classes)] = -torch.inf
            yield cross_entropy(run.model(x), target.softmax(1))
