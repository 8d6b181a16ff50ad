"""Cells and the tasks that compute them: pure functions of their parameters, found again in the store."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import data, models, representation, sources
from ..heads import class_moments
from ..methods import METHODS, Method, build, check
from ..representation import Features, extract, hits
from ..settings import BadInput, Recipe
from ..training import Checkpoint, Run, begin, generator, refit_head, train
from . import code
from .profiles import Images, Profile
from .store import Damaged, Record, Store, digest
from .variants import VARIANTS, recipe_of, recorded

Result = tuple[dict[str, Any], dict[str, dict[str, Tensor]]]


@dataclass(frozen=True)
class Cell:
    """One model of the study. The Original and the untrained network have the empty forget set."""

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

        A CMF cell starts from the original fine-tuned with the CMF head (the official code's stage 0), a sham
        from Retrain.
        """
        method, variant = self.method, self.variant
        from_scratch, on_retrain = METHODS[method].start == "initialisation", VARIANTS[variant].on_retrain
        if from_scratch and variant == "linear":
            return None
        if from_scratch and (method != "original" or on_retrain):  # its start would have seen the class
            raise BadInput(f"'{method}' has no variant '{variant}': it is trained from scratch; take 'linear'.")
        if on_retrain:
            return dataclasses.replace(self, method="retrain", variant="linear")
        of_cmf = self.head == "cmf" and method != "original"
        return dataclasses.replace(self, forget=(), method="original", variant=variant if of_cmf else "linear")

    @property
    def encoder(self) -> Cell:
        """The cell whose features this one shares: its start's where only a linear head is changed."""
        head_only = VARIANTS[self.variant].encoder_frozen or METHODS[self.method].head_only
        return self.start.encoder if self.start and head_only and self.head == "linear" else self

    @property
    def recipe(self) -> Recipe:
        if self.method == "random":
            return Recipe(epochs=0, lr=0.0)
        return recipe_of(self.profile, self.method, self.variant, several=len(self.forget) > 1)

    @property
    def head(self) -> str:
        return VARIANTS[self.variant].head

    @property
    def normalisation(self) -> str | None:
        """Feature normalisation of a CMF head; None for a linear head."""
        return VARIANTS[self.variant].normalisation or self.profile.cmf_normalisation if self.head == "cmf" else None


_stamps: dict[Any, str] = {}  # how the files of each loaded data set lay


def dataset_of(profile: Profile) -> data.Dataset:
    """The images of a profile. Raises BadInput where they are not those that its results were made of."""
    if profile.data not in _stamps:
        _stamps[profile.data] = sources.stamp(profile.data)
    dataset = sources.load(profile.data, Store().root / "images")
    if profile.images and profile.images.fingerprint != dataset.fingerprint:
        raise BadInput(
            f"the images here are not those of the committed results of '{profile.name}', which cannot be added to."
        )
    return dataset


def images_of(profile: Profile) -> Images:
    """What is known of a profile's images: from its committed results where they are used, else from the images."""
    if profile.images:
        return profile.images
    dataset = dataset_of(profile)
    parts = dataset.train.labels, dataset.test.labels
    train, test = (tuple(torch.bincount(labels, minlength=len(dataset.classes)).tolist()) for labels in parts)
    return Images(dataset.fingerprint, dataset.classes, train, test, dataset.groups)


def inputs_of(profile: Profile) -> str:
    """What a profile's images, and the file of weights that its networks start from, hold."""
    return f"{images_of(profile).fingerprint} {_weights(profile.network.weights)}"


def look_again(tasks: Iterable[Task] = ()) -> None:
    """Notice what was edited since the last sweep: code, image folders, files of weights; ``tasks`` find new keys."""
    code.look_again()
    for task in tasks:
        for known in ("question", "spec", "key"):
            vars(task).pop(known, None)
    _trained.clear()
    _weights.cache_clear()
    if any(sources.stamp(data) != before for data, before in _stamps.items()):
        _stamps.clear()
        sources.load.cache_clear()


