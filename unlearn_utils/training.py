"""The one training loop: originals, retraining, every unlearning method and every attack use it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor

from .data import Dataset, Images, is_in
from .models import Model
from .profiles import Recipe


@dataclass
class Run:
    """What a method sees while it changes one model."""

    model: Model
    teacher: Model  # frozen: the model that the method starts from
    dataset: Dataset
    forget_classes: tuple[int, ...]
    recipe: Recipe
    generator: torch.Generator  # the only source of randomness: order, augmentation, random labels
    begun: Any = None  # what the method's ``begin`` returned

    @cached_property
    def _to_forget(self) -> Tensor:
        return is_in(self.dataset.train.labels, self.forget_classes)

    @cached_property
    def forget(self) -> Images:
        """Training images of the forget classes."""
        return self.dataset.train.select(self._to_forget)

    @cached_property
    def retain(self) -> Images:
        """Training images of all other classes."""
        return self.dataset.train.select(~self._to_forget)

    @property
    def everything(self) -> Images:
        return self.dataset.train

    def batches(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented epoch of (x, y)."""
        return self.dataset.batches(images, self.recipe.batch_size, self.generator)

    def endless_batches(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.batches(images)


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Learning rate of an epoch (0-based): linear warm-up, then constant, in steps, or a cosine to ``min_lr``."""
    if epoch < recipe.warmup_epochs:
        return recipe.lr * (epoch + 1) / recipe.warmup_epochs
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "step":
        return recipe.lr * 0.2 ** (epoch // 3)
    progress = (epoch - recipe.warmup_epochs) / max(1, recipe.epochs - recipe.warmup_epochs)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def optimiser_of(parameters: list[Tensor], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )


def train(
    model: Model,
    epoch_losses: Callable[[int], Iterable[Tensor]],
    phases: list[Recipe],
    on_step: Callable[[int], None] = lambda step: None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Minimise the losses that ``epoch_losses(epoch)`` yields, one optimiser step for each.

    Every phase has its own optimiser; epochs are counted through. Gradients are cleared after a step, before
    the next loss is asked for: what a method leaves in ``.grad`` before it yields a loss is added to that
    loss's gradient. ``on_step(steps done)`` is called before the first step (0) and after each;
    ``on_epoch(epochs done, mean loss)`` before the first epoch and after each.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = epoch = 0
    on_epoch(0, float("nan"))
    on_step(0)
    for recipe in phases:
        optimiser = optimiser_of(parameters, recipe)
        for epoch_of_phase in range(recipe.epochs):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(recipe, epoch_of_phase)
            losses = []
            model.train()
            for loss in epoch_losses(epoch):
                loss.backward()
                if recipe.clip:
                    torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                losses.append(loss.detach())
                step += 1
                on_step(step)
                model.train()  # a reading leaves the model in eval mode
            model.eval()
            epoch += 1
            on_epoch(epoch, torch.stack(losses).mean().item())
    model.eval()


def worth_reading(step: int) -> bool:
    """Steps 0, 1, 2, 4, 8, ...: where a curve over steps is read, densest where it changes most."""
    return step & (step - 1) == 0
