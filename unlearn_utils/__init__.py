"""The thin module of the companion. ``from unlearn_utils import evaluate`` is the door for other people's models."""


def __getattr__(name: str):
    """``evaluate`` and ``compare``, on demand: importing the package loads neither the study nor the views."""
    if name not in ("evaluate", "compare"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from . import evaluation

    return getattr(evaluation, name)
