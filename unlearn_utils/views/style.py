"""How every figure looks: 9 cm or 18 cm wide, text of at least 7 pt, colours and markers that mean the same everywhere.

Colours have a contrast of at least 3:1 on white. Lines carry labels, so that nothing hangs on telling colours apart.
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
from matplotlib.ticker import NullLocator

from ..paths import Outputs, write

WIDTH, WIDE = 3.54, 7.09  # inches: one and two columns of a page, 9 and 18 cm
SMALL, LARGE = 7, 10.5  # pt: the smallest text, and the text of a wide figure, which a web page shows at half its size
sns.set_theme(
    context="paper",
    style="ticks",
    rc={
        "figure.dpi": 200,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "font.size": 8,
        "axes.labelsize": 8,
        "axes.titlesize": 8,
        "legend.fontsize": 7.5,
        "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "xtick.major.size": 3,
        "ytick.major.size": 3,
        "axes.linewidth": 0.7,
        "lines.linewidth": 1.3,
        "lines.markersize": 4.5,
    },
)

RETAIN, FORGET = "#6b8fb5", "#e05a00"  # blue and orange, for retain and forget classes and for nothing else
GREY = "#6e6e6e"
READOUT_STYLE = {"output": ("#882255", "o"), "probe": ("#117733", "D"), "ncc": ("#332288", "s")}
METHOD_COLOURS = {  # references and controls are black and grey
    "original": "#000000",
    "retrain": "#5a5a5a",
    "random": "#949494",
    "retrain_again": "#6f6f6f",
    "prune": "#7b7b7b",
    "bias_shift": "#868686",
    "distilled_head": "#626262",
    "random_label": "#0072b2",
    "salun": "#0a7a4a",
    "neggrad_plus": "#c247e0",
    "scrub": "#4a2208",
    "unsir": "#f0407c",
    "svd": "#6d5800",
    "finetune": "#12205e",
    "pour_p": "#6a1fc0",
}
SPARES = ("#005f73", "#6b4f9e", "#9c4a3c", "#3d6b00", "#5b5bd6")
PROFILE_COLOURS = ("#004488", "#7d6200", "#994455", "#117755", "#444444", "#7755bb")


def colour_of(method: str) -> str:
    """The colour of a method. One without a colour of its own gets one by its name, whatever else is drawn."""
    return METHOD_COLOURS.get(method, SPARES[zlib.crc32(method.encode()) % len(SPARES)])


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


def models_of(rows: pd.DataFrame, methods: tuple[str, ...]) -> list[str]:
    """The model of each method in ``rows``, in the order given: tuned if there is one, else as published."""
    listed = []
    for method in methods:
        own = rows[rows.method == method].drop_duplicates("variant").set_index("variant").model
        listed += [own[variant] for variant in ("tuned", "linear", "classifier") if variant in own][:1]
    return listed


def means(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Mean over forget sets of the mean over seeds, a line per model."""
    by = ["model", *(["forget"] if "forget" in rows else [])]
    return rows.groupby(by, sort=False)[columns].mean().groupby("model", sort=False).mean()


def spread(values: list[float], gap: float, low: float, high: float) -> np.ndarray:
    """Places for labels near ``values``, in their order, at least ``gap`` apart and, if they fit, within bounds."""
    order, gaps = np.argsort(values, kind="stable"), gap * np.arange(len(values))
    wanted = np.array(values, dtype=float)[order] - gaps  # these only have to rise
    rising = (np.maximum.accumulate(wanted) + np.minimum.accumulate(wanted[::-1])[::-1]) / 2
    result = np.empty(len(values))
    result[order] = np.clip(rising, low, high - gaps[-1]) + gaps
    return result


def end_labels(axis, labels: list[tuple[float, str, str]], size: float = SMALL) -> None:
    """Write (height, text, colour) right of the axes, where lines end, with a short line from a height to its label."""
    draw = axis.yaxis.get_transform()  # so that labels are as far apart on a logarithmic axis
    heights = draw.transform([height for height, _, _ in labels])
    low, high = draw.transform(axis.get_ylim())
    width, height = 72 * axis.get_position().size * axis.figure.get_size_inches()  # points, of the axes
    places = draw.inverted().transform(spread(list(heights), 1.25 * size / height * (high - low), low, high))
    for (height, text, colour), place in zip(labels, places):
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
        axis.annotate(
            text,
            (1, height),
            (1 + 12 / width, place),
            xycoords=axis.get_yaxis_transform(),
            va="center",
            size=size,
            color=colour,
            annotation_clip=False,
            arrowprops=line,
        )


def joined(axis, table: pd.DataFrame, looks: dict[str, tuple[str, str, str]], gap: float = 0) -> None:
    """A row per row of ``table``, its values joined; ``looks`` are (colour, marker, face) of a column.

    With ``gap``, in data units, the columns' names stand above the first row, at least so far apart.
    """
    axis.hlines(range(len(table)), table.min(axis=1), table.max(axis=1), color="#aaaaaa", linewidth=2, zorder=1)
    for name, (colour, marker, face) in reversed(looks.items()):
        axis.plot(
            table[name],
            range(len(table)),
            marker,
            color=colour,
            markerfacecolor=face,
            markersize=6.5,
            markeredgewidth=1.3,
            zorder=3,
            clip_on=False,
            label=name,
        )
    if gap:
        (low, high), first = axis.get_xlim(), table.iloc[0].dropna()
        for name, place in zip(first.index, spread(list(first), gap, low + 0.3 * gap, high - 0.3 * gap)):
            axis.text(
                place,
                -0.5,
                name,
                color=looks[name][0],
                ha="center",
                size=7.5,
                bbox={"facecolor": "white", "linewidth": 0, "pad": 0.5},
            )
    names = [name.replace(", classifier only", ",\nclassifier only").replace("$", r"\$") for name in table.index]
    axis.set_yticks(range(len(table)), names, linespacing=1)
    axis.set_ylim(len(table) - 0.5, -1 if gap else -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines.left.set_visible(False)


def step_axis(axis, values) -> None:
    """A logarithmic axis that has room for 0, with ticks at the values or, of many, at powers of 2."""
    values = sorted(values)
    shown = [v for v in values if v & (v - 1) == 0] if len(values) > 9 else values
    axis.set_xscale("symlog", base=2, linthresh=1)
    axis.set_xticks(shown, shown)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(-0.1 if values[0] < 1 else values[0] / 1.1, values[-1] * 1.03)


def save(figure: Figure, name: str, outputs: Outputs) -> None:
    """Write PNG, PDF and ``<name>_points.csv``; the same figure is the same file."""
    figure.savefig(outputs.file(f"{name}.png"))
    figure.savefig(outputs.file(f"{name}.pdf"), metadata={"CreationDate": None})
    write(outputs.file(f"{name}_points.csv"), figure.points.to_csv(index=False, float_format="%.4g"))
