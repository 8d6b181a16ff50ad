"""What functions take: views of images, a network, a recipe, a probe, an attack; and how such a table is read.

Only the standard library is needed, so that a misspelled key is refused before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

READOUTS = {"output": "Output", "probe": "Linear probe", "ncc": "NCC"}


class BadInput(ValueError):
    """Something the user wrote cannot be used; the message is one sentence that says what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [f"BadInput: {self}"]


@dataclass(frozen=True, kw_only=True)
class Views:
    """How a network sees the images that lie on the device; 0 leaves a step out."""

    crop_padding: int = 0  # pixels: random crop after zero padding
    flip: bool = False
    enlarge_to: int = 0  # images are enlarged to this size ...
    crop_to: int = 0  # ... and this is cut out of them: at random in training, from the centre in testing
    random_resized_crop: bool = False  # in training a random part of the image is brought to ``crop_to`` instead
    normalisation: Literal["own", "cifar10", "imagenet", "half"] = "own"  # constants; own: those of the training images


@dataclass(frozen=True, kw_only=True)
class Data(Views):
    # "folder" holds train/<class>/* and test/<class>/*; "digits" come with scikit-learn; the others are downloaded
    source: Literal["digits", "folder", "fashion_mnist", "cifar10", "cifar100"]
    image_size: int
    channels: int
    folder: str = ""  # where images lie or are downloaded to
    train_per_class: int = 0  # 0: all
    test_per_class: int = 0
    evaluate_on: Literal["test", "validation"] = "test"  # "validation": a fifth of the training images as the test set
    # How the training images are seen when features are extracted, in eval mode: "test" as test images are,
    # "augmented" one training view of each, as in the official code.
    readout_view: Literal["test", "augmented"] = "test"

    @property
    def pixels(self) -> tuple:
        """All that decides which images there are."""
        numbers = self.image_size, self.channels, self.train_per_class, self.test_per_class
        return self.source, self.folder, self.evaluate_on, *numbers

    @property
    def views(self) -> Views:
        return Views(**{spec.name: getattr(self, spec.name) for spec in dataclasses.fields(Views)})


@dataclass(frozen=True)
class Network:
    architecture: str = "resnet"  # or "bottleneck_resnet", both with the CIFAR stem, or timm's: "timm/<name>"
    width: int = 64  # channels of a ResNet's first stage; every further stage doubles them
    blocks: list[int] = field(default_factory=lambda: [2, 2, 2, 2])  # residual blocks per stage
    precision: Literal["float32", "bfloat16"] = "float32"  # "bfloat16": autocast in the encoder
    weights: str = "none"  # what an encoder starts from: "none", "imagenet" (timm's), or a file of weights
    images_per_pass: int = 0  # more images go through the encoder in parts, with less memory; 0: all at once

    @property
    def is_resnet(self) -> bool:
        return self.architecture in ("resnet", "bottleneck_resnet")


@dataclass(frozen=True)
class Recipe:
    """How one model is optimised. Defaults are those of the official code for the ResNets."""

    epochs: int
    lr: float
    optimiser: Literal["sgd", "adam"] = "sgd"  # "adam" takes neither momentum nor nesterov
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine", "step"] = "constant"  # per epoch; "step": a fifth every three epochs
    warmup_epochs: int = 0
    min_lr: float = 0.0
    clip: float = 0.0  # largest gradient norm; 0: no clipping
    constants: dict = field(default_factory=dict)  # the method's own


@dataclass(frozen=True)
class Probe:
    """The linear probe of the official code: SGD on cached features, best epoch of the validation split."""

    epochs: int
    lr: float = 0.01
    schedule: Literal["constant", "cosine"] = "constant"  # "cosine": from ``lr`` to 0 over ``epochs``, per epoch
    patience: int = 0  # epochs without a better validation accuracy after which it ends; 0: none end it
    momentum: float = 0.9
    batch_size: int = 128
    validation: float = 0.1

    def __post_init__(self):
        if self.epochs < 1 or not self.lr > 0:
            raise BadInput(f"probe: epochs is {self.epochs} and lr {self.lr}, but both must be positive.")


