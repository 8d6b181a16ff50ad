"""What stands in a row is what one reads off the model by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import learned_study
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from unlearn_utils import attacks, metrics
from unlearn_utils.membership import membership_inference
from unlearn_utils.representation import Features
from unlearn_utils.settings import BadInput
from unlearn_utils.study import rows, store
from unlearn_utils.study.cells import dataset_of, features_spec, load_features, load_model, stored, trained
from unlearn_utils.study.readings import Collapse, Curve, Reading, readings_of
from unlearn_utils.study.readouts import READOUTS, Readout, readout
from unlearn_utils.study.store import Store
from unlearn_utils.study.studies import Study
from unlearn_utils.training import generator

FORGET = (3,)


class ByHand:
    """A model's logits and features, straight from its images."""

    def __init__(self, study, *model, forget=FORGET):
        self.cell, self.dataset = study.cell(0, forget, *model), dataset_of(study.profile)
        self.row = rows.measurements(study, [model]).get().set_index("forget").loc[" ".join(map(str, forget))]
        self.model = load_model(self.cell, "cpu")
        self.y_train, self.y = self.dataset.train.labels, self.dataset.test.labels
        with torch.no_grad():
            self.train, self.test = (self.model.features(self.dataset.test_view(part.pixels))
                                     for part in (self.dataset.train, self.dataset.test))
            self.train_logits, self.logits = self.model.head(self.train), self.model.head(self.test)

    def expect(self, name: str, predicted, forget=FORGET) -> None:
        """The row's four numbers of a readout that reads ``predicted`` off the test images."""
        y, predicted = self.y.numpy(), np.asarray(predicted)
        of_forget, read_as_forget = np.isin(y, forget), np.isin(predicted, forget)
        assert self.row[f"{name}_retain"] == pytest.approx((predicted == y)[~of_forget].mean())
        assert self.row[f"{name}_forget"] == pytest.approx((predicted == y)[of_forget].mean())
        assert self.row[f"{name}_any"] == pytest.approx(read_as_forget[of_forget].mean())
        assert self.row[f"{name}_alarms"] == pytest.approx(read_as_forget[~of_forget].mean())

    def expect_per_class(self, name: str, values, forget=FORGET) -> None:
        values, of_forget = np.asarray(values), np.isin(np.arange(10), forget)
        assert self.row[f"{name}_forget"] == pytest.approx(values[of_forget].mean(), rel=1e-4)
        assert self.row[f"{name}_retain"] == pytest.approx(values[~of_forget].mean(), rel=1e-4)


def nearest(train, labels, test):
    means = np.stack([train[labels == c].numpy().mean(0) for c in range(10)])
    return ((test.numpy()[:, None] - means[None]) ** 2).sum(2).argmin(1)


LINEAR, FROZEN, WITH_CMF = ("random_label", "linear"), ("random_label", "classifier"), ("scrub", "cmf")


@pytest.fixture(scope="module", params=[("original", "linear"), LINEAR, FROZEN, WITH_CMF], ids=" ".join)
def read(computed, tiny, request) -> ByHand:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(computed))
        return ByHand(learned_study(tiny), *request.param)


def test_the_networks_of_these_tests_have_learned_something(ran):
    original = ByHand(ran, "original", "linear").row
    assert min(original[f"{name}_{side}"] for name in ("output", "probe", "ncc") for side in ("retain", "forget")) > 0.3


def test_output_is_what_the_model_answers(read):
    read.expect("output", read.logits.argmax(1))


def test_ncc_is_the_nearest_mean_of_the_training_features(read):
    read.expect("ncc", nearest(read.train, read.y_train, read.test))


def test_the_probe_is_fitted_to_the_training_features_with_the_cells_seed(read):
    recipe = read.cell.profile.probe
    fitted = metrics.linear_probe(read.train, read.y_train, 10, recipe, seed=0)
    with torch.no_grad():
        odds = fitted(read.test).double().log_softmax(1).exp()
    read.expect("probe", odds.argmax(1))
    read.expect_per_class("probe_auroc", [roc_auc_score(read.y == c, (odds / (1 - odds)).log()[:, c]) for c in range(10)])


