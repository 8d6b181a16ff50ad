"""Tasks that measure a trained model: readouts, curves, attacks, layouts; each result is kept by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from .. import attacks, geometry, metrics
from ..heads import class_means
from ..models import Model
from ..representation import Features, extract, output_predictions
from ..settings import BadInput
from ..training import begin, generator, refit_head, train, worth_reading
from . import code
from .cells import Cell, Result, Task, dataset_of, prepare, stored, trained, views_of
from .readouts import READOUTS, At, look, read
from .variants import recorded


@dataclass(frozen=True)
class Reading(Task):
    """One readout of one model; where the training diverged it says so instead."""

    cell: Cell
    name: str
    kind = "reading"

    @staticmethod
    def of(cell: Cell, name: str) -> Reading:
        return Reading(cell.encoder if READOUTS[name].of_features else cell, name)

    @property
    def about(self) -> dict[str, Any]:
        uses = {part: asdict(getattr(self.cell.profile, part)) for part in READOUTS[self.name].uses}
        if self.name.endswith("_in_head") and self.cell.head != "cmf":  # whose own normalisation is part of the model
            uses["cmf_geometry"] = recorded(self.cell.profile.cmf_normalisation)
        return {"readout": self.name, **uses}

    @property
    def code(self) -> str:
        return code.version(READOUTS[self.name].function)

    @property
    def label(self) -> str:
        return f"{self.name} of {super().label.removeprefix('reading of ')}"

    def compute(self, device: str) -> Result:
        at = look(self.cell, device)
        return read(self.name, at) if at.finite() else {"diverged": True}, {}


@dataclass(frozen=True)
class Collapse(Task):
    """Neural collapse on the way: NC1, NC2 and NC3 at the epochs that a training from scratch noted."""

    cell: Cell
    kind = "collapse"
    by = (geometry.nc1_of_moments, geometry.nc2, geometry.nc3)

    def compute(self, device: str) -> Result:
        record, epochs = stored(trained(self.cell)), []
        counts = torch.bincount(dataset_of(self.cell.profile).train.labels)
        moments = record.tensors("moments")
        for epoch in (at["epoch"] for at in record.result["history"]):
            means, within, weight = (moments[f"{epoch}.{name}"] for name in ("means", "within", "weight"))
            centre = (means * counts[:, None]).sum(0) / counts.sum()
            nc1, nc2 = geometry.nc1_of_moments(means, centre, within), geometry.nc2(means - centre)
            epochs.append({"epoch": epoch, "nc1": nc1, "nc2": nc2, "nc3": geometry.nc3(weight, means - centre)})
        return {"epochs": epochs}, {}


class OfRun(Task):
    """A task that runs a method again, step by step, from what its model started from.

    The run is the cell's own: what is read on the way draws no random number of it.
    """

    running = (begin, train, generator, refit_head, extract, worth_reading)
    by = (*running, output_predictions, metrics.probed, metrics.nearest)

    @property
    def about(self) -> dict[str, Any]:
        return {"probe": asdict(self.cell.profile.probe)}

    @property
    def requires(self) -> list[Task]:
        return trained(self.cell).requires

    @cached_property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"model": trained(self.cell).key}  # whose run it is

    def follow(self, device: str, read: Callable[[Model, Features, int], None], every_epoch: bool) -> list[int]:
        """Call ``read`` with model, features and step at steps 0, 1, 2, 4, 8, ..., and at the last step or at the end
        of every epoch; returns the steps at which epochs end.
        """
        run, method = prepare(self.cell, device)
        phases, ends, done = method.phases(run.recipe), [], 0
        epochs = sum(phase.epochs for phase in phases)

        def read_now() -> None:
            read(run.model, extract(run.model, run.dataset, views_of(self.cell, device)).to(device), done)

        def on_step(step: int) -> None:
            nonlocal done
            done = step
            if worth_reading(step):
                read_now()

        def on_epoch(epoch: int, loss: float) -> None:
            refit_head(run)
            if epoch:
                ends.append(done)
                if not worth_reading(done) and (every_epoch or epoch == epochs):
                    read_now()

        train(run.model, partial(method.losses, run), phases, on_step=on_step, on_epoch=on_epoch)
        return ends


def predictions(at: At, model: Model, features: Features, test: Tensor) -> dict[str, Tensor]:
    """What output, probe and NCC predict of test features (n, d) of a model on its way."""
    common = (features.train, at.train_labels, test, at.classes)
    return {
        "output": output_predictions(model, test),
        "probe": metrics.probed(*common, at.recipe, at.seed).argmax(1),
        "ncc": metrics.nearest(*common)[0],
    }


@dataclass(frozen=True)
class Curve(OfRun):
    """Output, probe and NCC against the optimiser step while the method runs, as confusion counts."""

    cell: Cell
    kind = "curve"
    by = (*OfRun.by, metrics.confusion)

    def compute(self, device: str) -> Result:
        at, readings = At(self.cell, device), []

        def read(model: Model, features: Features, step: int) -> None:
            predicted = predictions(at, model, features, features.test)
            counts = {n: metrics.confusion(p, at.test_labels, at.classes).tolist() for n, p in predicted.items()}
            readings.append({"x": step, **counts})

        ends = self.follow(device, read, every_epoch=True)
        return {"readings": readings, "epoch_ends": ends}, {}


@dataclass(frozen=True)
class Steps(OfRun):
    """Where test images of the first forget class and of its two nearest classes lie while the method runs.

    In the plane through the three class means of the Original's training features, the same at every step: its origin
    is the mean of the three, its unit the distance of the forget mean to the nearest other one.
    """

    cell: Cell
    images: int = 300  # at most so many, the first of each class
    steps: int = 12  # at most so many, the Original and the end among them
    kind = "steps"
    by = (*OfRun.by, class_means, geometry.plane_of, geometry.in_plane)

    @property
    def about(self) -> dict[str, Any]:
        return super().about | {"images": self.images, "steps": self.steps}

    def compute(self, device: str) -> Result:
        at, readings, chosen = At(self.cell, device), [], {}

        def read(model: Model, features: Features, step: int) -> None:
            means = class_means(features.train, at.train_labels, at.classes)
            if not chosen:  # from the features before the first step; the forget class first: its distance is 0
                classes = (means - means[self.cell.forget[0]]).norm(dim=1).argsort()[:3].tolist()
                kept = torch.cat([torch.where(at.test_labels == c)[0][: self.images // 3] for c in classes])
                chosen.update(classes=classes, kept=kept, plane=geometry.plane_of(means[classes]))
            if not (torch.isfinite(features.train).all() and torch.isfinite(features.test).all()):
                return  # it diverged
            shown = features.test[chosen["kept"]]
            in_plane = lambda points: _rounded(geometry.in_plane(points, *chosen["plane"]), 3)  # noqa: E731
            found = {name: p.tolist() for name, p in predictions(at, model, features, shown).items()}
            places = {"points": in_plane(shown), "means": in_plane(means[chosen["classes"]])}
            readings.append({"step": step, **places, **found})

        self.follow(device, read, every_epoch=False)
        labels = at.test_labels[chosen["kept"]].tolist()
        result = {"classes": chosen["classes"], "images": chosen["kept"].tolist(), "labels": labels}
        return result | {"readings": thinned(readings, self.steps)}, {}


def _rounded(points: Tensor, digits: int) -> list[list[float]]:
    return [[round(value, digits) for value in point] for point in points.tolist()]


def thinned(readings: list, most: int) -> list:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(readings) <= most:
        return readings
    return [readings[round(i * (len(readings) - 1) / (most - 1))] for i in range(most)]


@dataclass(frozen=True)
class Attacked(Task):
    """One relearning attack on the cell's model: correct test images of each class."""

    cell: Cell
    attack: str
    shots: tuple[int, ...] = ()  # images per class, for the attacks on features; fine-tuning has the profile's budget
    draws: int = 0
    kind = "attack"

    @staticmethod
    def of(cell: Cell, attack: str, shots: tuple[int, ...], draws: int) -> Attacked:
        """Raises BadInput for an unknown attack. One that sees features alone is the same for all with that encoder."""
        if attack not in attacks.ATTACKS:
            raise BadInput(f"there is no attack '{attack}'; choose from {', '.join(attacks.ATTACKS)}.")
        return Attacked(cell, attack) if attack == "own_head" else Attacked(cell.encoder, attack, shots, draws)

    @property
    def about(self) -> dict[str, Any]:
        budget = [list(self.shots), self.draws] if self.shots else asdict(self.cell.profile.attack)
        return {"attack": self.attack, "target": [], "budget": budget}

    @property
    def code(self) -> str:
        return code.version(attacks.few_shot if self.shots else attacks.fine_tune, generator)

    @property
    def label(self) -> str:
        return f"{self.attack} {super().label}"

    def compute(self, device: str) -> Result:
        at = look(self.cell, device)
        labels = at.test_labels.cpu()
        if self.shots:
            random = generator("cpu", self.cell.seed, self.attack)  # the same images for every model
            given = at.features.to("cpu"), at.train_labels.cpu(), labels, list(self.shots), self.draws, random
            readings = attacks.few_shot(*given, shuffled=self.attack == "few_shot_shuffled")
        else:
            random = generator(device, self.cell.seed, self.attack)
            readings = attacks.fine_tune(at.model, at.dataset, self.cell.profile.attack, random)
        counts = torch.bincount(labels).tolist()
        hits = [[round(a * n) for a, n in zip(reading["accuracy"], counts)] for reading in readings]
        return {"readings": [{"x": r["x"], "draw": r["draw"], "hits": h} for r, h in zip(readings, hits)]}, {}


@dataclass(frozen=True)
class Embedded(Task):
    """Two-dimensional t-SNE of the test features, with the official code's settings."""

    cell: Cell
    points: int  # at most so many test images, the first of each class
    kind = "t-SNE"
    by = (geometry.tsne,)

    @property
    def about(self) -> dict[str, Any]:
        return {"points": self.points}

    def compute(self, device: str) -> Result:
        at = look(self.cell, device)
        labels, features = at.test_labels.cpu(), at.features.test.cpu()
        keep = torch.cat([torch.where(labels == c)[0][: self.points // at.classes] for c in labels.unique()])
        layout = geometry.tsne(features[keep]) if at.finite() else torch.full((len(keep), 2), torch.nan)
        return {"points": _rounded(layout, 2), "labels": labels[keep].tolist()}, {}
