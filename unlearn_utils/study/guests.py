"""Methods and readouts that are not the package's own: where they come from, and how worker processes get them.

They are registered by the same decorators, ``@method`` and ``@readout``: in a notebook cell, in a module that is
imported before ``Study.of``, or in an installed package that names its module as an entry point:

    [project.entry-points."unlearn_utils.methods"]
    mine = "my_package.methods"
"""

from __future__ import annotations

import copyreg
import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from traceback import extract_tb
from typing import Any

import torch

from ..methods import METHODS
from ..models import in_short
from ..settings import BadInput
from . import code
from .readouts import READOUTS, Readout

GROUP = "unlearn_utils.methods"
for _module in (torch.classes, torch.ops):  # a function that names torch and some ``.classes`` is sent with this module
    copyreg.pickle(type(_module), lambda module: (importlib.import_module, (module.__name__,)))


@cache
def load() -> None:
    """Import what installed packages register, once. Raises BadInput for one that cannot be imported."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as reason:  # of somebody else's package
            raise BadInput(
                f"'{entry.value}', which {entry.dist.name if entry.dist else 'a package'} registers under {GROUP}, cannot "
                f"be imported ({type(reason).__name__}: {in_short(reason)}); mend or uninstall it."
            ) from None


def is_guest(thing: Any) -> bool:
    """Whether a method's class or a readout's function is defined outside of this package."""
    return not thing.__module__.startswith(f"{code.PACKAGE}.")


def place(error: BaseException) -> str:
    """Where in a guest's own code an error was raised, in brackets; empty where none of it ran."""
    for frame in reversed(extract_tb(error.__traceback__)):
        if "ipykernel" in frame.filename or frame.filename.startswith("<ipython"):
            return f" (line {frame.lineno} of its cell)"
        if not frame.filename.startswith("<") and code.is_theirs(frame.filename):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""


@dataclass(frozen=True)
class Guests:
    """What a worker process is sent: by name, with the version of its code where that lies in a notebook alone."""

    methods: dict[str, tuple[type, str]]
    readouts: dict[str, tuple[Readout, str]]

    @staticmethod
    def here() -> Guests:
        return Guests(
            {name: (cls, _version(cls)) for name, cls in METHODS.items() if is_guest(cls)},
            {name: (r, _version(r.function)) for name, r in READOUTS.items() if is_guest(r.function)},
        )

    def welcome(self) -> None:
        """Register them here. Of one that a file defines this process finds the version itself."""
        for name, (cls, version) in self.methods.items():
            METHODS[name] = cls
            if version:
                code.received(cls, version)
        for name, (readout, version) in self.readouts.items():
            READOUTS[name] = readout
            if version:
                code.received(readout.function, version)


def _version(thing: Any) -> str:
    return code.version(thing) if thing.__module__ == "__main__" else ""
