"""Profiles: one TOML file per (data set, network), loaded into frozen dataclasses.

A profile fixes everything that a number depends on besides the seed and the forget set. Only the
standard library is needed here, so that a misspelled key is refused before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Collection, Iterable, Mapping, get_args, get_origin, get_type_hints

from ..settings import Attack, BadInput, Data, Network, Probe, Recipe

FOLDER = Path(__file__).parent / "profiles"


CHOICES = {
    "optimiser": ("sgd", "adam"), "schedule": ("constant", "cosine", "step"), "precision": ("float32", "bfloat16"),
    "evaluate_on": ("test", "validation"), "readout_view": ("test", "augmented"),
    "normalisation": ("own", "cifar10", "imagenet", "half"),
    "source": ("digits", "folder", "fashion_mnist", "cifar10", "cifar100", "tiny_imagenet"),
    "architecture": ("resnet", "bottleneck_resnet", "vit_small_patch16_224", "timm/<name>"),
    "cmf_normalisation": ("none", "unit_length", "log_softmax"), "ties": ("larger", "smaller"),
}


ALWAYS = ("original.linear", "retrain.linear", "random.linear", "random_label.linear", "random_label.cmf")  # never left out
MOST = 10**18  # below it: no number of a profile is infinite, none of them nan, and a seed fits in 64 bits
RANGES = {  # of the numbers under a name: at least, and below; all others are at least 0
    **dict.fromkeys(("epochs", "batch_size", "width", "blocks", "image_size", "channels", "shots", "steps", "few_sets"), (1, MOST)),
    **dict.fromkeys(("momentum", "validation"), (0, 1)),
}
WORDS = {
    int: "a whole number", float: "a number", str: "a text", bool: "true or false", list: "a list", dict: "a table",
    tuple: "a list of tables",
}


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
    tuning: dict = field(default_factory=dict)  # the search that chose the recipes; read by tune.py only
    cmf_normalisation: str = "none"
    multi_runs: tuple[Runs, ...] = ()  # several classes forgotten at once
    multi_recipes: dict[str, dict[str, Recipe]] = field(default_factory=dict)  # for several forget classes, where other
    left_out: list[str] = field(default_factory=list)  # method.variant that no notebook asks for, * for any: too dear here
    few_sets: int = 3  # forget sets for what is too dear to do with all
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

    def asks_for(self, method: str, variant: str = "linear") -> bool:
        """Whether the notebooks show this model."""
        return not any(fnmatchcase(f"{method}.{variant}", pattern) for pattern in self.left_out)

    def pairs(self, seeds: Iterable[int] = (), forget_sets: Iterable = ()) -> list[tuple[int, tuple[int, ...]]]:
        """All (seed, forget set) pairs: those of the profile, or the product of what is given.

        A forget set is a set: its classes are sorted, and what comes twice counts once.
        """
        if not (seeds or forget_sets):
            return _pairs(self.runs)
        given = {"seeds": list(seeds), "forget_sets": [list(forget) for forget in forget_sets]}
        first = vars(self.runs[0])
        return _pairs([_build(Runs, {key: value or first[key] for key, value in given.items()}, "")])

    @property
    def multi_pairs(self) -> list[tuple[int, tuple[int, ...]]]:
        """The (seed, forget set) pairs in which several classes are forgotten at once."""
        return _pairs(self.multi_runs)


def _pairs(blocks: Iterable[Runs]) -> list[tuple[int, tuple[int, ...]]]:
    return list(dict.fromkeys((s, tuple(sorted(f))) for b in blocks for f in b.forget_sets for s in b.seeds))


def names() -> list[str]:
    """Profiles that can be asked for."""
    return sorted(path.stem for path in FOLDER.glob("*.toml") if path.is_file())


def load(
    name: str, overrides: dict[str, Any] | None = None, data_dir: str = "", hyperparameters: str = ""
) -> Profile:
    """Read a profile; ``overrides`` maps dotted keys to values, e.g. ``{"probe.epochs": 5}``.

    ``data_dir`` takes the place of the profile's image folder; ``hyperparameters`` names one of the profile's
    alternatives, a table of such overrides.

    Raises BadInput for an unknown profile or key, or a value of the wrong type or out of range.
    """
    if name not in names():
        raise BadInput(f"there is no profile '{name}'; choose one of {', '.join(names())}.")
    try:
        table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as problem:
        raise BadInput(f"profile '{name}' cannot be read as TOML ({problem}).") from None
    where = f"profile '{name}': "
    alternatives = _read(dict[str, dict], table.pop("alternatives", {}), f"{where}alternatives", "alternatives")
    if hyperparameters and hyperparameters not in alternatives:
        raise BadInput(
            f"profile '{name}' has no hyper-parameters '{hyperparameters}'; "
            f"{'choose one of ' + ', '.join(alternatives) if alternatives else 'it has only its own'}."
        )
    changed = alternatives.get(hyperparameters, {}) | _read(dict, overrides or {}, "overrides", "overrides")
    _override(table, changed | ({"data.folder": data_dir} if data_dir else {}), name)
    profile = _build(Profile, table, where, name=name, images=None)
    if data_dir and profile.data.source == "digits":
        raise BadInput(f"--data-dir {data_dir} has no use here: profile '{name}' reads no image folder.")
    _check_images(profile.data, profile.network, name)
    _refuse_unknown(profile.multi_recipes, profile.recipes, f"{where}multi_recipes.")
    for method, recipes in profile.multi_recipes.items():
        _refuse_unknown(recipes, profile.recipes[method], f"{where}multi_recipes.{method}.")
    return profile


def check_names(profile: Profile, methods: Mapping[str, type], variants: Mapping[str, Any]) -> None:
    """Raise BadInput where a recipe, the search or what is left out has a key that is no name, or that nobody would read.

    ``methods`` are the classes by name, ``variants`` all variants; one with a ``recipe`` takes that of another variant.
    """
    where, trained = f"profile '{profile.name}': ", set(methods) - {"random"}  # which is not trained
    named = [name for name, variant in variants.items() if not variant.recipe]
    _refuse_unknown(profile.recipes, trained, f"{where}recipes.")
    _refuse_unknown(profile.multi_recipes, {m for m in trained if not methods[m].sees_all}, f"{where}multi_recipes.")
    for method, recipes in profile.recipes.items():
        _refuse_unknown(recipes, named, f"{where}recipes.{method}.")
        changed = set(recipes) - {"linear"}
        if changed and methods[method].start == "initialisation" and not methods[method].sees_all:
            raise BadInput(
                f"{where}recipes.{method}.{min(changed)} would start from an Original that saw the forget class; "
                f"'{method}' is trained from scratch, which 'linear' does."
            )
    for pattern in profile.left_out:
        if not any(fnmatchcase(f"{method}.{variant}", pattern) for method in methods for variant in variants):
            raise BadInput(f"{where}left_out has {pattern!r}, but it must be a method and a variant, like unsir.cmf or *.cmf_none.")
        if lost := [model for model in ALWAYS if fnmatchcase(model, pattern)]:
            raise BadInput(f"{where}left_out has {pattern!r}, but every notebook shows {', '.join(lost)}; name other models.")
    rates = dict.fromkeys(named, list[float])
    search = {"rule": str, "tolerance": float, "ties": str, "seeds": list[int], "forget_sets": list[list[int]], **rates}
    search |= dict.fromkeys(trained, {"setting": str, **rates})
    _read(search, profile.tuning, f"{where}tuning", "tuning")
    if absent := [key for key in ("rule", "tolerance", "seeds", "forget_sets") if profile.tuning and key not in profile.tuning]:
        raise BadInput(f"{where}tuning.{absent[0]} is missing; a search needs it.")


def _override(table: dict, changed: dict[str, Any], name: str) -> None:
    """Put the value of every dotted key into the table."""
    for key, value in changed.items():
        if type(key) is not str:
            raise BadInput(f"override {key!r} must be a dotted key of the profile, like 'probe.epochs'.")
        *path, last = key.split(".")
        node = table
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise BadInput(f"override '{key}' does not name a key of profile '{name}'.")
        node[last] = value


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
    resnet, usual = network.architecture in ("resnet", "bottleneck_resnet"), Network()
    if not resnet and (network.width, network.blocks) != (usual.width, usual.blocks):
        raise BadInput(f"{name}: network.width and network.blocks are a ResNet's, and {network.architecture} has its own; leave them out.")
    if network.weights == "imagenet" and resnet:
        raise BadInput(f"{name}: ImageNet weights are there for timm's encoders; set network.weights to 'none' or a file.")
    network.check_resolution(seen)


def _read(kind: Any, value: Any, where: str, name: str) -> Any:
    """The value of a key as the type that its field states: a number, a text, a list, or tables within tables.

    A dictionary of kinds is a table with these keys. Raises BadInput for another type and what is out of range.
    """
    shape, inside = get_origin(kind) or kind, get_args(kind)
    tables = isinstance(kind, dict) or dataclasses.is_dataclass(kind)
    written = dict if tables else list if shape is tuple else shape
    if type(value) is not written and not (written is float and type(value) is int):
        raise BadInput(f"{where} is {value!r}, but it must be {WORDS[tuple if shape is tuple else written]}.")
    if type(value) in (int, float):
        low, high = RANGES.get(name, (0, MOST))
        if not low <= value < high:
            raise BadInput(f"{where} is {value}, but it must be at least {low} and below {high:g}.")
        return shape(value)
    known = "timm/<name>" if name == "architecture" and str(value).startswith("timm/") else value
    if name in CHOICES and known not in CHOICES[name]:
        raise BadInput(f"{where} is {value!r}, but it must be one of {', '.join(CHOICES[name])}.")
    if written is list:
        if not value and name not in ("multi_runs", "left_out"):
            raise BadInput(f"{where} is an empty list; it needs at least one entry.")
        listed = enumerate(value)
        return shape(_read(inside[0] if inside else type(item), item, f"{where}[{i}]", name) for i, item in listed)
    if written is not dict:
        return value
    if kind is Recipe:
        return _recipe(value, f"{where}.")
    if tables:
        return _entries(kind, value, f"{where}.") if isinstance(kind, dict) else _build(kind, value, f"{where}.")
    return {
        key: _read(inside[1] if inside else type(item), item, f"{where}.{key}", str(key).rpartition(".")[2])
        for key, item in value.items()
    }


def _entries(kinds: dict[str, Any], table: dict, where: str) -> dict[str, Any]:
    """The entries of a table, of these kinds and no others."""
    _refuse_unknown(table, kinds, where)
    return {key: _read(kinds[key], value, f"{where}{key}", key) for key, value in table.items()}


def _build(cls: type, table: dict, where: str, **given: Any) -> Any:
    """Make a dataclass of a table and of what is given; a key that the table lacks must have a default."""
    kinds = {key: kind for key, kind in get_type_hints(cls).items() if key not in given}
    entries = _entries(kinds, table, where)
    for spec in dataclasses.fields(cls):
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if spec.name not in entries | given and not optional:
            raise BadInput(f"{where}{spec.name} is missing.")
    return cls(**entries, **given)


def _recipe(table: dict, where: str) -> Recipe:
    """What is no setting is a constant of the method; a table without settings is the recipe of a closed form."""
    own = {spec.name for spec in dataclasses.fields(Recipe)} - {"constants"}
    settings = {key: value for key, value in table.items() if key in own}
    constants = _read(dict, {key: value for key, value in table.items() if key not in own}, where[:-1], "")
    if not settings:
        return Recipe(epochs=0, lr=0.0, constants=constants)
    return _build(Recipe, settings, where, constants=constants)


def _refuse_unknown(given: Iterable[str], allowed: Collection[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            place, _, path = f"{where}{key}".rpartition(": ")
            raise BadInput(f"{place}: there is no key '{path}'; allowed are {', '.join(sorted(allowed))}.")
