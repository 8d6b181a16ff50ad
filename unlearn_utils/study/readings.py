"""What is read off a trained cell: one record for each readout, so that a new one computes itself and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Callable

import torch
from torch import Tensor

from .. import attacks, metrics
from ..representation import Features, extract, output_predictions
from ..settings import BadInput
from ..training import begin, generator, refit_head, train, worth_reading
from . import code
from .cells import Cell, Result, Task, trained, dataset_of, load_features, load_model, prepare, stored


class At:
    """A trained cell as its readings see it; what one of them has loaded the others share."""

    def __init__(self, cell: Cell, device: str):
        self.cell, self.device = cell, device
        self.dataset = dataset_of(cell.profile).to(device)
        self.train_labels, self.test_labels = self.dataset.train.labels, self.dataset.test.labels
        self.classes = len(self.dataset.classes)

    @cached_property
    def features(self) -> Features:
        return load_features(self.cell, self.device)

    @cached_property
    def model(self):
        return load_model(self.cell, self.device)

    @cached_property
    def in_head(self) -> Features:
        """Features in the geometry of a CMF head, in which the official code probes such models."""
        with torch.no_grad():
            return Features(self.model.head.embed(self.features.train), self.model.head.embed(self.features.test))

    @cached_property
    def means(self) -> Tensor:
        """Centred class means of what the head's rows are compared with, (K, d) float64."""
        return metrics.centred_means(self.model.head.transform(self.features.train), self.train_labels, self.classes)

    @property
    def weight(self) -> Tensor:
        return self.model.head.weight.detach()

    def probe(self, features: Features) -> list[list[int]]:
        recipe, seed = self.cell.profile.probe, self.cell.seed
        predicted = metrics.probed(features.train, self.train_labels, features.test, self.classes, recipe, seed)
        return metrics.confusion(predicted, self.test_labels, self.classes).tolist()

    def ncc(self, features: Features) -> list[list[int]]:
        predicted = metrics.nearest(features.train, self.train_labels, features.test, self.classes)
        return metrics.confusion(predicted, self.test_labels, self.classes).tolist()

    def output(self) -> list[list[int]]:
        predicted = output_predictions(self.model, self.features.test)
        return metrics.confusion(predicted, self.test_labels, self.classes).tolist()


@dataclass(frozen=True)
class Readout:
    """A function of a trained cell; ``code`` is what its numbers come from."""

    function: Callable[[At], Any]
    code: tuple[Callable, ...]
    uses: tuple[str, ...] = ()  # the parts of the profile that it depends on
    of_features: bool = False  # the same for all models that share an encoder
    cmf_only: bool = False


# Numbers of test images are confusion counts (K, K), rows the true class: every accuracy is a view of them.
READOUTS: dict[str, Readout] = {
    "output": Readout(lambda at: at.output(), (metrics.confusion, output_predictions)),
    "probe": Readout(lambda at: at.probe(at.features), (metrics.confusion, metrics.probed), ("probe",), of_features=True),
    "ncc": Readout(lambda at: at.ncc(at.features), (metrics.confusion, metrics.nearest), of_features=True),
    "probe_in_head": Readout(
        lambda at: at.probe(at.in_head), (metrics.confusion, metrics.probed), ("probe",), cmf_only=True),
    "ncc_in_head": Readout(lambda at: at.ncc(at.in_head), (metrics.confusion, metrics.nearest), cmf_only=True),
    "alignment": Readout(
        lambda at: metrics.alignment(at.weight, at.means).tolist(), (metrics.alignment, metrics.centred_means)),
    "centre_distance": Readout(
        lambda at: metrics.centre_distance(at.means).tolist(), (metrics.centre_distance, metrics.centred_means)),
    "nc1": Readout(
        lambda at: metrics.nc1(at.features.train, at.train_labels, at.classes), (metrics.nc1,), of_features=True),
    "nc2": Readout(lambda at: metrics.nc2(at.means), (metrics.nc2, metrics.centred_means)),
    "nc3": Readout(lambda at: metrics.nc3(at.weight, at.means), (metrics.nc3, metrics.centred_means)),
}


class OfModel(Task):
    """A task that reads a trained model; all of one model run together."""

    @property
    def group(self) -> str:
        return trained(self.cell).key


