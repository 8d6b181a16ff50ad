"""Results to rows: what the notebooks' tables and figures are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import pandas as pd

from ..methods import METHODS
from ..settings import READOUTS, BadInput
from . import packs
from .cells import Cell, Task, images_of, trained
from .readings import Attacked, Collapse, Curve, Embedded, readings_of
from .readouts import row_of as measured
from .studies import Models, Results, Study


@dataclass(frozen=True)
class Asked:
    """Something that a notebook asks for: the tasks behind it, and what is made of their results."""

    study: Study
    tasks: list[Task]
    made: Callable[[Results], Any]

    def get(self) -> Any:
        """What is made of the results, which are computed where they are not at hand."""
        return self.made(self.study.run(self.tasks))

    def packed(self) -> Any:
        """The same from the profile's committed pack alone; None where it lacks any of it."""
        path = packs.reference(self.study.profile.name)
        pack = self.study.pack or (packs.read(path) if path.exists() else None)
        found = {task.key: pack.find(task) for task in self.tasks} if pack else {"": None}
        return None if None in found.values() else self.made({key: record["result"] for key, record in found.items()})


def histories(study: Study, models: Models) -> Asked:
    """One row per reading during training: epoch, loss, accuracies, neural collapse."""
    listed = [(s, f, trained(cell), Collapse(cell)) for model in study.chosen(models) for s, f in study.pairs
              for cell in [study.cell(s, f, *model)]]

    def made(results: Results) -> pd.DataFrame:
        rows = []
        for seed, forget, training, collapse in listed:
            if training.key not in results or collapse.key not in results:
                continue
            for at, collapsed in zip(results[training.key]["history"], results[collapse.key]["epochs"]):
                accuracies = {f"{part}_{side}": value for part in ("train", "test")
                              for side, value in _pool(study, at[f"{part}_hits"], forget, part).items()}
                rows.append(_identity(training.cell, seed, forget) | accuracies | {"loss": at["loss"]} | collapsed)
        return pd.DataFrame(rows)

    return Asked(study, [task for *_, training, collapse in listed for task in (training, collapse)], made)


def costs(study: Study, models: Models) -> Asked:
    """One row per model and pair: epochs, passes over the training images with a gradient, seconds on the machine."""
    listed = [(s, f, trained(study.cell(s, f, *model))) for model in study.chosen(models) for s, f in study.pairs]
    images = sum(images_of(study.profile).train)

    def made(results: Results) -> pd.DataFrame:
        return pd.DataFrame([
            _identity(task.cell, seed, forget) | {
                "epochs": results[task.key]["history"][-1]["epoch"],
                "image_passes": results[task.key]["images_seen"] / images, "seconds": results[task.key]["seconds"],
            }
            for seed, forget, task in listed if task.key in results
        ])

    return Asked(study, [task for *_, task in listed], made)


def measurements(study: Study, models: Models) -> Asked:
    """One row per model and pair: every readout on retain and forget classes (fractions)."""
    listed = [(s, f, cell, readings_of(cell)) for model in study.chosen(models) for s, f in study.pairs
              for cell in [study.cell(s, f, *model)]]

    def made(results: Results) -> pd.DataFrame:
        rows, diverged = [], []
        for seed, forget, cell, readings in listed:
            found = {r.name: results[r.key] for r in readings if r.key in results}
            if found:
                rows.append(_identity(cell, seed, forget) | measured(len(study.classes), found, forget))
                diverged += [cell.label] if any("diverged" in result for result in found.values()) else []
        if diverged:
            print(f"The training diverged, so nothing can be read: {', '.join(dict.fromkeys(diverged))}.")
        return pd.DataFrame(rows, columns=None if rows else ["model", "method", "variant", "seed", "forget"])

    return Asked(study, [reading for *_, readings in listed for reading in readings], made)


