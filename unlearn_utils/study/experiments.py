"""What each notebook needs: its models, and the tasks behind its figures and tables."""

from __future__ import annotations

from typing import Any, Callable

from .cells import Task, Trained
from ..heads import GEOMETRIES
from .readings import Measured
from .rows import REFERENCES, Models, Study, unlearned


def misaligned_models(study: Study) -> Models:
    """Notebook 01: the methods with their own head, whole network (paper, Table 1), and the distilled head."""
    distilled = [model for model in unlearned(study.profile, "classifier") if model[0] == "distilled_head"]
    return REFERENCES + unlearned(study.profile, "linear") + distilled


def changed_models(study: Study) -> Models:
    """Notebook 01's pictures: those of its models whose features are not the Original's."""
    return REFERENCES + [model for model in unlearned(study.profile, "linear") if model[0] not in ("svd", "prune")]


def classifier_only_models(study: Study) -> Models:
    """Notebook 02: whole network against classifier only (paper, Table 2)."""
    frozen = [model for v in ("classifier", "zeroed_classifier") for model in unlearned(study.profile, v)]
    methods = {method for method, _ in frozen}
    whole = [model for model in unlearned(study.profile, "linear") if model[0] in methods]
    return REFERENCES + whole + frozen


def cmf_models(study: Study) -> Models:
    """Notebook 03: with CMF, as tuned without it, and without it at CMF's budget (paper, Table 3)."""
    with_cmf = unlearned(study.profile, "cmf")
    return [
        *REFERENCES, ("original", "cmf"), *((m, "linear") for m, _ in with_cmf),
        *unlearned(study.profile, "cmf_budget"), *with_cmf,
    ]


def geometry_models(study: Study, methods: list[str]) -> Models:
    """Notebook 03: the methods with CMF in every geometry, at the same budget."""
    own = study.profile.cmf_geometry
    return [(m, "cmf" if g == own else f"cmf_{g}") for m in methods for g in GEOMETRIES]


def several_models(study: Study) -> Models:
    """Notebook 03: CMF where several classes are forgotten at once."""
    return [*REFERENCES, ("original", "cmf"), *unlearned(study.profile, "cmf")]


def attacked_models(study: Study) -> Models:
    """Notebook 04: whole network and CMF for every method that changes the features, classifier only for one
    (the features of all others are the Original's too), and the CMF models' own start."""
    return [
        *changed_models(study), ("random_label", "classifier"), ("original", "cmf"), *unlearned(study.profile, "cmf")
    ]


def all_models(study: Study) -> Models:
    """Notebook 05: every model of the study."""
    listed = misaligned_models(study) + classifier_only_models(study) + cmf_models(study)
    return list(dict.fromkeys(listed + attacked_models(study)))


def _cells(study: Study, models: Models) -> list:
    return [study.cell(seed, forget, *model) for model in models for seed, forget in study.pairs]


def _measured(study: Study, models: Models) -> list[Task]:
    return [Measured(cell) for cell in _cells(study, models)]


def _original_and_retrain(study: Study, given: dict[str, Any]) -> list[Task]:
    return [Trained(cell) for cell in _cells(study, REFERENCES)] + _measured(study, REFERENCES)


def _misalignment(study: Study, given: dict[str, Any]) -> list[Task]:
    models = misaligned_models(study)
    curves = [task for *_, task in study.curve_tasks(given["curve_method"])]
    several = _measured(study.several(given["multi_forget_sets"]), models)
    return _measured(study, models) + curves + several + study.embedding_tasks(changed_models(study), given["tsne_points"])


def _classifier_only(study: Study, given: dict[str, Any]) -> list[Task]:
    return _measured(study, classifier_only_models(study))


def _cmf(study: Study, given: dict[str, Any]) -> list[Task]:
    pictures = [("retrain", "linear"), ("original", "cmf"), *unlearned(study.profile, "cmf")]
    geometries = _measured(study.few, geometry_models(study, given["geometry_methods"]))
    several = _measured(study.several(given["multi_forget_sets"]), several_models(study))
    return (
        _measured(study, cmf_models(study)) + geometries + several
        + study.embedding_tasks(pictures, given["tsne_points"])
    )


def _relearning(study: Study, given: dict[str, Any]) -> list[Task]:
    return [task for *_, task in study.attack_tasks(attacked_models(study), given["shots"], given["draws"])]


def _scorecard(study: Study, given: dict[str, Any]) -> list[Task]:
    curves = [task for *_, task in study.curve_tasks("random_label")]
    listed = study.attack_tasks(attacked_models(study), given["shots"], given["draws"], ("few_shot",))
    return _measured(study, all_models(study)) + curves + [task for *_, task in listed]


PLANS: dict[str, Callable[[Study, dict[str, Any]], list[Task]]] = {
    "00_original_and_retrain": _original_and_retrain,
    "01_misalignment_discovery": _misalignment,
    "02_classifier_only": _classifier_only,
    "03_cmf_unlearning": _cmf,
    "04_relearning_attacks": _relearning,
    "05_scorecard": _scorecard,
}