@dataclass(frozen=True)
class Reading(OfModel):
    """One readout of one model. Its value is None where the training diverged."""

    cell: Cell
    name: str
    kind = "reading"

    @staticmethod
    def of(cell: Cell, name: str) -> Reading:
        return Reading(cell.encoder if READOUTS[name].of_features else cell, name)

    @property
    def asked(self) -> dict[str, Any]:
        uses = {part: asdict(getattr(self.cell.profile, part)) for part in READOUTS[self.name].uses}
        return {"readout": self.name, "model": trained(self.cell).question, **uses}

    @property
    def code(self) -> str:
        return code.version(*READOUTS[self.name].code)

    @property
    def label(self) -> str:
        return f"{self.name} of {super().label.removeprefix('reading of ')}"

    def compute(self, device: str) -> Result:
        at = _at(self.cell, device)
        finite = torch.isfinite(at.features.train).all() and torch.isfinite(at.features.test).all()
        return {"value": READOUTS[self.name].function(at) if finite else None}, {}


def readings_of(cell: Cell) -> list[Reading]:
    """Every readout that a cell has."""
    return [Reading.of(cell, name) for name, readout in READOUTS.items() if not readout.cmf_only or cell.head == "cmf"]


_last: dict[tuple, At] = {}


def _at(cell: Cell, device: str) -> At:
    """The cell, loaded; kept until another is asked for."""
    place = (trained(cell).key, device)
    if place not in _last:
        _last.clear()
        _last[place] = At(cell, device)
    return _last[place]


@dataclass(frozen=True)
class Collapse(OfModel):
    """Neural collapse on the way: NC1, NC2 and NC3 at the epochs that a training from scratch noted."""

    cell: Cell
    kind = "collapse"

    @property
    def asked(self) -> dict[str, Any]:
        return {"model": trained(self.cell).question}

    @property
    def code(self) -> str:
        return code.version(metrics.nc1_of_moments, metrics.nc2, metrics.nc3)

    def compute(self, device: str) -> Result:
        record, epochs = stored(trained(self.cell)), []
        counts = torch.bincount(dataset_of(self.cell.profile).train.labels)
        moments = record.tensors("moments")
        for at in record.result["history"]:
            means, within, weight = (moments[f"{at['epoch']}.{name}"] for name in ("means", "within", "weight"))
            centre = (means * counts[:, None]).sum(0) / counts.sum()
            centred = means - centre
            epochs.append({
                "epoch": at["epoch"], "nc1": metrics.nc1_of_moments(means, centre, within), "nc2": metrics.nc2(centred),
                "nc3": metrics.nc3(weight, centred),
            })
        return {"epochs": epochs}, {}


@dataclass(frozen=True)
class Curve(Task):
    """Output, probe and NCC against the optimiser step while the method runs, as confusion counts.

    Read at steps 0, 1, 2, 4, 8, ... and at the end of every epoch. The run is the cell's own, step by step:
    readings draw no random number of it.
    """

    cell: Cell
    kind = "curve"

    @property
    def asked(self) -> dict[str, Any]:
        return {"model": trained(self.cell).question, "probe": asdict(self.cell.profile.probe)}

    @property
    def code(self) -> str:
        reading = (metrics.confusion, metrics.probed, metrics.nearest, output_predictions, extract, worth_reading)
        return code.version(*reading, begin, train, generator, refit_head)

    @property
    def requires(self) -> list[Task]:
        return trained(self.cell).requires

    @cached_property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"model": trained(self.cell).key}  # whose run it is, step by step

    def compute(self, device: str) -> Result:
        run, method = prepare(self.cell, device)
        at, readings, epoch_ends, done = At(self.cell, device), [], [], 0
        at.model = run.model

        def read() -> None:
            at.features = extract(run.model, run.dataset).to(device)
            readings.append({"x": done, "output": at.output(), "probe": at.probe(at.features), "ncc": at.ncc(at.features)})

        def on_step(step: int) -> None:
            nonlocal done
            done = step
            if worth_reading(step):
                read()

        def on_epoch(epoch: int, loss: float) -> None:
            refit_head(run)
            if epoch:
                epoch_ends.append(done)
                if readings[-1]["x"] != done:
                    read()

        losses = lambda epoch: method.losses(run, epoch)  # noqa: E731
        train(run.model, losses, method.phases(run.recipe), on_step=on_step, on_epoch=on_epoch)
        return {"readings": readings, "epoch_ends": epoch_ends}, {}


