"""``python -m unlearn_utils evaluate``: checkpoints and a folder of images in, table, checks and figure out."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from . import files
from .evaluation import evaluate, role
from .image_files import FolderImages, class_folders
from .settings import BadInput
from .sources import CONSTANTS
from .study.machine import Machine
from .views.own_models import Report

ROLES = {
    "original": "trained on all classes",
    "retrain": "that never saw the forget classes",
    "untrained": "before any training",
}
MODEL = {"dest": "architecture", "action": "append", "required": True, "metavar": "[NAME=]ARCHITECTURE"}
KINDS = "timm/<name>, torchvision/<name>, cifar_resnet18 (34, 50) or file.py:function (executed)"
USUAL = "default: what a file holds for it, else cifar10 up to 64 pixels and imagenet above"
OPTIONS = {  # what it takes, and what it is for
    "models": ({"nargs": "+", "metavar": "[NAME=]FILE"}, "weights: .safetensors, or what torch.save has written"),
    **{f"--{kind}": ({"metavar": "FILE"}, f"weights of the model {described}") for kind, described in ROLES.items()},
    "--architecture --model": (MODEL, f"{KINDS}; for all, or once more for one of them by its name"),
    "--data": (
        {"required": True, "metavar": "DIR"},
        "a folder with train/<class>/ and test/<class>/ (or val/<class>/)",
    ),
    "--forget": ({"required": True, "nargs": "+", "metavar": "CLASS"}, "the forget classes by name or number"),
    "--size": ({"type": int, "default": 0, "metavar": "PIXELS"}, "of the images (default: their own, at most 224)"),
    "--normalise": ({"metavar": "HOW"}, f"{', '.join(CONSTANTS)}, none, or mean,...,std,... by channel ({USUAL})"),
    "--features": ({"metavar": "MODULE"}, "the module whose input the features are (default: the head's)"),
    "--starts": ({"type": int, "default": 5, "metavar": "N"}, "of the probe (default 5)"),
    "--device": ({"default": "auto"}, "auto (default), cpu, cuda or cuda:N"),
    "--save": ({"metavar": "DIR"}, "write table, figure and JSON there; without it nothing is written"),
}


class Parser(argparse.ArgumentParser):
    """Refuses with one sentence that lists the options."""

    def error(self, message: str) -> None:
        options = ", ".join(option for action in self._actions for option in action.option_strings)
        sys.exit(f"evaluate: {message}; the options are {options}.")


def parser() -> Parser:
    about = "Do the features of your models retain a class that their outputs forget? Table, checks, figure."
    made = Parser(prog="python -m unlearn_utils evaluate", allow_abbrev=False, description=about)
    for names, (takes, told) in OPTIONS.items():
        made.add_argument(*names.split(), help=told, **takes)
    return made


def command(argv: list[str]) -> int:
    """``python -m unlearn_utils evaluate``: ends with one sentence where something cannot be used."""
    options = parser().parse_args(argv)
    try:
        if empty := [name for name, value in vars(options).items() if value in ("", [""])]:
            raise BadInput(f"--{empty[0]} names nothing; give it a value, or leave it out.")
        report = _of_files(options)
        print(report)
        if options.save is not None:
            report.save(options.save)
    except (BadInput, OSError) as problem:  # the latter of several lines where a process reads the images
        sys.exit(f"evaluate: {str(problem).strip().splitlines()[-1]}")
    return 0


def _by_name(options: argparse.Namespace) -> dict[str, str]:
    """Files of weights by their model's name, references first. Raises BadInput.

    The name is the one given, or what of the paths tells the unnamed ones apart.
    """
    pairs = [(role(name), file) for name in ROLES if (file := getattr(options, name))]
    pairs += [("", f) if Path(f).exists() or "=" not in f else tuple(f.split("=", 1)) for f in options.models]
    places = [str(Path(file).resolve()) for _, file in pairs]
    if twice := [place for place in places if places.count(place) > 1]:
        raise BadInput(f"{twice[0]} is given twice; name every file once.")
    unnamed = [Path(file) for name, file in pairs if not name]
    stems = [file.stem for file in unnamed]
    if len(set(stems)) < len(stems):
        common = set.intersection(*(set(file.parts) for file in unnamed))
        stems = ["/".join(part for part in file.parts if part not in common) for file in unnamed]
    names = [role(name or stems.pop(0)) for name, _ in pairs]
    if len(set(names)) < len(names):
        raise BadInput(f"the models' names {', '.join(names)} are not all different; name them, as NAME=FILE.")
    return dict(zip(names, (file for _, file in pairs)))


def _architectures(given: list[str], names: list[str]) -> dict[str, str]:
    """An architecture for every model: NAME=ARCHITECTURE for one, ARCHITECTURE for the others. Raises BadInput."""
    own = {role(name): value for name, equals, value in (text.partition("=") for text in given) if equals}
    found = dict.fromkeys(names, next((text for text in reversed(given) if "=" not in text), "")) | own
    if odd := [name for name in names if not found[name]] + [name for name in own if name not in names]:
        raise BadInput(f"--architecture must name one for {', '.join(names)}, as NAME=ARCHITECTURE; look at {odd[0]}.")
    return found


def _constants(named: str | None, size: int, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel, of their name, of numbers, or of the usual ones. Raises BadInput."""
    named = named or ("none" if channels != 3 else "cifar10" if size <= 64 else "imagenet")
    try:
        known = CONSTANTS | {"none": ([0.0] * channels, [1.0] * channels)}
        mean, std = known[named] if named in known else np.split(np.array(named.split(","), dtype=float), 2)
        if len(mean) not in (1, channels):
            raise ValueError
    except ValueError:
        raise BadInput(
            f"--normalise is '{named}', but it must be {', '.join(CONSTANTS)}, none, or mean and standard deviation "
            f"of each of {channels} channels, like 0.13,0.31."
        ) from None
    return tuple(map(float, mean)), tuple(map(float, std))


def _of_files(options: argparse.Namespace) -> Report:
    from PIL import Image

    if options.save is not None and Path(options.save).is_file():
        raise BadInput(f"--save {options.save} is a file; name a folder.")
    device, named = Machine.choose(options.device).devices[0], _by_name(options)
    architectures = _architectures(options.architecture, list(named))
    found, classes = class_folders(Path(options.data))
    nets, notes, channels = {}, [], set()
    for name, file in named.items():
        nets[name], told = files.built(architectures[name], Path(file), len(classes))
        channels.add(files.first_convolution(nets[name].parameters()).shape[1])
        notes += told
    channels = 1 if channels == {1} else 3
    with Image.open(next(iter(found["train"].values()))[0]) as image:
        size = options.size or min(224, *image.size)
    mean, std = _constants(options.normalise, size, channels)
    nets = {name: files.with_normalisation(net, mean, std).to(device) for name, net in nets.items()}
    parts = {
        part: DataLoader(FolderImages(listed, classes, size, channels), 256, num_workers=min(4, os.cpu_count() or 1))
        for part, listed in found.items()
    }
    report = evaluate(nets, **parts, forget=options.forget, features=options.features, starts=options.starts)
    shown = ", ".join(f"{value:g}" for value in (*mean, *std))
    report.notes.append(
        f"Images: {size} pixels, {channels} channels, mean and standard deviation {shown}, where a network does not "
        "normalise them itself; --size and --normalise say otherwise."
    )
    if classes != tuple(sorted(classes)):
        told = "Class folders are numbers and taken in numeric order; torchvision's ImageFolder takes 0, 1, 10, 11, 2."
        report.notes.append(told)
    report.notes.extend(notes)
    return report
