"""Cells and what is computed of them: pure functions of their parameters, found again in the store."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import data, heads, metrics, models, sources
from ..methods import METHODS, Method, build, check
from ..settings import BadInput, Recipe
from .profiles import Profile
from ..representation import Features, extract, features_of, output_predictions
from .store import Record, Store, code_version, digest
from ..training import Checkpoint, Run, train

Result = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]


@dataclass(frozen=True)
class Variant:
    """What is trained of a method's model, and which head it has."""

    label: str  # follows the method's label in tables
    head: str = "linear"
    encoder_frozen: bool = False
    zeroed: bool = False
    geometry: str = ""  # of a CMF head; empty: that of the profile


VARIANTS = {
    "linear": Variant(""),
    "cmf": Variant(" + CMF", head="cmf"),
    **{f"cmf_{name}": Variant(f" + CMF ({name})", head="cmf", geometry=name) for name in heads.GEOMETRIES},
    "cmf_budget": Variant(" at CMF's budget"),
    "classifier": Variant(", classifier only", encoder_frozen=True),
    "zeroed_classifier": Variant(", zeroed classifier only", encoder_frozen=True, zeroed=True),
}


@dataclass(frozen=True)
class Cell:
    """One model of the study. The Original and the random network have the empty forget set."""

    profile: Profile
    seed: int
    forget: tuple[int, ...]
    method: str
    variant: str = "linear"

    @property
    def label(self) -> str:
        return METHODS[self.method].label + VARIANTS[self.variant].label

    @property
    def start(self) -> Cell | None:
        """The cell whose model this one changes; None for the initialisation.

        A CMF cell starts from the original fine-tuned with the CMF head (the official code's stage 0).
        """
        if METHODS[self.method].start == "initialisation" and self.variant == "linear":
            return None
        variant = self.variant if self.head == "cmf" and self.method != "original" else "linear"
        return dataclasses.replace(self, forget=(), method="original", variant=variant)

    @property
    def recipe(self) -> Recipe:
        if self.method == "random":
            return Recipe(epochs=0, lr=0.0)
        return self.profile.recipe(self.method, self.variant, several=len(self.forget) > 1)

    @property
    def head(self) -> str:
        return VARIANTS[self.variant].head

    @property
    def geometry(self) -> str | None:
        """What a CMF head takes the class means of; None for a linear head."""
        return VARIANTS[self.variant].geometry or self.profile.cmf_geometry if self.head == "cmf" else None


def dataset_of(profile: Profile) -> data.Dataset:
    return sources.load(profile.data, Store().root / "images")


def generator(device: str, *purpose: Any) -> torch.Generator:
    """Random numbers that depend on the purpose alone, not on what was computed before or beside it."""
    return torch.Generator(device).manual_seed(int(digest(list(purpose))[:12], 16))


class Task(ABC):
    """Something to compute once: ``spec`` determines it, ``requires`` must be stored before it."""

    kind: str
    cell: Cell

    @property
    @abstractmethod
    def inputs(self) -> dict[str, Any]:
        """What determines the result, besides the kind, as JSON values."""

    @cached_property
    def spec(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.inputs}

    @cached_property
    def key(self) -> str:
        return digest(self.spec)

    @property
    def requires(self) -> list[Task]:
        return [Trained(self.cell)]

    @property
    def label(self) -> str:
        forget = f", forget {list(self.cell.forget)}" if self.cell.forget else ""
        return f"{self.kind} of {self.cell.label}{forget}, seed {self.cell.seed}"

    @abstractmethod
    def compute(self, device: str) -> Result:
        """The result as JSON values, and tensors by file name."""


