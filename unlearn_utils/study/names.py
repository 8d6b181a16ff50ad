"""What a user calls things: forget sets and models by name, and in what a study is not the profile's own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..methods import METHODS
from ..settings import BadInput
from .cells import images_of
from .profiles import Profile
from .variants import VARIANTS, needs

Models = str | Sequence[str]


def models_of(profile: Profile, models: Models, variant: Models = "linear") -> list[tuple[str, str]]:
    """(method, variant) of "salun" or "salun.cmf"; of several variants, those for which the profile has a recipe.

    Raises BadInput for an unknown name.
    """
    variants, listed = [variant] if isinstance(variant, str) else list(variant), []
    for name in [models] if isinstance(models, str) else models:
        method, _, own = name.partition(".")
        for kind in [own] if own else variants:
            for what, given, known in (("method", method, METHODS), ("variant", kind, VARIANTS)):
                if given not in known:
                    raise BadInput(f"there is no {what} '{given}'; choose from {', '.join(known)}.")
            if isinstance(models, str) or has_recipe(profile, method, kind):
                listed.append((method, kind))
            elif own or len(variants) == 1:
                print(f"Profile {profile.name} has no recipe for {method}.{kind}, so it is left out.")
    return listed


def has_recipe(profile: Profile, method: str, variant: str) -> bool:
    recipes = profile.recipes.get(METHODS[method].recipe_of, {})
    return method == "random" or all(name in recipes for name in needs(variant))


def sets_of(profile: Profile, forget: list) -> list[tuple[int, ...]]:
    """Forget sets as sorted class numbers. Raises BadInput for what is no class."""
    lists, found = {"single": profile.runs, "multi": profile.multi_runs}, []
    for entry in forget:
        if isinstance(entry, str) and entry in lists:
            if not lists[entry]:
                raise BadInput(f"profile '{profile.name}' has no list '{entry}'; list the sets, like [[0, 1], [2, 3]].")
            found += [tuple(sorted(listed)) for block in lists[entry] for listed in block.forget_sets]
        else:
            group = entry if isinstance(entry, (list, tuple)) else [entry]
            found.append(tuple(sorted({number for name in group for number in _numbers(profile, name)})))
    return list(dict.fromkeys(found))


def _numbers(profile: Profile, named: Any) -> tuple[int, ...]:
    """The classes that a number, a name or the name of a coarse class stands for."""
    images = images_of(profile)
    known = images.groups | {name: (number,) for number, name in enumerate(images.classes)}
    if named in known:
        return tuple(known[named])
    if type(named) is int or str(named).isdecimal():
        return (int(named),)
    raise BadInput(f"there is no class {named!r} in '{profile.name}'; its classes are {', '.join(list(known)[:20])}.")


def differences(profile: Profile, own: Profile) -> dict[str, Any]:
    """The settings in which a profile is not its own, by dotted key."""

    def flat(table: dict, path: str = "") -> dict[str, Any]:
        parts = [flat(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}": v} for k, v in table.items()]
        return dict(ChainMap(*parts))

    mine, usual = flat(asdict(profile)), flat(asdict(own))
    return {key: repr(mine.get(key)) for key in sorted(mine.keys() | usual.keys()) if mine.get(key) != usual.get(key)}
