"""Figures: what is drawn is what the rows hold, at the width of a page, with text that can be read there."""

import io
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text

from unlearn_utils.settings import READOUTS
from unlearn_utils.views import drawings, plots, style, tables

SETS = ("0", "1", "2")
CLASSES = ["airplane", "automobile", "bird", "cat"]


def table(columns, lines):
    return pd.DataFrame(list(lines), columns=columns.split())


def model(name, method, variant="linear", output=0.0, probe=0.5, ncc=0.4, retain=0.9, seeds=(0,)):
    """A row per forget set and seed; the accuracies of forget set s are 0.01 s above the values given."""
    found = table("forget seed", itertools.product(SETS, seeds))
    more = 0.01 * found.forget.astype(int)
    cosines = [[0.2 if str(c) == forget else 0.9 for c in range(4)] for forget in found.forget]
    found = found.assign(output_forget=output + more * (output > 0), probe_forget=probe + more, ncc_forget=ncc + more)
    found = found.assign(output_retain=retain, alignment=cosines, weight_turn_forget=20.0, mean_turn_forget=80.0)
    return found.assign(model=name, method=method, variant=variant)


def rows():
    parts = [
        model("Original", "original", output=0.9, probe=0.9, ncc=0.9),
        model("Retrain", "retrain", probe=0.6),
        model("Untrained network", "random", output=0.1, probe=0.2),
        model("Random Label", "random_label", probe=0.8),
        model("SCRUB", "scrub", output=0.3, probe=0.7),
        model("SCRUB (tuned)", "scrub", "tuned", probe=0.75),
        model("Random Label + CMF", "random_label", "cmf", output=0.5, probe=0.8),
        model("Random Label (matched budget)", "random_label", "cmf_budget", probe=0.78),
        model("SCRUB + CMF", "scrub", "cmf", output=0.4),
        model("SCRUB (matched budget)", "scrub", "cmf_budget", retain=0.1),
        model("Random Label, classifier only", "random_label", "classifier"),
    ]
    return pd.concat(parts, ignore_index=True)


def curves():
    falls = {"Output": (0.9, 0.5, 0.04, 0.0), "Linear probe": (0.9, 0.9, 0.8, 0.85), "NCC": (0.9, 0.9, 0.82, 0.9)}
    lines = ((name, forget, *at) for name in falls for forget in "01" for at in zip((0, 1, 2, 4), falls[name]))
    return table("readout forget step forget_accuracy", lines).assign(model="Random Label", seed=0)


def histories():
    lines = itertools.product(("original", "retrain", "random"), (1, 2), "01")
    found = table("method epoch forget", lines).assign(seed=0, nc2=0.5, nc3=0.4)
    accuracies = {"train_retain": 0.4 * found.epoch, "test_retain": 0.3 * found.epoch}
    return found.assign(model=found.method.str.title(), nc1=30 / found.epoch, **accuracies)


def readings():
    models = {"Original": "original", "Retrain": "retrain", "Random Label": "random_label", "SalUn": "salun"}
    models["Random Label, classifier only"] = "random_label"
    lines = itertools.product(models, ("few_shot", "few_shot_shuffled", "own_head"), (1, 2, 5), "01", (0, 2))
    found = table("model attack x forget draw", lines).assign(seed=0)
    return found.assign(method=found.model.map(models), forget_accuracy=(found.x + found.draw) / 10)


def gaps():
    listed = [("Random Label", 10), ("SCRUB", 1), ("SCRUB (tuned)", 5), ("Fine-tune", 7), ("SVD", 7)]
    lines = ((*line, f"{readout}_forget") for line in listed for readout in ("probe", "ncc"))
    found = table("model difference column", lines)
    return found.assign(low=found.difference - 2, high=found.difference + 3)


def run():
    reading = {"points": [[0, 0], [1, 1], [2, 0], [0, 2]]}
    reading |= {"output": [1, 0, 1, 2], "probe": [0, 0, 1, 3], "ncc": [0, 0, 1, 2]}
    readings = [reading | {"step": step} for step in (0, 1, 2, 4)]
    classes = {"names": CLASSES, "classes": [0, 1, 2], "labels": [0, 0, 1, 2]}
    return {"model": "Random Label", "seed": 0, "readings": readings} | classes


def searched():
    found = table("method value", itertools.product(("scrub", "unsir"), (0.001, 0.01, 0.1)))
    found = found.assign(variant="tuned", setting="lr", forget=0.1, probe=0.8, ncc=0.7)
    return found.assign(chosen=found.value == 0.01)


def vectors():
    turn = {"Original": (70, 90), "Random Label": (50, 170), "SCRUB": (0, 90)}
    return {name: [torch.tensor([np.cos(a), np.sin(a)]) * 3 for a in np.radians(pair)] for name, pair in turn.items()}


