"""The picture of the finding: what output, NCC and probe read of the forgotten class, one row per method."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..methods import METHODS
from ..settings import READOUTS
from .style import READOUT_STYLE, REFERENCE_DASHES, canvas, finish, mark, said

BESIDE = {"output": 0, "ncc": -0.14, "probe": 0.14}  # so that equal values stay visible
BAND = "#d9d9d9"
LONGEST = 22  # characters of a name on one line


def dumbbell(rows: pd.DataFrame, forget: tuple[int, ...] | None = None, models: list[str] | None = None,
             source: str = "") -> Figure:
    """Accuracy on the forgotten class of every model: output hollow, NCC and probe filled, single classes as small dots.

    ``rows`` are ``measurements`` (a row per model, seed and forget set; marks are means over forget sets), or with
    ``forget`` those of ``evaluate`` (a row per model; dots are the forgotten classes, where there are several).
    Retrain's band reaches from its NCC to its probe; the line is the Original's output. ``models`` names the rows;
    without it they are Retrain, the paper's methods and the untrained network, or all that ``evaluate`` read.
    """
    shown = [name for name in models or _default(rows, forget) if name in set(rows.model)]
    points = pd.concat([_points(rows[rows.model == name], forget) for name in shown], ignore_index=True)
    names = [_lines(name) for name in shown]
    figure, axis = canvas((0.31 if any("\n" in name for name in names) else 0.235) * len(shown) + 0.45)
    handles = _references(axis, rows, forget)
    for place, name in enumerate(shown):
        _row(axis, place, points[points.model == name])
    axis.set_yticks(range(len(shown)), names, linespacing=0.95)
    axis.set(xlim=(-3, 103), ylim=(len(shown) - 0.4, -0.6))
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel(f"accuracy on the forgotten class{'es' if forget and len(forget) > 1 else ''} (%)", loc="right")
    marks = [mark(colour, marker, READOUTS[readout], markersize=5.5, markerfacecolor=_face(readout))
             for readout, (colour, marker) in READOUT_STYLE.items()]
    dots = [mark("#777777", ".", "single class", markersize=4)] if points["class"].notna().any() else []
    return finish(figure, said(source, rows) if forget is None else source, [*marks, *handles, *dots],
                  points=points if forget is None else None)


def _default(rows: pd.DataFrame, forget: tuple[int, ...] | None) -> list[str]:
    if forget is not None:
        return list(rows.model)
    first = rows[rows.variant == "linear"].drop_duplicates("model")
    paper = [name for name in first.method.unique() if getattr(METHODS.get(name), "role", "") == "method"]
    return [model for method in ("retrain", *paper, "random") for model in first.model[first.method == method]]


def _points(rows: pd.DataFrame, forget: tuple[int, ...] | None) -> pd.DataFrame:
    """Percent: the mean of every readout (class NaN), and of every class where there are several."""
    found = []
    for readout in READOUT_STYLE:
        column, of_class = f"{readout}_forget", pd.Series(dtype=float)
        of_class = rows.groupby("forget", sort=False)[column].mean() if forget is None else of_class
        mean = of_class.mean() if forget is None else rows[column].iloc[0]
        if forget and len(forget) > 1 and f"{readout}_by_class" in rows:
            of_class = pd.Series(np.array(rows[f"{readout}_by_class"].iloc[0])[list(forget)], forget)
        found.append({"readout": readout, "class": np.nan, "accuracy": 100 * mean})
        if len(of_class) > 1:
            found += [{"readout": readout, "class": name, "accuracy": 100 * value} for name, value in of_class.items()]
    return pd.DataFrame(found).assign(model=rows.model.iloc[0])[["model", "readout", "class", "accuracy"]]


def _row(axis, place: int, points: pd.DataFrame) -> None:
    means = points[points["class"].isna()].set_index("readout").accuracy
    axis.plot([means.min(), means.max()], [place, place], color="#aaaaaa", linewidth=1.6, zorder=1, solid_capstyle="butt")
    axis.plot(means["output"], place, "o", color="white", markersize=5.5, zorder=3, clip_on=False)  # the ring is empty
    for readout, (colour, marker) in READOUT_STYLE.items():
        dots = points[(points.readout == readout) & points["class"].notna()].accuracy
        axis.plot(dots, np.full(len(dots), place + 2 * BESIDE[readout]), ".", color=colour, markersize=3, alpha=0.6,
                  markeredgewidth=0, zorder=2)
        axis.plot(means[readout], place + BESIDE[readout], marker, color=colour, markersize=5.5, markeredgewidth=1.2,
                  markerfacecolor=_face(readout), zorder=4 + (readout == "output"), clip_on=False)


def _lines(name: str) -> str:
    """A long name on several lines, broken after its commas first."""
    parts = name.split(", ") if len(name) > LONGEST else [name]
    return ",\n".join(textwrap.fill(part, LONGEST) for part in parts).replace("$", r"\$")  # no formula


def _face(readout: str) -> str:
    """The output's mark is hollow: it lies on top, and what is under it shows."""
    return "none" if readout == "output" else READOUT_STYLE[readout][0]


def _references(axis, rows: pd.DataFrame, forget: tuple[int, ...] | None) -> list:
    """Retrain's band and the Original's line, for the legend."""
    handles, linear = [], rows if "variant" not in rows else rows[rows.variant == "linear"]

    def level(method: str, readout: str) -> float:
        of = linear[linear.method == method]
        return 100 * (of.groupby("forget")[f"{readout}_forget"].mean() if forget is None else of[f"{readout}_forget"]).mean()

    if (linear.method == "retrain").any():
        ends = sorted(level("retrain", readout) for readout in ("ncc", "probe"))
        handles.append(axis.axvspan(*ends, color=BAND, linewidth=1, zorder=0, label="Retrain, NCC to probe"))
    if (linear.method == "original").any():
        handles.append(axis.axvline(level("original", "output"), color="black", linestyle=REFERENCE_DASHES["original"],
                                    linewidth=0.9, zorder=0, label="Original, output"))
    return handles