class Task(ABC):
    """Something to compute once: what is ``asked``, by which code, after what it ``requires``."""

    kind: str
    cell: Cell
    by: ClassVar[tuple] = ()  # the functions and classes that compute it

    @property
    def about(self) -> dict[str, Any]:
        """What is wanted of the cell's model, as JSON values."""
        return {}

    @property
    def asked(self) -> dict[str, Any]:
        return {"model": trained(self.cell).question, **self.about}

    @property
    def code(self) -> str:
        return code.version(*self.by)

    @property
    def requires(self) -> list[Task]:
        return [trained(self.cell)]

    @cached_property
    def question(self) -> str:
        """Hash of what is wanted, whatever code computes it: how committed results are found."""
        return digest({"kind": self.kind, **self.asked})

    @cached_property
    def spec(self) -> dict[str, Any]:
        """All that determines the result."""
        needed = [task.key for task in self.requires]
        return {"kind": self.kind, "asked": self.asked, "code": self.code, "requires": needed}

    @cached_property
    def key(self) -> str:
        return digest(self.spec)

    @property
    def group(self) -> str:
        """Tasks of one group are best computed together: all readings of a model load it once."""
        return trained(self.cell).key

    @property
    def label(self) -> str:
        forget = f", forget {list(self.cell.forget)}" if self.cell.forget else ""
        return f"{self.kind} of {self.cell.label}{forget}, seed {self.cell.seed}"

    @abstractmethod
    def compute(self, device: str) -> Result:
        """The result as JSON values, and tensors by file name."""