@dataclass(frozen=True)
class Attacked(OfModel):
    """Readings of one relearning attack on the cell's model, aimed at ``target``: test images of each class read right."""

    cell: Cell
    attack: str
    target: tuple[int, ...]  # the forget set that the attack wants back
    shots: tuple[int, ...] = ()  # images per class, for the attacks on features
    draws: int = 0
    kind = "attack"

    @staticmethod
    def of(cell: Cell, attack: str, target: tuple[int, ...], shots: tuple[int, ...], draws: int) -> Attacked:
        """Raises BadInput for an unknown attack. One that sees features alone is the same for all with that encoder."""
        if attack not in attacks.ON_FEATURES + attacks.FINE_TUNING:
            known = ", ".join(attacks.ON_FEATURES + attacks.FINE_TUNING)
            raise BadInput(f"there is no attack '{attack}'; choose from {known}.")
        on_features = attack in attacks.ON_FEATURES
        cell = cell.encoder if on_features and attack not in attacks.NEEDS_FORGET_SET else cell
        target = target if attack in attacks.NEEDS_FORGET_SET else ()
        return Attacked(cell, attack, target, *((shots, draws) if on_features else ((), 0)))

    @property
    def asked(self) -> dict[str, Any]:
        on_features = self.attack in attacks.ON_FEATURES
        return {
            "model": trained(self.cell).question, "attack": self.attack, "target": list(self.target),
            "budget": [list(self.shots), self.draws] if on_features else asdict(self.cell.profile.attack),
        }

    @property
    def code(self) -> str:
        functions = {"prototype": attacks.prototype, **dict.fromkeys(attacks.FINE_TUNING, attacks.fine_tune)}
        return code.version(functions.get(self.attack, attacks.few_shot), generator)

    @property
    def label(self) -> str:
        return f"{self.attack} {super().label}"

    def compute(self, device: str) -> Result:
        at = _at(self.cell, device)
        if self.attack in attacks.FINE_TUNING:
            random = generator(device, self.cell.seed, self.attack)
            budget = self.cell.profile.attack
            readings = attacks.fine_tune(at.model, at.dataset, self.attack, self.target, budget, random)
        else:
            common = (at.train_labels.cpu(), at.test_labels.cpu())
            random = generator("cpu", self.cell.seed, self.attack)  # the same images for every model
            features, budget = at.features.to("cpu"), (list(self.shots), self.draws, random)
            if self.attack == "prototype":
                readings = attacks.prototype(load_model(self.cell, "cpu"), features, *common, self.target, *budget)
            else:
                readings = attacks.few_shot(features, *common, *budget, shuffled=self.attack == "few_shot_shuffled")
        counts = torch.bincount(at.test_labels.cpu()).tolist()
        return {"readings": [
            {"x": r["x"], "draw": r["draw"], "hits": [round(a * n) for a, n in zip(r["accuracy"], counts)]}
            for r in readings
        ]}, {}


@dataclass(frozen=True)
class Embedded(OfModel):
    """Two-dimensional t-SNE of the test features, with the official code's settings."""

    cell: Cell
    points: int  # at most so many test images, the first of each class
    kind = "t-SNE"

    @property
    def asked(self) -> dict[str, Any]:
        return {"model": trained(self.cell).question, "points": self.points}

    @property
    def code(self) -> str:
        return code.version(metrics.tsne)

    def compute(self, device: str) -> Result:
        at = _at(self.cell, device)
        labels, features = at.test_labels.cpu(), at.features.test.cpu()
        keep = torch.cat([torch.where(labels == c)[0][: self.points // at.classes] for c in labels.unique()])
        layout = metrics.tsne(features[keep]) if torch.isfinite(features).all() else torch.full((len(keep), 2), torch.nan)
        return {"points": [[round(v, 2) for v in at] for at in layout.tolist()], "labels": labels[keep].tolist()}, {}
