"""Profiles: one TOML file per (data set, network), loaded into frozen dataclasses.

A profile fixes everything that a number depends on besides the seed and the forget set. Only the
standard library is needed here, so that a misspelled key is refused before anything heavy is imported.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..settings import Attack, BadInput, Data, Network, Probe, Recipe, read_table, refuse_unknown

FOLDER = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class Runs:
    """A block of cells: every seed with every forget set."""

    seeds: list[int]
    forget_sets: list[list[int]]


@dataclass(frozen=True)
class Images:
    """What a study knows of its images besides the pixels."""

    fingerprint: str  # of pixels and labels
    classes: tuple[str, ...]
    train: tuple[int, ...]  # training images of each class
    test: tuple[int, ...]
    groups: dict = field(default_factory=dict)  # coarse classes, where there are any


@dataclass(frozen=True)
class Profile:
    name: str
    title: str
    data: Data
    network: Network
    probe: Probe
    attack: Attack
    runs: tuple[Runs, ...]
    recipes: dict[str, dict[str, Recipe]]  # recipes[method][variant]
    tuning: dict = field(default_factory=dict)  # the search that chose the learning rates; read by tune.py only
    cmf_normalisation: Literal["none", "unit_length", "log_softmax"] = "none"  # of the features, in a CMF head
    multi_runs: tuple[Runs, ...] = ()  # several classes forgotten at once
    multi_recipes: dict[str, dict[str, Recipe]] = field(default_factory=dict)  # for several forget classes, if others
    few_sets: int = 3  # forget sets for what is too expensive for all of them
    images: Images | None = None  # set where results are committed ones, which need no images

    def recipe(self, method: str, variant: str, several: bool = False) -> Recipe:
        """The recipe of a method and variant, for one forget class or several. Raises BadInput where there is none."""
        recipes = self.multi_recipes if several and variant in self.multi_recipes.get(method, {}) else self.recipes
        if variant not in recipes.get(method, {}):
            raise BadInput(
                f"profile '{self.name}' has no recipe for method '{method}', variant '{variant}'; "
                f"it has {', '.join(f'{m}.{v}' for m in self.recipes for v in self.recipes[m])}."
            )
        return recipes[method][variant]

    def pairs(self, seeds: Iterable[int] = (), forget_sets: Iterable = ()) -> list[tuple[int, tuple[int, ...]]]:
        """All (seed, forget set) pairs: those of the profile, or the product of what is given.

        A forget set is a set: its classes are sorted, and what comes twice counts once. Raises BadInput.
        """
        blocks = self.runs
        if seeds or forget_sets:
            given = {"seeds": list(seeds), "forget_sets": [list(forget) for forget in forget_sets]}
            blocks = [read_table(Runs, {key: value or vars(blocks[0])[key] for key, value in given.items()}, "")]
        return list(dict.fromkeys((s, tuple(sorted(f))) for b in blocks for f in b.forget_sets for s in b.seeds))


def names() -> list[str]:
    """Profiles that can be asked for."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str, overrides: Mapping[str, Any] | None = None, data_dir: str = "") -> Profile:
    """Read a profile; ``overrides`` maps dotted keys to values, e.g. ``{"probe.epochs": 5}``.

    ``{"recipes": "table4"}`` takes one of the profile's alternatives, a table of such overrides; ``data_dir`` takes the
    place of its image folder. Raises BadInput for an unknown profile or key, or a value of the wrong kind or out of
    range.
    """
    if name not in names():
        raise BadInput(f"there is no profile '{name}'; choose one of {', '.join(names())}.")
    try:
        table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BadInput(f"profile '{name}' cannot be read as TOML ({problem}).") from None
    alternatives, changed = {"": {}} | table.pop("alternatives", {}), dict(overrides or {})
    if isinstance(which := changed.get("recipes"), str):
        if which not in alternatives:
            known = ", ".join(filter(None, alternatives)) or "no alternatives"
            raise BadInput(f"profile '{name}' has no recipes '{which}'; it has {known}.")
        changed = alternatives[which] | {key: value for key, value in changed.items() if key != "recipes"}
    _override(table, changed | ({"data.folder": data_dir} if data_dir else {}), name)
    profile = read_table(Profile, table, f"profile '{name}': ", name=name, images=None)
    if data_dir and profile.data.source == "digits":
        raise BadInput(f"--data-dir {data_dir} has no use here: profile '{name}' reads no image folder.")
    _check_images(profile.data, profile.network, name)
    for method, recipes in profile.multi_recipes.items():
        refuse_unknown(recipes, profile.recipes.get(method, {}), f"profile '{name}': multi_recipes.{method}.")
    return profile