def test_alignment_and_distance_are_those_of_the_centred_means(read):
    inputs = read.model.head.transform(read.train).double()
    means = torch.stack([inputs[read.y_train == c].mean(0) for c in range(10)]) - inputs.mean(0)
    read.expect_per_class("alignment", cosine_similarity(read.model.head.weight.detach().double(), means, dim=1))
    read.expect_per_class("centre_distance", means.norm(dim=1) / means.norm(dim=1).mean())


def test_row_and_mean_turned_from_the_originals(read, computed, tiny):
    if read.cell.head == "cmf" or read.cell.method == "original":
        assert "row_turn_forget" not in read.row or np.isnan(read.row.row_turn_forget)
        return
    before = ByHand(learned_study(tiny), "original", "linear")

    def degrees(vectors):
        return [np.degrees(np.arccos(min(1.0, a @ b / np.sqrt((a @ a) * (b @ b))))) for a, b in zip(*vectors)]

    means = [np.stack([of.train[of.y_train == c].double().numpy().mean(0) for c in range(10)])
             - of.train.double().numpy().mean(0) for of in (before, read)]
    rows_of = [of.model.head.weight.detach().double().numpy() for of in (before, read)]
    for name, vectors in {"row_turn": rows_of, "mean_turn": means}.items():
        expected = np.array(degrees(vectors))
        assert read.row[f"{name}_forget"] == pytest.approx(expected[3], abs=1e-3), name
        assert read.row[f"{name}_retain"] == pytest.approx(np.delete(expected, 3).mean(), abs=1e-3), name
    assert (read.row.mean_turn_forget < 1e-4) == (read.cell.variant == "classifier") and read.row.row_turn_forget > 1


def test_a_class_mean_at_the_centre_has_no_direction_so_it_has_not_turned():
    found = {"turn": {"row_turn": [1.0, 2.0, 3.0], "mean_turn": [4.0, 5.0, 97.0]}, "geometry": {"alignment": [0.9, 0.8, np.nan]}}
    row = rows.measured(3, found, (2,))
    assert np.isnan(row["mean_turn_forget"]) and (row["mean_turn_retain"], row["row_turn_forget"]) == (4.5, 3.0)


def test_the_parts_of_the_margin_add_up_to_that_of_the_logits(read):
    others = read.logits.scatter(1, read.y[:, None], -torch.inf).amax(1)
    margin = read.logits.gather(1, read.y[:, None])[:, 0] - others
    margins = np.array([margin[read.y == c].mean() for c in range(10)])
    of_forget = np.isin(np.arange(10), FORGET)
    assert read.row.margin_row_forget + read.row.margin_bias_forget == pytest.approx(margins[of_forget].mean(), rel=1e-3)
    assert read.row.margin_row_retain + read.row.margin_bias_retain == pytest.approx(margins[~of_forget].mean(), rel=1e-3)


def test_membership_is_told_from_the_losses_of_the_class(read):
    train, test = (cross_entropy(logits, y, reduction="none") for logits, y in
                   ((read.train_logits, read.y_train), (read.logits, read.y)))
    expected = [membership_inference(train[read.y_train == c], test[read.y == c])[0] for c in range(10)]
    assert read.row.membership_forget == pytest.approx(expected[3])
    if read.cell.forget:  # the others are not asked for
        assert np.isnan(read.row.membership_retain)
    else:
        read.expect_per_class("membership", expected)


def test_the_stability_of_the_bias_is_read_off_the_linear_heads(ran):
    read = ByHand(ran, *LINEAR)
    bias = read.model.head.bias.detach().double()
    apart = bias[3] - bias[[c for c in range(10) if c != 3]].mean()
    assert read.row.bias_stability == pytest.approx(1 / (1 + abs(apart.item())))
    assert "bias_stability" not in ByHand(ran, *WITH_CMF).row


def test_a_cmf_model_is_also_read_in_its_heads_geometry(ran):
    read, recipe = ByHand(ran, *WITH_CMF), ran.profile.probe
    head = read.model.head
    train, test = (normalize(f - head.centre, dim=1) for f in (read.train, read.test))
    read.expect("ncc_in_head", nearest(train, read.y_train, test))
    fitted = metrics.linear_probe(train, read.y_train, 10, recipe, seed=0)
    read.expect("probe_in_head", fitted(test).argmax(1))


