"""Figures: what is drawn is what the rows hold, and colours stay with their methods."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from test_claims import frame, label

from unlearn_utils.methods import METHODS
from unlearn_utils.settings import READOUTS
from unlearn_utils.views import plots


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def of_colour(lines, colour):
    return [line for line in lines if to_hex(line.get_color()) == colour]


def test_the_bars_are_the_means_of_the_rows():
    rows = label(probe=0.7, ncc=0.6)
    models = list(rows.model.unique())
    for axis, readout in zip(plots.bars(rows).axes, READOUTS):
        means = 100 * rows.groupby("model").mean(numeric_only=True).loc[models]
        for bars, side, colour in zip(axis.containers[1::2], ("retain", "forget"), (plots.RETAIN, plots.FORGET)):
            assert [bar.get_width() for bar in bars] == pytest.approx(list(means[f"{readout}_{side}"]))
            assert {to_hex(bar.get_facecolor()) for bar in bars} == {colour}
        levels = [line.get_xdata()[0] for line in axis.lines if len(line.get_xdata()) == 2]
        assert levels[-2:] == pytest.approx(list(means.loc[["Original", "Retrain"], f"{readout}_forget"]))
        assert axis.get_xlim()[0] < 0  # a line at 0 does not lie on the axis


def test_every_cosine_is_a_point_and_a_class_at_the_centre_has_none():
    rows = frame()[:3]
    rows["alignment"] = [[0.1, 0.9, 0.8], [0.95, 0.2, 0.85], [0.7, 0.75, float("nan")]]  # forget classes 0, 1 and 2
    drawn = [dots for dots in plots.alignment(rows).axes[0].collections if len(dots.get_offsets())]
    points = {colour: sorted(x for dots in drawn if to_hex(dots.get_facecolor()[0]) == colour for x in dots.get_offsets()[:, 0])
              for colour in (plots.RETAIN, plots.FORGET)}
    assert points[plots.FORGET] == pytest.approx([0.1, 0.2])
    assert points[plots.RETAIN] == pytest.approx([0.7, 0.75, 0.8, 0.85, 0.9, 0.95])


def test_a_layout_shows_the_forget_class_in_orange():
    layout = {"points": np.arange(8.0).reshape(4, 2), "labels": np.array([0, 1, 0, 2])}
    dots = plots.embeddings({"m": layout}, (0,)).axes[0].collections[0]
    assert np.array_equal(dots.get_offsets(), layout["points"])
    assert [to_hex(c) == plots.FORGET for c in dots.get_facecolors()] == [True, False, True, False]


def test_the_learning_curve_ends_where_the_readings_do():
    rows = label(probe=0.7)
    curves = pd.DataFrame([
        {"step": step, "readout": readout, "forget": forget, "epoch_end": step == 4, "forget_accuracy": value / (1 + step) + i / 10}
        for readout, value in {"Output": 0.5, "Linear probe": 0.7, "NCC": 0.6}.items() for i, forget in enumerate("01") for step in (0, 1, 4)])
    axis = plots.unlearning_curve(curves, rows).axes[0]
    for readout, colour in plots.READOUT_COLOURS.items():
        line = next(line for line in of_colour(axis.lines, colour) if len(line.get_xdata()) == 3)
        means = curves[curves.readout == readout].groupby("step").forget_accuracy.mean()
        assert list(line.get_xdata()) == [0, 1, 4] and line.get_ydata() == pytest.approx(100 * means.to_numpy())
    level = of_colour(axis.lines, plots.READOUT_COLOURS["NCC"])[-1].get_ydata()[0]
    retrain = rows[(rows.method == "retrain") & rows.forget.isin(["0", "1"])].ncc_forget.mean()
    assert level == pytest.approx(100 * retrain)


def test_an_attack_curve_holds_the_mean_of_draws_and_sets():
    readings = pd.DataFrame([
        {"model": name, "method": method, "variant": "linear", "attack": attack, "x": x, "forget_accuracy": (x + draw) / 10}
        for name, method in (("Retrain", "retrain"), ("SalUn", "salun")) for attack in ("few_shot", "prototype")
        for x in (1, 2) for draw in (0, 1, 2) if attack == "few_shot" or x == 1])
    figure = plots.attack_curves(readings, {"few_shot": "few", "prototype": "one"}, "images")
    for axis, expected in zip(figure.axes, ([20, 30], [20])):
        for line, name in zip(axis.lines, ("Retrain", "SalUn")):
            assert line.get_label() == name and line.get_ydata() == pytest.approx(expected)
        assert to_hex(axis.lines[1].get_color()) == plots.COLOURS["salun"]


def test_training_curves_are_those_of_original_and_retrain():
    histories = pd.DataFrame([
        {"model": name.title(), "method": name, "epoch": epoch, "forget": forget, "train_retain": 0.1 * epoch, "test_retain": 0.2,
         "nc1": 1 + epoch, "nc2": 0.5, "nc3": 0.4}
        for name in ("original", "retrain", "random") for epoch in (1, 2) for forget in "01"])
    axes = plots.training_curves(histories).axes
    for axis, expected in zip(axes, ([10, 20], [20, 20], [2, 3], [0.5, 0.5], [0.4, 0.4])):
        drawn = [list(line.get_ydata()) for line in axis.lines if len(line.get_ydata())]
        assert drawn == [pytest.approx(expected)] * 2


def test_the_theory_figures_show_what_they_are_given():
    axis = plots.retain_and_forget([1, 2], [0.5, 1], [0.2, 0], "x", "y", span=(1, 2)).axes[0]
    assert list(of_colour(axis.lines, plots.RETAIN)[0].get_ydata()) == [0.5, 1]
    assert list(of_colour(axis.lines, plots.FORGET)[0].get_ydata()) == [0.2, 0]


def contrast(colour):
    """WCAG contrast ratio on white."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_every_method_has_a_colour_of_its_own_that_shows_on_white():
    used = [*plots.COLOURS.values(), *plots.READOUT_COLOURS.values(), plots.RETAIN, plots.FORGET]
    assert len(set(used)) == len(used) and min(map(contrast, used)) >= 3
    assert set(METHODS) <= set(plots.COLOURS) and set(plots.READOUT_COLOURS) == set(READOUTS.values())


def test_a_new_method_takes_a_spare_and_shifts_nothing(monkeypatch):
    before = dict(plots.COLOURS)
    monkeypatch.setattr(plots, "COLOURS", dict(before))
    names = [f"new_{i}" for i in range(5)]
    readings = pd.DataFrame([
        {"model": name, "method": name, "variant": "linear", "attack": attack, "x": x, "forget_accuracy": 0.5}
        for name in names for x in (1, 2) for attack in ("few_shot", "prototype")])
    lines = plots.attack_curves(readings, {"few_shot": "few", "prototype": "one"}, "images").axes[0].lines
    new = {name: to_hex(line.get_color()) for name, line in zip(names, lines)}
    assert len(set(new.values())) == 5 and not set(new.values()) & set(before.values())
    assert min(map(contrast, new.values())) >= 3 and plots.COLOURS == before | new
