"""Unlearning methods: one short file each, reading like the method's equation.

A new method is a new file in this folder, or a class in a notebook cell: a frozen dataclass, whose fields are the
method's constants, derived from ``Method`` and registered with ``@method("name", "Label")``; and a recipe in a profile.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from ..settings import BadInput, Recipe, read_table, refuse_unknown

METHODS: dict[str, type] = {}


class Method:
    """What a method may define. One without ``losses`` changes the model in closed form, in ``begin``."""

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


TRAITS = {  # what ``@method`` may say besides, and what holds where it does not
    "citation": "",
    "start": "original",  # the model it changes; "initialisation": that of the original, same seed
    "sees_all": False,  # it is the same for every forget set
    "role": "",  # "method" (of the paper), "extension" or "reference"; empty: by its start, the first or the last
    "variants": (),  # those it can be used with; empty: all
    "head_only": False,  # it changes a linear head alone: its features are those of its start
    "recipe_of": "",  # the method whose recipe it takes; empty: its own
    "other_seed": 0,  # added to the seed of its initialisation
}


def method(name: str, label: str, **traits: Any):
    """Register a method under ``name``; ``label`` is what tables show, ``traits`` are those of ``TRAITS``.

    Raises BadInput for a name or label that is none or another method's.
    """

    def register(cls: type) -> type:
        if not str(name).isidentifier() or not isinstance(label, str):
            raise BadInput(f"@method({name!r}, {label!r}) needs a name in one word and a label, like 'mine', 'Mine'.")
        check_free("method", name, METHODS.get(name), cls)
        if any(known.label == label and other != name for other, known in METHODS.items()):
            raise BadInput(f"method '{name}' has the label '{label}' of another method; tables need one of its own.")
        refuse_unknown(traits, TRAITS, f"method '{name}': ")
        for trait, value in ({"name": name, "label": label} | TRAITS | traits).items():
            setattr(cls, trait, value)
        cls.recipe_of = cls.recipe_of or name
        cls.variants = cls.variants or (("linear", "tuned") if cls.head_only else ())
        cls.role = cls.role or ("reference" if cls.start == "initialisation" else "method")
        cls.closed_form = cls.losses is Method.losses
        METHODS[name] = cls
        return cls

    return register


def check_free(kind: str, name: str, known: Any, new: Any) -> None:
    """Raise BadInput where a name is another module's; a cell that is run again may define its own anew."""
    if known is not None and known.__module__ != new.__module__:
        raise BadInput(f"there is a {kind} '{name}' in {known.__module__} already; take another name.")


def check(name: str, variant: str, recipe: Recipe) -> None:
    """Raise BadInput unless the method can be used with this variant and recipe."""
    build(name, recipe.constants)
    cls = METHODS[name]
    if cls.variants and variant not in cls.variants:
        raise BadInput(f"method '{name}' cannot be used with '{variant}', only with {', '.join(cls.variants)}.")
    if cls.closed_form != (recipe.epochs == 0):
        needs = "is a closed form: its recipe has no" if cls.closed_form else f"trains: its recipe ('{variant}') needs"
        raise BadInput(f"method '{name}' {needs} epochs and lr.")


def build(name: str, constants: dict[str, Any]) -> Method:
    """The method ``name`` with these constants. Raises BadInput for an unknown name or constant."""
    if name not in METHODS:
        raise BadInput(f"there is no method '{name}'; choose one of {', '.join(METHODS)}.")
    return read_table(METHODS[name], constants, f"method '{name}': ")


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
