"""Figures: one colour per method everywhere, each with a contrast of at least 3:1 on white."""

from __future__ import annotations

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ..paths import Outputs
from ..settings import READOUTS
from .tables import per_forget_set

sns.set_theme(context="paper", style="ticks", palette="colorblind", rc={
    "figure.dpi": 110, "savefig.dpi": 200, "savefig.bbox": "tight", "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "pdf.fonttype": 42,
})

RETAIN, FORGET = "#8c8c8c", "#d55e00"  # grey and orange, for retain and forget classes and for nothing else
READOUT_COLOURS = {"Output": "#882255", "Linear probe": "#117733", "NCC": "#332288"}
# References are black and grey. Every method has its colour for good; a new one takes the next spare.
COLOURS = {
    "original": "#000000", "retrain": "#555555", "retrain_again": "#6b6b6b", "random": "#949494", "prune": "#7a7a7a",
    "bias_shift": "#838383", "distilled_head": "#707070", "random_label": "#0072b2", "salun": "#007a5a",
    "neggrad_plus": "#8e44ad", "scrub": "#7f4f24", "unsir": "#c2185b", "svd": "#8a7300", "finetune": "#1f2a7a",
    "pour_p": "#00838f",
}
SPARES = itertools.cycle(("#6a5acd", "#558b2f", "#a0522d", "#b8336a", "#2f4f4f"))
DASHES = {"linear": "-", "cmf": "--", "cmf_budget": ":", "classifier": "-.", "zeroed_classifier": (0, (1, 1))}
REFERENCE_DASHES = {"original": (0, (6, 2)), "retrain": (0, (2, 2)), "random": "-"}


def save(figure: Figure, name: str, outputs: Outputs) -> Figure:
    """Write a figure as PNG and PDF."""
    for ending in ("png", "pdf"):
        metadata = {"CreationDate": None} if ending == "pdf" else None  # the same figure is the same file
        figure.savefig(outputs.file(f"{name}.{ending}"), metadata=metadata)
    return figure


def bars(rows: pd.DataFrame) -> Figure:
    """Retain and forget accuracy of every model, one panel per readout; lines mark Original and Retrain."""
    models = list(rows.model.unique())
    figure, axes = plt.subplots(1, 3, figsize=(7.2, 0.32 * len(models) + 0.9), sharey=True)
    place = np.arange(len(models))
    for axis, (readout, label) in zip(axes, READOUTS.items()):
        for offset, side, colour in ((-0.2, "retain", RETAIN), (0.2, "forget", FORGET)):
            values = 100 * per_forget_set(rows, f"{readout}_{side}")[models]
            error = values.std(ddof=1) if len(values) > 1 else None
            axis.barh(place + offset, values.mean(), 0.38, xerr=error, color=colour, label=side,
                      error_kw={"linewidth": 0.8})
        for reference in ("Original", "Retrain"):
            level = 100 * per_forget_set(rows, f"{readout}_forget")[reference].mean()
            axis.axvline(level, color="black", linestyle=REFERENCE_DASHES[reference.lower()], linewidth=1,
                         label=f"{reference}, forget")
        axis.set(title=label, xlabel="test accuracy (%)", xlim=(-2, 105))  # room for a line at 0
    axes[0].set_yticks(place, models)
    axes[0].set_ylim(len(models) - 0.4, -0.6)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncol=4)
    figure.tight_layout()
    return figure


def alignment(rows: pd.DataFrame) -> Figure:
    """Cosine between classifier row and centred class mean: every class of every cell, forget classes in orange."""
    points = []
    for row in rows.itertuples():
        forget = {int(c) for c in row.forget.split()}
        points += [{"model": row.model, "cosine": value, "class": "forget" if c in forget else "retain"}
                   for c, value in enumerate(row.alignment)]
    models = list(rows.model.unique())
    figure, axis = plt.subplots(figsize=(5.5, 0.32 * len(models) + 0.9))
    points = pd.DataFrame(points).dropna()  # a class mean at the centre has no direction
    np.random.seed(0)  # seaborn's jitter: the same figure every time
    for kind, colour, size in (("retain", RETAIN, 3), ("forget", FORGET, 4)):  # the forget classes on top
        sns.stripplot(points[points["class"] == kind], x="cosine", y="model", order=models, size=size, jitter=0.25,
                      color=colour, alpha=0.7, label=kind, legend=False, ax=axis)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(xlabel="cos(classifier row, centred class mean)", ylabel="", xlim=(-1.05, 1.05))
    handles, labels = axis.get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    axis.legend(unique.values(), unique.keys(), loc="lower center", bbox_to_anchor=(0.5, 1), ncol=2)
    return figure


def embeddings(layouts: dict, forget: tuple[int, ...]) -> Figure:
    """t-SNE of the test features, one panel per model; the forget class in orange."""
    across = min(4, len(layouts))
    down = math.ceil(len(layouts) / across)
    figure, axes = plt.subplots(down, across, figsize=(1.8 * across, 1.95 * down), squeeze=False)
    greys = sns.color_palette("Greys", 14)[3:]
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (label, layout) in zip(axes.flat, layouts.items()):
        colours = [FORGET if c in forget else greys[c % len(greys)] for c in layout["labels"].tolist()]
        axis.scatter(*layout["points"].T, c=colours, s=2, linewidths=0, rasterized=True)
        axis.set_title(label, fontsize=8)
    figure.tight_layout()
    return figure


