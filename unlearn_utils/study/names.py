"""What a user calls things: forget sets, seeds and models by name, and in what a study is not the profile's own."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
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
        if method not in METHODS:
            raise BadInput(f"there is no method '{method}'; choose from {', '.join(METHODS)}.")
        for kind in [own] if own else variants:
            if kind not in VARIANTS:
                raise BadInput(f"there is no variant '{kind}'; choose from {', '.join(VARIANTS)}.")
            if isinstance(models, str) or has_recipe(profile, method, kind):
                listed.append((method, kind))
            elif own or len(variants) == 1:
                print(f"Profile {profile.name} has no recipe for {method}.{kind}, so it is left out.")
    return listed


def has_recipe(profile: Profile, method: str, variant: str) -> bool:
    recipes = profile.recipes.get(METHODS[method].recipe_of, {})
    return method == "random" or all(name in recipes for name in needs(variant))


def sets_of(profile: Profile, forget: Any) -> list[tuple[int, ...]]:
    """Forget sets as sorted class numbers. Raises BadInput for what is no class."""
    lists = {"single": profile.runs, "multi": profile.multi_runs}
    if isinstance(forget, str) and forget.startswith("["):  # papermill -p hands over text
        forget = ast.literal_eval(forget)
    found = []
    for entry in [forget] if isinstance(forget, (str, int)) else forget:
        if isinstance(entry, str) and entry in lists:
            if not lists[entry]:
                raise BadInput(
                    f"profile '{profile.name}' has no list '{entry}'; list the forget sets, like [[0, 1], [2, 3]]."
                )
            found += [tuple(sorted(listed)) for block in lists[entry] for listed in block.forget_sets]
        else:
            group = entry if isinstance(entry, (list, tuple)) else [entry]
            found.append(tuple(sorted({number for name in group for number in _numbers(profile, name)})))
    return list(dict.fromkeys(found))


def _numbers(profile: Profile, named: Any) -> tuple[int, ...]:
    """The classes that a number, a name or the name of a coarse class stands for."""
    images = images_of(profile)
    if type(named) is int:
        return (named,)
    if named in images.classes:
        return (images.classes.index(named),)
    if named not in images.groups:
        known = ", ".join([*images.classes, *images.groups][:20])
        raise BadInput(f"there is no class {named!r} in profile '{profile.name}'; its classes are {known}.")
    return tuple(images.groups[named])


def seeds_of(seeds: Any) -> list[int]:
    """Whole numbers. Raises BadInput for anything else."""
    listed = [seeds] if isinstance(seeds, int) else list(seeds)
    if not all(type(seed) is int for seed in listed):
        raise BadInput(f"seeds is {seeds!r}, but it must be a list of whole numbers, like [0, 1].")
    return listed


def differences(profile: Profile, own: Profile) -> dict[str, Any]:
    """The settings in which a profile is not its own, by dotted key."""

    def flat(value: Any, path: str) -> dict[str, Any]:
        if dataclasses.is_dataclass(value):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if not isinstance(value, dict):
            return {path: value}
        return {k: v for key, part in value.items() for k, v in flat(part, f"{path}.{key}".lstrip(".")).items()}

    mine, usual = flat(profile, ""), flat(own, "")
    return {key: repr(mine.get(key)) for key in sorted(mine.keys() | usual.keys()) if mine.get(key) != usual.get(key)}
