"""Readings of what happened at the head: sentences on rows, biases and turns, written from the numbers, as Markdown."""

from __future__ import annotations

import math

import pandas as pd

from .evidence import DISTILLED
from .intervals import Interval, number
from .sentences import run_of


def turned_by(angles: dict[str, float], row: float, mean: float) -> str:
    """Angles between row and class mean (radians); by how much each of them turned from the Original on (degrees)."""
    listed = ", ".join(f"{name} {math.degrees(angle):.0f}°" for name, angle in angles.items())
    verdict = "the row turned more than the mean" if row > mean else "the mean turned no less than the row"
    return (f"Between row and class mean: {listed}. From the Original to Random Label the row turned by {row:.0f}° and the "
            f"class mean by {mean:.0f}°: {verdict}.")


def turns(rows: pd.DataFrame) -> str:
    """Method by method: did the row of the forget class turn further, or its class mean?"""
    run, said = run_of(rows), {"the row": [], "the class mean": [], "not told apart": []}
    for key in run.keys("linear"):
        row, mean = run.values(key, "row_turn_forget"), run.values(key, "mean_turn_forget")
        if not len(row) or run.unusable(key):
            continue
        further = Interval.of(row - mean)
        word = "the row" if further.above() else "the class mean" if further.below() else "not told apart"
        said[word].append(f"{run.label(key)} ({row.mean():.0f}° and {mean.mean():.0f}°)")
    listed = "; ".join(f"{word}: {', '.join(names)}" for word, names in said.items() if names)
    return "By how far row and class mean turned was not measured." if not listed else (
        f"From the Original on, row and class mean of the forget class both turn (degrees in brackets). What turned further: "
        f"{listed}. Where it is the class mean, the features moved and the classifier hardly did: misaligned, but not because "
        "the classifier turned away.")


def hidden_by(rows: pd.DataFrame) -> str:
    """Which part of the head makes the forget images lose: the row or the bias."""
    run, lost = run_of(rows), {"row": [], "bias": []}
    for key in [*run.keys("linear", ("method", "extension", "reference")), DISTILLED]:
        part = {part: run.values(key, f"margin_{part}_forget").mean() for part in lost}
        if sum(part.values()) < 0:
            lost[min(part, key=part.get)].append(f"{run.label(key)} ({number(part['row'], 1)}, {number(part['bias'], 1)})")
    said = [f"mostly by the {part}: {', '.join(names)}" for part, names in lost.items() if names]
    return f"Forget images lose to another class (mean margin of row, of bias) {'; '.join(said) or 'in no model'}."
