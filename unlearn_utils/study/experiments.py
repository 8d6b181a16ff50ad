"""What each notebook asks for, written once: the notebook takes its rows from here, and the command its tasks."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable

from ..attacks import FINE_TUNING
from ..heads import NORMALISATIONS
from ..methods import METHODS
from ..paths import Outputs
from ..settings import BadInput
from . import rows
from .cells import Task, look_again
from .rows import Asked
from .studies import REFERENCES, Models, Study, unlearned


@dataclass(frozen=True)
class Plan:
    """What a notebook asks for, by name, and where its figures and tables go."""

    study: Study
    build: Callable[[], dict[str, Asked]]
    outputs: Outputs

    def get(self, name: str) -> Any:
        """Rows (or layouts), computed now where they are not at hand; what was edited since the last time counts."""
        look_again()
        return self.build()[name].get()

    def packed(self, name: str) -> Any:
        """The same from the committed result pack alone; None where it lacks any of it."""
        return self.build()[name].packed()

    @property
    def tasks(self) -> list[Task]:
        return [task for asked in self.build().values() for task in asked.tasks]


PICTURED = [("original", "linear"), ("retrain", "linear"), ("random_label", "linear"), ("random_label", "cmf")]  # by t-SNE
PLANS: dict[str, Callable[..., Plan]] = {}


def plan(notebook: str):
    """Register what a notebook asks for. The defaults are the notebook's own parameters: others go to another folder."""

    def register(function: Callable[..., dict[str, Asked]]) -> Callable[..., Plan]:
        own = {name: p.default for name, p in inspect.signature(function).parameters.items() if name != "study"}

        def planned(study: Study, **given: Any) -> Plan:
            differs = {name: value for name, value in given.items() if value != own[name]}
            return Plan(study, partial(function, study, **given), study.outputs(differs))

        PLANS[notebook] = planned
        planned.own = own
        return planned

    return register


def own_head(study: Study) -> Models:
    """The methods with their own head, whole network; below it, where there is one, the same at a searched rate."""
    known = unlearned(study.profile, "linear") + unlearned(study.profile, "tuned")
    return sorted(known, key=lambda model: known.index((model[0], "linear")))


def misaligned_models(study: Study) -> Models:
    """These (paper, Table 1), and the distilled head."""
    distilled = [model for model in unlearned(study.profile, "classifier") if model[0] == "distilled_head"]
    return REFERENCES + own_head(study) + distilled


def changed_models(study: Study) -> Models:
    """Those of them whose features are not the Original's, beside one Retrain."""
    references = [model for model in REFERENCES if model[0] != "retrain_again"]
    return references + [model for model in own_head(study) if not METHODS[model[0]].head_only]


def classifier_only_models(study: Study) -> Models:
    """Whole network against classifier only (paper, Table 2)."""
    frozen = [model for v in ("classifier", "zeroed_classifier") for model in unlearned(study.profile, v)]
    methods = {method for method, _ in frozen}
    whole = [model for model in unlearned(study.profile, "linear") if model[0] in methods]
    return REFERENCES + whole + frozen


def cmf_models(study: Study) -> Models:
    """With CMF, as tuned without it, and without it at CMF's budget (paper, Table 3)."""
    with_cmf = unlearned(study.profile, "cmf")
    return [
        *REFERENCES, ("original", "cmf"), *((m, "linear") for m, _ in with_cmf),
        *unlearned(study.profile, "cmf_budget"), *with_cmf,
    ]


def attacked_models(study: Study) -> Models:
    """Whole network and CMF for every method that changes the features, classifier only for one
    (the features of all others are the Original's too), and the CMF models' own start."""
    return [
        *changed_models(study), ("random_label", "classifier"), ("original", "cmf"), *unlearned(study.profile, "cmf")
    ]


