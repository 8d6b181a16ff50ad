"""Figures of the notebooks, drawn from rows at the width of a column; ``style`` says how, each carries its points."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import evidence
from .curves import attack_curves, theory_path, training_curves, unlearning_curve
from .dumbbell import dumbbell
from .schematics import arrows, schematics, theory_gamma, tied, to_the_centre, turning_apart
from .style import (COLOURS, FORGET, REFERENCE_DASHES, REFERENCES, RETAIN, canvas, caption, finish, look, mark, rule, said,
                    save)

__all__ = [  # all that notebooks draw with, from one place
    "alignment", "arrows", "attack_curves", "caption", "dumbbell", "embeddings", "gaps_by_profile",
    "save", "schematics", "slopes", "theory_gamma", "theory_path", "tied", "to_the_centre",
    "training_curves", "turning_apart", "unlearning_curve",
]
STEPS = {"linear": "own\nrate", "cmf_budget": "same\nbudget", "cmf": "CMF"}  # of a method's head
PROFILE_COLOURS = ("#004488", "#7d6200", "#994455", "#117755", "#444444", "#7755bb")
FEATURES = {"ncc": "NCC", "probe": "Linear probe"}


def slopes(rows: pd.DataFrame, source: str = "") -> Figure:
    """Forget accuracy of each method that has a CMF variant: as tuned, with a linear head at CMF's budget, with CMF.

    Lines mark Original, Retrain and the untrained network; a hollow marker, which no line joins, is a model that lost
    more than 10 points of retain accuracy against Retrain. What no method was run with has no place.
    """
    steps = {variant: label for variant, label in STEPS.items() if variant in set(rows.variant)}
    methods = [name for name in rows.method[rows.variant == "cmf"].unique() if name != "original"]
    reference = rows[(rows.variant == "linear")].groupby("method").mean(numeric_only=True)
    figure, axes = canvas(2.3, 1, 2, sharey=True)
    points = []
    for axis, (readout, label) in zip(axes, FEATURES.items()):
        for name in REFERENCES:
            axis.axhline(100 * reference[f"{readout}_forget"][name], color=COLOURS[name], linestyle=REFERENCE_DASHES[name],
                         linewidth=1.2, zorder=1)
        for method in methods:
            means = rows[rows.method == method].groupby("variant").mean(numeric_only=True).reindex(steps)
            lost = reference.output_retain["retrain"] - means.output_retain > evidence.DESTROYED
            values, (colour, marker) = 100 * means[f"{readout}_forget"], look(method)
            for at in range(len(steps) - 1):
                if not lost.iloc[at:at + 2].any():
                    axis.plot([at, at + 1], values.iloc[at:at + 2], color=colour, zorder=2)
            for x, (value, broken) in enumerate(zip(values, lost)):
                axis.plot(x, value, marker, color=colour, markerfacecolor="white" if broken else colour, markersize=6,
                          zorder=3, clip_on=False)
            points += [{"method": method, "variant": v, "readout": readout, "forget_accuracy": values[v], "broken": lost[v]}
                       for v in steps]
        axis.set_xticks(range(len(steps)), steps.values())
        axis.set(title=label, xlim=(-0.25, len(steps) - 0.75), ylim=(-3, 103))
    axes[0].set_ylabel("accuracy on the forgotten class (%)")
    handles = [mark(*look(name), _label(rows, name), markersize=6) for name in methods]
    handles += [rule(_label(rows, name), COLOURS[name], REFERENCE_DASHES[name], linewidth=1.2) for name in REFERENCES]
    points = pd.DataFrame(points)
    note = "Raw features." + " Hollow: over 10 points of retain accuracy lost." * bool(points.broken.any())
    return finish(figure, said(source, rows, note), handles, points=points)


def _label(rows: pd.DataFrame, method: str, variant: str = "linear") -> str:
    return rows.model[(rows.method == method) & (rows.variant == variant)].iloc[0]


def gaps_by_profile(gaps: dict[str, pd.DataFrame] | pd.DataFrame, source: str = "") -> Figure:
    """Gaps to Retrain in points (method minus Retrain) of NCC and probe, a row per method, a colour per profile.

    ``gaps`` are scorecards by profile, or rows of profile, model, readout, mean, low, high and n (fractions). Bars are
    the intervals; where n is under five there is none, and the marker is hollow. Pale is a model whose output still reads
    the class (``remembers``, where the rows have it): its features are no evidence.
    """
    points = gaps if isinstance(gaps, pd.DataFrame) else gaps_of(gaps)
    profiles, models = list(points.profile.unique()), list(points.model.unique())
    place = {name: i % len(PROFILE_COLOURS) for i, name in enumerate(sorted(profiles))}  # the same in every profile's figure
    colours, markers = ([listed[place[name]] for name in profiles] for listed in (PROFILE_COLOURS, "osD^vP"))
    figure, axes = canvas(0.1 * len(models) * (1 + len(profiles)) + 0.5, 1, 2, sharey=True, sharex=True)
    for axis, (readout, label) in zip(axes, FEATURES.items()):
        axis.axvline(0, color="black", linewidth=0.8)
        for i, profile in enumerate(profiles):
            for row in points[(points.profile == profile) & (points.readout == readout)].itertuples():
                y = models.index(row.model) + (i + 0.5) / len(profiles) * 0.8 - 0.4
                marker, filled, alpha = markers[i], row.low == row.low, 0.3 if getattr(row, "remembers", False) else 1
                if filled:
                    axis.plot([100 * row.low, 100 * row.high], [y, y], color=colours[i], linewidth=1.2, alpha=alpha)
                axis.plot(100 * row.mean, y, marker, color=colours[i], markerfacecolor=colours[i] if filled else "white", alpha=alpha)
        axis.set(title=label, xlabel="gap (points)", ylim=(len(models) - 0.5, -0.5))
        axis.set_yticks(np.arange(len(models) + 1) - 0.5, minor=True)
        axis.grid(axis="y", which="minor", color="#dddddd", linewidth=0.6)
        axis.tick_params(axis="y", which="both", length=0)
        axis.xaxis.set_major_locator(plt.MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes[0].set_yticks(range(len(models)), models)
    handles = [mark(colour, marker, name) for name, colour, marker in zip(profiles, colours, markers)]
    counts = ", ".join(f"{name} {part.n.max():.0f}" for name, part in points.groupby("profile", sort=False))
    note = f"Accuracy on the forgotten class, minus Retrain's. Forget sets: {counts}. Bars: the scorecard's intervals "
    note += "over them." + " Hollow: under five sets, no interval." * bool(points.low.isna().any())
    note += " Pale: the output still reads the class, so nothing is told." * bool(points.get("remembers", pd.Series()).any())
    return finish(figure, " ".join(filter(None, [source, note])), handles, columns=2, points=points)


def gaps_of(cards: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The gaps to Retrain that scorecards hold, by profile (fractions), at the rates that every profile has."""
    claims = {"NCC still reads it": "ncc", "Probe still reads it": "probe"}
    parts = [card[card.claim.isin(list(claims)) & (card.variant != "searched")].assign(
        profile=name, readout=lambda part: part.claim.map(claims),
        remembers=lambda part: part.reason.astype(str).str.startswith("the output still reads")) for name, card in cards.items()]
    return pd.concat(parts)[["profile", "model", "readout", "mean", "low", "high", "n", "remembers"]].dropna(subset="mean")


