"""Profiles: one TOML file per (data set, network), loaded into frozen dataclasses.

A profile fixes everything that a number depends on besides the seed and the forget set. Only the
standard library is needed here, so that a misspelled key is refused before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, get_type_hints

from ..settings import Attack, BadInput, Data, Network, Probe, Recipe

FOLDER = Path(__file__).parent / "profiles"


CHOICES = {
    "optimiser": ("sgd", "adam"), "schedule": ("constant", "cosine", "step"), "precision": ("float32", "bfloat16"),
    "evaluate_on": ("test", "validation"), "readout_view": ("test", "augmented"),
    "normalisation": ("own", "cifar10", "imagenet"),
    "source": ("digits", "folder", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet"),
    "architecture": ("resnet", "bottleneck_resnet", "vit_small_patch16_224"),
    "cmf_geometry": ("centred", "raw", "log_softmax"),
}


POSITIVE = (
    "epochs", "batch_size", "width", "image_size", "channels", "shots", "steps",
)  # and no key of a profile may be negative


@dataclass(frozen=True)
class Runs:
    """A block of cells: every seed with every forget set."""

    seeds: list
    forget_sets: list


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
    recipes: dict  # recipes[method][variant] -> Recipe
    tuning: dict  # the search that chose the recipes; read by unlearn_utils.tune only
    cmf_geometry: str = "centred"
    multi_runs: tuple[Runs, ...] = ()  # several classes forgotten at once
    multi_recipes: dict = field(default_factory=dict)  # where they differ when several classes are forgotten
    images: Images | None = None  # set where results come from a pack, which needs no images

    def recipe(self, method: str, variant: str, several: bool = False) -> Recipe:
        """The recipe that stands here for a method and variant, for one forget class or several.

        Raises BadInput where the profile has none.
        """
        if several and variant in self.multi_recipes.get(method, {}):
            return self.multi_recipes[method][variant]
        try:
            return self.recipes[method][variant]
        except KeyError:
            raise BadInput(
                f"profile '{self.name}' has no recipe for method '{method}', variant '{variant}'; "
                f"it has {', '.join(f'{m}.{v}' for m in self.recipes for v in self.recipes[m])}."
            ) from None

    def pairs(self, seeds: list = (), forget_sets: list = ()) -> list[tuple[int, tuple[int, ...]]]:
        """All (seed, forget set) pairs: those of the profile, or the product of what is given."""
        if seeds or forget_sets:
            first = self.runs[0]
            blocks = [Runs(list(seeds) or first.seeds, list(forget_sets) or first.forget_sets)]
        else:
            blocks = self.runs
        return _pairs(blocks)

    @property
    def multi_pairs(self) -> list[tuple[int, tuple[int, ...]]]:
        """The (seed, forget set) pairs in which several classes are forgotten at once."""
        return _pairs(self.multi_runs)


def _pairs(blocks: Iterable[Runs]) -> list[tuple[int, tuple[int, ...]]]:
    return list(dict.fromkeys((s, tuple(f)) for b in blocks for f in b.forget_sets for s in b.seeds))


def names() -> list[str]:
    """Profiles that can be asked for."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(
    name: str, overrides: dict[str, Any] | None = None, data_dir: str = "", hyperparameters: str = ""
) -> Profile:
    """Read a profile; ``overrides`` maps dotted keys to values, e.g. ``{"probe.epochs": 5}``.

    ``data_dir`` takes the place of the profile's image folder; ``hyperparameters`` names one of the profile's
    alternatives, a table of such overrides.

    Raises BadInput for an unknown profile or key, or a value of the wrong type.
    """
    if name not in names():
        raise BadInput(f"there is no profile '{name}'; choose one of {', '.join(names())}.")
    try:
        table = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    except tomllib.TOMLDecodeError as problem:
        raise BadInput(f"profile '{name}' is not valid TOML: {problem}.") from None
    alternatives = table.pop("alternatives", {})
    if hyperparameters and hyperparameters not in alternatives:
        raise BadInput(
            f"profile '{name}' has no hyper-parameters '{hyperparameters}'; "
            f"{'choose one of ' + ', '.join(alternatives) if alternatives else 'it has only its own'}."
        )
    for key, value in (alternatives.get(hyperparameters, {}) | (overrides or {})).items():
        if type(key) is not str:
            raise BadInput(f"override {key!r} must be a dotted key of the profile, like 'probe.epochs'.")
        *path, last = key.split(".")
        node = table
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise BadInput(f"override '{key}' does not name a key of profile '{name}'.")
        node[last] = value
    if data_dir:
        if table.get("data", {}).get("source") == "digits":
            raise BadInput(f"--data-dir {data_dir} has no use here: profile '{name}' reads no image folder.")
        table["data"]["folder"] = data_dir
    return _profile(name, table)


