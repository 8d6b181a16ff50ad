"""The figure of ``evaluate``: what output, NCC and probe read of the forgotten class, one row per model."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..settings import READOUTS
from .plots import READOUT_COLOURS, REFERENCE_DASHES

MARKS = {name: (mark, READOUT_COLOURS[READOUTS[name]]) for name, mark in {"output": "o", "ncc": "s", "probe": "D"}.items()}
BESIDE = {"output": 0, "ncc": -0.13, "probe": 0.13}  # so that equal values stay visible
LINES = {role: REFERENCE_DASHES[role] for role in ("original", "retrain")}


def dumbbell(rows: pd.DataFrame, forget: tuple[int, ...]) -> Figure:
    """Accuracy on the forgotten classes of every model: output hollow, NCC and probe filled, 9 cm wide.

    Dashed and dotted lines carry the Original's and Retrain's NCC and probe, in the readout's colour, past the other
    models. Of several classes each is a small dot.
    """
    figure, axis = plt.subplots(figsize=(3.54, 0.3 * len(rows) + 1.1))
    for place, row in enumerate(rows.to_dict("records")):
        values = {readout: 100 * row[f"{readout}_forget"] for readout in MARKS}
        axis.plot([min(values.values()), max(values.values())], [place, place], color="#8c8c8c", linewidth=1.2, zorder=1)
        for readout, (mark, colour) in MARKS.items():
            axis.plot(values[readout], place + BESIDE[readout], mark, markersize=6.5, markeredgecolor=colour, zorder=3,
                      markerfacecolor="white" if readout == "output" else colour)
            if len(forget) > 1:
                dots = 100 * np.array(row[f"{readout}_by_class"])[list(forget)]
                axis.plot(dots, np.full(len(forget), place + 0.28), ".", color=colour, markersize=3.5, zorder=2)
            if row["method"] in LINES and readout != "output":
                axis.axvline(values[readout], color=colour, linestyle=LINES[row["method"]], linewidth=1, zorder=0)
    axis.set_yticks(range(len(rows)), rows.model, fontsize=8)
    axis.set(xlim=(-3, 103), ylim=(len(rows) - 0.4, -0.6))
    axis.set_xlabel("accuracy on the forgotten " + ("classes" if len(forget) > 1 else "class") + " (%)", fontsize=8)
    handles = [Line2D([], [], marker=mark, color=colour, linestyle="", label=READOUTS[readout],
                      markerfacecolor="white" if readout == "output" else colour)
               for readout, (mark, colour) in MARKS.items()]
    handles += [Line2D([], [], color="black", linestyle=LINES[method], linewidth=1, label=method.capitalize())
                for method in LINES if (rows.method == method).any()]
    if len(forget) > 1:
        handles.append(Line2D([], [], marker=".", color="black", linestyle="", markersize=3.5, label="one class"))
    figure.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=3, fontsize=8)
    figure.tight_layout()
    return figure
