"""A study: the cells that a notebook's parameters ask for, and their rows once they are computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from .. import attacks
from . import profiles, sweep
from .cells import VARIANTS, Cell, Task, Trained, dataset_of
from ..data import check_forget_set
from ..methods import METHODS
from ..settings import BadInput
from .profiles import Profile
from .readings import Attacked, Curve, Embedded, Measured
from .store import Record, Store

Models = list[tuple[str, str]]  # (method, variant)

REFERENCES: Models = [("original", "linear"), ("retrain", "linear"), ("random", "linear")]
ALL_ATTACKS = attacks.ON_FEATURES + attacks.FINE_TUNING


def unlearned(profile: Profile, variant: str) -> Models:
    """The unlearning methods for which a profile has a recipe of this variant."""
    needs = ("linear", "cmf") if variant == "cmf_budget" else (variant,)
    return [
        (method, variant) for method, recipes in profile.recipes.items()
        if METHODS[method].start == "original" and all(v in recipes for v in needs)
    ]


@dataclass(frozen=True)
class Study:
    """A profile, the (seed, forget set) pairs to run it with, and the machine to run it on."""

    profile: Profile
    pairs: tuple[tuple[int, tuple[int, ...]], ...]
    machine: sweep.Machine

    @staticmethod
    def of(
        profile: str, seeds: list[int] = (), forget_sets: list = (), device: str = "auto",
        data_dir: str = "", jobs: int = 0, overrides: dict[str, Any] | None = None, hyperparameters: str = "",
    ) -> Study:
        """The study that the parameters of a notebook describe. Raises BadInput with one clear sentence.

        A forget set lists classes by number or name, or coarse classes; "single" and "multi" stand for all the
        profile's sets of one class and of several.
        """
        if not all(type(seed) is int for seed in seeds):
            raise BadInput(f"seeds is {list(seeds)!r}, but it must be a list of whole numbers, e.g. [0, 1].")
        loaded = profiles.load(profile, overrides, data_dir, hyperparameters)
        for method, recipes in loaded.recipes.items():
            if method not in METHODS or not set(recipes) <= set(VARIANTS):
                raise BadInput(
                    f"recipes.{method} ({', '.join(recipes)}) in profile '{profile}': the methods are "
                    f"{', '.join(METHODS)}; the variants {', '.join(VARIANTS)}."
                )
        machine = sweep.Machine.choose(device, jobs)
        pairs = tuple(loaded.pairs(seeds, numbered("forget_sets", forget_sets, loaded)))
        classes = len(dataset_of(loaded).classes)
        for _, forget in pairs:
            check_forget_set(forget, classes)
        return Study(loaded, pairs, machine)

    def several(self, forget_sets: list = ()) -> Study:
        """The same study with several classes forgotten at once: these sets, or those of the profile."""
        given = numbered("multi_forget_sets", forget_sets, self.profile)
        pairs = [(self.pairs[0][0], forget) for forget in given] or self.profile.multi_pairs
        for _, forget in pairs:
            check_forget_set(forget, len(self.classes))
        return replace(self, pairs=tuple(pairs))

    @property
    def classes(self) -> tuple[str, ...]:
        return dataset_of(self.profile).classes

    def cell(self, seed: int, forget: tuple[int, ...], method: str, variant: str = "linear") -> Cell:
        """The cell of a model; the Original and the random network are the same for every forget set."""
        if method not in METHODS:
            raise BadInput(f"there is no method '{method}'; choose one of {', '.join(METHODS)}.")
        return Cell(self.profile, seed, () if METHODS[method].sees_all else forget, method, variant)

    @property
    def few(self) -> Study:
        """One pair for each of the first three forget sets: for what is too dear to do with all."""
        first = {forget: (seed, forget) for seed, forget in reversed(self.pairs)}
        return replace(self, pairs=tuple(first[forget] for forget in dict.fromkeys(f for _, f in self.pairs))[:3])

    def run(self, tasks: list[Task]) -> dict[str, Record]:
        """Bring tasks into the store: their records by key. What fails is printed and left out."""
        try:
            sweep.run(tasks, self.machine)
        except sweep.Failure as failure:
            print(failure)
        records = {task.key: Store().get(task.spec) for task in tasks}
        return {key: record for key, record in records.items() if record}

    def histories(self, models: Models) -> pd.DataFrame:
        """One row per reading during training: epoch, loss, accuracies, neural collapse."""
        listed = [(s, f, Trained(self.cell(s, f, *model))) for model in models for s, f in self.pairs]
        records, rows = self.run([task for *_, task in listed]), []
        for seed, forget, task in listed:
            for at in records[task.key].result["history"] if task.key in records else ():
                accuracies = {
                    f"{part}_{side}": value
                    for part in ("train", "test")
                    for side, value in zip(("retain", "forget"), self._pool(at[f"{part}_accuracy"], forget, part))
                }
                rows.append(_identity(task.cell, seed, forget) | accuracies
                            | {key: at[key] for key in ("epoch", "loss", "nc1", "nc2", "nc3")})
        return pd.DataFrame(rows)

    def measurements(self, models: Models) -> pd.DataFrame:
        """One row per model and pair: every readout on retain and forget classes (fractions)."""
        listed = [(s, f, Measured(self.cell(s, f, *model))) for model in models for s, f in self.pairs]
        records = self.run([task for *_, task in listed])
        return pd.DataFrame([
            self._row(seed, forget, task.cell, records[task.key].result)
            for seed, forget, task in listed if task.key in records
        ])

    def _row(self, seed: int, forget: tuple[int, ...], cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
        row = _identity(cell, seed, forget)
        for readout in ("output", "probe", "ncc", "probe_in_head", "ncc_in_head"):
            if readout in result:
                row[f"{readout}_retain"], row[f"{readout}_forget"] = self._pool(result[readout], forget, "test")
        of_forget = torch.zeros(len(self.classes), dtype=torch.bool)
        of_forget[list(forget)] = True
        for per_class in ("alignment", "centre_distance"):
            values = torch.tensor(result[per_class])
            row |= {f"{per_class}_retain": values[~of_forget].mean().item(),
                    f"{per_class}_forget": values[of_forget].mean().item()}
        return row | {key: result[key] for key in ("nc1", "nc2", "nc3", "alignment")}

    def curve_tasks(self, method: str) -> list[tuple]:
        """(seed, forget set, task) of reading the run of ``method`` step by step, for every pair of ``few``."""
        listed = [(s, f, Curve(self.cell(s, f, method))) for s, f in self.few.pairs]
        if METHODS[method].closed_form:
            raise BadInput(f"the method '{method}' takes no steps, so it has no curve; choose one that trains.")
        return listed

    def curves(self, method: str) -> pd.DataFrame:
        """One row per reading, readout and pair of ``few`` while ``method`` runs."""
        listed = self.curve_tasks(method)
        records, rows = self.run([task for *_, task in listed]), []
        for seed, forget, task in listed:
            result = records[task.key].result
            for reading in result["readings"]:
                for readout, label in READOUTS.items():
                    retain, kept = self._pool(reading[readout], forget, "test")
                    rows.append(_identity(task.cell, seed, forget) | {
                        "step": reading["x"], "readout": label, "retain": retain, "forget_accuracy": kept,
                        "epoch_end": reading["x"] in result["epoch_ends"],
                        "epoch": sum(end <= reading["x"] for end in result["epoch_ends"]),
                    })
        return pd.DataFrame(rows)

    def attack_tasks(
        self, models: Models, shots: list[int], draws: int, chosen: tuple[str, ...] = ALL_ATTACKS
    ) -> list[tuple]:
        """(seed, forget set, task) of every chosen attack on every model."""
        if not shots or any(type(k) is not int or k < 1 for k in shots) or draws < 1:
            raise BadInput(f"shots is {shots!r} and draws is {draws!r}, but both must be whole numbers from 1 on.")
        listed = []
        for model in models:
            for seed, forget in self.pairs:
                cell = self.cell(seed, forget, *model)
                for attack in chosen:
                    budget = (tuple(shots), draws) if attack in attacks.ON_FEATURES else ()
                    listed.append((seed, forget, Attacked(cell, attack, forget, *budget)))
        return listed

    def attacked(
        self, models: Models, shots: list[int], draws: int, chosen: tuple[str, ...] = ALL_ATTACKS
    ) -> pd.DataFrame:
        """One row per reading of every chosen attack on every model."""
        listed = self.attack_tasks(models, shots, draws, chosen)
        records, rows = self.run([task for *_, task in listed]), []
        for seed, forget, task in listed:
            for reading in records[task.key].result["readings"] if task.key in records else ():
                retain, kept = self._pool(reading["accuracy"], forget, "test")
                rows.append(_identity(task.cell, seed, forget) | {
                    "attack": task.attack, "x": reading["x"], "draw": reading["draw"],
                    "retain": retain, "forget_accuracy": kept,
                })
        return pd.DataFrame(rows)

    def embeddings(self, models: Models, points: int) -> dict[str, dict[str, Tensor]]:
        """t-SNE of the first pair's test features, by label: ``points`` (n, 2) and ``labels`` (n,)."""
        tasks = self.embedding_tasks(models, points)
        records = self.run(tasks)
        return {t.cell.label: records[t.key].tensors("layout") for t in tasks if t.key in records}

    def embedding_tasks(self, models: Models, points: int) -> list[Task]:
        if points < 3 * len(self.classes):
            raise BadInput(f"tsne_points is {points}, but at least 3 for each of the {len(self.classes)} classes are needed.")
        return [Embedded(self.cell(*self.pairs[0], *model), points) for model in models]

    def _pool(self, per_class: list[float], forget: tuple[int, ...], part: str) -> tuple[float, float]:
        """(retain, forget) accuracy over images: classes weighted by their number of images."""
        labels = getattr(dataset_of(self.profile), part).labels
        weight = torch.bincount(labels, minlength=len(per_class)).double()
        values, of_forget = torch.tensor(per_class, dtype=torch.float64), torch.zeros(len(per_class), dtype=torch.bool)
        of_forget[list(forget)] = True
        return tuple((values[m] * weight[m]).sum().item() / weight[m].sum().item() for m in (~of_forget, of_forget))