@dataclass(frozen=True)
class Trained(Task):
    """The cell's model and its features."""

    cell: Cell
    kind = "model"

    @property
    def inputs(self) -> dict[str, Any]:
        cell, dataset = self.cell, dataset_of(self.cell.profile)
        check(cell.method, cell.variant, cell.recipe)  # refuses what cannot run before anything runs
        if cell.forget:
            data.check_forget_set(cell.forget, len(dataset.classes))
        return {
            "code": code_version(
                "data", "models", "heads", "training", "representation", "metrics", "study/cells", *_sources(cell.method)
            ),
            "data": [dataset.fingerprint, asdict(dataset.views)],
            "network": asdict(cell.profile.network) | {"weights": _weights(cell.profile.network.weights)},
            "geometry": cell.geometry,
            "seed": cell.seed, "forget": list(cell.forget), "method": cell.method, "variant": cell.variant,
            "recipe": asdict(cell.recipe),
            "start": Trained(cell.start).key if cell.start else None,
        }

    @property
    def requires(self) -> list[Task]:
        return [Trained(self.cell.start)] if self.cell.start else []

    def compute(self, device: str) -> Result:
        run, method = prepare(self.cell, device)
        phases, history, final, checkpoint = method.phases(run.recipe), [], [], None
        epochs = sum(phase.epochs for phase in phases)
        # Ten readings of the networks trained from scratch; an unlearning method has its curve instead.
        read_at = {epochs}
        if method.start == "initialisation":
            read_at |= set(range(0, epochs + 1, max(1, epochs // 10)))
            if self.cell.head == "linear":  # the long trainings
                checkpoint = Checkpoint(Store().root / "unfinished" / f"{self.key}.pt", run.generator, history)

        def on_epoch(epoch: int, loss: float) -> None:
            refit_head(run)
            if epoch in read_at:
                features = extract(run.model, run.dataset)
                history.append({"epoch": epoch, "loss": loss, **_progress(run, features)})
                final[:] = [features]

        train(run.model, lambda epoch: method.losses(run, epoch), phases, on_epoch=on_epoch, checkpoint=checkpoint)
        if checkpoint:
            checkpoint.path.unlink(missing_ok=True)
        return {"history": history}, {"weights": run.model.state_dict(), "features": vars(final[0])}


@lru_cache(maxsize=None)  # every key of a run asks for it
def _weights(named: str) -> str:
    """What stands for the encoder's first weights in a key: their name, or the hash of their file."""
    if named in ("none", "imagenet"):
        return named
    file = Path(named).expanduser()
    if not file.is_file():
        raise BadInput(f"there is no file {file}; network.weights must be 'none', 'imagenet' or a file of weights.")
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sources(method: str) -> list[str]:
    """The modules of a method's class and of those that it derives from."""
    modules = [cls.__module__ for cls in METHODS[method].__mro__ if cls.__module__.startswith("unlearn_utils.methods.")]
    return list(dict.fromkeys(module.removeprefix("unlearn_utils.").replace(".", "/") for module in modules))


def prepare(cell: Cell, device: str) -> tuple[Run, Method]:
    """Everything that a method needs to change the cell's model, and the method, begun."""
    variant, dataset = VARIANTS[cell.variant], dataset_of(cell.profile).to(device)
    if cell.start:
        model = load_model(cell.start, device)
    else:
        model = _built(cell, "none" if cell.method == "random" else cell.profile.network.weights).to(device)
    if variant.head == "cmf" and not isinstance(model.head, heads.ClassMeanHead):
        models.use_class_mean_head(model, cell.geometry)
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    if variant.zeroed:
        models.zero_head(model)
    if variant.encoder_frozen:
        model.freeze_encoder()
    random = generator(device, cell.seed, list(cell.forget), cell.method, cell.variant)
    run = Run(model, teacher, dataset, cell.forget, cell.recipe, random)
    method = build(cell.method, cell.recipe.constants)
    run.begun = method.begin(run)
    return run, method


def refit_head(run: Run) -> None:
    """Bring a CMF head up to date with the encoder (paper, Algorithm 2, before and after every epoch)."""
    if isinstance(run.model.head, heads.ClassMeanHead):
        features = features_of(run.model, run.dataset, run.dataset.train)
        run.model.head.refit(features, run.dataset.train.labels)


def _progress(run: Run, features: Features) -> dict[str, Any]:
    train_labels, test_labels = (part.labels.cpu() for part in (run.dataset.train, run.dataset.test))
    classes = len(run.dataset.classes)
    means = metrics.centred_means(run.model.head.transform(features.train), train_labels, classes)
    on_train, on_test = (output_predictions(run.model, part) for part in (features.train, features.test))
    return {
        "train_accuracy": metrics.accuracy_per_class(on_train, train_labels, classes).tolist(),
        "test_accuracy": metrics.accuracy_per_class(on_test, test_labels, classes).tolist(),
        "nc1": metrics.nc1(features.train, train_labels, classes),
        "nc2": metrics.nc2(means),
        "nc3": metrics.nc3(run.model.head.weight.detach().cpu(), means),
    }


def _built(cell: Cell, weights: str) -> models.Model:
    """A network of the cell's seed, whose encoder starts from ``weights``."""
    profile = cell.profile
    network = dataclasses.replace(profile.network, weights=weights)
    return models.build(network, profile.data.channels, len(dataset_of(profile).classes), cell.seed)


def stored(task: Task) -> Record:
    """The record of a task that has been computed before. Raises LookupError where it has not."""
    record = Store().get(task.spec)
    if record is None:
        raise LookupError(f"{task.label} is not in the store; run it first.")
    return record


def load_model(cell: Cell, device: str) -> models.Model:
    """The trained model of a cell, in eval mode."""
    model = _built(cell, "none")  # its weights come from the store
    if cell.head == "cmf":
        models.use_class_mean_head(model, cell.geometry)
    weights = stored(Trained(cell)).tensors("weights")
    model.projection = weights.get("projection")
    model.load_state_dict(weights)
    return model.to(device).eval()


def load_features(cell: Cell) -> Features:
    return Features(**stored(Trained(cell)).tensors("features"))
