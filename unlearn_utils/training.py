"""The one training loop: originals, retraining, every unlearning method and every attack use it."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Dataset, Images, is_in
from .heads import ClassMeanHead
from .models import Model, use_class_mean_head
from .paths import replaced
from .representation import features_of
from .settings import BadInput, Recipe


@dataclass
class Run:
    """What a method sees while it changes one model."""

    model: Model
    teacher: Model | None  # frozen: the model that the method starts from; ``begin`` sets it
    dataset: Dataset
    forget_classes: tuple[int, ...]
    recipe: Recipe
    generator: torch.Generator  # the only source of randomness: order, augmentation, random labels
    views: torch.Generator | None = None  # draws the views of ``features``, where they are augmented
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

    def features(self, images: Images) -> Tensor:
        """Features (N, d) of images in eval mode, under the view in which this study extracts features."""
        return features_of(self.model, self.dataset, images, augmented=self.views)

    def endless_batches(self, images: Images) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from self.batches(images)


def generator(device: str, *purpose: Any) -> torch.Generator:
    """Random numbers that depend on the purpose (JSON values) alone, not on what else was computed."""
    seed = hashlib.sha256(json.dumps(list(purpose), sort_keys=True).encode()).hexdigest()[:12]
    return torch.Generator(device).manual_seed(int(seed, 16))


def begin(
    run: Run, method, normalisation: str | None = None, encoder_frozen: bool = False, zeroed: bool = False
) -> Run:
    """Make the model of a run what its variant asks for, and begin the method.

    ``normalisation`` (of the features) gives the model a CMF head if it has none. The teacher is the model before its
    encoder is frozen or its classifier set to zero (as in the official code).
    """
    model = run.model
    if normalisation and not isinstance(model.head, ClassMeanHead):
        use_class_mean_head(model, normalisation)
    run.teacher = copy.deepcopy(model).eval().requires_grad_(False)
    for parameter in model.head.parameters() if zeroed else ():
        torch.nn.init.zeros_(parameter)
    if encoder_frozen:
        model.freeze_encoder()
    run.begun = method.begin(run)
    return run


def refit_head(run: Run) -> None:
    """Bring a CMF head up to date with the features of all training images; a linear head stays as it is."""
    if isinstance(run.model.head, ClassMeanHead):
        run.model.head.refit(run.features(run.everything), run.everything.labels)


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
        parameters,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=parameters[0].is_cuda or None,
    )


@dataclass
class Checkpoint:
    """Where a training of one phase goes on after an interruption, with the numbers of one that was not cut.

    Written after an epoch, at most every ``seconds``; ``history`` and ``moments`` (tensors) are what the run has
    noted so far.
    """

    path: Path
    generator: torch.Generator
    history: list
    moments: dict = field(default_factory=dict)
    seconds: float = 60.0
    last: float = 0.0

    def save(self, model: Model, optimiser: torch.optim.Optimizer, epoch: int, step: int) -> None:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return
        self.last = now
        state = {name: part.state_dict() for name, part in (("model", model), ("optimiser", optimiser))}
        state |= {"generator": self.generator.get_state(), "device": self.generator.device.type}
        state |= {"epoch": epoch, "step": step, "images_seen": model.images_seen}
        with replaced(self.path) as partial:
            torch.save(state | {"history": self.history, "moments": self.moments}, partial)

    def restore(self, model: Model, optimiser: torch.optim.Optimizer) -> tuple[int, int]:
        """(epochs, steps) done: none where the file is missing, damaged, or of another kind of device.

        The random numbers of a GPU are not those of a CPU, so a run that changes between them starts anew.
        """
        self.last = time.monotonic()
        if not self.path.exists():
            return 0, 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception:  # torch has no base class for a damaged file, and the training can start anew
            state = {}
        if state.get("device") != self.generator.device.type:
            print(f"the unfinished training {self.path.stem} is damaged or of another device; it starts anew.")
            self.path.unlink()
            return 0, 0
        model.load_state_dict(state["model"])
        model.images_seen = state["images_seen"]
        optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.history[:] = state["history"]
        self.moments.update(state["moments"])
        return state["epoch"], state["step"]


def train(
    model: Model,
    epoch_losses: Callable[[int], Iterable[Tensor]],
    phases: list[Recipe],
    on_step: Callable[[int], None] = lambda step: None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Minimise the losses that ``epoch_losses(epoch)`` yields, one optimiser step for each.

    Every phase has its own optimiser; epochs are counted through. Gradients are cleared after a step, before
    the next loss is asked for: what a method leaves in ``.grad`` before it yields a loss is added to that
    loss's gradient. ``on_step(steps done)`` is called before the first step (0) and after each;
    ``on_epoch(epochs done, mean loss)`` before the first epoch and after each. With a ``checkpoint``, for one
    phase, an interrupted training goes on behind its last saved epoch. Raises BadInput for an epoch without a loss.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    step = epoch = 0
    on_epoch(0, float("nan"))
    on_step(0)
    for recipe in phases:
        optimiser = optimiser_of(parameters, recipe)
        if checkpoint:
            epoch, step = checkpoint.restore(model, optimiser)
        for epoch_of_phase in range(epoch if checkpoint else 0, recipe.epochs):
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
            on_epoch(epoch, _mean(losses))
            if checkpoint and epoch < recipe.epochs:
                checkpoint.save(model, optimiser, epoch, step)
    model.eval()


def _mean(losses: list[Tensor]) -> float:
    if not losses:
        raise BadInput("the method yields no loss in an epoch; let `losses` yield one for every step.")
    return torch.stack(losses).mean().item()


def worth_reading(step: int) -> bool:
    """Steps 0, 1, 2, 4, 8, ...: where a curve over steps is read, densest where it changes most."""
    return step & (step - 1) == 0