def check_names(profile: Profile, methods: Mapping[str, type], variants: Mapping[str, Any]) -> None:
    """Raise BadInput where a recipe or the search names no method or variant.

    ``methods`` are the classes by name, ``variants`` all variants; one with a ``recipe`` takes that of another variant.
    """
    where, trained = f"profile '{profile.name}': ", set(methods) - {"random"}  # which is not trained
    named = [name for name, variant in variants.items() if not variant.recipe]
    refuse_unknown(profile.recipes, trained, f"{where}recipes.")
    for method, recipes in profile.recipes.items():
        refuse_unknown(recipes, named, f"{where}recipes.{method}.")
    search = {"rule", "tolerance", "ties", "seeds", "forget_sets", *named}
    refuse_unknown(profile.tuning, search | trained, f"{where}tuning.")
    for method in profile.tuning.keys() & trained:
        refuse_unknown(profile.tuning[method], {"setting", *named}, f"{where}tuning.{method}.")


def _override(table: dict, changed: dict[str, Any], name: str) -> None:
    """Put the value of every dotted key into the table."""
    for key, value in changed.items():
        if isinstance(value, Mapping):  # as nested tables
            _override(table, {f"{key}.{inner}": value[inner] for inner in value}, name)
            continue
        *path, last = str(key).split(".")
        node = table
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise BadInput(f"override '{key}' does not name a key of profile '{name}'.")
        node[last] = value


def _check_images(data: Data, network: Network, name: str) -> None:
    """Raise BadInput where the images of the source, their views and a ResNet do not fit."""
    seen, resnet, usual = data.crop_to or data.image_size, network.is_resnet, Network()
    channels = {"digits": (1,), "fashion_mnist": (1,), "cifar10": (3,), "cifar100": (3,)}.get(data.source, (1, 3))
    sizes_rise = data.enlarge_to == data.crop_to == 0 or data.image_size <= data.crop_to <= data.enlarge_to
    # A ResNet halves an image at each stage but the first. A 3x3 convolution of stride 2 on 1x1 images in bfloat16
    # returns weight gradients that are not defined with PyTorch 2.14.1 on processors with AMX.
    stages = max(0, seen - 1).bit_length() + 1
    for wrong, said in (
        (data.source == "digits" and data.image_size != 8, "the digits have image_size 8"),
        (data.channels not in channels, f"data.channels must be {' or '.join(map(str, channels))}"),
        (not sizes_rise, "data.image_size, crop_to and enlarge_to must not fall; leave out the last two, or set both"),
        (data.random_resized_crop and not data.crop_to, "data.random_resized_crop needs data.crop_to"),
        (
            not resnet and (network.width, network.blocks) != (usual.width, usual.blocks),
            f"network.width and network.blocks are a ResNet's; leave them out for {network.architecture}",
        ),
        (resnet and network.weights == "imagenet", "ImageNet weights are there for timm's encoders only"),
        (
            resnet and len(network.blocks) > stages,
            f"network.blocks has {len(network.blocks)} stages, but {seen} pixels allow at most {stages}",
        ),
    ):
        if wrong:
            raise BadInput(f"profile '{name}': {said}.")
