"""``Study``: a profile, forget sets and seeds; every verb trains or reads what the cache lacks and returns rows."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..data import check_forget_set
from ..methods import METHODS
from ..models import Model, check_network
from ..paths import REFERENCE, ROOT
from ..representation import Features
from ..settings import READOUTS, BadInput
from . import packs, profiles, sweep
from .cells import Cell, dataset_of, images_of, load_features, load_model, trained
from .machine import Machine
from .names import Models, differences, has_recipe, models_of, seeds_of, sets_of
from .packs import Pack
from .readings import Attacked, Collapse, Curve, Embedded, Reading, Steps
from .readouts import READOUTS as READ
from .readouts import row_of
from .results import Results, identity
from .variants import VARIANTS, needs, recipe_of

REFERENCES = ("original", "retrain", "retrain_again", "random")
SHOWN = ("output", "probe", "ncc", "geometry", "turn", "probe_in_head", "ncc_in_head")  # what ``measure`` reads
MACHINE = {"device": "auto", "jobs": 0, "cluster": "", "results": "", "data_dir": ""}
FROM_COMMAND = "UNLEARN_MACHINE"  # what a command says of the machine: it is not kept in what notebooks show


class Study(Results):
    """Images, a network and recipes (a profile), the forget sets and seeds to use, and a cache of results.

    ``forget`` lists classes or sets of classes by number or name: ``[3, "cat"]`` are two sets of one class,
    ``[[3, 5]]`` is one of two; ``"single"`` and ``"multi"`` are the profile's lists; empty takes the profile's own.
    ``overrides`` changes any key of the profile, ``{"recipes.random_label.linear.lr": 0.05}``; ``{"recipes":
    "table4"}`` takes one of its alternatives. ``machine`` is what is not the experiment: ``device`` ("auto", "cpu",
    "cuda", "cuda:1"), ``jobs`` (processes; 0: one per core or GPU), ``cluster`` ("local" or a Dask scheduler's
    address), ``results`` ("committed": the profile's committed results, which need no images), ``data_dir``.

    Models are named by method, or by method and variant: "random_label", "random_label.cmf". Raises BadInput.
    """

    def __init__(self, profile: str = "digits", forget=(), seeds=(), overrides=None, **machine):
        if unknown := machine.keys() - MACHINE.keys():
            raise BadInput(f"machine has no entry {', '.join(sorted(unknown))}; it takes {', '.join(MACHINE)}.")
        options = MACHINE | json.loads(os.environ.get(FROM_COMMAND, "{}")) | machine
        if options["results"] not in ("", "committed"):
            raise BadInput(
                f"results is {options['results']!r}, but it must be '' (compute what is missing) or 'committed'."
            )
        changed = dict(overrides or {})
        alternative = changed.pop("recipes", "")
        if os.environ.get(REFERENCE) == profile:  # the committed results themselves are being made
            options["results"] = ""
        own = profiles.load(profile, data_dir=options["data_dir"])
        loaded = profiles.load(profile, changed, options["data_dir"], alternative)
        profiles.check_names(loaded, METHODS, VARIANTS)
        self.machine = Machine.choose(options["device"], options["jobs"], options["cluster"])
        committed = packs.reference(profile)
        self.pack: Pack | None = packs.read(committed, profile) if options["results"] else None
        self.differs = differences(loaded, own)
        if self.pack:
            loaded = dataclasses.replace(loaded, images=self.pack.images)
        else:
            check_network(loaded.network, loaded.data.crop_to or loaded.data.image_size)
            if committed.exists() and images_of(loaded).fingerprint != packs.read_images(committed).fingerprint:
                self.differs["images"] = images_of(loaded).fingerprint
        self.profile = loaded
        self.pairs = tuple(loaded.pairs(seeds_of(seeds), sets_of(loaded, forget)))
        if self.pairs != tuple(own.pairs()):
            self.differs["pairs of seed and forget set"] = [[seed, list(f)] for seed, f in self.pairs]
        for _, forgotten in self.pairs:
            check_forget_set(forgotten, len(self.classes))
        self.used = {"committed": {}, "here": {}}  # results by question

    # ---- what is studied ----

    @property
    def classes(self) -> tuple[str, ...]:
        return images_of(self.profile).classes

    @property
    def forget(self) -> tuple[int, ...]:
        """The first forget set, on which an experiment by hand is done."""
        return self.pairs[0][1]

    @property
    def images(self):
        """The data set on the device: ``.train`` and ``.test`` with ``.pixels`` and ``.labels``."""
        return dataset_of(self.profile).to(self.device)

    @property
    def device(self) -> str:
        return self.machine.devices[0] if not self.machine.cluster else "cpu"

    def __repr__(self) -> str:
        """One line: data, network, classes, forget sets, seeds, device, and where results come from."""
        sets, seeds = {f for _, f in self.pairs}, {s for s, _ in self.pairs}
        return (
            f"{self.profile.title}; {len(self.classes)} classes; {_count(len(sets), 'forget set')}, "
            f"{_count(len(seeds), 'seed')}; {self.machine.jobs} x {self.machine.devices[0]}; {self._origin()}"
        )

    @property
    def few(self) -> Study:
        """The same study on its first few forget sets, one seed each, for what is too expensive to do with all."""
        first = {forget: (seed, forget) for seed, forget in reversed(self.pairs)}
        fewer = copy.copy(self)
        fewer.pairs = tuple(first[f] for f in dict.fromkeys(f for _, f in self.pairs))[: self.profile.few_sets]
        return fewer

    @property
    def tuning(self) -> pd.DataFrame:
        """The search that chose the profile's rates: a row per method, variant and candidate. Raises BadInput without one."""
        path = ROOT / "figures" / self.profile.name / "tuning.csv"
        if not path.exists():
            raise BadInput(
                f"profile '{self.profile.name}' has no search; python -m unlearn_utils.study.tune makes one."
            )
        return pd.read_csv(path)

    def others(self) -> list[Study]:
        """Studies of the committed results of every other profile that has some."""
        names = [name for name in profiles.names() if name != self.profile.name and packs.reference(name).exists()]
        return [Study(name, results="committed") for name in names]

    def recipes(self, models: Models, variant: Models = "linear") -> pd.DataFrame:
        """What will be trained: a row per model with its optimiser, and the constants of its method."""
        rows = {}
        for method, kind in self._models(models, variant):
            recipe = recipe_of(self.profile, method, kind, several=len(self.forget) > 1)
            trains = {
                "epochs": recipe.epochs,
                "optimiser": recipe.optimiser,
                "learning rate": recipe.lr,
                "schedule": recipe.schedule,
                "batch size": recipe.batch_size,
            }
            constants = ", ".join(f"{key} = {value:g}" for key, value in recipe.constants.items())
            rows[self._cell((0, self.forget), method, kind).label] = (
                trains if recipe.epochs else dict.fromkeys(trains, "–")
            ) | {
                "trained": "classifier" if VARIANTS[kind].encoder_frozen or METHODS[method].head_only else "all layers",
                "constants": constants,
                "rate from": self._whose(method, kind),
            }
        return pd.DataFrame(rows).T.rename_axis("model")

    def _whose(self, method: str, variant: str) -> str:
        """Whose learning rate it is: tuned by the rule in the profile, or the profile's, which names its source."""
        tuned = self.profile.tuning.get(method, {}) | (self.profile.tuning if not METHODS[method].closed_form else {})
        changed = any(key.startswith(f"recipes.{method}.") for key in self.differs)
        by_rule = METHODS[method].start == "original" and any(name in tuned for name in needs(variant))
        return "changed here" if changed else "tuned" if by_rule else "profile"

    # ---- models ----

    def model(self, name: str, variant: str = "linear", forget=None, seed: int | None = None) -> Model:
        """A trained network in eval mode; trained now where the cache lacks it."""
        return load_model(self._trained(name, variant, forget, seed), self.device)

    def features(self, name: str, variant: str = "linear", forget=None, seed: int | None = None) -> Features:
        """Its penultimate features, ``.train`` (N, d) and ``.test`` (M, d)."""
        return load_features(self._trained(name, variant, forget, seed), self.device)

    def _trained(self, name: str, variant: str, forget, seed: int | None) -> Cell:
        ((method, kind),) = self._models(name, variant)
        at = (
            self.pairs[0][0] if seed is None else seed,
            self.forget if forget is None else sets_of(self.profile, forget)[0],
        )
        cell = self._cell(at, method, kind)
        dataset_of(self.profile)  # raises BadInput where the images are not here
        sweep.run([trained(cell)], self.machine)
        self.used["here"][trained(cell).question] = trained(cell)
        self._note([trained(cell)], {})
        return cell

    # ---- rows ----

    def measure(
        self, models: Models, variant: Models = "linear", readouts: Sequence[str] = (), references: bool = True
    ) -> pd.DataFrame:
        """A row per model, forget set and seed: accuracies (fractions) of output, probe and NCC on retain and forget
        classes, alignment, angles, and what else is asked for; the references first.

        ``readouts`` adds "margin", "members", "collapse", "refitted", or one of a cell's own.
        """
        listed = [(name, "linear") for name in REFERENCES] if references else []
        listed = self._asked_for(dict.fromkeys([*listed, *self._models(models, variant)]))
        if unknown := set(readouts) - READ.keys():
            raise BadInput(f"there is no readout {', '.join(sorted(unknown))}; choose from {', '.join(READ)}.")
        guests = [
            name for name, readout in READ.items() if not readout.function.__module__.startswith("unlearn_utils.")
        ]
        wanted = list(dict.fromkeys([*SHOWN, *readouts, *guests]))
        cells = [(pair, self._cell(pair, *model)) for model in listed for pair in self.pairs]
        tasks = {
            (pair, cell.label): [Reading.of(cell, name) for name in wanted if READ[name].where(cell)]
            for pair, cell in cells
        }
        results, rows = self._run([task for of in tasks.values() for task in of]), []
        for pair, cell in cells:
            found = {task.name: results[task.key] for task in tasks[pair, cell.label] if task.key in results}
            if found:
                rows.append(identity(cell, pair) | row_of(len(self.classes), found, pair[1]))
            if any("diverged" in result for result in found.values()):
                print(f"{cell.label}, forget {pair[1]}: the training diverged, so its measurements are missing.")
        return pd.DataFrame(rows, columns=None if rows else ["model", "method", "variant", "seed", "forget"])

    def costs(self, models: Models, variant: Models = "linear") -> pd.DataFrame:
        """A row per model, forget set and seed: epochs, and gradient passes over the training set."""
        images = sum(images_of(self.profile).train)
        return self._rows(
            self._asked_for(self._models(models, variant)),
            lambda cell, pair: trained(cell),
            lambda result, pair: [
                {"epochs": result["history"][-1]["epoch"], "gradient_passes": result["images_seen"] / images}
            ],
        )

    def history(self, models: Models = ("original", "retrain", "retrain_again", "random")) -> pd.DataFrame:
        """A row per reading during training from scratch: epoch, loss, accuracies, NC1 to NC3."""
        listed = [
            (pair, self._cell(pair, *model)) for model in self._asked_for(self._models(models)) for pair in self.pairs
        ]
        results = self._run([task for _, cell in listed for task in (trained(cell), Collapse(cell))])
        rows = []
        for pair, cell in listed:
            training, collapse = results.get(trained(cell).key), results.get(Collapse(cell).key)
            for at, collapsed in (
                zip(training["history"], collapse["epochs"], strict=True) if training and collapse else ()
            ):
                pooled = {
                    f"{part}_{side}": value
                    for part in ("train", "test")
                    for side, value in self._pool(at[f"{part}_hits"], pair[1], part).items()
                }
                rows.append(identity(cell, pair) | pooled | {"loss": at["loss"]} | collapsed)
        return pd.DataFrame(rows)

    def curve(self, method: str = "random_label") -> pd.DataFrame:
        """A row per optimiser step, readout and forget set of the first few: accuracies while ``method`` runs."""
        _has_steps(method)

        def made(result: dict, pair) -> list[dict]:
            return [
                {
                    "step": reading["x"],
                    "readout": label,
                    "retain": pooled["retain"],
                    "forget_accuracy": pooled["forget"],
                    "epoch": sum(end <= reading["x"] for end in result["epoch_ends"]),
                }
                for reading in result["readings"]
                for name, label in READOUTS.items()
                for pooled in [self._pool(np.diagonal(reading[name]), pair[1], "test")]
            ]

        return self._rows([(method, "linear")], lambda cell, pair: Curve(cell), made, self.few.pairs)

    def steps(self, method: str = "random_label") -> dict[str, Any] | None:
        """Test images of the forget class and its two nearest classes in one plane, step by step, of the first set."""
        _has_steps(method)
        task = Steps(self._cell(self.pairs[0], method, "linear"))
        result = self._run([task]).get(task.key)
        return result and {
            "model": task.cell.label,
            "seed": self.pairs[0][0],
            "forget_set": list(self.forget),
            "forget": self.classes[self.forget[0]],
            "names": list(self.classes),
            **{name: result[name] for name in ("classes", "labels", "readings")},
        }

    def attack(
        self,
        models: Models,
        attack: str = "few_shot",
        shots: Sequence[int] = (1, 2, 5, 10, 50),
        draws: int = 5,
        references: bool = True,
    ) -> pd.DataFrame:
        """A row per reading of a relearning attack: x (images per class, or steps), draw, retain and forget accuracy."""
        smallest = min(images_of(self.profile).train)
        if not shots or any(type(k) is not int or not 1 <= k <= smallest for k in shots) or draws < 1:
            raise BadInput(
                f"shots is {shots!r} and draws is {draws!r}, but both must be whole numbers from 1 on, and "
                f"the smallest class has {smallest} training images."
            )
        if self.profile.attack.shots > smallest:
            raise BadInput(
                f"attack.shots is {self.profile.attack.shots}, but the smallest class has {smallest} images."
            )
        listed = [("original", "linear"), ("retrain", "linear"), ("random", "linear")] if references else []
        made = lambda result, pair: [  # noqa: E731
            {
                "attack": attack,
                "x": reading["x"],
                "draw": reading["draw"],
                "retain": pooled["retain"],
                "forget_accuracy": pooled["forget"],
            }
            for reading in result["readings"]
            for pooled in [self._pool(reading["hits"], pair[1], "test")]
        ]
        models = self._asked_for(dict.fromkeys([*listed, *self._models(models)]))
        return self._rows(models, lambda cell, pair: Attacked.of(cell, attack, pair[1], tuple(shots), draws), made)

    def embedding(self, models: Models, points: int = 2000) -> dict[str, dict[str, np.ndarray]]:
        """t-SNE of test features for the first forget set, by label: ``points`` (n, 2) and ``labels`` (n,)."""
        if points < 3 * len(self.classes):
            raise BadInput(
                f"points is {points}, but at least 3 for each of the {len(self.classes)} classes are needed."
            )
        tasks = [Embedded(self._cell(self.pairs[0], *model), points) for model in self._asked_for(self._models(models))]
        results = self._run(tasks)
        return {
            task.cell.label: {name: np.array(values) for name, values in results[task.key].items()}
            for task in tasks
            if task.key in results
        }

    # ---- how ----

    def _rows(self, models, task_of: Callable, made: Callable, pairs=None) -> pd.DataFrame:
        """Rows of one task per model and pair; ``made`` turns a result into what follows the model's name."""
        listed = []
        for model in models:
            for pair in pairs or self.pairs:
                cell = self._cell(pair, *model)
                listed.append((pair, cell, task_of(cell, pair)))
        results = self._run([task for *_, task in listed])
        return pd.DataFrame(
            [
                identity(cell, pair) | row
                for pair, cell, task in listed
                if task.key in results
                for row in made(results[task.key], pair)
            ]
        )

    def _models(self, models: Models, variant: Models = "linear") -> list[tuple[str, str]]:
        return models_of(self.profile, models, variant)

    def has(self, method: str, variant: str = "linear") -> bool:
        """Whether the profile has what it takes to train this model, and does not leave it out."""
        return has_recipe(self.profile, method, variant) and self.profile.asks_for(method, variant)

    def _asked_for(self, models) -> list[tuple[str, str]]:
        return [model for model in models if self.profile.asks_for(*model)]

    def _pool(self, hits, forget: tuple[int, ...], part: str) -> dict[str, float]:
        """Share of hits among the images of the retain and of the forget classes."""
        hits, counts = np.asarray(hits, dtype=float), np.array(getattr(images_of(self.profile), part))
        of_forget = np.isin(np.arange(len(counts)), forget)
        return {
            side: float(hits[of].sum() / counts[of].sum())
            for side, of in (("retain", ~of_forget), ("forget", of_forget))
        }


def _has_steps(method: str) -> None:
    if method not in METHODS or METHODS[method].closed_form or METHODS[method].start != "original":
        raise BadInput(
            f"'{method}' has no unlearning steps, so it has no curve; choose a method that trains, like random_label."
        )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"
