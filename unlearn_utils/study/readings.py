"""What is read off a trained cell: one record for each readout, so that a new one computes itself and nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .. import attacks, metrics
from ..representation import extract, output_predictions
from ..settings import BadInput
from ..training import begin, generator, refit_head, train, worth_reading
from . import code
from .cells import Cell, Result, Task, dataset_of, load_model, prepare, stored, trained, views_of
from .readouts import READOUTS, At, look, read


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
        if self.name.endswith("_in_head") and self.cell.head != "cmf":  # whose own geometry is part of the model
            uses["cmf_geometry"] = self.cell.profile.cmf_geometry
        return {"readout": self.name, "model": trained(self.cell).question, **uses}

    @property
    def code(self) -> str:
        return code.version(READOUTS[self.name].function)

    @property
    def label(self) -> str:
        return f"{self.name} of {super().label.removeprefix('reading of ')}"

    def compute(self, device: str) -> Result:
        at = look(self.cell, device)
        return read(self.name, at) if at.finite() else {"diverged": True}, {}


def readings_of(cell: Cell) -> list[Reading]:
    """Every readout that a cell has."""
    return [Reading.of(cell, name) for name, readout in READOUTS.items() if readout.where(cell)]


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


class OfRun(Task):
    """A task that runs a method again, step by step, from what its model started from."""

    @property
    def requires(self) -> list[Task]:
        return trained(self.cell).requires

    @cached_property
    def spec(self) -> dict[str, Any]:
        return super().spec | {"model": trained(self.cell).key}  # whose run it is


@dataclass(frozen=True)
class Curve(OfRun):
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

    def compute(self, device: str) -> Result:
        run, method = prepare(self.cell, device)
        at, readings, epoch_ends, done = At(self.cell, device), [], [], 0

        def counts(predicted: Tensor) -> list[list[int]]:
            return metrics.confusion(predicted, at.test_labels, at.classes).tolist()

        def read() -> None:
            features = extract(run.model, run.dataset, views_of(self.cell, device)).to(device)
            common = (features.train, at.train_labels, features.test, at.classes)
            readings.append({
                "x": done, "output": counts(output_predictions(run.model, features.test)),
                "probe": counts(metrics.probed(*common, at.recipe, at.seed).argmax(1)),
                "ncc": counts(metrics.nearest(*common)[0]),
            })

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
        at = look(self.cell, device)
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
        at = look(self.cell, device)
        labels, features = at.test_labels.cpu(), at.features.test.cpu()
        keep = torch.cat([torch.where(labels == c)[0][: self.points // at.classes] for c in labels.unique()])
        layout = metrics.tsne(features[keep]) if at.finite() else torch.full((len(keep), 2), torch.nan)
        return {"points": [[round(v, 2) for v in point] for point in layout.tolist()], "labels": labels[keep].tolist()}, {}
