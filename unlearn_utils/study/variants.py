"""The variants of a method: what is trained of its model, which head it has, and whose recipe it takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ..methods import METHODS
from ..settings import Recipe
from .profiles import Profile


@dataclass(frozen=True)
class Variant:
    label: str = ""  # follows the method's label in tables
    head: str = "linear"  # or "cmf"
    encoder_frozen: bool = False
    zeroed: bool = False
    geometry: str = ""  # of a CMF head; empty: that of the profile
    recipe: str = ""  # the variant whose recipe it takes; empty: it has its own
    constants: str = ""  # the variant whose constants of the method it takes; empty: those of the recipe


VARIANTS = {
    "linear": Variant(),
    # A second row for a method whose output does not forget at the paper's rate: its own rate, from the profile's search.
    "searched": Variant(" (searched)"),
    "cmf": Variant(" + CMF", head="cmf"),
    "cmf_centred": Variant(" + CMF (centred)", head="cmf", geometry="centred", recipe="cmf"),
    "cmf_raw": Variant(" + CMF (raw)", head="cmf", geometry="raw", recipe="cmf"),
    "cmf_log_softmax": Variant(" + CMF (log_softmax)", head="cmf", geometry="log_softmax", recipe="cmf"),
    # The linear head with everything that the CMF recipe says of optimisation: rate, schedule, epochs, clipping.
    "cmf_budget": Variant(" at CMF's budget", recipe="cmf", constants="linear"),
    "classifier": Variant(", classifier only", encoder_frozen=True),
    "zeroed_classifier": Variant(", zeroed classifier only", encoder_frozen=True, zeroed=True),
}


def needs(variant: str) -> tuple[str, ...]:
    """The variants whose recipes a variant is made of."""
    chosen = VARIANTS[variant]
    return (chosen.recipe or variant, *filter(None, [chosen.constants]))


def recipe_of(profile: Profile, method: str, variant: str, several: bool = False) -> Recipe:
    """The recipe of a method and variant, for one forget class or several. Raises BadInput where there is none."""
    recipe, *constants = (profile.recipe(METHODS[method].recipe_of, name, several) for name in needs(variant))
    return dataclasses.replace(recipe, constants=constants[0].constants) if constants else recipe
