"""Readings of what happened at the head: sentences on rows, biases and turns, written from the numbers, as Markdown."""

from __future__ import annotations

import math

import pandas as pd

from .evidence import DISTILLED, ORIGINAL, RANDOM, RETRAIN, frozen
from .intervals import FEWEST, Interval, number
from .sentences import run_of


def turned_by(angles: dict[str, float], row: float, mean: float) -> str:
    """Angles between row and class mean (radians); by how much each of them turned from the Original on (degrees)."""
    listed = ", ".join(f"{name} {math.degrees(angle):.0f}°" for name, angle in angles.items())
    verdict = "the row turned further" if row > mean else "the class mean turned further"
    return (f"Between row and class mean: {listed}. From the Original to Random Label the row turned by {row:.0f}° and the "
            f"class mean by {mean:.0f}°: {verdict}.")


def turns(rows: pd.DataFrame) -> str:
    """Method by method: did the row of the forget class turn further, or its class mean?"""
    run, said = run_of(rows), {"the row": [], "the class mean": [], "not told apart": []}
    for key in run.keys("linear"):
        row, mean = run.values(key, "row_turn_forget"), run.values(key, "mean_turn_forget")
        if not len(row) or frozen(key) or run.unusable(key):  # a frozen encoder's mean cannot turn
            continue
        further = Interval.of(row - mean)
        word = "the row" if further.above() else "the class mean" if further.below() else "not told apart"
        kept = [run.values(key, f"{part}_turn_retain").mean() for part in ("row", "mean")]
        said[word].append(f"{run.label(key)} ({row.mean():.0f}° and {mean.mean():.0f}°, retain {kept[0]:.0f}° and {kept[1]:.0f}°)")
    listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in said.items() if names)
    return "By how far row and class mean turned was not measured." if not listed else (
        "By how far row and class mean of the forget class turned from the Original's, and those of the retain classes. What "
        f"turned further: {listed}. Where it is the class mean, the features turned further than the classifier's row did. "
        f"({by(rows)})")


def by(rows: pd.DataFrame) -> str:
    """What tells two values apart: as many forget sets as there are decide how."""
    return "Each by its own 95 % interval." if rows.forget.nunique() >= FEWEST else "Told apart where all forget sets agree."


def as_in_retrain(rows: pd.DataFrame) -> str:
    """Whether misalignment alone tells a model that hides from one that never saw the class."""
    run, column = run_of(rows), "alignment_forget"
    keys = [key for key in run.keys("linear") if not run.unusable(key) and len(run.values(key, column))]
    means = ", ".join(f"{run.label(key)} {run.values(key, column).mean():.2f}" for key in (ORIGINAL, RETRAIN, RANDOM, *keys))
    less = [run.label(key) for key in keys if Interval.of(run.gap(key, RETRAIN, column)).above()]
    but = (": a low cosine alone tells of no hiding, only beside features that read the class better than Retrain's"
           if less else "")
    return (f"Cosine of row and class mean, forget class: {means}. In Retrain, which never saw the class, the two are "
            f"further apart than in {', '.join(less) or 'none of the methods'}{but}. ({by(rows)})")


def hidden_by(rows: pd.DataFrame) -> str:
    """Which part of the head makes the forget images lose: the row or the bias."""
    run, lost = run_of(rows), {"row": [], "bias": []}
    for key in [*run.keys("linear", ("method", "extension", "reference")), DISTILLED]:
        part = {part: run.values(key, f"margin_{part}_forget").mean() for part in lost}
        if sum(part.values()) < -0.05:  # less than what is printed
            lost[min(part, key=part.get)].append(f"{run.label(key)} ({number(part['row'], 1)}, {number(part['bias'], 1)})")
    said = [f"mostly by the {part}: {', '.join(names)}" for part, names in lost.items() if names]
    return f"Forget images lose to another class (mean margin of row, of bias) {'; '.join(said) or 'in no model'}."