def test_the_original_is_read_in_the_geometry_of_the_cmf_head_that_it_would_get(ran):
    read = ByHand(ran, "original", "linear")
    centre = torch.stack([read.train[read.y_train == c].mean(0) for c in range(10)]).mean(0)
    train, test = (normalize(f - centre, dim=1) for f in (read.train, read.test))
    assert ran.profile.cmf_geometry == "centred"
    read.expect("ncc_in_head", nearest(train, read.y_train, test))
    fitted = metrics.linear_probe(train, read.y_train, 10, ran.profile.probe, seed=0)
    read.expect("probe_in_head", fitted(test).argmax(1))


def test_another_geometry_asks_the_original_again_and_its_model_not(ran):
    other = dataclasses.replace(ran.profile, cmf_geometry="raw")
    cells = [dataclasses.replace(ran.cell(0, (), "original"), profile=profile) for profile in (ran.profile, other)]
    asked = [Reading.of(cell, "ncc_in_head") for cell in cells]
    assert asked[0].question != asked[1].question and asked[0].requires[0].key == asked[1].requires[0].key


def test_the_head_refitted_to_a_cmf_models_retain_features_is_one(ran):
    read, recipe = ByHand(ran, *WITH_CMF), ran.profile.probe
    kept = read.y_train != 3
    fitted = metrics.linear_probe(read.train[kept], read.y_train[kept], 10, recipe, seed=0)
    read.expect("refitted", fitted(read.test).argmax(1))


def test_classes_of_unequal_size_are_pooled_image_by_image(home, tiny):
    study = learned_study(tiny, forget_sets=[[0, 3, 8]], overrides={"data.test_per_class": 0})
    read = ByHand(study, *LINEAR, forget=(0, 3, 8))
    sizes = torch.bincount(read.y)
    assert len(sizes.unique()) > 1
    read.expect("output", read.logits.argmax(1), (0, 3, 8))
    read.expect("ncc", nearest(read.train, read.y_train, read.test), (0, 3, 8))
    attack = rows.attacked(study, {"own_head": [LINEAR]}, [1], 1).get().query("x == 0").iloc[0]
    begun = rows.curves(study, "random_label").get().query("readout == 'Output'").iloc[-1]
    expected = pytest.approx((read.row.output_retain, read.row.output_forget), abs=1e-9)
    assert (attack.retain, attack.forget_accuracy) == expected == (begun.retain, begun.forget_accuracy)


def test_classes_with_fewer_than_ten_images_have_no_membership(home, tiny):
    study = learned_study(tiny, forget_sets=[[3]], overrides={"data.test_per_class": 9, "recipes.original.linear.epochs": 1})
    assert np.isnan(rows.measurements(study, [LINEAR]).get().membership_forget).all()


@pytest.mark.parametrize("several", [False, True])
def test_given_seeds_are_those_of_one_and_of_several_classes(home, tiny, several):
    given = Study.of("digits", [5, 6], [[0], [3]], "cpu", jobs=1, overrides=tiny["overrides"])
    pairs = (given.several([[1, 2]]) if several else given).pairs
    assert [seed for seed, _ in pairs] == [5, 6] * (1 if several else 2)
    assert given.several().pairs == tuple((s, f) for f in ((0, 1, 2), (3, 4, 5), (6, 7, 8)) for s in (5, 6))
    assert {f for _, f in given.several(["multi"]).pairs} == {(0, 1, 2), (3, 4, 5), (6, 7, 8)}


def test_a_reading_of_features_is_shared_by_the_models_that_share_an_encoder(ran):
    frozen, original = ByHand(ran, *FROZEN).row, ByHand(ran, "original", "linear").row
    shared = [c for c in frozen.index if c.startswith(("probe", "ncc"))]
    assert frozen[shared].equals(original[shared]) and frozen.margin_row_forget != original.margin_row_forget


def test_a_new_readout_computes_itself_and_nothing_else(ran, count, monkeypatch):
    monkeypatch.setitem(READOUTS, "mine", None)  # taken out at the end
    def mine(at):
        return {"nc1": float(at.test_labels.sum())}

    readout()(mine)
    table = rows.measurements(ran, [LINEAR]).get()
    assert count == [f"mine of Random Label, forget {f}, seed 0" for f in ([0], [3])]
    assert list(table.nc1) == [450.0, 450.0]


