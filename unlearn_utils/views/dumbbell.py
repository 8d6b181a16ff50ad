"""The picture of the finding: what output, NCC and probe read of the forgotten class, one row per method."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..methods import METHODS
from ..settings import READOUTS
from .evidence import OWN_HEAD
from .intervals import FEWEST, Interval
from .style import READOUT_STYLE, REFERENCE_DASHES, canvas, finish, mark, said

BESIDE = {"output": 0, "ncc": -0.14, "probe": 0.14}  # so that equal values stay visible
LEGEND = {"ncc": "NCC", "probe": "probe"}
LONGEST = 22  # characters of a name on one line


def dumbbell(rows: pd.DataFrame, forget: tuple[int, ...] | None = None, models: list[str] | None = None,
             source: str = "") -> Figure:
    """Accuracy on the forgotten class of every model: output hollow, NCC and probe filled, single classes as small dots.

    ``rows`` are ``measurements`` (a row per model, seed and forget set; marks are means over forget sets), or with
    ``forget`` those of ``evaluate`` (a row per model; dots are the forgotten classes, where there are several).
    Two bands, each in the colour of its readout, are Retrain's NCC and probe: the mean over forget sets and its 95 %
    interval, a line where there is one set. The dashed line is the Original's output. ``models`` names the rows; without
    it they are the paper's methods by their NCC, then Retrain and the untrained network, or all that ``evaluate`` read.
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
    sets = rows.forget[rows.method == "retrain"].nunique() if "forget" in rows else 0
    meant = f"Bands: Retrain's {'mean with its 95 % interval' if sets >= FEWEST else 'range'} over forget sets." * (sets > 1)
    return finish(figure, said(source, rows, meant) if forget is None else source, [*marks, *handles, *dots],
                  points=points if forget is None else None)


def _default(rows: pd.DataFrame, forget: tuple[int, ...] | None) -> list[str]:
    if forget is not None:
        return list(rows.model)
    first = rows[rows.variant.isin(OWN_HEAD)].drop_duplicates("model")
    paper = [name for name in first.method.unique() if getattr(METHODS.get(name), "role", "") == "method"]
    by_ncc = rows[rows.variant == "linear"].groupby("method").ncc_forget.mean()
    paper = sorted(paper, key=lambda method: -by_ncc[method] if by_ncc[method] == by_ncc[method] else 1)
    return [model for method in (*paper, "retrain", "random") for model in first.model[first.method == method]]


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
        axis.plot(dots, np.full(len(dots), place + 2 * BESIDE[readout]), ".", color=colour, markersize=3.5, alpha=0.6,
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
    """Retrain's bands and the Original's line, for the legend."""
    handles, linear = [], rows if "variant" not in rows else rows[rows.variant == "linear"]

    def level(method: str, readout: str) -> Interval:
        of = linear[linear.method == method]
        return Interval.of(100 * (of.groupby("forget") if forget is None else of.groupby("model"))[f"{readout}_forget"].mean())

    for readout in ("ncc", "probe"):
        retrain, (colour, _) = level("retrain", readout), READOUT_STYLE[readout]
        if retrain.n:
            low, high = (retrain.low, retrain.high) if retrain.n >= FEWEST else (min(retrain.values), max(retrain.values))
            axis.axvline(retrain.mean, color=colour, linewidth=0.8, alpha=0.5, zorder=0)
            axis.axvspan(low, min(high, 100), color=colour, alpha=0.14, linewidth=0, zorder=0)
            handles.append(Patch(color=colour, alpha=0.3, linewidth=0, label=f"Retrain, {LEGEND[readout]}"))
    if (original := level("original", "output")).n:
        handles.append(axis.axvline(original.mean, color="black", linestyle=REFERENCE_DASHES["original"], linewidth=0.9,
                                    zorder=0, label="Original, output"))
    return handles