def fine_tuned_models(study: Study) -> Models:
    """Those of them that an attacker fine-tunes, and on which shuffled labels are the control: the ones that the figure
    draws. A fine-tuning costs the most and is the weakest evidence, so the others are attacked on their features alone."""
    drawn = [("original", "linear"), ("retrain", "linear"), ("random", "linear"), ("random_label", "linear"),
             ("unsir", "linear"), ("random_label", "classifier"), ("random_label", "cmf")]
    return [model for model in attacked_models(study) if model in drawn]


@plan("00_original_and_retrain")
def original_and_retrain(study: Study) -> dict[str, Asked]:
    return {"histories": rows.histories(study, REFERENCES), "references": rows.measurements(study, REFERENCES)}


@plan("01_misalignment_discovery")
def misalignment(
    study: Study, curve_method: str = "random_label", multi_forget_sets: list = []  # noqa: B006
) -> dict[str, Asked]:
    models = misaligned_models(study)
    return {
        "measured": rows.measurements(study, models), "costs": rows.costs(study, models),
        "curves": rows.curves(study, curve_method),
        "several": rows.measurements(study.several(multi_forget_sets), models),
    }


@plan("02_classifier_only")
def classifier_only(study: Study, etf_classes: int = 10, gamma: float = 0.5) -> dict[str, Asked]:
    return {"measured": rows.measurements(study, classifier_only_models(study))}


@plan("03_cmf_unlearning")
def cmf(
    study: Study, geometry_methods: list = ["random_label", "neggrad_plus"], tsne_points: int = 2000,  # noqa: B006
    multi_forget_sets: list = [],  # noqa: B006
) -> dict[str, Asked]:
    with_cmf, own = [("original", "cmf"), *unlearned(study.profile, "cmf")], study.profile.cmf_normalisation
    pictured = [model for model in cmf_models(study) if model in PICTURED]
    geometries = [(m, "cmf" if g == own else f"cmf_{g}") for m in geometry_methods for g in NORMALISATIONS]
    return {
        "measured": rows.measurements(study, cmf_models(study)),
        "geometries": rows.measurements(study.few, geometries),
        "several": rows.measurements(study.several(multi_forget_sets), REFERENCES + with_cmf),
        "layouts": rows.embeddings(study, pictured, tsne_points),
    }


@plan("04_relearning_attacks")
def relearning(study: Study, shots: list = [1, 2, 5, 10, 50], draws: int = 5) -> dict[str, Asked]:  # noqa: B006
    everywhere = {attack: attacked_models(study) for attack in ("few_shot", "prototype")}
    drawn = {attack: fine_tuned_models(study) for attack in ("few_shot_shuffled", *FINE_TUNING)}
    return {"attacked": rows.attacked(study, everywhere | drawn, shots, draws)}


@plan("05_scorecard")
def scorecard(study: Study, shots: list = [1, 2, 5, 10, 50], draws: int = 5) -> dict[str, Asked]:  # noqa: B006
    listed = misaligned_models(study) + classifier_only_models(study) + cmf_models(study) + attacked_models(study)
    return {
        "measured": rows.measurements(study, list(dict.fromkeys(listed))),
        "curves": rows.curves(study, "random_label"),
        "attacked": rows.attacked(study, {"few_shot": attacked_models(study)}, shots, draws),
    }


@plan("06_your_own_model")
def own_model(study: Study, ascent_epochs: int = 10, ascent_lr: float = 0.003) -> dict[str, Asked]:
    """Table 1 on few forget sets; the method of the notebook's own cell is beside it only there. Raises BadInput."""
    if type(ascent_epochs) is not int or ascent_epochs < 1:
        raise BadInput(f"ascent_epochs is {ascent_epochs!r}, but it must be a whole number from 1 on.")
    if type(ascent_lr) not in (int, float) or not 0 < ascent_lr < math.inf:
        raise BadInput(f"ascent_lr is {ascent_lr!r}, but it must be a number above 0.")
    return {"measured": rows.measurements(study.few, misaligned_models(study))}
