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
    normalisation: str = ""  # of the features, in a CMF head; empty: that of the profile
    recipe: str = ""  # the variant whose recipe it takes; empty: it has its own
    constants: str = ""  # the variant whose constants of the method it takes; empty: those of the recipe
    on_retrain: bool = False  # it changes Retrain, not the Original


VARIANTS = {
    "linear": Variant(),
    # Where the output does not forget at the published learning rate: the rate that the profile's search found.
    "tuned": Variant(" (tuned)"),
    "cmf": Variant(" + CMF", head="cmf"),
    "cmf_none": Variant(" + CMF (no normalisation)", head="cmf", normalisation="none", recipe="cmf"),
    "cmf_unit_length": Variant(" + CMF (unit length)", head="cmf", normalisation="unit_length", recipe="cmf"),
    "cmf_log_softmax": Variant(" + CMF (log-softmax)", head="cmf", normalisation="log_softmax", recipe="cmf"),
    # The linear head with everything that the CMF recipe says of optimisation: rate, schedule, epochs, clipping.
    "cmf_budget": Variant(" (matched budget)", recipe="cmf", constants="linear"),
    "classifier": Variant(", classifier only", encoder_frozen=True),
    "zeroed_classifier": Variant(", zeroed classifier only", encoder_frozen=True, zeroed=True),
    # A sham: Retrain has nothing to forget, so what a method changes there is damage.
    "sham": Variant(" on Retrain", recipe="linear", on_retrain=True),
}

# Names of variants and normalisations in questions and random generators, where they are those of earlier results.
RECORDED = {
    "tuned": "searched",
    "cmf_none": "cmf_centred",
    "cmf_unit_length": "cmf_raw",
    "none": "centred",
    "unit_length": "raw",
}


def recorded(name: str | None) -> str | None:
    """The name of a variant or normalisation in questions and random generators."""
    return RECORDED.get(name, name)


def needs(variant: str) -> tuple[str, ...]:
    """The variants whose recipes a variant is made of."""
    chosen = VARIANTS[variant]
    return (chosen.recipe or variant, *filter(None, [chosen.constants]))


def recipe_of(profile: Profile, method: str, variant: str, several: bool = False) -> Recipe:
    """The recipe of a method and variant, for one forget class or several. Raises BadInput where there is none."""
    recipe, *constants = (profile.recipe(METHODS[method].recipe_of, name, several) for name in needs(variant))
    return dataclasses.replace(recipe, constants=constants[0].constants) if constants else recipe
