"""``Study``: a profile, forget sets and seeds; every verb trains or reads what the cache lacks and returns rows."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..data import check_forget_set
from ..methods import METHODS, build
from ..models import Model, check_network
from ..paths import REFERENCE, ROOT, Outputs
from ..representation import Features
from ..settings import READOUTS, BadInput
from . import packs, parameters, profiles
from .cells import Cell, Task, dataset_of, images_of, load_features, load_model, trained
from .machine import Machine
from .names import Models, differences, has_recipe, models_of, sets_of
from .packs import Pack
from .readings import Attacked, Collapse, Curve, Embedded, Reading, Steps
from .readouts import READOUTS as READ
from .readouts import row_of
from .results import Pair, Results, identity
from .variants import VARIANTS, needs, recipe_of

REFERENCES = ("original", "retrain", "retrain_again", "random")
SHOTS = (1, 2, 5, 10, 50)  # images per class of a few-shot probe
SHOWN = ("output", "probe", "ncc", "geometry", "turn", "probe_in_head", "ncc_in_head")  # what ``measure`` reads
FROM_COMMAND = "UNLEARN_MACHINE"  # what a command says of the machine: it is not kept in what notebooks show


class Study(Results):
    """Images, a network and recipes (a profile), the forget sets and seeds to use, and a cache of results.

    ``forget`` lists classes or sets of classes by number or name: ``[3, "cat"]`` are two sets of one class,
    ``[[3, 5]]`` is one of two; ``"single"`` and ``"multi"`` are the profile's lists; empty takes the profile's own.
    ``overrides`` changes any key of the profile, ``{"recipes.random_label.linear.lr": 0.05}``; ``{"recipes":
    "table4"}`` takes one of its alternatives. ``machine`` is what is not the experiment: ``device``, ``jobs``,
    ``cluster``, ``results`` and ``data_dir``, as ``parameters.Options`` explains them.

    Models are named by method, or by method and variant: "random_label", "random_label.cmf". Raises BadInput.
    """

    def __init__(self, profile: str = "digits", forget=(), seeds=(), overrides=None, **machine):
        of_command = json.loads(os.environ.get(FROM_COMMAND, "{}"))
        if of_command.pop("profile", profile) != profile:  # another data set beside the command's
            of_command.pop("data_dir", None)
        options = parameters.Options(**parameters.read("machine", of_command | machine))
        own, changed = profiles.load(profile, data_dir=options.data_dir), parameters.read("overrides", overrides or {})
        named = [key.split(".")[1] for key in map(str, changed) if key.startswith("recipes.")]
        if unknown := set(named) - METHODS.keys():
            raise BadInput(f"there is no method '{min(unknown)}'; choose from {', '.join(METHODS)}.")
        loaded = profiles.load(profile, changed, options.data_dir)
        profiles.check_names(loaded, METHODS, VARIANTS)
        self.machine = Machine.choose(options.device, options.jobs, options.cluster)
        self.differs, committed = differences(loaded, own), packs.reference(profile)
        # Where the committed results themselves are being made, or of other images, none of them is used.
        use_them = options.results and os.environ.get(REFERENCE) != profile and own.data.pixels == loaded.data.pixels
        self.pack: Pack | None = packs.read(committed, profile) if use_them else None
        if self.pack:
            loaded = dataclasses.replace(loaded, images=self.pack.images)
        else:
            check_network(loaded.network, loaded.data.crop_to or loaded.data.image_size)
            if committed.exists() and images_of(loaded).fingerprint != packs.read_images(committed).fingerprint:
                self.differs["images"] = images_of(loaded).fingerprint
        self.profile = loaded
        sets = sets_of(loaded, parameters.read("forget", forget))
        self.pairs = tuple(loaded.pairs(parameters.read("seeds", seeds), sets))
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
        sets, seeds = (len(set(part)) for part in zip(*[(forget, seed) for seed, forget in self.pairs]))
        return (
            f"{self.profile.title}; {len(self.classes)} classes; {sets} forget set{'s' * (sets != 1)}, "
            f"{seeds} seed{'s' * (seeds != 1)}; {self.machine.jobs} x {self.machine.devices[0]}; {self._origin()}"
        )

    @property
    def few(self) -> Study:
        """The same study on its first few forget sets, one seed each, for what is too expensive to do with all."""
        first = {forget: (seed, forget) for seed, forget in reversed(self.pairs)}
        fewer = copy.copy(self)
        fewer.pairs = tuple(first[f] for f in dict.fromkeys(f for _, f in self.pairs))[: self.profile.few_sets]
        return fewer

    @property
    def tuning(self) -> pd.DataFrame | None:
        """The search that chose the profile's rates: a row per model and candidate; None, and a line, without one."""
        name = self.profile.name
        for path in (Outputs(name).path / "tuning.csv", ROOT / "figures" / name / "tuning.csv"):
            if path.exists():
                return pd.read_csv(path)
        print(f"'{name}' has no search; python -m unlearn_utils.study.tune {name} makes one.")
        return None

    def others(self) -> list[Study]:
        """Studies of the committed results of every other profile that has some."""
        names = [name for name in profiles.names() if name != self.profile.name and packs.reference(name).exists()]
        return [Study(name, results="committed") for name in names]

    def has(self, method: str, variant: str = "linear") -> bool:
        """Whether the profile has what it takes to train this model."""
        return has_recipe(self.profile, method, variant)

    def recipes(self, models: Models, variant: Models = "linear") -> pd.DataFrame:
        """What will be trained: a row per model with its optimiser, and the constants of its method."""
        rows = {}
        for method, kind in self._models(models, variant):
            recipe = recipe_of(self.profile, method, kind, several=len(self.forget) > 1)
            phases = build(method, recipe.constants).phases(recipe)  # UNSIR has two
            trains = {
                "epochs": recipe.epochs,
                "optimiser": phases[-1].optimiser,
                "learning rate": recipe.lr if len(phases) == 1 else ", then ".join(f"{p.lr:g}" for p in phases),
                "schedule": recipe.schedule,
                "batch size": recipe.batch_size,
            }
            rows[self.cell(0, self.forget, method, kind).label] = {
                **(trains if recipe.epochs else dict.fromkeys(trains, "–")),
                "trained": "classifier" if VARIANTS[kind].encoder_frozen or METHODS[method].head_only else "all layers",
                "constants": ", ".join(f"{key} = {value:g}" for key, value in recipe.constants.items()),
                "rate from": self._whose(method, kind),
            }
        return pd.DataFrame(rows).T.rename_axis("model")

    def _whose(self, method: str, variant: str) -> str:
        """Whose learning rate it is: tuned by the rule in the profile, or the profile's, which names its source."""
        tuned = self.profile.tuning.get(method, {}) | (self.profile.tuning if not METHODS[method].closed_form else {})
        own, several = profiles.load(self.profile.name), len(self.forget) > 1
        used = recipe_of(self.profile, method, variant, several)
        is_own = has_recipe(own, method, variant) and recipe_of(own, method, variant, several) == used
        by_rule = METHODS[method].start == "original" and any(name in tuned for name in needs(variant))
        return "changed here" if not is_own else "tuned" if by_rule else "profile"

    # ---- models ----

    def model(self, name: str, variant: str = "linear") -> Model:
        """A trained network for the first forget set, in eval mode; trained now where the cache lacks it."""
        return load_model(self._trained(name, variant), self.device)

    def features(self, name: str, variant: str = "linear") -> Features:
        """Its penultimate features, ``.train`` (N, d) and ``.test`` (M, d)."""
        return load_features(self._trained(name, variant), self.device)

    def _trained(self, name: str, variant: str) -> Cell:
        (model,) = self._models(name, variant)
        cell = self.cell(*self.pairs[0], *model)
        dataset_of(self.profile)  # raises BadInput where the images are not here
        if not self._here([trained(cell)]):
            raise BadInput(f"{trained(cell).label} could not be computed, for the reason above.")
        return cell

    # ---- rows ----

    def measure(
        self, models: Models, variant: Models = "linear", readouts: Sequence[str] = (), references: bool = True
    ) -> pd.DataFrame:
        """A row per model, forget set and seed: accuracies (fractions) of output, probe and NCC on retain and forget
        classes, alignment, angles, and what else is asked for; the references first.

        ``readouts`` adds "margin", "members", "collapse", further probes ("logistic", "ridge", "neighbours", "mlp",
        "binary"), or one of a cell's own.
        """
        readouts = [readouts] if isinstance(readouts, str) else readouts or ()
        if unknown := set(readouts) - READ.keys():
            raise BadInput(f"there is no readout {', '.join(sorted(unknown))}; choose from {', '.join(READ)}.")
        theirs = [name for name, read in READ.items() if not read.function.__module__.startswith("unlearn_utils.")]
        wanted, rows = dict.fromkeys([*SHOWN, *readouts, *theirs]), []
        listed = [*(self._models(REFERENCES) if references else []), *self._models(models, variant)]
        tasks = lambda cell: {name: Reading.of(cell, name) for name in wanted if READ[name].where(cell)}  # noqa: E731
        for row, forget, found in self._each(listed, tasks):
            rows.append(row | row_of(len(self.classes), found, forget))
            if any("diverged" in result for result in found.values()):
                print(f"{row['model']}, forget {forget}: the training diverged, so its measurements are missing.")
        return pd.DataFrame(rows, columns=None if rows else ["model", "method", "variant", "seed", "forget"])

    def history(self, models: Models = REFERENCES) -> pd.DataFrame:
        """A row per reading during training from scratch: epoch, loss, accuracies, NC1 to NC3."""
        rows = []
        tasks = lambda cell: {"training": trained(cell), "collapse": Collapse(cell)}  # noqa: E731
        for row, forget, found in self._each(self._models(models), tasks):
            if len(found) < 2:  # one of them failed
                continue
            for at, collapsed in zip(found["training"]["history"], found["collapse"]["epochs"], strict=True):
                row |= self._accuracies(at["train_hits"], forget, "train", ("train_retain", "train_forget"))
                row |= self._accuracies(at["test_hits"], forget, "test", ("test_retain", "test_forget"))
                rows.append(row | {"loss": at["loss"]} | collapsed)
        return pd.DataFrame(rows)

    def curve(self, method: str = "random_label") -> pd.DataFrame:
        """A row per optimiser step, readout and forget set of the first few: accuracies while ``method`` runs."""
        _has_steps(method)
        rows = []
        for row, forget, found in self.few._each([(method, "linear")], lambda cell: {"curve": Curve(cell)}):
            for reading in found["curve"]["readings"]:
                epoch = sum(end <= reading["x"] for end in found["curve"]["epoch_ends"])
                for name, label in READOUTS.items():
                    accuracies = self._accuracies(np.diagonal(reading[name]), forget)
                    rows.append(row | {"step": reading["x"], "readout": label, **accuracies, "epoch": epoch})
        return pd.DataFrame(rows)

    def steps(self, method: str = "random_label") -> dict[str, Any] | None:
        """Test images of the forget class and its two nearest classes in one plane, step by step, of the first set."""
        _has_steps(method)
        task = Steps(self.cell(*self.pairs[0], method))
        result = self._run([task]).get(task.question)
        return result and {
            "model": task.cell.label,
            "seed": self.pairs[0][0],
            "forget_set": list(self.forget),
            "forget": self.classes[self.forget[0]],
            "names": list(self.classes),
            **{name: result[name] for name in ("classes", "labels", "readings")},
        }

    def attack(
        self, models: Models, attack: str = "few_shot", shots: Sequence[int] = SHOTS, draws: int = 5
    ) -> pd.DataFrame:
        """A row per reading of a relearning attack: x (images per class, or steps), draw, retain, forget accuracy."""
        shots, draws, rows = parameters.read("shots", shots) or SHOTS, parameters.read("draws", draws), []
        most, smallest = max([*shots, self.profile.attack.shots]), min(images_of(self.profile).train)
        if most > smallest:
            raise BadInput(f"{most} images per class are asked for, but the smallest class has {smallest} to train on.")
        listed = [*self._models(["original", "retrain", "random"]), *self._models(models)]
        tasks = lambda cell: {attack: Attacked.of(cell, attack, tuple(shots), draws)}  # noqa: E731
        for row, forget, found in self._each(listed, tasks):
            for reading in found[attack]["readings"]:
                at = {"attack": attack, "x": reading["x"], "draw": reading["draw"]}
                rows.append(row | at | self._accuracies(reading["hits"], forget))
        return pd.DataFrame(rows)

    def embedding(self, models: Models, points: int = 2000) -> dict[str, dict[str, np.ndarray]]:
        """t-SNE of test features for the first forget set, by label: ``points`` (n, 2) and ``labels`` (n,)."""
        if points < 3 * len(self.classes):
            raise BadInput(f"points is {points}, but at least 3 for each of {len(self.classes)} classes are needed.")
        found = self._each(self._models(models), lambda cell: {"layout": Embedded(cell, points)}, self.pairs[:1])
        return {row["model"]: {name: np.array(of["layout"][name]) for name in of["layout"]} for row, _, of in found}

    # ---- how ----

    def _each(
        self, models: list[tuple[str, str]], tasks_of: Callable[[Cell], dict[str, Task]], pairs: Sequence[Pair] = ()
    ) -> Iterator[tuple[dict[str, Any], tuple[int, ...], dict[str, dict]]]:
        """For every model and pair the start of a row, the forget set, and results by name; not where all failed."""
        cells = [(self.cell(*pair, *model), pair) for model in dict.fromkeys(models) for pair in pairs or self.pairs]
        listed = [(identity(cell, pair), pair[1], tasks_of(cell)) for cell, pair in cells]
        results = self._run([task for *_, tasks in listed for task in tasks.values()])
        for row, forget, tasks in listed:
            if found := {name: results[task.question] for name, task in tasks.items() if task.question in results}:
                yield row, forget, found

    def _models(self, models: Models, variant: Models = "linear") -> list[tuple[str, str]]:
        return models_of(self.profile, models, variant)

    def _accuracies(self, hits, forget: tuple[int, ...], part="test", names=("retain", "forget_accuracy")) -> dict:
        """Share of hits among the images of the retain and of the forget classes."""
        hits, images = np.asarray(hits), np.array(getattr(images_of(self.profile), part))
        forgotten = np.isin(np.arange(len(images)), forget)
        return {name: hits[of].sum() / images[of].sum() for name, of in zip(names, (~forgotten, forgotten))}


def _has_steps(method: str) -> None:
    if method not in METHODS or METHODS[method].closed_form or METHODS[method].start != "original":
        raise BadInput(
            f"'{method}' has no unlearning steps, so it has no curve; choose a method that trains, like random_label."
        )
