"""What is read off a trained cell: measurements, curves, attacks and pictures, each stored once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .. import attacks, heads, metrics
from .cells import (
    Cell, Result, Task, Trained, dataset_of, generator, load_features, load_model, prepare, refit_head,
)
from ..data import Dataset
from ..settings import BadInput
from ..representation import Features, extract, output_predictions
from .store import code_version
from ..training import train, worth_reading


def read_features(features: Features, dataset: Dataset, cell: Cell) -> dict[str, Tensor]:
    """Test accuracy per class of the linear probe and of the nearest class centre."""
    train_labels, test_labels = (part.labels.to(features.train.device) for part in (dataset.train, dataset.test))
    classes = len(dataset.classes)
    probe = metrics.linear_probe(features.train, train_labels, classes, cell.profile.probe, cell.seed)
    with torch.no_grad():
        probed = probe(features.test).argmax(1)
    means = heads.class_means(features.train, train_labels, classes)
    nearest = metrics.nearest_class_centre(features.test, means)
    return {
        "probe": metrics.accuracy_per_class(probed, test_labels, classes),
        "ncc": metrics.accuracy_per_class(nearest, test_labels, classes),
    }


@dataclass(frozen=True)
class Measured(Task):
    """Every readout of the cell's features: accuracies per class, neural collapse, alignment, distances."""

    cell: Cell
    kind = "measurement"

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "code": code_version("metrics", "study/readings"), "model": Trained(self.cell).key,
            "probe": asdict(self.cell.profile.probe),
        }

    def compute(self, device: str) -> Result:
        dataset, features = dataset_of(self.cell.profile), load_features(self.cell).to(device)
        model = load_model(self.cell, device)
        labels, classes = dataset.train.labels.to(device), len(dataset.classes)
        means = metrics.centred_means(model.head.transform(features.train), labels, classes)
        weight = model.head.weight.detach()
        output = output_predictions(model, features.test)
        accuracies = {
            "output": metrics.accuracy_per_class(output, dataset.test.labels.to(device), classes),
            **read_features(features, dataset, self.cell),
        }
        if self.cell.head == "cmf":  # the official code probes these in the head's geometry
            with torch.no_grad():
                embedded = Features(model.head.embed(features.train), model.head.embed(features.test))
            in_head = read_features(embedded, dataset, self.cell)
            accuracies |= {f"{name}_in_head": values for name, values in in_head.items()}
        return {
            **{name: values.tolist() for name, values in accuracies.items()},
            "alignment": metrics.alignment(weight, means).tolist(),
            "centre_distance": metrics.centre_distance(means).tolist(),
            "nc1": metrics.nc1(features.train, labels, classes),
            "nc2": metrics.nc2(means),
            "nc3": metrics.nc3(weight, means),
        }, {}


@dataclass(frozen=True)
class Curve(Task):
    """Output, probe and NCC accuracy against the optimiser step while the method runs.

    Read at steps 0, 1, 2, 4, 8, ... and at the end of every epoch. The run is the cell's own, step by step:
    readings draw no random number of it.
    """

    cell: Cell
    kind = "curve"

    @property
    def inputs(self) -> dict[str, Any]:
        return {
            "code": code_version("metrics", "study/readings"), "model": Trained(self.cell).key,
            "probe": asdict(self.cell.profile.probe),
        }

    @property
    def requires(self) -> list[Task]:
        return Trained(self.cell).requires

    def compute(self, device: str) -> Result:
        run, method = prepare(self.cell, device)
        labels, classes = run.dataset.test.labels, len(run.dataset.classes)
        readings, epoch_ends, done = [], [], 0

        def read() -> None:
            features = extract(run.model, run.dataset).to(device)
            accuracies = read_features(features, run.dataset, self.cell)
            output = output_predictions(run.model, features.test)
            accuracies["output"] = metrics.accuracy_per_class(output, labels, classes)
            readings.append({"x": done, **{name: values.tolist() for name, values in accuracies.items()}})

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
class Attacked(Task):
    """Readings of one relearning attack on the cell's model, aimed at ``target``."""

    cell: Cell
    attack: str
    target: tuple[int, ...]  # the forget set that the attack wants back
    shots: tuple[int, ...] = ()  # images per class, for the attacks on features
    draws: int = 0
    kind = "attack"

    @property
    def inputs(self) -> dict[str, Any]:
        if self.attack not in attacks.ON_FEATURES + attacks.FINE_TUNING:
            raise BadInput(
                f"there is no attack '{self.attack}'; choose from "
                f"{', '.join(attacks.ON_FEATURES + attacks.FINE_TUNING)}."
            )
        on_features = self.attack in attacks.ON_FEATURES
        return {
            "code": code_version("attacks", "metrics", "study/readings"), "model": Trained(self.cell).key, "attack": self.attack,
            "target": list(self.target) if self.attack in attacks.NEEDS_FORGET_SET else [],
            "budget": [list(self.shots), self.draws] if on_features else asdict(self.cell.profile.attack),
        }

    @property
    def label(self) -> str:
        return f"{self.attack} {super().label}"

    def compute(self, device: str) -> Result:
        dataset, model = dataset_of(self.cell.profile), load_model(self.cell, device)
        if self.attack in attacks.FINE_TUNING:
            random = generator(device, self.cell.seed, self.attack)
            readings = attacks.fine_tune(
                model, dataset.to(device), self.attack, self.target, self.cell.profile.attack, random
            )
            return {"readings": readings}, {}
        common = (dataset.train.labels, dataset.test.labels)
        random = generator("cpu", self.cell.seed, self.attack)  # the same images for every model
        features, budget = load_features(self.cell), (list(self.shots), self.draws, random)
        if self.attack == "prototype":
            readings = attacks.prototype(model.cpu(), features, *common, self.target, *budget)
        else:
            shuffled = self.attack == "few_shot_shuffled"
            readings = attacks.few_shot(features, *common, *budget, shuffled=shuffled)
        return {"readings": readings}, {}


@dataclass(frozen=True)
class Embedded(Task):
    """Two-dimensional t-SNE of the test features, with the official code's settings."""

    cell: Cell
    points: int  # at most so many test images, the first of each class
    kind = "t-SNE"

    @property
    def inputs(self) -> dict[str, Any]:
        return {"code": code_version("study/readings"), "model": Trained(self.cell).key, "points": self.points}

    def compute(self, device: str) -> Result:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        test, features = dataset_of(self.cell.profile).test, load_features(self.cell).test
        classes = len(test.labels.unique())
        keep = torch.cat([torch.where(test.labels == c)[0][: self.points // classes] for c in range(classes)])
        unit = torch.nn.functional.normalize(features[keep], dim=1).numpy()
        reduced = PCA(min(50, *unit.shape), random_state=0).fit_transform(unit)
        perplexity = min(30, (len(keep) - 1) / 3)
        layout = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=0).fit_transform(reduced)
        return {}, {"layout": {"points": torch.from_numpy(layout).float(), "labels": test.labels[keep]}}