def _profile(name: str, table: dict) -> Profile:
    _refuse_unknown(table, {f.name for f in dataclasses.fields(Profile)} - {"name", "images"}, name)
    _refuse_unlisted("cmf_geometry", table.get("cmf_geometry", "centred"), name)
    try:
        runs = {
            key: tuple(_build(Runs, block, f"{name}: {key}") for block in table.get(key, ()))
            for key in ("runs", "multi_runs")
        }
        recipes = {key: _recipes(table.get(key, {}), f"{name}: {key}") for key in ("recipes", "multi_recipes")}
        rooms = {
            key: _build(cls, table[key], f"{name}: {key}")
            for key, cls in {"data": Data, "network": Network, "probe": Probe, "attack": Attack}.items()
        }
        _check_images(rooms["data"], rooms["network"], name)
        rooms["network"].check_resolution(rooms["data"].crop_to or rooms["data"].image_size)
        return Profile(
            name=name, title=table["title"], tuning=table.get("tuning", {}),
            cmf_geometry=table.get("cmf_geometry", "centred"), **runs, **recipes, **rooms,
        )
    except KeyError as missing:
        raise BadInput(f"profile '{name}' lacks the key {missing}.") from None
    except (AttributeError, TypeError) as problem:
        raise BadInput(f"profile '{name}' has a value where a table is needed, or the reverse ({problem}).") from None


def _check_images(data: Data, network: Network, name: str) -> None:
    """Raise BadInput where the images of the source, their views and the network do not fit."""
    if data.source == "digits" and (data.image_size, data.channels) != (8, 1):
        raise BadInput(f"{name}: the digits have image_size 8 and channels 1, and no others.")
    colours = {"fashion_mnist": 1, "cifar10": 3, "cifar100": 3}.get(data.source, data.channels)
    if data.channels != colours:
        raise BadInput(f"{name}: 'channels' is {data.channels}, but the images of {data.source} have {colours}.")
    if data.channels not in (1, 3) or data.normalisation == "imagenet" and data.channels != 3:
        raise BadInput(f"{name}: 'channels' is {data.channels}, but it must be 1 or 3, and 3 for ImageNet's normalisation.")
    if not (data.enlarge_to == data.crop_to == 0 or data.image_size <= data.crop_to <= data.enlarge_to):
        raise BadInput(
            f"{name}: image_size {data.image_size}, crop_to {data.crop_to} and enlarge_to {data.enlarge_to} must not "
            "fall; leave out the last two for images as they are."
        )
    if data.random_resized_crop and not data.crop_to:
        raise BadInput(f"{name}: random_resized_crop needs 'crop_to'.")
    seen = data.crop_to or data.image_size
    if network.architecture.endswith("_224") and (seen, data.channels) != (224, 3):
        raise BadInput(f"{name}: {network.architecture} takes 224 pixels and 3 channels, not {seen} and {data.channels}.")
    if network.weights == "imagenet" and "vit" not in network.architecture:
        raise BadInput(f"{name}: ImageNet weights are there for a ViT only; set network.weights to 'none' or a file.")


def _recipes(table: dict, where: str) -> dict[str, dict[str, Recipe]]:
    return {
        method: {variant: _recipe(entry, f"{where}.{method}.{variant}") for variant, entry in variants.items()}
        for method, variants in table.items()
    }


def _recipe(table: dict, where: str) -> Recipe:
    """A table without ``epochs`` and ``lr`` is the recipe of a closed-form method."""
    own = {f.name for f in dataclasses.fields(Recipe)} - {"constants"}
    settings = {k: v for k, v in table.items() if k in own}
    constants = {k: v for k, v in table.items() if k not in own}
    if not settings:
        return Recipe(epochs=0, lr=0.0, constants=constants)
    return _build(Recipe, settings | {"constants": constants}, where)


def _refuse_unknown(table: dict, allowed: set[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            raise BadInput(f"{where}: unknown key '{key}'; allowed are {', '.join(sorted(allowed))}.")


def _build(cls: type, table: dict, where: str) -> Any:
    """Make a dataclass of a TOML table, refusing unknown keys, missing keys and wrong types."""
    hints = get_type_hints(cls)
    _refuse_unknown(table, set(hints), where)
    for spec in dataclasses.fields(cls):
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if spec.name not in table and not optional:
            raise BadInput(f"{where}: the key '{spec.name}' is missing.")
    values = {}
    for key, value in table.items():
        kind = hints[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise BadInput(f"{where}: '{key}' is {value!r}, but it must be of type {kind.__name__}.")
        _refuse_unlisted(key, value, where)
        values[key] = value
    return cls(**values)


def _refuse_unlisted(key: str, value: Any, where: str) -> None:
    if type(value) in (int, float) and value < (smallest := int(key in POSITIVE)):
        raise BadInput(f"{where}: '{key}' is {value}, but it must be at least {smallest}.")
    if key in CHOICES and value not in CHOICES[key]:
        raise BadInput(f"{where}: '{key}' is {value!r}, but it must be one of {', '.join(CHOICES[key])}.")