def curves(study: Study, method: str) -> Asked:
    """One row per reading, readout and pair of ``few`` while ``method`` runs."""
    needs_steps(study, method)
    listed = [(s, f, Curve(study.cell(s, f, method))) for s, f in study.few.pairs]

    def made(results: Results) -> pd.DataFrame:
        return pd.DataFrame([
            _identity(task.cell, seed, forget) | {
                "step": reading["x"], "readout": label, "retain": pooled["retain"],
                "forget_accuracy": pooled["forget"],
                "epoch_end": reading["x"] in results[task.key]["epoch_ends"],
                "epoch": sum(end <= reading["x"] for end in results[task.key]["epoch_ends"]),
            }
            for seed, forget, task in listed if task.key in results
            for reading in results[task.key]["readings"] for name, label in READOUTS.items()
            for pooled in [_pool(study, np.diagonal(reading[name]), forget, "test")]
        ])

    return Asked(study, [task for *_, task in listed], made)


def needs_steps(study: Study, method: str) -> None:
    """Raises BadInput for a method that cannot be read step by step."""
    if METHODS[study.cell(0, (0,), method).method].closed_form or METHODS[method].start != "original":
        raise BadInput(f"'{method}' has no unlearning steps, so it has no curve; choose a method that trains, like "
                       "random_label.")


def attacked(study: Study, models: dict[str, Models], shots: list[int], draws: int) -> Asked:
    """One row per reading of every attack named in ``models`` on the models under its name."""
    smallest = min(images_of(study.profile).train)
    if study.profile.attack.shots > smallest:
        raise BadInput(f"attack.shots is {study.profile.attack.shots}, but the smallest class has {smallest} training "
                       "images; set it to as many at most.")
    if not shots or any(type(k) is not int or not 1 <= k <= smallest for k in shots) or draws < 1:
        raise BadInput(f"shots is {shots!r} and draws is {draws!r}, but both must be whole numbers from 1 on, and "
                       f"the smallest class has {smallest} training images.")
    listed = [
        (s, f, cell, Attacked.of(cell, attack, f, tuple(shots), draws))
        for attack, listed in models.items() for model in study.chosen(listed) for s, f in study.pairs
        for cell in [study.cell(s, f, *model)]
    ]

    def made(results: Results) -> pd.DataFrame:
        return pd.DataFrame([
            _identity(cell, seed, forget) | {
                "attack": task.attack, "x": reading["x"], "draw": reading["draw"], "retain": pooled["retain"],
                "forget_accuracy": pooled["forget"],
            }
            for seed, forget, cell, task in listed if task.key in results
            for reading in results[task.key]["readings"]
            for pooled in [_pool(study, reading["hits"], forget, "test")]
        ])

    return Asked(study, [task for *_, task in listed], made)


def embeddings(study: Study, models: Models, points: int) -> Asked:
    """t-SNE of the first pair's test features, by label: ``points`` (n, 2) and ``labels`` (n,)."""
    if points < 3 * len(study.classes):
        raise BadInput(f"tsne_points is {points}, but at least 3 for each of the {len(study.classes)} classes are needed.")
    tasks = [Embedded(study.cell(*study.pairs[0], *model), points) for model in study.chosen(models)]

    def made(results: Results) -> dict[str, dict[str, np.ndarray]]:
        return {
            task.cell.label: {name: np.array(values) for name, values in results[task.key].items()}
            for task in tasks if task.key in results
        }

    return Asked(study, tasks, made)


def _pool(study: Study, hits, forget: tuple[int, ...], part: str) -> dict[str, float]:
    """Share of hits among the images of the retain and of the forget classes."""
    hits, counts = np.asarray(hits, dtype=float), np.array(getattr(images_of(study.profile), part))
    of_forget = np.isin(np.arange(len(counts)), forget)
    return {side: float(hits[of].sum() / counts[of].sum()) for side, of in (("retain", ~of_forget), ("forget", of_forget))}


def _identity(cell: Cell, seed: int, forget: tuple[int, ...]) -> dict[str, Any]:
    return {
        "model": cell.label, "method": cell.method, "variant": cell.variant, "seed": seed,
        "forget": " ".join(map(str, forget)),
    }
