"""Figures: what is drawn is what the rows hold."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from test_claims import frame, label, model
from test_style import attacked, cmf_rows, histories, path, steps

from unlearn_utils.settings import READOUTS
from unlearn_utils.views import claims, curves, plots, style


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def of_colour(lines, colour):
    return [line for line in lines if to_hex(line.get_color()) == colour]


def levels(axis):
    """Heights of the lines across an axis."""
    return [line.get_ydata()[0] for line in axis.lines
            if list(line.get_xdata()) == [0, 1] and line.get_transform() != axis.transData]


def test_a_dumbbell_holds_the_means_the_classes_and_the_references():
    rows = frame(model("Random Label", "random_label", output=0.02, probe=0.7, ncc=0.6),
                 model("Random Label + CMF", "random_label", "cmf"))
    figure = plots.dumbbell(rows)
    axis, points = figure.axes[0], figure.points
    shown = ["Random Label", "Retrain", "Untrained network"]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == shown
    means = points[points["class"].isna()].set_index(["model", "readout"]).accuracy
    of_class = points[(points.model == "Random Label") & (points.readout == "probe") & points["class"].notna()]
    assert means["Random Label", "output"] == pytest.approx(2) and len(of_class) == 10
    assert list(of_class.accuracy) == pytest.approx(list(100 * rows.probe_forget[rows.model == "Random Label"]))
    for readout, (colour, marker) in style.READOUT_STYLE.items():
        marks = [line for line in of_colour(axis.lines, colour) if line.get_marker() == marker]
        assert [line.get_xdata()[0] for line in marks] == pytest.approx([means[name, readout] for name in shown])
        assert {line.get_markerfacecolor() for line in marks} == {"none" if readout == "output" else colour}
    line = next(line for line in axis.lines if line.get_color() == "black")
    assert line.get_xdata()[0] == pytest.approx(90)


def test_the_bands_of_a_dumbbell_are_retrains_intervals_each_of_its_readout():
    rows = frame()
    rows.loc[rows.model == "Retrain", "ncc_forget"] = [0.2, 0.4] * 5  # mean 0.3, t(9) * s / sqrt(10) = 2.262 * 0.1054 / 3.162
    ends = {band.get_facecolor()[:3]: (band.get_x(), band.get_x() + band.get_width())
            for band in plots.dumbbell(rows).axes[0].patches}
    assert ends[to_rgb(style.READOUT_STYLE["ncc"][0])] == pytest.approx((22.46, 37.54), abs=0.01)
    few = plots.dumbbell(rows[rows.forget.isin(["0", "1", "2"])]).axes[0].patches[0]  # no interval: from least to most
    assert (few.get_x(), few.get_x() + few.get_width()) == pytest.approx((20, 40))
    notes = [" ".join(plots.dumbbell(of).texts[0].get_text().split()) for of in (rows, rows[rows.forget.isin(["0", "1"])])]
    assert "95 %" in notes[0] and "95 %" not in notes[1] and "range" in notes[1]


def test_a_dumbbell_averages_seeds_before_classes_and_shows_the_models_asked_for():
    rows = label(probe=0.7)
    extra = rows[(rows.model == "Random Label") & (rows.forget == "0")].assign(seed=1, probe_forget=0.1)
    figure = plots.dumbbell(pd.concat([rows, extra, extra.assign(seed=2)]), models=["Random Label"])
    mean = figure.points[(figure.points.readout == "probe") & figure.points["class"].isna()].accuracy.item()
    of_class = 100 * rows.probe_forget[rows.model == "Random Label"].to_numpy()
    assert mean == pytest.approx(np.mean([(of_class[0] + 10 + 10) / 3, *of_class[1:]]))
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["Random Label"]


def test_a_dumbbell_of_foreign_models_shows_each_forgotten_class():
    rows = pd.DataFrame([
        {"model": name, "method": name.lower(), "output_forget": 0.1, "probe_forget": 0.5, "ncc_forget": 0.4,
         **{f"{readout}_by_class": [0.2, 0.9, 0.6] for readout in READOUTS}} for name in ("Original", "Mine")])
    lines = plots.dumbbell(rows, (0, 2)).axes[0].lines
    dots = [line for line in lines if line.get_marker() == "." and len(line.get_xdata())]
    assert len(dots) == 6 and all(list(line.get_xdata()) == pytest.approx([20, 60]) for line in dots)
    single = plots.dumbbell(rows.drop(columns=[f"{r}_by_class" for r in READOUTS]), (1,)).axes[0]
    assert not [line for line in single.lines if line.get_marker() == "." and len(line.get_xdata())]


def test_slopes_go_from_tuned_over_the_same_budget_to_cmf():
    rows = cmf_rows()
    rows.loc[(rows.method == "scrub") & (rows.variant == "cmf_budget"), ["ncc_forget", "output_retain"]] = [0.2, 0.7]
    figure = plots.slopes(rows)
    colour, marker = style.look("scrub")
    marks = [line for line in of_colour(figure.axes[0].lines, colour) if line.get_marker() == marker]
    assert [line.get_ydata()[0] for line in marks] == pytest.approx([60, 20, 60])
    assert [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in marks] == [False, True, False]
    assert levels(figure.axes[0])[:3] == pytest.approx([90, 50, 30])
    assert figure.points.broken.sum() == 2  # in both panels
    without = plots.slopes(rows[rows.variant != "cmf_budget"]).axes[0]  # a line from its own rate to CMF, and no empty place
    assert [text.get_text() for text in without.get_xticklabels()] == ["own\nrate", "CMF"]
    (line,) = [line for line in of_colour(without.lines, colour) if line.get_marker() != marker]
    assert list(line.get_ydata()) == pytest.approx([60, 60])


def test_gaps_are_those_of_the_cards():
    card = claims.scorecard(label(probe=0.7, ncc=0.8))
    few = card.assign(low=float("nan"), high=float("nan"), n=3)
    figure = plots.gaps_by_profile({"one": card, "two": few})
    ncc, probe = figure.axes
    for axis, gap in ((ncc, 30), (probe, 20)):
        marks = [line for line in axis.lines if line.get_marker() in "os"]
        assert [line.get_xdata()[0] for line in marks] == pytest.approx([gap, gap])
        assert to_hex(marks[1].get_markerfacecolor()) == "#ffffff"
    pale = plots.gaps_by_profile({"one": claims.scorecard(label(probe=0.7, ncc=0.8, output=0.3))})  # no evidence
    assert {line.get_alpha() for line in pale.axes[0].lines if line.get_marker() == "o"} == {0.3}
    assert "Pale" in pale.texts[0].get_text() and "Pale" not in figure.texts[0].get_text()
    low, high = next(line.get_xdata() for line in probe.lines if to_hex(line.get_color()) == plots.PROFILE_COLOURS[0])
    line = card[card.claim == "Probe still reads it"].iloc[0]
    assert (low, high) == pytest.approx((100 * line.low, 100 * line.high))


def test_every_cosine_is_a_point_and_a_class_at_the_centre_has_none():
    rows = frame()[:3]
    rows["alignment"] = [[0.1, 0.9, 0.8], [0.95, 0.2, 0.85], [0.7, 0.75, float("nan")]]  # forget classes 0, 1 and 2
    axis = plots.alignment(rows).axes[0]
    assert "at the centre: Original." in axis.figure.texts[0].get_text().replace("\n", " ")
    points = {colour: sorted(x for dots in of_colour(axis.lines, colour) for x in dots.get_xdata())
              for colour in (plots.RETAIN, plots.FORGET)}
    assert points[plots.FORGET] == pytest.approx([0.1, 0.2])
    assert points[plots.RETAIN] == pytest.approx([0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
    assert [text.get_text() for text in axis.texts] == ["90 %", "output"]


def test_a_model_that_diverged_has_no_row_among_the_cosines():
    rows = label()
    rows["alignment"] = [np.nan if method == "random_label" else [0.5] * 10 for method in rows.method]
    for diverged in ("random_label", "retrain"):
        names = [tick.get_text() for tick in plots.alignment(rows.assign(
            alignment=rows.alignment.where(rows.method != diverged))).axes[0].get_yticklabels()]
        assert "Random Label" not in names and "Original" in names


def test_one_network_is_not_counted_once_per_forget_set():
    rows = frame()[:3]
    rows["alignment"] = [[0.1, 0.2, 0.3, 0.4]] * 3
    assert len(plots.alignment(rows).points) == 3 + 4  # three forget classes, and each class as a retain class


def test_rows_are_sorted_by_the_forget_classes_cosine():
    rows = label().assign(alignment=None)
    rows["alignment"] = [[0.1 * len(name)] * 10 for name in rows.method]
    names = [tick.get_text().split("\n")[0] for tick in plots.alignment(rows).axes[0].get_yticklabels()]
    assert names == ["Distilled head", "Random Label", "Original", "Retrain", "Untrained network"]


def test_a_layout_shows_the_forget_class_in_orange_and_what_ncc_reads():
    layout = {"points": np.arange(8.0).reshape(4, 2), "labels": np.array([0, 1, 0, 2])}
    figure = plots.embeddings({"Retrain": layout, "m": layout}, (0,), frame(), ["cat", "dog", "cow"])
    dots = figure.axes[0].collections[0]
    assert np.array_equal(dots.get_offsets(), layout["points"])
    assert [to_hex(c) == plots.FORGET for c in dots.get_facecolors()] == [True, False, True, False]
    assert [axis.get_xlabel() for axis in figure.axes] == ["NCC reads 50 %", ""]
    assert figure.legends[0].get_texts()[0].get_text() == "forgotten class: cat"


def test_four_models_are_laid_out_or_those_asked_for():
    layout = {"points": np.zeros((4, 2)), "labels": np.array([0, 1, 0, 2])}
    names = ["Original", "SalUn", "Retrain", "Random Label + CMF", "Random Label"]
    layouts = dict.fromkeys(names, layout)
    titles = [axis.get_title() for axis in plots.embeddings(layouts, (0,)).axes]
    assert titles == ["Original", "Retrain", "Random Label + CMF", "Random Label"]
    assert [a.get_title() for a in plots.embeddings(layouts, (0,), models=["SalUn"]).axes] == ["SalUn", ""]


def test_the_learning_curve_ends_where_the_readings_do():
    rows, run = label(probe=0.7), steps()
    run["forget_accuracy"] += run.forget.astype(int) / 10
    axis = plots.unlearning_curve(run, rows).axes[0]
    for colour in style.READOUT_COLOURS.values():
        line = next(line for line in of_colour(axis.lines, colour) if len(line.get_xdata()) == 4)
        means = [105, 55, 100 / 3 + 5, 25]
        assert list(line.get_xdata()) == [0, 1, 2, 4] and line.get_ydata() == pytest.approx(means)
    beside = rows[rows.forget.isin(["0", "1"])].groupby("method").ncc_forget.mean()
    ncc = of_colour(axis.lines, style.READOUT_COLOURS["NCC"])
    drawn = [line.get_ydata()[0] for line in ncc if len(line.get_ydata()) == 2]
    assert drawn == pytest.approx([100 * beside["retrain"], 100 * beside["random"]])


def test_an_attack_curve_holds_the_mean_and_the_middle_half_of_draws_and_sets():
    figure = plots.attack_curves(attacked(), {"few_shot": "few", "prototype": "one"}, "images")
    names = [f"{name} {variant}" for name, variant in curves.ATTACKED]
    for axis in figure.axes:
        assert [line.get_label() for line in axis.lines] == names  # five, and SalUn is none of them
        assert all(line.get_ydata() == pytest.approx([20, 30]) for line in axis.lines)
        heights = axis.collections[0].get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((15, 35))
    assert to_hex(figure.axes[0].lines[3].get_color()) == plots.COLOURS["random_label"]
    one = plots.attack_curves(attacked(), {"few_shot": "few"}, "images", models=["salun linear"])
    assert [to_hex(line.get_color()) for line in one.axes[0].lines] == [plots.COLOURS["salun"]]


def test_training_curves_are_those_of_original_and_retrain():
    axes = plots.training_curves(histories()).axes
    assert [axis.get_title() for axis in axes] == ["Original", "Retrain", "", ""]
    for axis, expected in zip(axes, [[[10, 20], [20, 20]]] * 2 + [[[2, 3], [0.5, 0.5], [0.4, 0.4]]] * 2):
        assert [list(line.get_ydata()) for line in axis.lines] == [pytest.approx(values) for values in expected]


def test_the_path_has_a_line_per_row_and_says_when_the_retain_rows_part():
    weights, means = path(60)
    figure = plots.theory_path(weights, means)
    cosines = np.stack([torch.cosine_similarity(weight, means, dim=1).numpy() for weight in weights])
    assert np.allclose(figure.points.drop(columns="step"), cosines)
    lines = figure.axes[0].lines
    assert len(of_colour(lines, plots.RETAIN)) == 3
    assert np.allclose(of_colour(lines, plots.FORGET)[0].get_ydata(), cosines[:, 0])
    assert "part" not in figure.texts[0].get_text()
    weights[30:] = [weight.clone().index_fill_(0, torch.tensor([2]), 1.0) for weight in weights[30:]]
    note = " ".join(plots.theory_path(weights, means).texts[0].get_text().split())
    taken = int((weights[-1] @ means[0]).argmax())
    assert "From step 30 on" in note and f"row {taken} answers" in note


def test_the_rows_of_the_drawing_are_the_theorys():
    left, right = plots.theory_gamma([0.2, 0.8], np.array([[1, 0], [1, 1]]), (0.1, 0.9), gamma=0.75).axes
    tips, means = [np.array(arrow.xy) for arrow in left.texts], [line.get_xydata()[0] for line in left.lines[:3]]
    assert np.allclose(means[0], (0, 1)) and np.allclose(tips[0], -0.25 * means[0])
    assert np.allclose(tips[1:], 0.75 * np.array(means[1:]))
    assert [list(line.get_ydata()) for line in right.lines] == [[100, 100], [0, 100]]


def test_an_arrow_stands_at_the_angle_that_was_measured():
    axis = plots.arrows({"Retrain": np.pi / 3}).axes[0]
    assert np.allclose([arrow.xy for arrow in axis.texts], [(0.5, 3**0.5 / 2), (1, 0)])
    assert axis.get_title() == "Retrain\n60°"