@dataclass(frozen=True)
class Trained(Task):
    """The cell's model, and how its accuracy went; its features are kept, too."""

    cell: Cell
    kind = "model"

    @property
    def asked(self) -> dict[str, Any]:
        cell, images, network = self.cell, images_of(self.cell.profile), self.cell.profile.network
        variant = VARIANTS[cell.variant]
        check(cell.method, cell.variant, cell.recipe)  # refuses what cannot run before anything runs
        if cell.forget:
            data.check_forget_set(cell.forget, len(images.classes))
        return {
            "images": [images.fingerprint, asdict(cell.profile.data.views), cell.profile.data.readout_view],
            "network": asdict(network) | {"weights": _weights(network.weights)},
            "geometry": recorded(cell.normalisation), "seed": cell.seed, "other_seed": METHODS[cell.method].other_seed,
            "forget": list(cell.forget), "method": cell.method, "recipe": asdict(cell.recipe),
            "variant": [recorded(cell.variant), variant.encoder_frozen, variant.zeroed],
            "start": trained(cell.start).question if cell.start else None,
        }  # fmt: skip

    @property
    def code(self) -> str:
        encoder = models.encoder_of(self.cell.profile.network.architecture)
        making = code.version(begin, train, generator, refit_head, models.build, encoder, extract, hits, Checkpoint)
        return digest([making, code.version(METHODS[self.cell.method])])

    @property
    def requires(self) -> list[Task]:
        return [trained(self.cell.start)] if self.cell.start else []

    def compute(self, device: str) -> Result:
        run, method = prepare(self.cell, device)
        phases, history, moments, checkpoint = method.phases(run.recipe), [], {}, None
        epochs, final = sum(phase.epochs for phase in phases), []
        # Ten readings of the networks trained from scratch; an unlearning method has its curve instead.
        from_scratch = method.start == "initialisation"
        read_at = {epochs} | (set(range(0, epochs + 1, max(1, epochs // 10))) if from_scratch else set())
        if from_scratch and self.cell.head == "linear":  # the long trainings
            checkpoint = Checkpoint(Store().unfinished(self.spec), run.generator, history, moments)

        def on_epoch(epoch: int, loss: float) -> None:
            refit_head(run)
            if epoch in read_at:
                final[:] = [extract(run.model, run.dataset, views_of(self.cell, device))]
                history.append({"epoch": epoch, "loss": loss, **hits(run.model, final[0], run.dataset)})
                if from_scratch:
                    moments.update(_moments(run, final[0], epoch))

        train(run.model, partial(method.losses, run), phases, on_epoch=on_epoch, checkpoint=checkpoint)
        if checkpoint:
            checkpoint.path.unlink(missing_ok=True)
        state = {name: tensor.detach().cpu() for name, tensor in run.model.state_dict().items()}
        own = _changed(self.cell, state)
        if self.cell.encoder == self.cell:
            Store().keep_features(features_spec(self.cell), vars(final[0]), device)
        result = {"history": history, "weights": _digest_of(state), "images_seen": run.model.images_seen}
        return result, {"weights": own, "moments": moments}


def _changed(cell: Cell, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those tensors that are not the start's bit for bit: only they are stored. Checks that a head-only cell is one."""
    before = load_state(cell.start) if cell.start else {}
    own = {name: t for name, t in state.items() if name not in before or not torch.equal(t, before[name])}
    if cell.encoder != cell and not all(name.startswith("head.") for name in own):
        raise RuntimeError(f"{cell.label} is to leave the encoder as it is, but changed {next(iter(own))}.")
    return own


def _digest_of(state: dict[str, Tensor]) -> str:
    """Hash of a model's weights, whatever machine they were made on."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()[:20]


def _moments(run: Run, features: Features, epoch: int) -> dict[str, Tensor]:
    """Class means and scatter of the training features and the class weight vectors, for neural collapse."""
    labels, classes = run.dataset.train.labels.cpu(), len(run.dataset.classes)
    means, within = class_moments(run.model.head.transform(features.train), labels, classes)
    found = {"means": means, "within": within, "weight": run.model.head.weight.detach().cpu().clone()}
    return {f"{epoch}.{name}": tensor for name, tensor in found.items()}


_trained: dict[tuple, Trained] = {}


def trained(cell: Cell) -> Trained:
    """``Trained(cell)``, whose key is found once in a sweep: every other key asks for it."""
    place = (id(cell.profile), cell.seed, cell.forget, cell.method, cell.variant)  # the task keeps the profile alive
    return _trained.setdefault(place, Trained(cell))


@cache  # every key of a sweep asks for it
def _weights(named: str) -> str:
    """The encoder's first weights in a key: their name, or the hash of their file."""
    if named in ("none", "imagenet"):
        return named
    with models.weights_file(named).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def prepare(cell: Cell, device: str) -> tuple[Run, Method]:
    """The run of a cell, begun, and its method."""
    variant, dataset = VARIANTS[cell.variant], dataset_of(cell.profile).to(device)
    model = load_model(cell.start, device) if cell.start else _built(cell, cell.profile.network.weights).to(device)
    method = build(cell.method, cell.recipe.constants)
    random = generator(device, cell.seed, list(cell.forget), cell.method, recorded(cell.variant))
    run = Run(model, None, dataset, cell.forget, cell.recipe, random, views_of(cell, device))
    return begin(run, method, cell.normalisation, variant.encoder_frozen, variant.zeroed), method


def views_of(cell: Cell, device: str) -> torch.Generator | None:
    """Draws the views of the training images for extracted features; None where they are the test view."""
    return generator(device, cell.seed, "views") if cell.profile.data.readout_view == "augmented" else None


def _built(cell: Cell, weights: str) -> models.Model:
    """A network of the cell's seed, whose encoder starts from ``weights``."""
    network, seed = dataclasses.replace(cell.profile.network, weights=weights), METHODS[cell.method].other_seed
    return models.build(network, cell.profile.data.channels, len(images_of(cell.profile).classes), cell.seed + seed)


def stored(task: Task) -> Record:
    """The record of a task that has been computed before. Raises Damaged where it is not there."""
    record = Store().get(task.spec)
    if record is None:
        raise Damaged(f"{task.label} is not in the store; run it first.")
    return record


def load_state(cell: Cell) -> dict[str, Tensor]:
    """Everything that the trained model of a cell holds: what it shares with its start comes from there."""
    own = stored(trained(cell)).tensors("weights")
    return (load_state(cell.start) if cell.start else {}) | own


def load_model(cell: Cell, device: str) -> models.Model:
    """The trained model of a cell, in eval mode."""
    model = _built(cell, "none")  # its weights come from the store
    if cell.head == "cmf":
        models.use_class_mean_head(model, cell.normalisation)
    state = load_state(cell)
    model.projection = state.get("projection")
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in model.state_dict()})
    return model.to(device).eval()


def features_spec(cell: Cell) -> dict[str, Any]:
    return {"kind": "features", "model": trained(cell.encoder).key, "code": code.version(representation.extract)}


def load_features(cell: Cell, device: str) -> Features:
    """Features of the cell's model: kept ones, or by one pass again where they had to make room."""
    spec = features_spec(cell)
    if kept := Store().features(spec):
        return Features(**kept).to(device)
    features = extract(load_model(cell.encoder, device), dataset_of(cell.profile).to(device), views_of(cell, device))
    Store().keep_features(spec, vars(features), device)
    return features.to(device)