def numbered(parameter: str, forget_sets: list, profile: Profile) -> list[tuple[int, ...]]:
    """Forget sets as class numbers. Raises BadInput where an entry is no list, no class and no coarse class."""
    lists = {"single": profile.runs, "multi": profile.multi_runs}
    listed = []
    for entry in forget_sets:
        if type(entry) is str and entry in lists:
            listed += [tuple(forget) for block in lists[entry] for forget in block.forget_sets]
        elif type(entry) in (list, tuple) and all(type(c) in (int, str) for c in entry):
            listed.append(tuple(number for c in entry for number in _numbers(c, profile)))
        else:
            raise BadInput(
                f"{parameter} is {list(forget_sets)!r}, but it must hold lists of classes, e.g. [[0], [3]], "
                'or the names "single" and "multi".'
            )
    return listed


def _numbers(named: int | str, profile: Profile) -> tuple[int, ...]:
    """The classes that a number, a class name or the name of a coarse class stands for."""
    if type(named) is int:
        return (named,)
    dataset = dataset_of(profile)
    if named in dataset.classes:
        return (dataset.classes.index(named),)
    if named not in dataset.groups:
        known = [*dataset.classes, *dataset.groups]
        shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise BadInput(f"there is no class '{named}' in profile '{profile.name}'; its classes are {shown}.")
    return dataset.groups[named]


def _identity(cell: Cell, seed: int, forget: tuple[int, ...]) -> dict[str, Any]:
    return {
        "model": cell.label, "method": cell.method, "variant": cell.variant, "seed": seed,
        "forget": " ".join(map(str, forget)),
    }
