"""Unlearning methods: one short file each, reading like the method's equation.

A method is a frozen dataclass. Its fields are its constants; ``losses(run, epoch)`` yields the loss of every
optimiser step of one epoch. The training loop back-propagates it, clips, steps and clears the gradients.
A new method is a new file in this folder that calls ``@method("name", "Label")``, and a recipe in a profile.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from ..profiles import BadInput

METHODS: dict[str, type] = {}


def method(name: str, label: str, start: str = "original", sees_all: bool = False):
    """Register a method under ``name``; ``label`` is what tables show.

    ``start`` is the model it changes: "original", or "initialisation" (that of the original, same seed).
    ``sees_all`` marks a model that is the same whatever is to be forgotten.
    """

    def register(cls: type) -> type:
        cls.name, cls.label, cls.start, cls.sees_all = name, label, start, sees_all
        METHODS[name] = cls
        return cls

    return register


def build(name: str, constants: dict[str, Any]):
    """The method ``name`` with these constants. Raises BadInput for an unknown name or constant."""
    if name not in METHODS:
        raise BadInput(f"there is no method '{name}'; choose one of {', '.join(METHODS)}.")
    allowed = METHODS[name].__dataclass_fields__
    for key in constants:
        if key not in allowed:
            raise BadInput(
                f"method '{name}' has no constant '{key}'; besides the settings of a recipe it has "
                f"{', '.join(allowed) or 'none'}."
            )
        kind = allowed[key].type
        if type(constants[key]) not in (kind, int):
            raise BadInput(
                f"method '{name}': the constant '{key}' is {constants[key]!r}, but it must be of type {kind.__name__}."
            )
    return METHODS[name](**constants)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
