"""The rules of every figure: 9 cm wide, text of 7 pt, colours that show on white and to everyone, its points in a CSV."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from test_claims import frame, label, model

from unlearn_utils import theory
from unlearn_utils.methods import METHODS
from unlearn_utils.paths import Outputs
from unlearn_utils.settings import READOUTS
from unlearn_utils.views import claims, curves, plots, style

SOURCE = "Made up (4x4): n = 10 forget sets, 1 training seed."


def cmf_rows():
    return frame(*(model(f"{name}{more}", name, variant, probe=0.7, ncc=0.6) for name in ("random_label", "scrub")
                   for variant, more in {"linear": "", "cmf_budget": " at CMF's budget", "cmf": " + CMF"}.items()))


def long_names():
    return cmf_rows().replace("scrub", LONG_NAME)


def with_cosines(rows):
    return rows.assign(alignment=[[0.1 * (i % 9), 0.9, *[0.8] * 8] for i in range(len(rows))])


def steps():
    return pd.DataFrame([
        {"model": "Random Label", "method": "random_label", "step": step, "readout": readout, "forget": forget, "seed": 0,
         "epoch_end": step == 4, "forget_accuracy": 1 / (1 + step)}
        for readout in READOUTS.values() for forget in "01" for step in (0, 1, 2, 4)])


def histories():
    return pd.DataFrame([
        {"model": name.title(), "method": name, "epoch": epoch, "forget": forget, "seed": 0, "train_retain": 0.1 * epoch,
         "test_retain": 0.2, "nc1": 1 + epoch, "nc2": 0.5, "nc3": 0.4}
        for name in ("original", "retrain", "random") for epoch in (1, 2) for forget in "01"])


def attacked():
    return pd.DataFrame([
        {"model": f"{name} {variant}", "method": name, "variant": variant, "attack": attack, "x": x, "forget": "0",
         "seed": 0, "forget_accuracy": (x + draw) / 10} for name, variant in (*curves.ATTACKED, ("salun", "linear"))
        for attack in ("few_shot", "prototype", "few_shot_shuffled") for x in (1, 2) for draw in (0, 1, 2)])


def path(steps, **options):
    means = theory.simplex_etf(4, 5, torch.Generator().manual_seed(0))
    return theory.classifier_gradient_descent(means, 0, 0.5, steps, lr=1.0, weight_decay=0.01, **options), means


LAYOUT = {"points": np.arange(8.0).reshape(4, 2), "labels": np.array([0, 1, 0, 2])}
ATTACKS = {"few_shot": "few-shot linear head", "prototype": "prototype", "few_shot_shuffled": "shuffled labels"}
LONG_NAME = "A method of a long name, zeroed classifier only"
CLASSES = ["airplane", "automobile", "bird"]
FOREIGN = frame().drop_duplicates("model").drop(columns="forget").assign(
    output_by_class=[[0, 1, 1]] * 4, probe_by_class=[[0.5, 1, 1]] * 4, ncc_by_class=[[0.6, 1, 1]] * 4)
FIGURES = {
    "dumbbell": lambda: plots.dumbbell(cmf_rows(), source=SOURCE),
    "dumbbell of long names": lambda: plots.dumbbell(long_names(), None, ["Retrain", LONG_NAME], SOURCE),
    "dumbbell of evaluate": lambda: plots.dumbbell(FOREIGN, (0, 2), source=SOURCE),
    "slopes": lambda: plots.slopes(cmf_rows(), SOURCE),
    "gaps": lambda: plots.gaps_by_profile({name: claims.scorecard(label(probe=0.7)) for name in ("one", "another")}, SOURCE),
    "alignment": lambda: plots.alignment(with_cosines(frame()), SOURCE),
    "embeddings": lambda: plots.embeddings(dict.fromkeys(frame().model, LAYOUT), (0,), frame(), CLASSES, source=SOURCE),
    "learning": lambda: plots.unlearning_curve(steps(), frame(), SOURCE),
    "training": lambda: plots.training_curves(histories(), SOURCE),
    "attacks": lambda: plots.attack_curves(attacked(), ATTACKS, "images per class", source=SOURCE),
    "attack": lambda: plots.attack_curves(attacked(), {"few_shot": "few-shot"}, "images per class", source=SOURCE),
    "theory of the weight": lambda: plots.theory_gamma([0.2, 0.8], np.array([[1, 0], [1, 1]]), (0.1, 0.9), source=SOURCE),
    "theory of the path": lambda: plots.theory_path(*path(60), source=SOURCE),
    "arrows": lambda: plots.arrows(dict.fromkeys(["Original", "Retrain", "Random Label", "Untrained network"], 1.0), SOURCE),
}
DRAWINGS = {draw.__name__: draw for draw in (plots.schematics, plots.turning_apart, plots.tied, plots.to_the_centre)}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]


@pytest.mark.parametrize("name", FIGURES | DRAWINGS)
def test_a_figure_is_a_column_wide_and_can_be_read_there(name):
    figure = (FIGURES | DRAWINGS)[name]()
    figure.draw_without_rendering()
    assert figure.get_figwidth() == pytest.approx(9 / 2.54, abs=0.01)
    assert min(text.get_fontsize() for text in texts(figure)) >= 7
    width, height = figure.canvas.get_width_height()
    for axis in figure.axes:  # axes drawn over one another, or text cut off at the edge
        for text in [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts, *figure.texts]:
            if not text.get_text():
                continue
            box = text.get_window_extent()
            assert -2 <= box.x0 and box.x1 <= width + 2 and -2 <= box.y0 and box.y1 <= height + 2, text.get_text()
    written = [axis.title for axis in figure.axes] + [text for axis in figure.axes for text in axis.texts] + figure.texts
    boxes = [text.get_window_extent() for text in written if text.get_text()]
    boxes += [axis.get_window_extent() for axis in figure.axes if axis.axison]
    assert not any(legend.get_window_extent().overlaps(box) for legend in figure.legends for box in boxes)
    for one, other in itertools.combinations(figure.texts + [axis.xaxis.label for axis in figure.axes], 2):
        assert not (one.get_text() and other.get_text() and one.get_window_extent().overlaps(other.get_window_extent()))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_its_data_and_its_n(name):
    written = " ".join(" ".join(text.get_text() for text in texts(FIGURES[name]())).split())
    assert SOURCE in written


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_its_units(name):
    figure = FIGURES[name]()
    labels = " ".join(text.get_text() for text in texts(figure))
    assert any(unit in labels for unit in ("(%)", "(points)", "cos(", "without unit", "°"))


def test_a_figure_is_saved_with_its_points_and_twice_is_the_same(home):
    outputs, made = Outputs("digits"), []
    for _ in range(2):
        plots.save(FIGURES["slopes"](), "slopes", outputs)
        made.append({end: outputs.file(f"slopes{end}").read_bytes() for end in (".png", ".pdf", "_points.csv")})
    assert made[0] == made[1]
    points = pd.read_csv(outputs.file("slopes_points.csv"))
    assert points.forget_accuracy.dtype.kind in "if" and len(points) == 2 * 2 * 3
    plots.save(FIGURES["slopes"](), "given", outputs, points=pd.DataFrame({"a": [0.5]}))
    assert outputs.file("given_points.csv").read_text() == "a\n0.5\n"


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "dumbbell of evaluate"])  # whose numbers are in a JSON
def test_every_figure_of_rows_carries_its_points(name):
    points = FIGURES[name]().points
    assert len(points) and not any(isinstance(cell, (list, tuple)) for cell in points.iloc[0])


# Colours


def linear(colour):
    channels = np.array(to_rgb(colour))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(colour):
    """WCAG 2.1 contrast ratio on white."""
    return 1.05 / (linear(colour) @ [0.2126, 0.7152, 0.0722] + 0.05)


# Machado, Oliveira and Fernandes (2009), deuteranopia, severity 1, on linear RGB.
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour, seen=np.eye(3)):
    xyz = SRGB_TO_XYZ @ np.clip(np.array(seen) @ linear(colour), 0, 1) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(one, other):
    """CIE76 difference of two colours, the smaller of normal vision and deuteranopia; 2 is just seen."""
    return min(np.linalg.norm(lab(one, seen) - lab(other, seen)) for seen in (np.eye(3), DEUTERANOPIA))


CLASSES_PAIR = (style.RETAIN, style.FORGET)


def test_the_simulation_confuses_what_a_deuteranope_does():
    assert np.linalg.norm(lab("#ff0000") - lab("#8f7e00")) > 80 > 40 > apart("#ff0000", "#8f7e00")
    assert apart("#0000ff", "#ffff00") > 100 and apart("#123456", "#123456") == 0


def test_every_colour_shows_on_white():
    used = [*(colour for colour, _ in (style.METHOD_STYLE | style.READOUT_STYLE).values()), *style.SPARES, *CLASSES_PAIR]
    assert min(map(contrast, used)) >= 3


def test_methods_are_told_apart_by_marker_and_by_colour_also_by_a_deuteranope():
    assert set(METHODS) <= set(style.METHOD_STYLE)
    roles = {name: getattr(METHODS.get(name), "role", "") for name in style.METHOD_STYLE}
    drawn = {name: look for name, look in style.METHOD_STYLE.items()  # the controls are never drawn as lines
             if roles[name] in ("method", "extension") or name in style.REFERENCES}
    for (one, (colour, marker)), (other, (colour_2, marker_2)) in itertools.combinations(drawn.items(), 2):
        assert apart(colour, colour_2) > (12 if marker != marker_2 else 25), (one, other)
    looks = list(style.METHOD_STYLE.values())
    assert len({colour for colour, _ in looks}) == len(looks)


def test_readouts_are_told_apart():
    for (one, marker), (other, marker_2) in itertools.combinations(style.READOUT_STYLE.values(), 2):
        assert apart(one, other) > 12 and marker != marker_2
    assert set(style.READOUT_STYLE) == set(READOUTS)


def test_the_pair_for_retain_and_forget_means_nothing_else():
    assert apart(*CLASSES_PAIR) > 40
    others = [colour for colour, _ in (style.METHOD_STYLE | style.READOUT_STYLE).values()]
    others += [*style.SPARES, *plots.PROFILE_COLOURS]
    assert min(apart(of, colour) for of in CLASSES_PAIR for colour in others) > 12


@pytest.mark.parametrize("name", FIGURES)
def test_only_figures_about_classes_wear_their_pair(name):
    figure, about = FIGURES[name](), {"alignment", "arrows", "embeddings", *(name for name in FIGURES if "theory" in name)}
    colours = {to_hex(line.get_color()) for line in figure.findobj(plt.Line2D)}
    colours |= {to_hex(arrow.get_edgecolor()) for arrow in figure.findobj(FancyArrowPatch)}
    colours |= {to_hex(c) for dots in figure.findobj(PathCollection) for c in dots.get_facecolors()}
    assert bool(colours & set(CLASSES_PAIR)) == (name in about)


def test_a_new_method_takes_a_spare_by_its_name_and_shifts_nothing():
    before = dict(style.METHOD_STYLE)
    looks = {name: style.look(name) for name in ("ascent", "mine", "yours")}
    assert {name: style.look(name) for name in reversed(looks)} == looks and style.METHOD_STYLE == before
    assert all(colour in style.SPARES and marker in style.SPARE_MARKERS for colour, marker in looks.values())
    assert not {colour for colour, _ in before.values()} & set(style.SPARES)
