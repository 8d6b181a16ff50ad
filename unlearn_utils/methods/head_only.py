"""Controls that change the head alone: features stay the Original's."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from . import Method, method


@method("prune", "Pruned head", citation="control, as in the official code", role="reference", head_only=True)
@dataclass(frozen=True)
class Prune(Method):
    """w_k <- 0 and b_k <- 0 for every forget class k.

    A logit of 0 is not the smallest: where the other logits are negative the class is still predicted.
    """

    @torch.no_grad()
    def begin(self, run) -> None:
        run.model.head.weight[list(run.forget_classes)] = 0
        run.model.head.bias[list(run.forget_classes)] = 0


@method("bias_shift", "BiasShift", citation="control, arXiv 2605.08730", role="reference", head_only=True)
@dataclass(frozen=True)
class BiasShift(Method):
    """b_k <- b_k - s for every forget class k; the other logits stay as they are.

    ``shift`` is s. 0 takes the smallest with which no forget training image is classified as a forget class.
    """

    shift: float = 0.0

    @torch.no_grad()
    def begin(self, run) -> None:
        run.model.head.bias[list(run.forget_classes)] -= self.shift or self.smallest(run)

    def smallest(self, run) -> float:
        """max_i (max_{k in F} z_ik - max_{r not in F} z_ir), and 0.001 more against ties and rounding; at least 0."""
        logits = run.model.head(run.features(run.forget))
        forget = list(run.forget_classes)
        retain = [c for c in range(logits.shape[1]) if c not in forget]
        ahead = logits[:, forget].amax(1) - logits[:, retain].amax(1)
        return max(0.0, ahead.max().item() + 1e-3)


@method("distilled_head", "Distilled head", citation="control, ours", role="reference", variants=("classifier",))
@dataclass(frozen=True)
class DistilledHead(Method):
    """min CE(softmax(z), head) on all images, z the original's logits, minus infinity for the forget classes."""

    def losses(self, run, epoch):
        for x, _ in run.batches(run.everything):
            with torch.no_grad():
                target = run.teacher(x)
                target[:, list(run.forget_classes)] = -torch.inf
            yield cross_entropy(run.model(x), target.softmax(1))
