"""What is read off a trained cell: one record for each readout, so that a new one computes itself and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .. import attacks, bias, membership, metrics
from ..representation import Features, extract, output_predictions
from ..settings import BadInput
from ..training import begin, generator, refit_head, train, worth_reading
from . import code
from .cells import Cell, Result, Task, trained, dataset_of, load_features, load_model, prepare, stored, views_of


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

    def counts(self, predicted: Tensor) -> list[list[int]]:
        """Confusion counts of test images (K, K), rows the true class: every accuracy is a view of them."""
        return metrics.confusion(predicted, self.test_labels, self.classes).tolist()

    def probe(self, features: Features) -> Tensor:
        """Test logits (N, K) of a linear probe."""
        recipe, seed = self.cell.profile.probe, self.cell.seed
        return metrics.probed(features.train, self.train_labels, features.test, self.classes, recipe, seed)

    def ncc(self, features: Features) -> tuple[Tensor, Tensor]:
        """Test predictions (N,) of the nearest class centre, and its scores (N, K)."""
        return metrics.nearest(features.train, self.train_labels, features.test, self.classes)


@dataclass(frozen=True)
class Readout:
    """A function of a trained cell; ``code`` is what its numbers come from besides."""

    function: Callable[[At], Any]
    code: tuple[Callable, ...]
    uses: tuple[str, ...]  # the parts of the profile that it depends on
    of_features: bool  # the same for all models that share an encoder
    where: Callable[[Cell], bool]  # the cells that have it


READOUTS: dict[str, Readout] = {}


def readout(*code: Callable, uses: tuple[str, ...] = (), of_features: bool = False, where=lambda cell: True):
    """Register a readout under the function's name."""

    def register(function: Callable[[At], Any]) -> Callable[[At], Any]:
        READOUTS[function.__name__] = Readout(function, code, uses, of_features, where)
        return function

    return register


def _with_cmf(cell: Cell) -> bool:
    return cell.head == "cmf"


@readout(metrics.confusion, output_predictions)
def output(at: At) -> dict:
    return {"counts": at.counts(output_predictions(at.model, at.features.test))}


@readout(metrics.confusion, metrics.probed, metrics.probe_scores, metrics.auroc, uses=("probe",), of_features=True)
def probe(at: At) -> dict:
    logits = at.probe(at.features)
    return {"counts": at.counts(logits.argmax(1)), "auroc": metrics.auroc(metrics.probe_scores(logits), at.test_labels).tolist()}


@readout(metrics.confusion, metrics.nearest, metrics.auroc, of_features=True)
def ncc(at: At) -> dict:
    predicted, scores = at.ncc(at.features)
    return {"counts": at.counts(predicted), "auroc": metrics.auroc(scores, at.test_labels).tolist()}


@readout(metrics.confusion, metrics.probed, uses=("probe",), where=_with_cmf)
def probe_in_head(at: At) -> dict:
    return {"counts": at.counts(at.probe(at.in_head).argmax(1))}


@readout(metrics.confusion, metrics.nearest, where=_with_cmf)
def ncc_in_head(at: At) -> dict:
    return {"counts": at.counts(at.ncc(at.in_head)[0])}


@readout(metrics.confusion, metrics.refitted_head, uses=("probe",), where=lambda cell: cell.head == "cmf" and cell.forget)
def refitted(at: At) -> dict:
    cell = at.cell
    head = metrics.refitted_head(
        at.features.train, at.train_labels, at.classes, cell.forget, cell.profile.probe, cell.seed)
    with torch.no_grad():
        return {"counts": at.counts(head(at.features.test).argmax(1))}


@readout(metrics.alignment, metrics.centre_distance, metrics.centred_means)
def geometry(at: At) -> dict:
    return {"alignment": metrics.alignment(at.weight, at.means).tolist(),
            "centre_distance": metrics.centre_distance(at.means).tolist()}


@readout(metrics.nc1, metrics.nc2, metrics.nc3, metrics.centred_means)
def collapse(at: At) -> dict:
    return {"nc1": metrics.nc1(at.features.train, at.train_labels, at.classes), "nc2": metrics.nc2(at.means),
            "nc3": metrics.nc3(at.weight, at.means)}


@readout(bias.margin_parts)
def margin(at: At) -> dict:
    vector = getattr(at.model.head, "bias", None)
    features = at.features.test if vector is not None else at.in_head.test
    with torch.no_grad():
        row, of_bias = bias.margin_parts(features, at.test_labels, at.weight, vector)
    return {"margin_row": row.tolist(), "margin_bias": of_bias.tolist(),
            "bias": vector.tolist() if vector is not None else None}


@readout(membership.membership_inference)
def members(at: At) -> dict:
    """Per class, where a class has the ten images that it takes; of the forgotten classes alone where there are any."""
    losses = [cross_entropy(at.model.head(features).detach(), labels, reduction="none") for features, labels in
              ((at.features.train, at.train_labels), (at.features.test, at.test_labels))]
    found = [None] * at.classes
    for c in at.cell.forget or range(at.classes):
        groups = losses[0][at.train_labels == c], losses[1][at.test_labels == c]
        if min(map(len, groups)) >= 10:
            found[c] = membership.membership_inference(*groups)[0]
    return {"membership": found}


class OfModel(Task):
    """A task that reads a trained model; all of one model run together."""

    @property
    def group(self) -> str:
        return trained(self.cell).key


@dataclass(frozen=True)
class Reading(OfModel):
    """One readout of one model; where the training diverged it says so instead."""

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
        return code.version(READOUTS[self.name].function, *READOUTS[self.name].code)

    @property
    def label(self) -> str:
        return f"{self.name} of {super().label.removeprefix('reading of ')}"

    def compute(self, device: str) -> Result:
        at = _at(self.cell, device)
        finite = torch.isfinite(at.features.train).all() and torch.isfinite(at.features.test).all()
        return READOUTS[self.name].function(at) if finite else {"diverged": True}, {}


def readings_of(cell: Cell) -> list[Reading]:
    """Every readout that a cell has."""
    return [Reading.of(cell, name) for name, readout in READOUTS.items() if readout.where(cell)]


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

        def read() -> None:
            at.features = extract(run.model, run.dataset, views_of(self.cell, device)).to(device)
            found = {"output": output_predictions(run.model, at.features.test), "probe": at.probe(at.features).argmax(1),
                     "ncc": at.ncc(at.features)[0]}
            readings.append({"x": done, **{name: at.counts(predicted) for name, predicted in found.items()}})

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