# Training, curves and attacks


def test_the_history_ends_at_the_numbers_of_the_model(ran):
    last = rows.histories(ran, [("original", "linear")]).get().query("epoch == 15").set_index("forget").loc["3"]
    read = ByHand(ran, "original", "linear")
    assert last.test_retain == pytest.approx(read.row.output_retain) and last.test_forget == pytest.approx(read.row.output_forget)
    right = read.train_logits.argmax(1) == read.y_train
    assert last.train_retain == pytest.approx(right[read.y_train != 3].float().mean().item())
    assert [last[nc] for nc in ("nc1", "nc2", "nc3")] == pytest.approx([read.row[nc] for nc in ("nc1", "nc2", "nc3")], rel=1e-3)


def test_retrain_starts_from_the_originals_initialisation_and_the_second_from_another(ran):
    table = rows.histories(ran, [(m, "linear") for m in ("original", "retrain", "retrain_again", "random")]).get()
    first = table.query("epoch == 0 and forget == '3'").set_index("method").nc1
    assert first.original == first.retrain == first.random != first.retrain_again
    assert stored(trained(ran.cell(0, FORGET, "retrain"))).result["history"][0]["loss"] != 0.0


@pytest.mark.parametrize("method", ["random_label", "salun", "neggrad_plus", "scrub", "unsir"])
def test_a_curve_reads_the_cells_own_run(method, home, tiny):
    study = Study.of("digits", [0], [[0]], "cpu", jobs=1, overrides=tiny["overrides"])
    curve = rows.curves(study, method).get()
    original, measured = rows.measurements(study, [("original", "linear"), (method, "linear")]).get().to_dict("records")
    epochs = study.cell(0, (0,), method).recipe.epochs * (2 if method == "unsir" else 1)
    for label, name in [("Output", "output"), ("Linear probe", "probe"), ("NCC", "ncc")]:
        read = curve[curve.readout == label].sort_values("step")
        for at, row in ((0, original), (-1, measured)):
            assert read.forget_accuracy.iloc[at] == pytest.approx(row[f"{name}_forget"])
            assert read.retain.iloc[at] == pytest.approx(row[f"{name}_retain"])
        assert read.epoch_end.sum() == epochs == read.epoch.iloc[-1] and read.epoch.iloc[0] == 0
        assert set(read.step) >= {s for s in (0, 1, 2, 4, 8) if s <= read.step.iloc[-1]}


@pytest.mark.parametrize("method", ["svd", "retrain", "original"])
def test_a_method_without_unlearning_steps_has_no_curve(method, study):
    with pytest.raises(BadInput, match=f"'{method}' has no unlearning steps"):
        rows.curves(study, method)


def attack_row(study, model, attack, **where):
    table = rows.attacked(study, {attack: [model]}, [1, 4], 2).get().query("forget == '3'")
    return table[np.logical_and.reduce([table[key] == value for key, value in where.items()])].iloc[0]


@pytest.mark.parametrize("attack", ["few_shot", "few_shot_shuffled"])
def test_a_few_shot_row_is_the_attack_on_the_features(attack, ran):
    read = ByHand(ran, *LINEAR)
    drawn = generator("cpu", 0, attack)
    found = attacks.few_shot(Features(read.train, read.test), read.y_train, read.y, [1, 4], 2, drawn, "shuffled" in attack)
    for reading in found:
        row = attack_row(ran, LINEAR, attack, x=reading["x"], draw=reading["draw"])
        assert row.forget_accuracy == pytest.approx(reading["accuracy"][3])
        assert row.retain == pytest.approx(np.delete(reading["accuracy"], 3).mean())  # ten images of each


@pytest.mark.parametrize("attack", ["own_head", "retain_only"])
def test_an_attack_that_fine_tunes_begins_at_the_models_output(attack, ran):
    read = ByHand(ran, *LINEAR)
    begun = attack_row(ran, LINEAR, attack, x=0)
    assert (begun.retain, begun.forget_accuracy) == pytest.approx((read.row.output_retain, read.row.output_forget))