@dataclass(frozen=True)
class Attack:
    """Budget of the attacks that fine-tune a network."""

    shots: int  # images per class
    steps: int
    lr: float
    batch_size: int = 128
    clip: float = 1.0


# Tables of a profile, and constants of a method, as these classes

MOST = 10**18  # below it: so no number is infinite or NaN, and a seed fits in 64 bits
FROM_ONE = """epochs batch_size width blocks image_size channels shots steps draws few_sets
    images noise_images retain_per_class""".split()
RANGES = dict.fromkeys(FROM_ONE, (1, MOST)) | {"temperature": (1e-6, MOST)}  # others from 0 on
RANGES |= dict.fromkeys(("momentum", "validation"), (0, 1))
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


def read_table(cls: type, table: Any, where: str, **given: Any) -> Any:
    """The dataclass ``cls`` of a table and of what is ``given``; ``where`` goes before a key in messages.

    Raises BadInput for a key that is unknown or missing, and for a value of another kind or out of range.
    """
    if type(table) is not dict:
        raise BadInput(f"{where.rstrip('.: ')} is {table!r}, but it must be a table.")
    kinds = {key: kind for key, kind in get_type_hints(cls).items() if key not in given}
    refuse_unknown(table, kinds, where)
    for spec in dataclasses.fields(cls):
        optional = spec.default is not dataclasses.MISSING or spec.default_factory is not dataclasses.MISSING
        if spec.name not in table | given and not optional:
            raise BadInput(f"{where}{spec.name} is missing.")
    return cls(**{key: _read(kinds[key], value, f"{where}{key}") for key, value in table.items()}, **given)


def _read(kind: Any, value: Any, where: str) -> Any:
    """A value as the kind that its field states."""
    plain, inside = get_origin(kind) or kind, get_args(kind)
    name = re.findall(r"\w+", where.partition("[")[0])[-1]
    if kind is Recipe and type(value) is dict:
        return _recipe(value, where)
    if dataclasses.is_dataclass(kind):
        return read_table(kind, value, f"{where}.")
    if plain is Literal:
        if value not in inside:
            raise BadInput(f"{where} is {value!r}, but it must be one of {', '.join(inside)}.")
        return value
    written = list if plain is tuple else plain
    if type(value) is not written and (type(value), plain) != (int, float):
        raise BadInput(f"{where} is {value!r}, but it must be {WORDS.get(written, written)}.")
    if plain in (int, float):
        low, high = RANGES.get(name, (0, MOST))
        if not low <= value < high:
            raise BadInput(f"{where} is {value}, but it must be at least {low} and below {high:g}.")
        return plain(value)
    if written is list:
        if not value and name != "multi_runs":
            raise BadInput(f"{where} is an empty list; it needs at least one entry.")
        return plain(_read(inside[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if plain is dict and inside:
        return {key: _read(inside[1], item, f"{where}.{key}") for key, item in value.items()}
    return value


def _recipe(table: dict, where: str) -> Recipe:
    """What is no setting is a constant of the method; a table without settings is the recipe of a closed form."""
    names = {spec.name for spec in dataclasses.fields(Recipe)} - {"constants"}
    settings = {key: table[key] for key in table if key in names}
    constants = {key: table[key] for key in table if key not in names}
    if not settings:
        return Recipe(epochs=0, lr=0.0, constants=constants)
    return read_table(Recipe, settings, f"{where}.", constants=constants)


def refuse_unknown(given: Iterable[str], allowed: Collection[str], where: str) -> None:
    """Raise BadInput for the first key that is not allowed."""
    for key in given:
        if key not in allowed:
            place, _, path = f"{where}{key}".rpartition(": ")
            raise BadInput(f"{place}: there is no key '{path}'; allowed are {', '.join(sorted(allowed))}.")
