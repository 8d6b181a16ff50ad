"""Figures over a step, an epoch or a budget: learning, training, attacks, and the theory's lines."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from ..settings import READOUTS
from .style import (COLOURS, DASHES, FORGET, READOUT_STYLE, REFERENCE_DASHES, REFERENCES, RETAIN, canvas, finish, look, rule,
                    said)

HISTORY = {  # panel, dash, label
    "train_retain": (0, "-", "training"), "test_retain": (0, (0, (2, 1)), "test"), "nc1": (1, "-", "NC1"),
    "nc2": (1, (0, (4, 1.5)), "NC2"), "nc3": (1, (0, (1, 1)), "NC3"),
}
PARTED = 0.01  # in cosine: retain rows that were alike are no longer
ATTACKED = (*((name, "linear") for name in REFERENCES), ("random_label", "linear"), ("random_label", "cmf"))


def unlearning_curve(curves: pd.DataFrame, rows: pd.DataFrame, source: str = "") -> Figure:
    """Forget accuracy against the optimiser step (mean and range over cells), where Retrain and an untrained network stand.

    Epochs end at the dotted lines; step 0 is the Original.
    """
    figure, axis = canvas(2.3)
    beside, names = rows[rows.forget.isin(curves.forget.unique())], {label: name for name, label in READOUTS.items()}
    handles = []
    for readout, of in curves.groupby("readout", sort=False):
        colour, marker = READOUT_STYLE[names[readout]]
        values = 100 * of.groupby("step").forget_accuracy.agg(["mean", "min", "max"])
        axis.fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.15, linewidth=0)
        face = "white" if readout == READOUTS["output"] else colour
        handles += axis.plot(values.index, values["mean"], color=colour, marker=marker, markerfacecolor=face, markersize=4,
                             label=readout, clip_on=False)
        for method in ("retrain", "random") if readout != READOUTS["output"] else ():
            level = 100 * beside[f"{names[readout]}_forget"][(beside.method == method) & (beside.variant == "linear")].mean()
            axis.axhline(level, color=colour, linestyle=REFERENCE_DASHES[method], linewidth=1, zorder=1)
    handles += [rule(label, "#444444", REFERENCE_DASHES[name], linewidth=1)
                for name, label in {"retrain": "Retrain", "random": "Untrained network"}.items()]
    for step in sorted(curves.step[curves.epoch_end].unique()):
        axis.axvline(step, color="#bbbbbb", linewidth=0.5, zorder=0)
    _budget_axis(axis, [step for step in sorted(curves.step.unique()) if step & (step - 1) == 0])
    axis.set_xlim(-0.1, curves.step.max() * 1.1)
    axis.set(xlabel="optimiser step", ylabel="accuracy on the\nforgotten class (%)", ylim=(-3, 103))
    note = "Line and band: mean and range over them. Retrain, Untrained network: in the readout's colour; grey: ends of epochs."
    return finish(figure, said(source, curves, note), handles, points=curves)


def training_curves(histories: pd.DataFrame, source: str = "") -> Figure:
    """Accuracy and neural collapse of Original and Retrain against the epoch (mean and range over cells)."""
    chosen = histories[histories.method.isin(("original", "retrain"))]
    models = chosen.drop_duplicates("method").set_index("method").model
    figure, axes = canvas(2.9, 2, len(models), sharex=True, sharey="row", squeeze=False)
    for column, (method, model) in zip(axes.T, models.items()):
        for name, (panel, dash, label) in HISTORY.items():
            by_epoch, colour = chosen[chosen.method == method].groupby("epoch")[name], COLOURS[method]
            values = by_epoch.agg(["mean", "min", "max"]) * (1 if panel else 100)
            column[panel].plot(values.index, values["mean"], color=colour, linestyle=dash, label=label)
            column[panel].fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.15, linewidth=0)
        column[0].set_title(model)
        column[1].set(xlabel="epoch", yscale="log")
        column[1].yaxis.set_minor_formatter(NullFormatter())
    axes[0][0].set_ylabel("accuracy on\nretain classes (%)")
    axes[1][0].set_ylabel("neural collapse\n(0 = collapsed)")
    handles = [rule(label, linestyle=dash) for _, dash, label in HISTORY.values()]
    note = "Line and band: mean and range over them (the Original is one network per seed)."
    points = chosen[["model", "seed", "forget", "epoch", *HISTORY]] if "seed" in chosen else chosen
    return finish(figure, said(source, chosen, note), handles, 5, points)


def attack_curves(readings: pd.DataFrame, attacks: dict[str, str], x_label: str, models: list[str] | None = None,
                  source: str = "") -> Figure:
    """Forget accuracy against the attacker's budget, one panel per attack.

    ``models`` are five unless said otherwise: Original, Retrain, the untrained network, Random Label with and without CMF.
    """
    identity = readings.drop_duplicates("model").set_index("model")[["method", "variant"]]
    usual = [name for name, key in identity.iterrows() if tuple(key) in ATTACKED]
    models = [name for name in models or usual or list(identity.index) if name in identity.index]
    down, across = -(-len(attacks) // 2), min(2, len(attacks))
    figure, axes = canvas(1.75 * down, down, across, sharey=True, squeeze=False)
    points = []
    for axis, (attack, title) in zip(axes.flat, attacks.items()):
        part = readings[readings.attack == attack]
        for name in models:
            values = 100 * part[part.model == name].groupby("x").forget_accuracy.describe()
            style = _line(*identity.loc[name])
            axis.fill_between(values.index, values["25%"], values["75%"], color=style["color"], alpha=0.15, linewidth=0)
            axis.plot(values.index, values["mean"], **style, clip_on=False, label=name)
            points.append(values.reset_index().assign(attack=attack, model=name))
        _budget_axis(axis, sorted(part.x.unique()))
        axis.set(title=title, xlabel=x_label, ylim=(-3, 103))
    for axis in list(axes.flat)[len(attacks):]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel("accuracy on the\nforgotten class (%)")
    handles, odd = axes.flat[0].get_legend_handles_labels()[0], len(attacks) > 1 and len(attacks) % 2
    if odd:
        axes.flat[-1].legend(handles=handles, loc="center")
    note = "Line: mean over forget sets and draws; band: their middle half."
    points = pd.concat(points)[["attack", "model", "x", "count", "mean", "std", "25%", "75%"]]
    return finish(figure, said(source, readings, note), () if odd else handles, points=points)


def _line(method: str, variant: str) -> dict:
    colour, marker = look(method)
    linear = variant == "linear"
    dash = REFERENCE_DASHES[method] if linear and method in REFERENCES else DASHES.get(variant, "-")
    return {"color": colour, "marker": marker, "linestyle": dash, "markerfacecolor": colour if linear else "white"}


def _budget_axis(axis, values: list[int]) -> None:
    """A logarithmic axis that has room for 0; ticks at readings, as many as the width can hold."""
    axis.set_xscale("symlog", base=2, linthresh=1)
    shown = []
    for value in values:  # at least an octave apart
        if not shown or value >= max(2 * shown[-1], 1):
            shown.append(value)
    shown = shown[::-(-len(shown) // (6 if axis.get_gridspec().ncols > 1 else 9))]
    axis.set_xticks(shown, shown)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(values[0] - 0.1 if values[0] < 1 else values[0] / 1.1, values[-1] * 1.1)


def theory_path(path: list, means, forget: int = 0, source: str = "") -> Figure:
    """Cosine of every classifier row with its class mean, a line per row, while gradient descent unlearns one class.

    ``path`` holds W (K, d) after every step, ``means`` is (K, d). Alike rows stand at a saddle; that rounding leaves it
    late, and one retain row takes the forget class, is said where it happens. Steps: between two there is nothing.
    """
    weights, means = np.stack([np.asarray(weight) for weight in path]), np.asarray(means)
    cosine = (weights * means).sum(2) / np.linalg.norm(weights, axis=2) / np.linalg.norm(means, axis=1)  # (steps, K)
    retain = np.delete(cosine, forget, axis=1)
    figure, axis = canvas(1.8)
    for values in retain.T:
        axis.plot(values, color=RETAIN, drawstyle="steps-post", linewidth=1)
    axis.plot(cosine[:, forget], color=FORGET, linestyle=(0, (5, 1)), drawstyle="steps-post", linewidth=1.6)
    axis.set(xscale="symlog", xlim=(0, len(path) - 1), xlabel="gradient step", ylabel="cos(row, class mean)")
    note, parted = "A line per row.", np.flatnonzero(np.ptp(retain, axis=1) > PARTED)
    if len(parted):
        taken = int((weights[-1] @ means[forget]).argmax())
        note += f" From step {parted[0]} on the retain rows part: alike they sit at a saddle, and rounding errors grow "
        note += f"until they leave it. At the end row {taken} answers for the forget class; the retain rows' cosines run "
        note += f"from {retain[-1].min():.2f} to {retain[-1].max():.2f}."
    handles = [rule("retain classes", RETAIN), rule("forget class", FORGET, (0, (5, 1)))]
    points = pd.DataFrame(cosine, columns=[f"row {c}" for c in range(len(means))]).rename_axis("step").reset_index()
    return finish(figure, f"{source} {note}".strip(), handles, points=points)