def test_the_prototype_is_aimed_at_the_forget_set(ran):
    read, drawn = ByHand(ran, *WITH_CMF), generator("cpu", 0, "prototype")
    features = Features(read.train, read.test)
    reading = attacks.prototype(read.model, features, read.y_train, read.y, FORGET, [1, 4], 2, drawn)[3]
    row = attack_row(ran, WITH_CMF, "prototype", x=4, draw=1)
    assert (row.forget_accuracy, row.retain) == pytest.approx((reading["accuracy"][3], np.delete(reading["accuracy"], 3).mean()))


@pytest.mark.parametrize("shots, draws", [([], 1), ([0], 1), ([1.5], 1), ([21], 1), ([1], 0)])
def test_shots_that_the_smallest_class_does_not_have_are_refused(ran, shots, draws):
    with pytest.raises(BadInput, match="the smallest class has 20 training images"):
        rows.attacked(ran, {"few_shot": [LINEAR]}, shots, draws)


def test_a_layout_shows_the_first_test_images_of_each_class(ran):
    layout = rows.embeddings(ran, [LINEAR], 60).get()["Random Label"]
    assert layout["points"].shape == (60, 2) and np.isfinite(layout["points"]).all()
    assert layout["labels"].tolist() == [c for c in range(10) for _ in range(6)]


# What goes wrong


@pytest.fixture
def diverged(home, tiny):
    return learned_study(tiny, overrides={"recipes.random_label.linear.lr": 1e17})


def test_a_training_that_diverged_gives_rows_without_numbers_and_says_so(diverged, capsys):
    table = rows.measurements(diverged, [("original", "linear"), LINEAR]).get().set_index("method")
    assert "The training diverged, so nothing can be read: Random Label." in capsys.readouterr().out
    assert table.loc["random_label", "probe_forget"].isna().all() and table.loc["original", "probe_forget"].notna().all()


def test_curves_attacks_and_layouts_of_a_training_that_diverged_raise_nothing(diverged):
    assert len(rows.curves(diverged, "random_label").get())
    assert len(rows.attacked(diverged, dict.fromkeys(attacks.ON_FEATURES + attacks.FINE_TUNING, [LINEAR]), [1], 1).get())
    assert np.isnan(rows.embeddings(diverged, [LINEAR], 60).get()["Random Label"]["points"]).all()


def test_what_failed_has_no_row_and_the_others_have(ran, monkeypatch, capsys):
    def broken(at):
        raise RuntimeError("no such class")

    for model in (LINEAR, FROZEN):
        store.remove(Store().folder(Reading.of(ran.cell(0, FORGET, *model), "output").spec))
    monkeypatch.setitem(READOUTS, "output", Readout(broken, (), False, lambda cell: True))
    table = rows.measurements(ran, [LINEAR, FROZEN]).get()
    assert "output of Random Label, forget [3], seed 0: RuntimeError: no such class" in capsys.readouterr().out
    assert len(table) == 4 and table.ncc_forget.notna().all() and "output_forget" not in table


# Views of the training images


def test_features_under_augmented_views_come_back_bit_for_bit(home, tiny):
    study = learned_study(tiny, forget_sets=[[3]], overrides={"data.readout_view": "augmented"})
    read, plain = ByHand(study, *LINEAR), study.cell(0, FORGET, *LINEAR)
    before = load_features(plain, "cpu")
    assert torch.equal(before.test, read.test) and not torch.equal(before.train, read.train)
    store.remove(Store().folder(features_spec(plain)))
    assert torch.equal(load_features(plain, "cpu").train, before.train)


def test_every_cell_has_the_readouts_that_suit_its_head(ran):
    models = LINEAR, WITH_CMF, ("original", "cmf"), ("original", "linear")
    names = {model: {r.name for r in readings_of(ran.cell(0, FORGET, *model))} for model in models}
    assert names[WITH_CMF] - names[LINEAR] == {"probe_in_head", "ncc_in_head", "refitted"}
    assert names[WITH_CMF] - names["original", "cmf"] == {"refitted"}
    assert names["original", "linear"] - names[LINEAR] == {"probe_in_head", "ncc_in_head"}
    assert Curve(ran.cell(0, FORGET, *LINEAR)).requires == [trained(ran.cell(0, (), "original"))]
    assert Collapse(ran.cell(0, (), "original")).requires == [trained(ran.cell(0, (), "original"))]
