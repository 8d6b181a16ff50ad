"""The thin module of the companion. ``from unlearn_utils import evaluate`` is the door for other people's models."""

_DOORS = {"evaluate": "evaluation", "Arrays": "arrays", "Watch": "watch", "compare": "views.compare"}


def __getattr__(name: str):
    """The doors, on demand: importing the package loads neither the study nor the views."""
    if name not in _DOORS:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_DOORS[name]}"), name)
