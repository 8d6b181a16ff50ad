"""A study: the cells that a notebook's parameters ask for, and where their results come from."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field, replace
from typing import Any

from ..data import check_forget_set
from ..methods import METHODS
from ..models import check_network
from ..paths import Outputs
from ..settings import BadInput
from . import packs, profiles, sweep
from .cells import Cell, Task, dataset_of, images_of, trained
from .packs import Pack
from .profiles import Profile
from .store import Store
from .variants import VARIANTS, needs

Models = list[tuple[str, str]]  # (method, variant)
Results = dict[str, dict[str, Any]]  # by key of the task

QUICK = 120  # seconds of training that a notebook drawn from a pack may add for models to look at
DIFFERS = "UNLEARN_DIFFERS"  # set by a command for its notebooks: all parameters that are not the profile's own
REFERENCES: Models = [("original", "linear"), ("retrain", "linear"), ("retrain_again", "linear"), ("random", "linear")]


def unlearned(profile: Profile, variant: str) -> Models:
    """The unlearning methods for which a profile has the recipes of this variant."""
    return [
        (method, variant) for method, recipes in profile.recipes.items()
        if METHODS[method].start == "original" and all(v in recipes for v in needs(variant))
    ]


@dataclass(frozen=True)
class Study:
    """A profile, the (seed, forget set) pairs to run it with, and where results come from."""

    profile: Profile
    pairs: tuple[tuple[int, tuple[int, ...]], ...]
    machine: sweep.Machine
    seeds: tuple[int, ...] = ()  # given ones, also for several classes at once
    pack: Pack | None = None
    differs: dict[str, Any] = field(default_factory=dict)  # from the profile's own parameters
    tally: dict[str, dict] = field(default_factory=lambda: {"pack": {}, "here": {}})  # results used, by question

    @staticmethod
    def of(
        profile: str, seeds: list[int] = (), forget_sets: list = (), device: str = "auto", data_dir: str = "",
        jobs: int = 0, overrides: dict[str, Any] | None = None, hyperparameters: str = "", results: str = "",
        cluster: str = "",
    ) -> Study:
        """The study that the parameters of a notebook describe. Raises BadInput with one clear sentence.

        A forget set lists classes by number or name, or coarse classes; "single" and "multi" stand for all the
        profile's sets of one class and of several. ``results`` is "" (compute what is not stored) or "committed".
        ``cluster`` is "" (processes here), "local" or the address of a Dask scheduler.
        """
        for name, listed in {"seeds": seeds, "forget_sets": forget_sets}.items():
            if not isinstance(listed, (list, tuple)):
                raise BadInput(f"{name} is {listed!r}, but it must be a list, like [{listed!r}].")
        if not all(type(seed) is int for seed in seeds):
            raise BadInput(f"seeds is {list(seeds)!r}, but it must be a list of whole numbers, e.g. [0, 1].")
        if results not in ("", "committed"):
            raise BadInput(f"results is '{results}', but it must be '' (compute what is missing) or 'committed'.")
        own = profiles.load(profile, data_dir=data_dir)
        loaded = profiles.load(profile, overrides, data_dir, hyperparameters)
        profiles.check_names(loaded, METHODS, VARIANTS)
        machine = sweep.Machine.choose(device, jobs, cluster)
        committed = packs.reference(profile)
        pack = packs.read(committed, profile) if results else None
        differs = _differences(loaded, own)
        if not pack:  # which needs no network
            check_network(loaded.network, loaded.data.crop_to or loaded.data.image_size)
        if pack:
            loaded = replace(loaded, images=pack.images)
        elif committed.exists() and images_of(loaded).fingerprint != (usual := packs.read_images(committed)).fingerprint:
            differs["images"] = f"{images_of(loaded).fingerprint} instead of {usual.fingerprint}"
        pairs = tuple(loaded.pairs(seeds, numbered("forget_sets", forget_sets, loaded)))
        if pairs != tuple(own.pairs()):
            differs["pairs of seed and forget set"] = [[seed, list(forget)] for seed, forget in pairs]
        for _, forget in pairs:
            check_forget_set(forget, len(images_of(loaded).classes))
        return Study(loaded, pairs, machine, tuple(seeds), pack, differs)

    def several(self, forget_sets: list = ()) -> Study:
        """The same study with several classes forgotten at once: these sets, or those of the profile."""
        given = numbered("multi_forget_sets", forget_sets, self.profile)
        own = self.profile.multi_pairs
        sets = given or list(dict.fromkeys(forget for _, forget in own))
        seeds = self.seeds or tuple(dict.fromkeys(seed for seed, _ in (self.pairs if given else own)))
        pairs = tuple((seed, forget) for forget in sets for seed in seeds)
        for _, forget in pairs:
            check_forget_set(forget, len(self.classes))
        return replace(self, pairs=pairs)

    def outputs(self, more: dict[str, Any]) -> Outputs:
        """Where figures and tables go; ``more`` are parameters of a notebook that are not its own.

        Notebooks of one command go to one folder: the command says in what any of them differs.
        """
        differs = self.differs | more | json.loads(os.environ.get(DIFFERS, "{}"))
        return Outputs(self.profile.name, json.dumps(differs, sort_keys=True) if differs else "")

    @property
    def classes(self) -> tuple[str, ...]:
        return images_of(self.profile).classes

    def cell(self, seed: int, forget: tuple[int, ...], method: str, variant: str = "linear") -> Cell:
        """The cell of a model; the Original and the untrained network are the same for every forget set."""
        if method not in METHODS:
            raise BadInput(f"there is no method '{method}'; choose one of {', '.join(METHODS)}.")
        return Cell(self.profile, seed, () if METHODS[method].sees_all else forget, method, variant)

    def chosen(self, models: Models) -> Models:
        """Those of the models that the profile does not leave out."""
        return [model for model in models if self.profile.asks_for(*model)]

    @property
    def few(self) -> Study:
        """One pair for each of the first forget sets, three or what the profile says: for what is too dear to do with all."""
        first = {forget: (seed, forget) for seed, forget in reversed(self.pairs)}
        return replace(self, pairs=tuple(first[forget] for forget in dict.fromkeys(f for _, f in self.pairs))[: self.profile.few_sets])

    def run(self, tasks: list[Task]) -> Results:
        """The results of tasks: packed, stored, or computed now. What fails is printed and left out."""
        packed = {task.key: found for task in tasks if self.pack and (found := self.pack.find(task))}
        here = [task for task in tasks if task.key not in packed]
        if here and packed and not self._same_originals(here):
            print(f"{len(here)} of {len(tasks)} results are not in the pack, and its Originals are not those of this "
                  "machine: all of this table is computed here, since two Originals are never mixed.")
            packed, here = {}, tasks
        self.check_images(here)
        try:
            sweep.run(here, self.machine)
        except sweep.Failure as failure:
            print(failure)
        stored = {task.key: record for task in here if (record := Store().get(task.spec))}
        self.tally["pack"].update({t.question: packed[t.key] | {"today": t.code} for t in tasks if t.key in packed})
        self.tally["here"].update(stored)
        results = {key: found["result"] | {"seconds": found["seconds"]} for key, found in packed.items()}
        return results | {key: record.result | {"seconds": round(record.seconds, 2)} for key, record in stored.items()}

    def at_hand(self, models: Models) -> list[Cell]:
        """The cells of some models for the first pair, once all their weights are stored; none, and one printed sentence,
        where that takes the images, which are not here, or, beside a result pack, longer than ``QUICK`` seconds.
        """
        cells = [self.cell(*self.pairs[0], *model) for model in self.chosen(models)]
        tasks = [trained(cell) for cell in cells]
        waiting = sweep.missing(tasks)
        packed = [self.pack.find(task) for task in waiting] if self.pack else []
        try:
            if waiting:
                dataset_of(self.profile)
            if None in packed:
                raise BadInput("how long it takes to compute them is not known; leave out --results committed.")
            if (seconds := sum(found["seconds"] for found in packed)) > QUICK:
                raise BadInput(f"computing them takes about {seconds / 60:.0f} minutes; leave out --results committed.")
            sweep.run(tasks, self.machine)
        except (BadInput, sweep.Failure) as reason:
            print(f"The models of this section are not here, so it is left out: {reason}")
            return []
        if waiting and self.pack:
            print(f"A result pack holds numbers and no models: {len(waiting)} computed here.")
            self.tally["here"].update({task.key: Store().get(task.spec) for task in waiting})
        return cells

    def check_images(self, tasks: list[Task]) -> None:
        """Raise BadInput where results are neither in the pack nor stored, and the images that they take are not here."""
        here = sweep.missing(tasks) if self.pack else []
        try:
            if here:
                dataset_of(self.profile)
        except BadInput as problem:
            raise BadInput(f"{len(here)} results are not in the pack ({here[0].label}, ...), and they cannot be "
                           f"computed: {problem}") from None

    def _same_originals(self, here: list[Task]) -> bool:
        """Whether the Originals behind these tasks lie in the store and are those of the pack."""
        for seed in {task.cell.seed for task in here}:
            original = trained(self.cell(seed, (), "original"))
            record = Store().get(original.spec)
            if record is None or record.result["weights"] != self.pack.original_of(original):
                return False
        return True

    def origin(self) -> str:
        """One line: where the results that were used so far come from."""
        packed, here = self.tally["pack"].values(), self.tally["here"].values()
        line = f"{len(packed) + len(here)} results: {len(here)} computed here, {len(packed)} from the result pack"
        if packed:
            made = sorted({f"commit {p['made_with']['commit']} on {p['made_with']['hardware']}" for p in packed})
            line += f" ({'; '.join(made)})"
            if older := sum(p["code"] != p["today"] for p in packed):
                line += f"; {older} of these by code that is not today's"
        return line + "."


def _differences(profile: Profile, own: Profile) -> dict[str, Any]:
    """The settings in which a profile is not its own, by dotted key."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if dataclasses.is_dataclass(value):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for key, part in value.items() for k, v in flat(part, f"{path}.{key}".lstrip(".")).items()}

    mine, usual = flat(profile, ""), flat(own, "")
    return {key: repr(mine.get(key)) for key in sorted(mine.keys() | usual.keys()) if mine.get(key) != usual.get(key)}


