"""``from unlearn_utils import Study, METHODS, compare, evaluate, Watch`` is all that one has to know."""

from importlib import import_module

_DOORS = {
    "Study": "study.study",
    "METHODS": "methods",
    "compare": "views.compare",
    "evaluate": "evaluation",
    "Arrays": "arrays",
    "Report": "views.own_models",
    "Probe": "settings",
    "Watch": "watch",
}


def __getattr__(name: str):
    """On demand: importing the package loads neither the study nor the views."""
    if name not in _DOORS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f".{_DOORS[name]}", __name__), name)