def unlearning_curve(curves: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    """Forget accuracy against the optimiser step (mean and range over cells), and where Retrain stands.

    Epochs end at the dotted lines; step 0 is the Original.
    """
    figure, axis = plt.subplots(figsize=(4.5, 2.8))
    scaled = curves.assign(forget_accuracy=100 * curves.forget_accuracy)
    sns.lineplot(scaled, x="step", y="forget_accuracy", hue="readout", style="readout", markers=True, dashes=False,
                 palette=READOUT_COLOURS, errorbar=("pi", 100), ax=axis)
    for step in sorted(curves.step[curves.epoch_end].unique()):
        axis.axvline(step, color="black", linestyle=":", linewidth=0.5)
    retrain = rows[(rows.method == "retrain") & rows.forget.isin(curves.forget.unique())]
    for readout in ("probe", "ncc"):
        axis.axhline(100 * retrain[f"{readout}_forget"].mean(), color=READOUT_COLOURS[READOUTS[readout]],
                     linestyle="--", linewidth=1, label=f"Retrain, {READOUTS[readout]}")
    _budget_axis(axis, [step for step in sorted(curves.step.unique()) if step & (step - 1) == 0])
    axis.set_xlim(-0.1, curves.step.max() * 1.1)
    axis.set(xlabel="optimiser step", ylabel="forget accuracy (%)", ylim=(-3, 103))
    axis.legend(title="", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def training_curves(histories: pd.DataFrame) -> Figure:
    """Accuracy and neural collapse against the epoch (mean and range over cells)."""
    panels = {"train_retain": "training accuracy (%)", "test_retain": "test accuracy (%)", "nc1": "NC1",
              "nc2": "NC2", "nc3": "NC3"}
    figure, axes = plt.subplots(1, 5, figsize=(9, 2.1))
    chosen = histories[histories.method.isin(("original", "retrain"))]
    for axis, (column, label) in zip(axes, panels.items()):
        scaled = chosen.assign(**{column: chosen[column] * (100 if "%" in label else 1)})
        sns.lineplot(scaled, x="epoch", y=column, hue="model", style="model", errorbar=("pi", 100),
                     palette=[COLOURS["original"], COLOURS["retrain"]], ax=axis, legend=axis is axes[0])
        axis.set(title=label, ylabel="")
    axes[0].legend().remove()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncol=2)
    axes[2].set_yscale("log")
    figure.tight_layout()
    return figure


def attack_curves(readings: pd.DataFrame, attacks: dict[str, str], x_label: str) -> Figure:
    """Forget accuracy against the attacker's budget, one panel per attack; a band over draws and cells."""
    figure, axes = plt.subplots(1, len(attacks), figsize=(2.9 * len(attacks), 2.9), sharey=True)
    identity = readings.drop_duplicates("model").set_index("model")
    for axis, (attack, title) in zip(axes, attacks.items()):
        for model, of_model in readings[readings.attack == attack].groupby("model", sort=False):
            method, variant = identity.loc[model, ["method", "variant"]]
            spread = of_model.groupby("x").forget_accuracy.agg(["mean", "std"]).fillna(0) * 100
            dash = REFERENCE_DASHES.get(method) if variant == "linear" else None
            colour = COLOURS.get(method) or COLOURS.setdefault(method, next(SPARES))
            style = {"color": colour, "linestyle": dash or DASHES[variant], "linewidth": 2.2 if dash else 1.2}
            axis.plot(spread.index, spread["mean"], label=model, **style)
            axis.fill_between(spread.index, spread["mean"] - spread["std"], spread["mean"] + spread["std"],
                              color=style["color"], alpha=0.07, linewidth=0)
        _budget_axis(axis, sorted(readings.x[readings.attack == attack].unique()))
        axis.set(title=title, xlabel=x_label, ylim=(-3, 103))
    axes[0].set_ylabel("forget accuracy (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0), ncol=4, fontsize=7)
    figure.tight_layout()
    return figure


def _budget_axis(axis, values: list[int]) -> None:
    """A logarithmic axis that has room for 0 and a tick at every reading."""
    axis.set_xscale("symlog", base=2, linthresh=1)
    axis.set_xticks(values, values, fontsize=7, rotation=90 if len(values) > 8 else 0)
    axis.set_xticks([], minor=True)
    axis.set_xlim(values[0] - 0.1, values[-1] * 1.1)


def retain_and_forget(x, retain, forget, x_label: str, y_label: str, span: tuple = (), log: bool = False) -> Figure:
    """Two lines, one for the retain classes and one for the forget class; ``span`` is shaded as predicted."""
    figure, axis = plt.subplots(figsize=(4.2, 2.4))
    if span:
        axis.axvspan(*span, color="#bbddcc", alpha=0.5, linewidth=0, label="predicted interval")
    axis.plot(x, retain, color=RETAIN, label="retain")
    axis.plot(x, forget, color=FORGET, label="forget")
    axis.set(xlabel=x_label, ylabel=y_label, **{"xscale": "symlog", "xlim": (0, None)} if log else {})
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
