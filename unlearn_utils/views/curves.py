"""Figures over a step, an epoch or a budget: learning, training, attacks, and the theory's lines."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from ..settings import READOUTS
from .style import (COLOURS, DASHES, FORGET, READOUT_STYLE, REFERENCE_DASHES, REFERENCES, RETAIN, canvas, finish, look, mark,
                    rule)
from .tables import over

ATTACKED = (*((name, "linear") for name in REFERENCES), ("random_label", "linear"), ("random_label", "cmf"))


def unlearning_curve(curves: pd.DataFrame, rows: pd.DataFrame, source: str = "") -> Figure:
    """Forget accuracy against the optimiser step (mean and range over cells), and where Retrain stands.

    Epochs end at the dotted lines; step 0 is the Original.
    """
    figure, axis = canvas(2.2)
    retrain = rows[(rows.method == "retrain") & rows.forget.isin(curves.forget.unique())]
    names = {label: name for name, label in READOUTS.items()}
    for readout, of in curves.groupby("readout", sort=False):
        colour, marker = READOUT_STYLE[names[readout]]
        values = 100 * of.groupby("step").forget_accuracy.agg(["mean", "min", "max"])
        axis.fill_between(values.index, values["min"], values["max"], color=colour, alpha=0.15, linewidth=0)
        axis.plot(values.index, values["mean"], color=colour, marker=marker, markersize=4, label=readout, clip_on=False,
                  markerfacecolor="white" if readout == READOUTS["output"] else colour)
    for name in ("probe", "ncc"):
        axis.axhline(100 * retrain[f"{name}_forget"].mean(), color=READOUT_STYLE[name][0], linestyle=REFERENCE_DASHES["retrain"],
                     linewidth=1, label=f"Retrain, {READOUTS[name]}")
    for step in sorted(curves.step[curves.epoch_end].unique()):
        axis.axvline(step, color="black", linestyle=":", linewidth=0.5, zorder=0)
    _budget_axis(axis, [step for step in sorted(curves.step.unique()) if step & (step - 1) == 0])
    axis.set_xlim(-0.1, curves.step.max() * 1.1)
    axis.set(xlabel="optimiser step", ylabel="accuracy on the\nforgotten class (%)", ylim=(-3, 103))
    note = " Line and band: mean and range over them; dotted: ends of epochs."
    return finish(figure, (source or over(curves) + ".") + note, axis.get_legend_handles_labels()[0], points=curves)


def training_curves(histories: pd.DataFrame, source: str = "") -> Figure:
    """Accuracy and neural collapse against the epoch (mean and range over cells), of Original and Retrain."""
    chosen = histories[histories.method.isin(("original", "retrain"))]
    figure, axes = canvas(2.9, 2, 1, sharex=True)
    lines = {"train_retain": (0, "-", "training"), "test_retain": (0, (0, (2, 1)), "test"), "nc1": (1, "-", "NC1"),
             "nc2": (1, (0, (4, 1.5)), "NC2"), "nc3": (1, (0, (1, 1)), "NC3")}
    for name, of in chosen.groupby("method", sort=False):
        for column, (panel, dash, _) in lines.items():
            values = of.groupby("epoch")[column].agg(["mean", "min", "max"]) * (1 if panel else 100)
            axes[panel].plot(values.index, values["mean"], color=PAIR[name], linestyle=dash)
            axes[panel].fill_between(values.index, values["min"], values["max"], color=PAIR[name], alpha=0.15, linewidth=0)
    for axis, panel in zip(axes, (0, 1)):
        axis.legend(handles=[rule(label, linestyle=dash) for at, dash, label in lines.values() if at == panel],
                    loc="lower right" if panel == 0 else "upper right", fontsize=7.5, ncol=3)
    axes[0].set(ylabel="accuracy on\nretain classes (%)")
    axes[1].set(ylabel="neural collapse\n(0 = collapsed)", xlabel="epoch", yscale="log")
    axes[1].yaxis.set_minor_formatter(NullFormatter())
    handles = [rule(chosen.model[chosen.method == name].iloc[0], PAIR[name]) for name in chosen.method.unique()]
    note = " Line and band: mean and range over them (the Original is one network per seed)."
    return finish(figure, (source or over(chosen) + ".") + note, handles, points=chosen)


PAIR = {"original": "#000000", "retrain": "#8a5a00"}


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
    figure.supylabel("accuracy on the forgotten class (%)", size=8)
    note = " Line: mean over forget sets and draws; band: their middle half."
    points = pd.concat(points)[["attack", "model", "x", "count", "mean", "std", "25%", "75%"]]
    return finish(figure, (source or over(readings) + ".") + note, axes.flat[0].get_legend_handles_labels()[0], points=points)


def _line(method: str, variant: str) -> dict:
    colour, marker = look(method)
    reference = variant == "linear" and method in REFERENCES
    return {"color": colour, "marker": marker, "linestyle": REFERENCE_DASHES[method] if reference else DASHES.get(variant, "-"),
            "markerfacecolor": "white" if variant != "linear" else colour}


def _budget_axis(axis, values: list[int]) -> None:
    """A logarithmic axis that has room for 0; ticks at readings, as many as the width can hold."""
    axis.set_xscale("symlog", base=2, linthresh=1)
    shown, last = [], None
    for value in values:
        if last is None or value >= 2 * last or (last == 0 and value >= 1):
            shown.append(value)
            last = value
    narrow = len(axis.get_gridspec().get_geometry()) and axis.get_gridspec().ncols > 1
    step = -(-len(shown) // (5 if narrow else 9))
    shown = shown[:: step] if step > 1 else shown
    axis.set_xticks(shown, shown)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(values[0] - 0.1 if values[0] < 1 else values[0] / 1.1, values[-1] * 1.1)


def retain_and_forget(x, retain, forget, x_label: str, y_label: str, span: tuple = (), log: bool = False,
                      source: str = "") -> Figure:
    """Two lines, one for the retain classes and one for the forget class; ``span`` is shaded as predicted.

    Drawn as steps: between two values there is nothing.
    """
    figure, axis = canvas(1.7)
    handles = []
    if span:
        handles.append(axis.axvspan(*span, color="#e3e3e3", linewidth=0, label="predicted interval"))
    for values, colour, dash, label in ((retain, RETAIN, "-", "retain classes"), (forget, FORGET, (0, (5, 1)), "forget class")):
        handles += axis.plot(x, values, color=colour, linestyle=dash, drawstyle="steps-post", label=label)
    axis.set(xlabel=x_label, ylabel=y_label, **{"xscale": "symlog", "xlim": (0, None)} if log else {})
    points = pd.DataFrame({"x": [float(v) for v in x], "retain": [float(v) for v in retain], "forget": [float(v) for v in forget]})
    return finish(figure, source, handles, points=points)
