"""Unlearning methods: one short file each, reading like the method's equation.

A new method is a new file in this folder: a frozen dataclass, whose fields are the method's constants, derived
from ``Method`` and registered with ``@method("name", "Label")``; and a recipe in a profile.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from typing import Any, Iterable, get_type_hints

from ..settings import BadInput, Recipe

METHODS: dict[str, type] = {}


class Method:
    """What a method may define. One without ``losses`` changes the model in closed form, in ``begin``."""

    positive = ()  # names of the constants that may not be 0 either; none may be negative or infinite

    def phases(self, recipe: Recipe) -> list[Recipe]:
        """The recipe of each optimiser that the method uses, one after the other."""
        return [recipe]

    def begin(self, run) -> Any:
        """Done once, before the first epoch; what it returns is ``run.begun``."""

    def losses(self, run, epoch: int) -> Iterable:
        """The loss of every optimiser step of one epoch.

        The training loop back-propagates each, clips, steps and clears the gradients.
        """
        return iter(())


ROLES = ("method", "extension", "reference")


def method(
    name: str = "", label: str = "", start: str = "original", sees_all: bool = False, role: str = "",
    variants: tuple = (), why: str = "", head_only: bool = False, recipe_of: str = "", other_seed: int = 0,
):
    """Register a method under ``name``; ``label`` is what tables show.

    ``start`` is the model it changes: "original", or "initialisation" (that of the original, same seed).
    ``sees_all`` marks a model that is the same whatever is to be forgotten. ``role`` is "method" (of the paper),
    "extension", or "reference", as which every network trained from the initialisation counts. ``variants`` are
    those it can be used with (empty: all), and ``why`` says why it can be no other. ``head_only`` marks a method
    that leaves the encoder as it is, so that its features are those of the model it starts from. ``recipe_of`` names the
    method whose recipe it takes, and ``other_seed`` is added to the seed of its initialisation. Raises BadInput.
    """
    if not (isinstance(name, str) and name and isinstance(label, str) and label):
        raise BadInput("@method needs a name and a label; write @method('name', 'Label') above the class.")

    if not name.isidentifier():
        raise BadInput(f"a method's name is '{name}', but it must be one word of letters, digits and _, as in a profile.")
    for what, given, allowed in (("start", start, ("original", "initialisation")), ("role", role, ("", *ROLES))):
        if given not in allowed:
            raise BadInput(f"{what} of method '{name}' is {given!r}, but it must be one of {', '.join(map(repr, allowed))}.")

    def register(cls: type) -> type:
        check_free("method", name, METHODS.get(name), cls)
        for other, known in METHODS.items():
            if known.label == label and other != name:
                raise BadInput(f"the label '{label}' of method '{name}' is that of method '{other}' already; tables "
                               "need another, or restart the kernel where the other is an older version.")
        cls.name, cls.label, cls.start, cls.sees_all, cls.variants, cls.why = name, label, start, sees_all, variants, why
        cls.head_only, cls.recipe_of, cls.other_seed = head_only, recipe_of or name, other_seed
        cls.role = role or ("reference" if start == "initialisation" else "method")
        cls.closed_form = cls.losses is Method.losses
        METHODS[name] = cls
        return cls

    return register


def check_free(kind: str, name: str, known: Any, new: Any) -> None:
    """Raise BadInput where a name is another module's; a cell that is run again may define its own anew."""
    if known is not None and known.__module__ != new.__module__:
        raise BadInput(f"there is a {kind} '{name}' in {known.__module__} already; give that of {new.__module__} "
                       "another name.")


def check(name: str, variant: str, recipe: Recipe) -> None:
    """Raise BadInput unless the method can be used with this variant and recipe."""
    build(name, recipe.constants)
    cls = METHODS[name]
    if cls.variants and variant not in cls.variants:
        raise BadInput(f"method '{name}' cannot be used with '{variant}', only with {', '.join(cls.variants)}: {cls.why}.")
    if cls.closed_form and recipe.epochs:
        raise BadInput(f"method '{name}' is a closed form: its recipe takes its constants, but no epochs and no lr.")
    if not cls.closed_form and not recipe.epochs:
        raise BadInput(f"method '{name}' trains: its recipe ('{variant}') needs epochs and lr.")


def build(name: str, constants: dict[str, Any]) -> Method:
    """The method ``name`` with these constants. Raises BadInput for an unknown name or constant."""
    if name not in METHODS:
        raise BadInput(f"there is no method '{name}'; choose one of {', '.join(METHODS)}.")
    hints = get_type_hints(METHODS[name])  # a field's own type is only text where annotations are postponed
    allowed = {field.name: hints[field.name] for field in dataclasses.fields(METHODS[name])}
    for key, value in constants.items():
        if key not in allowed:
            raise BadInput(
                f"method '{name}' has no constant '{key}'; besides the settings of a recipe it has "
                f"{', '.join(allowed) or 'none'}."
            )
        if type(value) is not allowed[key] and (type(value), allowed[key]) != (int, float):
            raise BadInput(
                f"method '{name}': the constant '{key}' is {value!r}, but it must be of type {allowed[key].__name__}."
            )
        if type(value) in (int, float):
            _check_size(name, key, value)
    return METHODS[name](**constants)


def _check_size(name: str, key: str, value: float) -> None:
    """Raise BadInput for a constant that is no number, infinite, negative, or 0 where it must be positive."""
    above_zero = key in METHODS[name].positive
    if not math.isfinite(value) or value < 0 or above_zero and value == 0:
        least = "positive" if above_zero else "at least 0"
        raise BadInput(f"method '{name}': the constant '{key}' is {value!r}, but it must be finite and {least}.")


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