def alignment(rows: pd.DataFrame, source: str = "") -> Figure:
    """Cosine between classifier row and centred class mean: every class, a tick at the forget classes' mean.

    Rows are sorted by it, Retrain's range over forget classes is shaded, the output's forget accuracy stands at the right;
    a class mean at the centre has no direction and no point.
    """
    points = _cosines(rows)
    centred, points = points.model[points.cosine.isna()].unique(), points.dropna()
    forget = points[points["class"] == "forget"]
    means = forget.groupby("model").cosine.mean().reindex(points.model.unique()).sort_values(ascending=False)
    figure, axis = canvas(0.2 * len(means) + 0.4)
    handles = []
    of = forget.cosine[forget.model.isin(rows.model[rows.method == "retrain"])]
    if len(of):
        handles.append(axis.axvspan(of.min(), of.max(), color="#e3e3e3", linewidth=0, label="Retrain's forget classes"))
    offsets = np.random.default_rng(0)
    for kind, colour, size in (("retain", RETAIN, 2.5), ("forget", FORGET, 3.5)):  # the forget classes on top
        for place, model in enumerate(means.index):
            of = points.cosine[(points.model == model) & (points["class"] == kind)]
            axis.plot(of, place + offsets.uniform(-0.22, 0.22, len(of)), ".", color=colour, markersize=2 * size, alpha=0.75,
                      markeredgewidth=0)
        handles.insert(0, mark(colour, ".", f"{kind} class", markersize=2 * size))
    output = 100 * rows.groupby("model").output_forget.mean()
    for place, (model, mean) in enumerate(means.items()):
        axis.plot([mean, mean], [place - 0.4, place + 0.4], color="black", linewidth=1.6)
        axis.text(1.12, place, f"{output[model]:.0f} %", va="center", ha="left", size=7.5)
    axis.text(1.12, -1, "output", ha="left", va="center", size=7.5)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set_yticks(range(len(means)), [name.replace(", classifier only", "\nclassifier only") for name in means.index])
    axis.set(xlabel="cos(classifier row, centred class mean)", xlim=(-1.05, 1.05), ylim=(len(means) - 0.5, -0.6))
    note = "Tick: mean of the forget classes. Output: its accuracy on them."
    note += f" No dot where a class mean lies at the centre: {', '.join(centred)}." * bool(len(centred))
    return finish(figure, said(source, rows, note), handles, points=points)