LAYOUT = {"points": np.arange(8.0).reshape(4, 2), "labels": np.array([0, 1, 0, 2])}
FOREIGN = rows().drop_duplicates("model").drop(columns=["variant", "forget", "seed"])[:4]
HEADROOM = table("dimensions readout headroom", [(16, "probe", 6), (16, "ncc", 25), (32, "probe", 3), (32, "ncc", 12)])
HEADROOM = HEADROOM.assign(low=HEADROOM.headroom - 1, high=HEADROOM.headroom + 2)
FIGURES = {
    "learning_curve": lambda: plots.learning_curve(curves(), rows()),
    "dumbbell": lambda: plots.dumbbell(rows()),
    "dumbbell of evaluate": lambda: plots.dumbbell(FOREIGN, columns=("output", "probe", "ncc")),
    "cmf": lambda: plots.cmf(rows()),
    "alignment": lambda: plots.alignment(rows()),
    "turned": lambda: plots.turned(rows()),
    "arrows": lambda: drawings.arrows(vectors()),
    "neural_collapse": lambda: plots.neural_collapse(histories()),
    "gaps_by_profile": lambda: plots.gaps_by_profile({"cifar10_pretrained": gaps(), "fashion_mnist": gaps()}),
    "gaps of a control": lambda: plots.gaps_by_profile({"fashion_mnist, from the Original": gaps(), "digits": gaps()}),
    "attacks": lambda: plots.attacks(readings()),
    "fine_tuning": lambda: plots.fine_tuning(readings()),
    "embeddings": lambda: plots.embeddings(dict.fromkeys(["Original", "Retrain"], LAYOUT), (0,), CLASSES),
    "steps": lambda: plots.steps(run()),
    "headroom": lambda: plots.headroom(HEADROOM),
    "tuning": lambda: plots.tuning(searched()),
    "theory_gamma": lambda: drawings.theory_gamma([0.1, 0.5, 0.9], np.array([[0, 0], [1, 0], [1, 1]]), (0.25, 0.75)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_read_on_a_page_and_carries_its_points_and_a_caption(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    centimetres = 2.54 * figure.get_figwidth()
    assert centimetres in (pytest.approx(9, abs=0.02), pytest.approx(17, abs=0.02))
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    smallest = min(text.get_fontsize() for text in texts)
    assert smallest >= 7 and smallest * 9 / centimetres >= 6 and not any("^" in text.get_text() for text in texts)
    width, height = figure.canvas.get_width_height()
    written = figure.texts + [text for axis in figure.axes for text in (axis.title, *axis.texts)]
    written += [label for axis in figure.axes for label in (axis.xaxis.label, axis.yaxis.label) if axis.axison]
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in written if text.get_text()]  # without an arrow
    boxes += [("legend", legend.get_window_extent()) for legend in figure.legends]
    for text, box in boxes:  # cut off at an edge
        assert -2 <= box.x0 and box.x1 <= width + 2 and -2 <= box.y0 and box.y1 <= height + 2, text
    for (one, box), (other, another) in itertools.combinations(boxes, 2):
        assert not box.padded(-1).overlaps(another.padded(-1)), (one, other)
    assert len(figure.points) and not figure.points.columns.duplicated().any()
    assert figure.caption.endswith(".") and "nan" not in figure.caption


def test_the_same_figure_is_the_same_file():
    written = [io.BytesIO() for _ in range(2)]
    for file in written:
        plots.alignment(rows()).savefig(file, format="png")  # whose dots are jittered
    assert written[0].getvalue() == written[1].getvalue()


def test_means_are_over_forget_sets_of_means_over_seeds():
    uneven = pd.concat([model("Random Label", "", probe=0.8), model("Random Label", "", probe=0.2)[:1]])
    found = style.means(uneven, ["probe_forget"]).probe_forget["Random Label"]
    assert found == pytest.approx(((0.8 + 0.2) / 2 + 0.81 + 0.82) / 3)


def test_a_dumbbell_takes_the_tuned_method():
    figure = plots.dumbbell(rows())
    assert list(figure.points.model) == ["Random Label", "SCRUB (tuned)", "Retrain", "Untrained network"]
    assert figure.points.set_index("model").probe["Random Label"] == pytest.approx(81)  # mean of 80, 81 and 82 %
    assert [text.get_text() for text in figure.axes[0].texts] == ["Retrain's probe 61 %"]


def test_a_model_that_diverged_has_no_row():
    given, columns = rows(), ["output_forget", "probe_forget", "ncc_forget", "alignment"]
    given[columns] = given[columns].where(given.method != "random_label")
    assert list(plots.dumbbell(given).points.model) == ["SCRUB (tuned)", "Retrain", "Untrained network"]
    assert "Random Label" not in set(plots.alignment(given).points.model)


def test_the_original_is_the_last_of_other_peoples_models():
    figure = plots.dumbbell(FOREIGN, columns=("output", "probe", "ncc"))
    assert list(figure.points.model) == ["Retrain", "Untrained network", "Random Label", "Original"]
    assert list(figure.points) == ["model", "output", "probe", "NCC"]


def test_the_learning_curve_names_the_step_at_which_the_output_has_gone():
    figure = plots.learning_curve(curves(), rows())
    (axis,) = figure.axes
    assert "step 2:\noutput 4.0 %\nprobe 80.0 %\nNCC 82.0 %" in [text.get_text() for text in axis.texts]
    levels = [line.get_ydata()[0] for line in axis.lines if to_hex(line.get_color()) == style.GREY]
    assert levels[0] == pytest.approx(60.5)  # Retrain's probe on the two forget sets that were run: 60 and 61 %
    kept = plots.learning_curve(curves().assign(forget_accuracy=0.5), rows())
    assert not any("step" in text.get_text() for text in kept.axes[0].texts)


def test_cmf_shows_the_output_and_leaves_out_a_broken_model():
    figure = plots.cmf(rows())
    output = figure.points.set_index("model").output_forget
    assert output["Random Label + CMF"] == pytest.approx(51)  # mean of 50, 51 and 52 %
    assert "SCRUB (matched budget)" not in output and "SCRUB (matched budget) (10 %)" in figure.caption
    assert [axis.get_title() for axis in figure.axes] == list(READOUTS.values())
    figure.draw_without_rendering()
    probe = figure.axes[1]  # the two heads' are equal here, and each is seen
    marks = {line.get_label(): line for line in probe.lines}
    heads = [probe.transData.transform(marks[name].get_xydata()[0]) for name in ("linear head", "CMF head")]
    assert np.linalg.norm(np.subtract(*heads)) > marks["CMF head"].get_markersize() * figure.dpi / 72


def test_every_cosine_is_a_point_and_one_network_is_not_counted_per_forget_set():
    given = rows()
    own = given.model == "Original"
    given["alignment"] = [[0.9, 0.8, 0.7, 0.6] if mine else of for mine, of in zip(own, given.alignment)]
    points = plots.alignment(given).points
    assert len(points[points.model == "Original"]) == 3 + 4  # three forget classes, and each class as a retain class
    assert set(points.cosine[(points.model == "Retrain") & (points.kind == "forget class")]) == {0.2}


def test_an_arrow_stands_at_the_angle_by_which_it_turned():
    figure = drawings.arrows(vectors())
    assert figure.points.weight_turn.tolist() == pytest.approx([0, 20, 70], abs=1e-3)
    assert figure.points.mean_turn.tolist() == pytest.approx([0, 80, 0], abs=1e-3)
    assert figure.points.between.tolist() == pytest.approx([20, 120, 90], abs=1e-3)
    tips = [text.xy for text in figure.axes[1].texts if not text.get_text()]  # dashed and solid, of weights and of mean
    assert np.degrees(np.arctan2(*np.transpose(tips)[::-1])) == pytest.approx([70, 50, 90, 170], abs=1e-3)


def test_gaps_take_the_tuned_row_and_leave_out_what_is_no_such_method():
    points = plots.gaps_by_profile({"one": gaps()}).points
    found = points[points.column == "probe_forget"].set_index("model").difference
    assert found.to_dict() == {"Random Label": 10, "SCRUB (tuned)": 5}


def test_an_attack_curve_is_the_mean_over_sets_and_resamples():
    figure = plots.attacks(readings())
    (axis,) = figure.axes
    assert all(list(line.get_ydata()) == pytest.approx([20, 30, 60]) for line in axis.lines)
    assert len(axis.lines) == 4 + 1  # SalUn is not shown, the shuffled labels are one line


def test_every_colour_of_a_readout_or_data_set_can_be_told_from_white_and_no_two_are_one():
    colours = [*style.PROFILE_COLOURS, *(look["color"] for look in style.READOUT_STYLE.values())]
    parts = np.array([to_rgb(colour) for colour in colours])
    luminance = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    assert len(set(colours)) == len(colours) and (1.05 / (luminance + 0.05) >= 3).all()  # WCAG 2


@pytest.mark.parametrize("values", [[0, 0, 0], [97, 99, 98, 5], [1, 50, 99], [100, 100, 0, 1]])
def test_labels_keep_their_order_their_distance_and_their_bounds(values):
    places = style.spread(values, 10, 0, 100)
    ordered = places[np.argsort(values, kind="stable")]
    assert (np.diff(ordered) >= 10 - 1e-9).all() and ordered[0] >= 0 and ordered[-1] <= 100


def test_n_says_when_not_every_set_has_every_seed():
    extra = pd.concat([model("Random Label", "", seeds=(0, 1))[:4], model("Random Label", "")[2:]])
    assert tables.n_of(extra) == "n = 3 forget sets, 1 to 2 seeds"
    assert tables.n_of(extra[:1]) == "n = 1 forget set, 1 seed"
