"""The figures of the notebooks, from rows. Each returns a Figure with ``points`` and ``caption``; see ``style``.

Rows are those of a study or of ``evaluate``: accuracies are fractions there and per cent in a figure. A mark is the
mean over forget sets of the mean over seeds, unless the caption says otherwise.
"""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from ..methods import METHODS
from ..settings import READOUTS, BadInput
from . import style
from .style import DASHED, FORGET, GREY, READOUT_STYLE, RETAIN, canvas, end_labels, finish, joined, means, models_of
from .tables import n_of

PAPER = ("random_label", "salun", "neggrad_plus", "scrub", "unsir")  # what the summaries over methods show
ACCURACY = "forget accuracy (%)"
DASHES = ("-", (0, (3, 1.5)), (0, (1, 1)))
HISTORY = {"train_retain": "training", "test_retain": "test"}, {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3"}
COLOURS = {"Original": "black", "Retrain": GREY, "Untrained network": GREY}  # of the models attacked
COLOURS |= dict.fromkeys(("Random Label", "Random Label + CMF", "Random Label, classifier only"), "#0072b2")
MATCHED = "linear, matched budget"
HEADS = {"linear": "linear head", "cmf": "CMF head", "cmf_budget": MATCHED}
SHORT = {"output": "output", "probe": "probe", "ncc": "NCC"}
KINDS = {"forget class": FORGET, "retain class": RETAIN}
OTHER = "#8a8a8a"  # predicted as a class that is not drawn
WORSE = 10  # points of retain accuracy: a model that lost more against Retrain is not compared


def learning_curve(curves: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    """Forget accuracy of output, probe and NCC against the optimiser step; step 0 is the Original."""
    steps = curves.groupby(["readout", "step"], sort=False).forget_accuracy.agg(["mean", "min", "max"]) * 100
    same = rows[(rows.method == "retrain") & rows.forget.isin(curves.forget.unique())]
    retrain = 100 * means(same, ["probe_forget"]).iloc[0, 0]
    table = steps["mean"].unstack("readout")
    lines = {label: (table[label], READOUT_STYLE[name]) for name, label in READOUTS.items()}
    level = {"Retrain's probe": (pd.Series(retrain, table.index), DASHED)}
    figure, axis = _lines(lines | level, "optimiser step (0 = Original)")
    for label, (_, look) in lines.items():
        of = steps.loc[label]
        axis.fill_between(of.index, of["min"], of["max"], color=look["color"], alpha=0.12, linewidth=0)
    for step, at in table[table[READOUTS["output"]] < 5].iloc[:1].iterrows():  # the first at which the output has gone
        told = [f"step {step}:", *(f"{SHORT[name]} {at[label]:.1f} %" for name, label in READOUTS.items())]
        axis.axvline(step, color=GREY, linewidth=0.7, zorder=0)
        axis.text(step * 1.15, 34, "\n".join(told), size=style.LARGE, va="center")
    caption = f"Forget accuracy during {curves.model.iloc[0]}, {n_of(curves)}. Lines are means over the"
    caption += f" forget sets; shading is the range. Dashed: Retrain's linear probe on the same sets ({retrain:.1f} %)."
    return finish(figure, steps.reset_index(), caption)


def _lines(lines: dict[str, tuple[pd.Series, dict]], x_label: str) -> tuple[Figure, Axes]:
    """A wide figure of (values, look) over a logarithmic axis that has room for 0; each line is named where it ends."""
    figure, ((axis,),) = canvas(2.56, width=style.WIDE)
    for values, look in lines.values():
        axis.plot(values, **{"linewidth": 2, "clip_on": False} | look)
    places = sorted({x for values, _ in lines.values() for x in values.index})
    ticks = [x for x in places if x in (0, 1, 4, 16, 64, 256, 1024, 4096)] if len(places) > 9 else places
    axis.set_xscale("symlog", base=2, linthresh=1)
    axis.set_xticks(ticks, ticks)
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(-0.1 if places[0] < 1 else places[0] / 1.1, places[-1] * 1.03)
    axis.set(xlabel=x_label, ylabel=ACCURACY, ylim=(-3, 103))
    end_labels(axis, [(values.iloc[-1], name, look["color"]) for name, (values, look) in lines.items()])
    return figure, axis


def dumbbell(rows: pd.DataFrame, columns: tuple = ("output", "probe")) -> Figure:
    """Forget accuracy of each model by the output (hollow) and by what is read off its features (filled).

    ``rows`` are those of a study, of which the paper's methods, Retrain and the untrained network are shown, or one
    per model (``evaluate``), of which all are and the Original is the last; ``columns`` are readouts.
    """
    of_study = "variant" in rows
    others = [name for name in rows.method.unique() if name in METHODS and METHODS[name].start == "original"]
    of_paper = dict.fromkeys([*PAPER, *others, "retrain", "random"])
    shown = models_of(rows, tuple(of_paper)) if of_study else list(rows.model.unique())
    methods = rows.drop_duplicates("model").set_index("model").method
    table = 100 * means(rows, [f"{name}_forget" for name in columns]).dropna(how="all")  # of a model that diverged
    shown = sorted((name for name in shown if name in table.index), key=lambda name: methods[name] == "original")
    table.columns = [SHORT[name] for name in columns]
    retrain = table[table.index.map(methods) == "retrain"].drop(columns="output").mean().dropna()
    looks = {SHORT[name]: READOUT_STYLE[name] for name in columns}
    looks["output"] = looks["output"] | style.HOLLOW
    figure, ((axis,),) = canvas(max(2.0, 0.24 * len(shown) + 0.12 * len(retrain) + 0.9))
    joined(axis, table.loc[shown], looks)
    axis.set(xlim=(-3, 103), xlabel=ACCURACY)
    for line, (readout, x) in enumerate(retrain.items()):
        colour = looks[readout]["color"]
        look = {"color": colour, "ha": "right" if x > 60 else "left", "size": 7.5}
        axis.axvline(x, **DASHED | {"color": colour})
        axis.text(x, -0.7 - 0.55 * line, f"Retrain's {readout} {x:.0f} %", **look)  # above the axes
    figure.legend(title="Forget accuracy by output and features", loc="outside upper center", ncol=len(columns))
    filled = " and ".join({"probe": "linear probe", "ncc": "NCC"}[name] for name in columns[1:])
    over = f", {n_of(rows)}, means over them" if of_study else ""
    caption = f"Forget accuracy by output (hollow) and by {filled} (filled){over}."
    caption += " The dashed line is Retrain's." * bool(len(retrain))
    return finish(figure, table.loc[shown].reset_index(), caption)


def cmf(rows: pd.DataFrame) -> Figure:
    """Each method with a linear and with a class-mean-features head: forget accuracy by output, probe and NCC."""
    if not (methods := [name for name in PAPER if name in set(rows.method[rows.variant == "cmf"])]):
        raise BadInput(f"no model here has a CMF head; choose from the methods {', '.join(PAPER)}.")
    chosen = rows[rows.method.isin(methods) & rows.variant.isin(HEADS)]
    table = 100 * means(rows, ["output_retain", *(f"{name}_forget" for name in READOUTS)])
    retrain = table.loc["Retrain"]
    table = chosen.drop_duplicates("model")[["model", "method", "variant"]].join(table, on="model")
    broken = table[table.output_retain < retrain.output_retain - WORSE]
    table = table.drop(broken.index)
    low = 5 * (min(table.iloc[:, -2:].min(axis=None), retrain.iloc[-2:].min()) // 5)
    mark = {"color": "black", "marker": "o"}
    looks = {"linear head": mark | style.HOLLOW, "CMF head": mark}
    figure, (axes,) = canvas(0.36 * len(methods) + 0.95, 1, 3, sharey=True)
    for axis, readout in zip(axes, READOUTS):
        of = table.pivot(index="method", columns="variant", values=f"{readout}_forget")
        of = of.reindex(index=methods, columns=HEADS).rename(index=lambda name: METHODS[name].label, columns=HEADS)
        joined(axis, of, looks, apart=0.4)
        axis.plot(of[MATCHED], np.arange(len(of)) - 0.2, ".", color=OTHER, markersize=6, label=MATCHED, zorder=5)
        axis.axvline(retrain[f"{readout}_forget"], **DASHED, label="Retrain")
        axis.set(title=READOUTS[readout], xlim=(-4, 104) if readout == "output" else (low - 2, 102))
    axes[0].set_xticks((0, 50, 100))
    figure.supxlabel(ACCURACY, size=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=2)
    caption = f"Forget accuracy with a linear head and with a CMF head, {n_of(chosen)}, means; features without"
    caption += " normalisation. Matched budget: a linear head trained by the CMF head's recipe."
    if len(broken):
        listed = ", ".join(f"{model} ({value:.0f} %)" for model, value in zip(broken.model, broken.output_retain))
        caption += f" Not shown because retain accuracy is more than {WORSE} points below Retrain's: {listed}."
    return finish(figure, table, caption)


def alignment(rows: pd.DataFrame) -> Figure:
    """Cosine between class weight vector and centred class mean, of the forget classes and of the retain classes."""
    models = models_of(rows, ("original", "retrain", *PAPER, "distilled_head", "prune", "bias_shift"))
    chosen = rows[rows.model.isin(models)].dropna(subset="alignment")
    chosen = chosen.assign(model=chosen.model.str.replace("Distilled head, classifier only", "Distilled head"))
    points = chosen[["model", "seed", "forget", "alignment"]].rename(columns={"alignment": "cosine"})
    points = points.assign(number=[range(len(of)) for of in points.cosine]).explode(["cosine", "number"]).dropna()
    own = [str(row.number) in row.forget.split() for row in points.itertuples()]
    points = points.assign(cosine=points.cosine.astype(float), kind=np.where(own, *KINDS))
    points = points.drop_duplicates(["model", "seed", "number", "kind", "cosine"])  # one Original for every forget set
    points = points.sort_values("kind", ascending=False, kind="stable")  # forget classes are drawn last
    forget = points[points.kind == "forget class"].groupby("model").cosine
    order = list(forget.mean().sort_values(ascending=False).index)
    figure, ((axis,),) = canvas(0.2 * len(order) + 0.75)
    retrain = forget.get_group("Retrain")
    axis.axvspan(retrain.min(), retrain.max(), color="#e3e3e3", linewidth=0, zorder=0)
    axis.text(retrain.mean(), 1.01, "Retrain", transform=axis.get_xaxis_transform(), ha="center", size=7.5, color=GREY)
    np.random.seed(0)  # of the strip plot's jitter
    dots = {"palette": KINDS, "size": 3.2, "alpha": 0.8, "jitter": 0.22}
    sns.stripplot(points, x="cosine", y="model", hue="kind", order=order, ax=axis, **dots)
    sns.move_legend(axis, "lower center", bbox_to_anchor=(0.5, 1.06), ncol=2, title=None, markerscale=1.5)
    axis.set(xlabel="cosine of weight vector and class mean", ylabel="")
    axis.set_xlim(min(-0.2, points.cosine.min() - 0.03), 1.02)
    axis.tick_params(axis="y", length=0)
    caption = f"Cosine between class weight vector and centred class mean, one dot per class, {n_of(chosen)}; 0 is"
    caption += " orthogonal, 1 aligned. The grey band is the range over Retrain's forget classes."
    return finish(figure, points, caption)


def turned(rows: pd.DataFrame) -> Figure:
    """By which angle weight vector and mean of the forget class turned from the Original."""
    models = models_of(rows, PAPER) + [name for name in ["Random Label, classifier only"] if name in set(rows.model)]
    table = means(rows, ["weight_turn_forget", "mean_turn_forget"]).loc[models].dropna()
    table.columns = ["class weight vector", "class mean"]
    looks = {"class weight vector": {"color": "black", "marker": "s"}, "class mean": {"color": FORGET, "marker": "o"}}
    figure, ((axis,),) = canvas(0.27 * len(table) + 0.75)
    joined(axis, table, looks)
    axis.set(xlim=(-2, max(93, table.max(axis=None) + 3)), xlabel="angle to the Original's (degrees)")
    axis.set_xticks(range(0, int(axis.get_xlim()[1]) + 1, 30))
    figure.legend(loc="outside upper center", ncol=2)
    caption = f"Angle between the forget class's weight vector, or its mean, and the Original's, {n_of(rows)},"
    caption += " means. At 90 degrees the two are orthogonal."
    return finish(figure, table.reset_index(), caption)


def neural_collapse(histories: pd.DataFrame) -> Figure:
    """Retain accuracy and neural collapse of Original and Retrain against the training epoch."""
    chosen = histories[histories.method.isin(("original", "retrain"))]
    models, columns = list(chosen.model.unique()), [name for names in HISTORY for name in names]
    of = chosen.groupby(["model", "epoch"])[columns].mean()
    of[list(HISTORY[0])] *= 100
    figure, axes = canvas(3.2, 2, len(models), sharex=True, sharey="row")
    decades = np.log10(of[list(HISTORY[1])])
    bounds = 10 ** np.floor(decades.min(axis=None)), 10 ** np.ceil(decades.max(axis=None))
    axes[0][0].set(ylabel="accuracy on\nretain classes (%)", ylim=(0, 103))
    axes[1][0].set(ylabel="neural collapse\n(0 = collapsed)", yscale="log", ylim=bounds)
    axes[1][0].yaxis.set_major_formatter("{x:g}")
    axes[1][0].yaxis.set_minor_formatter(NullFormatter())
    for row, names in zip(axes, HISTORY):
        for axis, model in zip(row, models):
            for name, dash in zip(names, DASHES):
                axis.plot(of.loc[model][name], color=COLOURS[model], linestyle=dash)
            axis.set(**{"title": model} if names is HISTORY[0] else {"xlabel": "epoch"})
        end_labels(row[-1], [(of.loc[model, name].iloc[-1], label, GREY) for name, label in names.items()])
    caption = f"Training of {' and '.join(models)}, {n_of(chosen)}, means: retain accuracy, and NC1 to NC3."
    caption += " NC1 to NC3 are 0 at collapse."
    return finish(figure, chosen[["model", "seed", "forget", "epoch", *columns]], caption)


def gaps_by_profile(tables: dict[str, pd.DataFrame]) -> Figure:
    """Forget accuracy of probe and NCC minus Retrain's, in points, of each method on each data set.

    ``tables`` hold model, column, difference, low and high by data set; a tuned row replaces the published one.
    """
    labels = [METHODS[name].label for name in PAPER]
    points = pd.concat(tables, names=["profile"]).reset_index("profile")
    points = points.assign(method=points.model.str.removesuffix(" (tuned)")).sort_values("model", kind="stable")
    points = points[points.method.isin(labels)].drop_duplicates(["profile", "method", "column"], keep="last")
    present = [name for name in labels if name in set(points.method)]
    figure, (axes,) = canvas(0.5 * len(present) + 1.1, 1, 2, sharey=True, sharex=True)
    for axis, readout in zip(axes, ("probe", "ncc")):
        axis.axvline(0, color="black", linewidth=0.8)
        for i, (profile, colour, marker) in enumerate(zip(tables, style.PROFILE_COLOURS, "osD^vP")):
            of = points[(points.profile == profile) & (points.column == f"{readout}_forget")]
            places = of.method.map(present.index) + (i + 0.5) / len(tables) * 0.8 - 0.4
            bars = [of.difference - of.low, of.high - of.difference]
            axis.errorbar(of.difference, places, xerr=bars, fmt=marker, color=colour, markersize=4, label=profile)
        for place in range(1, len(present)):
            axis.axhline(place - 0.5, color="#dddddd", linewidth=0.6)
        axis.set(title=READOUTS[readout], ylim=(len(present) - 0.5, -0.5))
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes[0].set_yticks(range(len(present)), present)
    figure.supxlabel("difference from Retrain (points)", size=8)
    entries = {"title": "Forget accuracy minus Retrain's", "ncol": 2 if max(map(len, tables)) < 25 else 1}
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", **entries)
    caption = "Forget accuracy minus Retrain's, by linear probe and by NCC, in percentage points. The tuned"
    caption += " learning rate is used where there is one. Bars are 95 % intervals over forget sets."
    return finish(figure, points[["profile", "model", "column", "difference", "low", "high"]], caption)


def attacks(readings: pd.DataFrame) -> Figure:
    """Forget accuracy of a k-shot linear probe on the features against k, the images per class."""
    what = "linear probe fitted to the features of k images per class"
    figure = _attack(readings, "few_shot", "images per class", what)
    figure.caption += " The thin line is the control with shuffled labels (mean over models)."
    return figure


def fine_tuning(readings: pd.DataFrame) -> Figure:
    """Forget accuracy while the network is fine-tuned on a few images per class, with its own head."""
    what = "network fine-tuned on a few images, using its own classifier"
    return _attack(readings, "own_head", "fine-tuning step", what)


def _attack(readings: pd.DataFrame, attack: str, x_label: str, what: str) -> Figure:
    null = f"{attack}_shuffled"
    points = readings[readings.attack.isin((attack, null)) & readings.model.isin(COLOURS)]
    found = 100 * points.groupby(["attack", "model", "x"]).forget_accuracy.mean()
    lines = {}
    for (model, colour), dash in zip(COLOURS.items(), DASHES * 2):
        if (attack, model) in found.index:
            lines[model] = (found[attack, model], {"color": colour, "linestyle": dash, "marker": "o"})
    if null in found.index:
        lines["shuffled labels"] = (found[null].groupby("x").mean(), {"color": OTHER, "linewidth": 1})
    figure, _ = _lines(lines, x_label)
    caption = f"Forget accuracy of a {what}, {n_of(points)}, means over these and over resamples of the images."
    return finish(figure, found.rename("forget_accuracy").reset_index(), caption)


def embeddings(layouts: dict[str, dict], forget: tuple[int, ...], classes: list[str]) -> Figure:
    """t-SNE of the test features of up to four models; ``layouts`` hold points (N, 2) and labels (N,)."""
    names, points = ", ".join(classes[c] for c in forget), []
    figure, axes = canvas(3.7, 2, 2)
    for axis, (model, layout) in zip(axes.flat, layouts.items()):
        of = pd.DataFrame(layout["points"], columns=["x", "y"]).assign(model=model, label=layout["labels"])
        for part, own in of.groupby(of.label.isin(forget)):  # forget classes are drawn last
            colour, label = (FORGET, f"forget class: {names}") if part else (RETAIN, "retain classes")
            axis.scatter(own.x, own.y, color=colour, s=3, linewidths=0, label=label)
        axis.set_title(model, pad=2)
        points.append(of)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper center", ncol=2, markerscale=2.5)
    caption = f"t-SNE of the features of {len(of)} test images, one seed; forget class: {names}."
    return finish(figure, pd.concat(points), caption)


def steps(steps: dict) -> Figure:
    """Test images of the forget class and its two nearest at three steps, coloured by what each readout predicts."""
    readings, classes, labels = steps["readings"], steps["classes"], np.array(steps["labels"])
    shown = [readings[0], readings[len(readings) // 2], readings[-1]]
    names, colours = [steps["names"][c] for c in classes], dict(zip(classes, (FORGET, "#0b3c6f", "#4a9bd4")))
    who = {"output": "the network", "probe": "a probe on its features", "ncc": "the nearest class mean"}
    figure, axes = canvas(4.3, 3, 3, sharex=True, sharey=True, subplot_kw={"xticks": [], "yticks": []})
    points = []
    for axis, (readout, reading) in zip(axes.flat, ((name, at) for name in READOUTS for at in shown)):
        of = pd.DataFrame(reading["points"], columns=["x", "y"])
        of = of.assign(step=reading["step"], readout=readout, label=labels, predicted=reading[readout])
        for c, marker in zip(classes, "o^s"):
            own = of[of.label == c]
            shades = own.predicted.map(colours).fillna(OTHER)
            axis.scatter(own.x, own.y, c=shades, marker=marker, s=7, linewidths=0, alpha=0.8)
        right = 100 * (of.predicted == classes[0])[of.label == classes[0]].mean()
        axis.text(0.5, 1.02, f"{names[0]}: {right:.0f} %", transform=axis.transAxes, ha="center", size=7.5)
        axis.set_title(f"What {who[readout]} predicts" * (axis in axes[:, 1]), pad=14)
        axis.set_xlabel(f"step {reading['step']}" * (readout == "ncc"))
        points.append(of)
    entries = zip([*colours.values(), OTHER], "o^s.", [*names, "another class"])
    handles = [axes[0][0].plot([], [], marker, color=colour, label=name)[0] for colour, marker, name in entries]
    figure.legend(handles=handles, loc="outside lower center", ncol=4, columnspacing=1, handletextpad=0.3)
    caption = f"{steps['model']} with forget class {names[0]}: {len(labels)} test images, seed {steps['seed']}, in the"
    caption += " plane of three class means of the Original. Marker: true class; colour: prediction; numbers: accuracy."
    return finish(figure, pd.concat(points), caption)


def headroom(rows: pd.DataFrame) -> Figure:
    """Original minus Retrain (points) of probe and NCC against the number of feature dimensions."""
    figure, ((axis,),) = canvas(2.0)
    labels = []
    for readout, of in rows.sort_values("dimensions").groupby("readout", sort=False):
        look, bars = READOUT_STYLE[readout], [of.headroom - of.low, of.high - of.headroom]
        axis.errorbar(of.dimensions, of.headroom, yerr=bars, **look)
        labels.append((of.headroom.iloc[-1], READOUTS[readout], look["color"]))
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set(xscale="log", xlabel="feature dimensions", ylabel="headroom: Original\nminus Retrain (points)")
    axis.set_xticks(of.dimensions, of.dimensions)
    axis.xaxis.set_minor_locator(NullLocator())
    end_labels(axis, labels)
    caption = "Headroom: the Original's forget accuracy minus Retrain's. Bars are 95 % intervals over forget sets."
    return finish(figure, rows, caption)


def tuning(table: pd.DataFrame) -> Figure:
    """Forget accuracy of output, probe and NCC against the learning rate, a panel per tuned method."""
    own = table[table.variant.isin(("linear", "tuned")) & (table.setting == "lr") & table.method.isin(PAPER)]
    own = own.rename(columns={"forget": "output"}).assign(method=own.method.map(lambda name: METHODS[name].label))
    points = own.melt(["method", "value", "chosen"], list(READOUTS), "readout", "accuracy").replace(SHORT)
    points["accuracy"] *= 100
    colours, markers = ({SHORT[n]: look[key] for n, look in READOUT_STYLE.items()} for key in ("color", "marker"))
    across = min(3, points.method.nunique())
    size = {"height": 1.5, "aspect": style.WIDTH / 1.5 / across, "col": "method", "col_wrap": across}
    look = {"kind": "line", "palette": colours, "markers": markers, "dashes": False, "legend": False}
    grid = sns.relplot(points, x="value", y="accuracy", hue="readout", style="readout", **size, **look)
    grid.figure.set_layout_engine("constrained")
    grid.set(xscale="log", ylim=(-4, 104)).set_titles("{col_name}").set_axis_labels("learning rate", ACCURACY)
    for method, axis in grid.axes_dict.items():
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.axvline(own.value[own.chosen & (own.method == method)].iloc[0], **DASHED)
    corner = list(grid.axes_dict)[across - 1]
    last = points[points.method == corner].groupby("readout", sort=False).accuracy.last()
    end_labels(grid.axes_dict[corner], [(value, name, colours[name]) for name, value in last.items()])
    caption = "Forget accuracy on held-out images by learning rate. The dashed line is the rate chosen by the output."
    return finish(grid.figure, points, caption)
