"""How every figure looks: 9 cm or 18 cm wide, text of at least 7 pt, colours and markers that mean the same everywhere.

Colours have a contrast of at least 3:1 on white, and with their markers they stay apart for a reader with deuteranopia.
A figure carries ``points`` (a table of what is drawn, in the unit drawn) and ``caption`` (what is drawn, n, and what
the bands are); the page that shows it prints the caption below it.
"""

from __future__ import annotations

import zlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..paths import Outputs, write

WIDTH, WIDE = 3.54, 7.09  # inches: one and two columns of a page, 9 and 18 cm
SMALL, LARGE = 7, 10.5  # pt: the smallest text, and the text of a wide figure, which a web page shows at half its size
sns.set_theme(context="paper", style="ticks", rc={
    "figure.dpi": 200, "savefig.dpi": 200, "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False,
    "legend.frameon": False, "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5, "legend.fontsize": 7.5, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7, "xtick.major.size": 3, "ytick.major.size": 3, "lines.linewidth": 1.3, "lines.markersize": 4.5,
})

RETAIN, FORGET = "#6b8fb5", "#e05a00"  # blue and orange, for retain and forget classes and for nothing else
GREY = "#6e6e6e"
READOUT_STYLE = {"output": ("#882255", "o"), "probe": ("#117733", "D"), "ncc": ("#332288", "s")}
METHOD_STYLE = {  # references and controls are black and grey
    "original": ("#000000", "o"), "retrain": ("#5a5a5a", "s"), "random": ("#949494", "X"), "retrain_again": ("#6e6e6e", "d"),
    "prune": ("#7b7b7b", "<"), "bias_shift": ("#868686", ">"), "distilled_head": ("#626262", "p"),
    "random_label": ("#0072b2", "^"), "salun": ("#0a7a4a", "v"), "neggrad_plus": ("#c247e0", "P"),
    "scrub": ("#4a2208", "h"), "unsir": ("#f0407c", "*"), "svd": ("#6d5800", "8"), "finetune": ("#12205e", "H"),
    "pour_p": ("#6a1fc0", "D"),
}
SPARES = ("#005f73", "#6b4f9e", "#9c4a3c", "#3d6b00", "#5b5bd6")
PROFILE_COLOURS = ("#004488", "#7d6200", "#994455", "#117755", "#444444", "#7755bb")


def colour_of(method: str) -> str:
    """The colour of a method. One without a colour of its own gets one by its name, whatever else is drawn."""
    return METHOD_STYLE[method][0] if method in METHOD_STYLE else SPARES[zlib.crc32(method.encode()) % len(SPARES)]


def canvas(height: float, down: int = 1, across: int = 1, width: float = WIDTH, **options) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` by ``height`` inches and its axes (down, across); text is larger in a wide one."""
    figure, axes = plt.subplots(down, across, figsize=(width, height), layout="constrained", squeeze=False, **options)
    if width > WIDTH:
        for axis in axes.flat:
            axis.tick_params(labelsize=LARGE)
            for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
                text.set_size(LARGE)
    return figure, axes


def finish(figure: Figure, points: pd.DataFrame, caption: str) -> Figure:
    """The figure with what it shows and what stands below it."""
    figure.points, figure.caption = points.reset_index(drop=True), caption
    plt.close(figure)  # shown where it is asked for, and not a second time at the end of the cell
    return figure


def n_of(rows: pd.DataFrame) -> str:
    """What means run over: "n = 10 forget sets, 1 seed"; "1 to 3 seeds" where some forget sets have fewer."""
    seeds = rows.groupby("forget").seed.nunique().tolist()
    each = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    return f"n = {len(seeds)} forget set{'s' * (len(seeds) > 1)}, {each} seed{'s' * (max(seeds) > 1)}"


def spread(values: list[float], gap: float, low: float, high: float) -> np.ndarray:
    """Places for labels, in the order of ``values`` and near them, at least ``gap`` apart and, if they fit, within bounds."""
    order, gaps = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    wanted = np.array(values, dtype=float)[order] - gaps  # from here on only order matters
    placed = np.clip((np.maximum.accumulate(wanted) + np.minimum.accumulate(wanted[::-1])[::-1]) / 2, low, high - gaps[-1])
    result = np.empty(len(values))
    result[order] = placed + gaps
    return result


def end_labels(axis, labels: list[tuple[float, str, str]], size: float = SMALL) -> None:
    """Write (height, text, colour) right of the axes, where lines end, with a short line from a height to its label."""
    draw = axis.yaxis.get_transform()  # so that labels are as far apart on a logarithmic axis
    heights = draw.transform([height for height, _, _ in labels])
    low, high = draw.transform(axis.get_ylim())
    width, height = 72 * axis.get_position().size * axis.figure.get_size_inches()  # points, of the axes
    places = draw.inverted().transform(spread(list(heights), 1.25 * size / height * (high - low), low, high))
    for (height, text, colour), place in zip(labels, places):
        axis.annotate(text, (1.0, height), (1 + 12 / width, place), xycoords=axis.get_yaxis_transform(), va="center", size=size,
                      color=colour, annotation_clip=False, arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5,
                                                                       "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)})


def save(figure: Figure, name: str, outputs: Outputs) -> None:
    """Write PNG, PDF and ``<name>_points.csv``; the same figure is the same file."""
    figure.savefig(outputs.file(f"{name}.png"))
    figure.savefig(outputs.file(f"{name}.pdf"), metadata={"CreationDate": None})
    write(outputs.file(f"{name}_points.csv"), figure.points.to_csv(index=False, float_format="%.4g"))
