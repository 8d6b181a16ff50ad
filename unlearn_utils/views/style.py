"""How every figure looks: 9 cm or 17 cm wide, colours and markers that mean the same everywhere.

Text has at least 7 pt, and at least 6 pt where a wide figure is scaled to a column of 9 cm. Colours have a contrast of
at least 3:1 on white. Lines carry labels, so that nothing hangs on telling colours apart. A figure carries ``points``
(a table of what is drawn, in the unit drawn) and ``caption`` (what is drawn, n, and what the bands are); the page that
shows it prints the caption below it.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

WIDTH, WIDE = 3.54, 6.69  # inches: one and two columns of a page, 9 and 17 cm
LARGE = 11.5  # pt: the labels of a wide figure, 6 pt where it is 9 cm wide
CONTEXT = sns.plotting_context("paper", font_scale=0.85, rc={"axes.linewidth": 0.7, "lines.linewidth": 1.3})
TICKS = {f"{axis}tick.major.{part}": value for axis in "xy" for part, value in (("size", 3), ("width", 0.7))}
PLAIN = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "pdf.fonttype": 42}
PLAIN |= {"figure.dpi": 130, "savefig.dpi": 200}  # in a notebook, and in files
sns.set_theme(CONTEXT | TICKS, "ticks", rc=PLAIN)

RETAIN, FORGET = "#6b8fb5", "#e05a00"  # blue and orange, for retain and forget classes and for nothing else
GREY = "#6e6e6e"
READOUT_STYLE = {"output": {"color": "#882255", "marker": "o"}, "probe": {"color": "#117733", "marker": "D"}}
READOUT_STYLE["ncc"] = {"color": "#332288", "marker": "s"}
HOLLOW = {"markerfacecolor": "white", "zorder": 4}  # above the others
PROFILE_COLOURS = ("#004488", "#7d6200", "#994455", "#117755", "#444444", "#7755bb")
DASHED = {"color": GREY, "linestyle": (0, (4, 2)), "linewidth": 0.9, "zorder": 0}  # a reference line


def canvas(height: float, down: int = 1, across: int = 1, width: float = WIDTH, **options) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` by ``height`` inches and its axes (down, across); labels are larger in a wide one."""
    with plt.rc_context({f"{part}.labelsize": LARGE for part in ("axes", "xtick", "ytick")} if width > WIDTH else {}):
        return plt.subplots(down, across, figsize=(width, height), layout="constrained", squeeze=False, **options)


def finish(figure: Figure, points: pd.DataFrame, caption: str) -> Figure:
    """The figure with what it shows and what stands below it."""
    figure.points, figure.caption = points.reset_index(drop=True), caption
    plt.close(figure)  # shown where it is asked for, and not a second time at the end of the cell
    return figure


def models_of(rows: pd.DataFrame, methods: tuple[str, ...]) -> list[str]:
    """The model of each method in ``rows``, in the order given: tuned if there is one, else as published."""
    models = rows.drop_duplicates(["method", "variant"]).set_index(["method", "variant"]).model
    found = ([models[key] for v in ("tuned", "linear", "classifier") if (key := (m, v)) in models] for m in methods)
    return [names[0] for names in found if names]


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


def end_labels(axis, labels: list[tuple[float, str, str]]) -> None:
    """Write (height, text, colour) right of the axes, where lines end, with a short line from a height to its label."""
    size, to_fractions = axis.yaxis.label.get_size(), axis.transScale + axis.transLimits
    heights = to_fractions.transform([(1, height) for height, _, _ in labels])[:, 1]
    across, down = 72 * axis.get_position().size * axis.figure.get_size_inches()  # points
    line = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)}
    for (_, text, colour), height, place in zip(labels, heights, spread(heights, 1.25 * size / down, 0, 1)):
        ends = {"xy": (1, height), "xytext": (1 + 12 / across, place), "arrowprops": line | {"color": colour}}
        axis.annotate(text, **ends, xycoords="axes fraction", va="center", size=size, color=colour)


def joined(axis, table: pd.DataFrame, looks: dict[str, dict], apart: float = 0) -> None:
    """A row per row of ``table``, its values joined; ``looks`` are colour and marker of a column.

    The columns stand ``apart`` rows below each other, so that no mark hides another.
    """
    places = np.arange(len(table)) + apart * (np.arange(len(looks)) - (len(looks) - 1) / 2)[:, None]  # (looks, rows)
    axis.plot(table[list(looks)].T, places, color="#aaaaaa", linewidth=2, zorder=1)
    mark = {"linestyle": "", "markersize": 6.5, "markeredgewidth": 1.3, "clip_on": False, "zorder": 3}
    for (name, look), rows in zip(looks.items(), places):
        axis.plot(table[name], rows, label=name, **mark | look)
    names = [name.replace(", classifier only", ",\nclassifier only").replace("$", r"\$") for name in table.index]
    axis.set_yticks(range(len(table)), names, linespacing=1)
    axis.set_ylim(len(table) - 0.5, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines.left.set_visible(False)