def _cosines(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per class of every row; what is the same network for every forget set gives its retain classes once."""
    found = [
        {"model": row.model, "seed": getattr(row, "seed", 0), "number": c, "cosine": value,
         "class": "forget" if str(c) in row.forget.split() else "retain"}
        for row in rows.dropna(subset="alignment").itertuples()  # one that diverged has none
        for c, value in enumerate(row.alignment)
    ]
    columns = ["model", "seed", "number", "class", "cosine"]
    return pd.DataFrame(found, columns=columns).drop_duplicates(columns)


def embeddings(layouts: dict, forget: tuple[int, ...], rows: pd.DataFrame | None = None, classes: list[str] | None = None,
               models: list[str] | None = None, source: str = "") -> Figure:
    """t-SNE of the test features of four models, or of ``models``; beneath each what NCC still reads of the forget class.

    Without ``models`` they are Original, Retrain, Random Label and Random Label + CMF, or the first four there are.
    """
    usual = [name for name in ("Original", "Retrain", "Random Label", "Random Label + CMF") if name in layouts]
    more = [name for name in layouts if name not in usual]
    shown = [name for name in models or sorted((usual + more)[:4], key=list(layouts).index) if name in layouts]
    down = math.ceil(len(shown) / 2)
    figure, axes = canvas(1.75 * down, down, 2, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    points = []
    for axis, name in zip(axes.flat, shown):
        layout, labels = np.asarray(layouts[name]["points"]), np.asarray(layouts[name]["labels"])
        axis.scatter(*layout.T, c=[FORGET if c in forget else RETAIN for c in labels.tolist()], s=2.5, linewidths=0,
                     rasterized=True)
        axis.set_title(name, pad=2)
        read = _ncc(rows, name, forget)
        axis.set_xlabel("" if math.isnan(read) else f"NCC reads {read:.0f} %", labelpad=1)
        points.append(pd.DataFrame({"model": name, "x": layout[:, 0], "y": layout[:, 1], "label": labels}))
    names = ", ".join(classes[c] if classes is not None else str(c) for c in forget)
    forgotten = f"forgotten class{'es' * (len(forget) > 1)}: {names}"
    handles = [mark(FORGET, "o", forgotten), mark(RETAIN, "o", "retained classes")]
    images = len(layouts[shown[0]]["labels"])
    note = f"t-SNE of the features of {images} test images, without unit; one seed. NCC: accuracy on the forgotten class"
    untrained = math.nan if "Untrained network" in shown else _ncc(rows, "Untrained network", forget)
    note += "." if math.isnan(untrained) else f"; in the untrained network it is {untrained:.0f} %."
    return finish(figure, " ".join(filter(None, [source, note])), handles, columns=2, points=pd.concat(points))


def _ncc(rows: pd.DataFrame | None, model: str, forget: tuple[int, ...]) -> float:
    """Per cent, of the first seed; NaN where it was not measured."""
    if rows is None:
        return math.nan
    found = rows.ncc_forget[(rows.model == model) & (rows.forget == " ".join(map(str, forget)))]
    return 100 * found.iloc[0] if len(found) else math.nan
