"""How every figure looks: one column of 9 cm, text of at least 7 pt, fixed colours and markers, its points in a CSV.

Colours have a contrast of at least 3:1 on white, and with their markers they stay apart for a reader with deuteranopia.
"""

from __future__ import annotations

import textwrap
import zlib

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..paths import Outputs, write
from ..settings import READOUTS
from .tables import over

WIDTH = 3.54  # inches, 9 cm: a column of a page; figures are drawn at this width and never scaled down
SMALL = 7  # pt
POINT = 1 / 72  # inches
sns.set_theme(context="paper", style="ticks", rc={
    "figure.dpi": 200, "savefig.dpi": 200, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7, "xtick.major.size": 3, "ytick.major.size": 3, "lines.linewidth": 1.3, "lines.markersize": 4.5,
})

RETAIN, FORGET = "#6b8fb5", "#e05a00"  # blue and orange, for retain and forget classes and for nothing else
# Of a readout and of a method: colour and marker, for good. References are black and grey.
READOUT_STYLE = {"output": ("#882255", "o"), "ncc": ("#332288", "s"), "probe": ("#117733", "D")}
METHOD_STYLE = {
    "original": ("#000000", "o"), "retrain": ("#5a5a5a", "s"), "random": ("#949494", "X"), "retrain_again": ("#6e6e6e", "d"),
    "prune": ("#7b7b7b", "<"), "bias_shift": ("#868686", ">"), "distilled_head": ("#626262", "p"),
    "random_label": ("#0072b2", "^"), "salun": ("#0a7a4a", "v"), "neggrad_plus": ("#c247e0", "P"),
    "scrub": ("#4a2208", "h"), "unsir": ("#f0407c", "*"), "svd": ("#6d5800", "8"), "finetune": ("#12205e", "H"),
    "pour_p": ("#6a1fc0", "D"),
}
SPARES = ("#005f73", "#6b4f9e", "#9c4a3c", "#3d6b00", "#5b5bd6")
SPARE_MARKERS = ("$a$", "$b$", "$c$", "$d$", "$e$", "$f$", "$g$")
DASHES = {"linear": "-", "cmf": "--", "cmf_budget": ":", "classifier": "-.", "zeroed_classifier": (0, (1, 1))}
REFERENCES = ("original", "retrain", "random")
REFERENCE_DASHES = {"original": (0, (6, 2)), "retrain": (0, (2, 2)), "random": (0, (1, 1.5))}
READOUT_COLOURS = {READOUTS[name]: colour for name, (colour, _) in READOUT_STYLE.items()}
COLOURS = {name: colour for name, (colour, _) in METHOD_STYLE.items()}


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method. One that has none of its own gets both by its name, whatever else is there."""
    place = zlib.crc32(method.encode())
    return METHOD_STYLE.get(method) or (SPARES[place % len(SPARES)], SPARE_MARKERS[place // 8 % len(SPARE_MARKERS)])


def canvas(height: float, down: int = 1, across: int = 1, **options) -> tuple[Figure, object]:
    """A figure of 9 cm by ``height`` inches of panels; ``finish`` adds what its legend and its note need."""
    return plt.subplots(down, across, figsize=(WIDTH, height), layout="constrained", **options)


def finish(figure: Figure, source: str = "", handles: list = (), columns: int = 3,
           points: pd.DataFrame | None = None) -> Figure:
    """Legend above, ``source`` (data, n, what a band is) in small print below, and the points for ``save``."""
    note = textwrap.wrap(source, 70)
    rows = -(-len(handles) // columns)
    above, below = (12 * rows + 5 * (rows > 0)) * POINT, (9 * len(note) + 4 * bool(note)) * POINT
    height = figure.get_figheight() + above + below
    figure.set_figheight(height)
    figure.get_layout_engine().set(rect=(0, below / height, 1, 1 - (above + below) / height), w_pad=0.03, h_pad=0.03)
    if handles:
        figure.legend(handles=handles, loc="upper center", ncol=columns, borderpad=0.2, labelspacing=0.3, columnspacing=1.2,
                      handletextpad=0.5, handlelength=1.8)
    if note:
        figure.text(0.01, 2 * POINT / height, "\n".join(note), size=SMALL, color="#444444", va="bottom", linespacing=1.15)
    figure.points = points
    return figure


def save(figure: Figure, name: str, outputs: Outputs, points: pd.DataFrame | None = None) -> Figure:
    """Write a figure as PNG and PDF, and what it shows as ``<name>_points.csv``; the same figure is the same file."""
    figure.savefig(outputs.file(f"{name}.png"))
    figure.savefig(outputs.file(f"{name}.pdf"), metadata={"CreationDate": None})
    points = getattr(figure, "points", None) if points is None else points
    if points is not None:
        write(outputs.file(f"{name}_points.csv"), points.to_csv(index=False, float_format="%.4g"))
    return figure


def caption(title: str, rows: pd.DataFrame, *more: str) -> str:
    """What stands below a figure: the data set, what it runs over, and more. Digits (8x8): n = 10 forget sets, 1 seed."""
    return ". ".join([f"{title}: {over(rows)}", *more]) + "."


def said(source: str, rows: pd.DataFrame, more: str = "") -> str:
    """The note of a figure: ``source``, or without one what ``rows`` run over; and what its marks mean."""
    return f"{source or over(rows) + '.'} {more}".strip()


def mark(colour: str, marker: str, label: str, **options) -> Line2D:
    """A line of a legend that shows a marker alone."""
    return Line2D([], [], color=colour, marker=marker, linestyle="", label=label, **options)


def rule(label: str, colour: str = "black", linestyle="-", **options) -> Line2D:
    """A line of a legend that shows a line."""
    return Line2D([], [], color=colour, linestyle=linestyle, label=label, **options)