def numbered(parameter: str, forget_sets: list, profile: Profile) -> list[tuple[int, ...]]:
    """Forget sets as sorted class numbers. Raises BadInput where an entry is no list, no class and no coarse class."""
    lists = {"single": profile.runs, "multi": profile.multi_runs}
    listed = []
    for entry in forget_sets:
        if type(entry) is str and entry in lists:
            listed += [tuple(forget) for block in lists[entry] for forget in block.forget_sets]
        elif type(entry) in (list, tuple) and all(type(c) in (int, str) for c in entry):
            listed.append(tuple(sorted(number for c in entry for number in _numbers(c, profile))))
        else:
            raise BadInput(
                f"{parameter} is {list(forget_sets)!r}, but it must hold lists of classes, e.g. [[0], [3]], "
                'or the names "single" and "multi".'
            )
    return list(dict.fromkeys(listed))


def _numbers(named: int | str, profile: Profile) -> tuple[int, ...]:
    """The classes that a number, a class name or the name of a coarse class stands for."""
    if type(named) is int:
        return (named,)
    images = images_of(profile)
    if named in images.classes:
        return (images.classes.index(named),)
    if named not in images.groups:
        known = [*images.classes, *images.groups]
        shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise BadInput(f"there is no class '{named}' in profile '{profile.name}'; its classes are {shown}.")
    return tuple(images.groups[named])
