"""UNSIR, as in the paper's official code."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from ..heads import ClassMeanHead
from . import Method, method


@method("unsir", "UNSIR", citation="Tarun et al. 2023")
@dataclass(frozen=True)
class Unsir(Method):
    """max CE on noise for the forget class; min CE on this noise and D_r (impair), then on D_r (repair).

    The noise is in the place of the forget set, whose images are never used.
    Noise x of each forget class k: min mean log p_k(x) + noise_penalty ||x||^2, by Adam, from N(0, 1).
    Impair: min CE on the noise, ``copies`` times with label k, and on retain images, at ``impair_lr`` (0: twice
    the recipe's rate). Repair: min CE on the same retain images. Both take the recipe's epochs, with Adam and
    no weight decay. Retain images are at most ``retain_per_class`` of a class, augmented once.
    """

    noise_images: int = 128
    noise_steps: int = 40
    noise_lr: float = 0.1
    noise_penalty: float = 0.1
    copies: int = 20
    retain_per_class: int = 1000
    impair_lr: float = 0.0

    def phases(self, recipe):
        repair = replace(recipe, optimiser="adam", weight_decay=0.0)
        return [replace(repair, lr=self.impair_lr or 2 * recipe.lr), repair]

    def begin(self, run) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(x, y) of impair and of repair."""
        x, y = (torch.cat(parts) for parts in zip(*run.batches(run.retain.first_per_class(self.retain_per_class))))
        noise = torch.cat([self.noise(run, k, x[: self.noise_images]) for k in run.forget_classes])
        labels = torch.tensor(run.forget_classes, device=y.device).repeat_interleave(self.noise_images)
        both = torch.cat([x, *[noise] * self.copies]), torch.cat([y, *[labels] * self.copies])
        return both, (x, y)

    def noise(self, run, k: int, like: Tensor) -> Tensor:
        """Images (noise_images, C, H, W) that the model takes least for class k."""
        run.model.eval()
        shape = (self.noise_images, *like.shape[1:])
        x = torch.randn(shape, generator=run.generator, device=like.device, dtype=like.dtype).requires_grad_()
        optimiser = torch.optim.Adam([x], lr=self.noise_lr)
        for _ in range(self.noise_steps):
            loss = self.certainty(run.model, x, k) + self.noise_penalty * x.square().flatten(1).sum(1).mean()
            (x.grad,) = torch.autograd.grad(loss, x)
            optimiser.step()
        return x.detach()

    def certainty(self, model, x: Tensor, k: int) -> Tensor:
        """Mean log p_k; with a CMF head the official code takes the cosine itself, which is bounded."""
        logits = model(x)
        return (logits if isinstance(model.head, ClassMeanHead) else log_softmax(logits, 1))[:, k].mean()

    def losses(self, run, epoch):
        x, y = run.begun[0 if epoch < run.recipe.epochs else 1]
        order = torch.randperm(len(y), generator=run.generator, device=y.device)
        for index in order.split(run.recipe.batch_size):
            yield cross_entropy(run.model(x[index]), y[index])
