"""What stands in a row is what one computes from the model by hand; curves, steps and attacks are of that model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from small import LEARNED, cell, done, profile, readings_of, row
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from unlearn_utils import attacks, metrics
from unlearn_utils.heads import class_means
from unlearn_utils.representation import Features, output_predictions
from unlearn_utils.settings import BadInput
from unlearn_utils.study import store
from unlearn_utils.study.cells import dataset_of, features_spec, load_features, load_model, trained
from unlearn_utils.study.readings import Attacked, Collapse, Curve, Embedded, Reading, Steps, thinned
from unlearn_utils.study.readouts import READOUTS, At, look, read, readout, row_of
from unlearn_utils.study.store import Store
from unlearn_utils.training import generator

DIGITS = profile(LEARNED)
LINEAR, FROZEN, WITH_CMF = ("random_label", "linear"), ("random_label", "classifier"), ("scrub", "cmf")


@pytest.fixture(scope="module", autouse=True)
def shared_home(tmp_path_factory):
    """One store for all tests of this file: what one of them has trained the others find."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(tmp_path_factory.mktemp("readings")))
        yield


class ByHand:
    """A model's logits and features, straight from its images, and its row."""

    def __init__(self, *model, of=DIGITS, forget=(3,)):
        self.cell, self.dataset, self.forget = cell(of, *model, forget=forget), dataset_of(of), forget
        self.row = row(self.cell, forget)
        self.model = load_model(self.cell, "cpu")
        self.y_train, self.y = self.dataset.train.labels, self.dataset.test.labels
        with torch.no_grad():
            parts = [self.dataset.test_view(part.pixels) for part in (self.dataset.train, self.dataset.test)]
            self.train, self.test = (self.model.features(x) for x in parts)
            self.train_logits, self.logits = self.model.head(self.train), self.model.head(self.test)

    def expect(self, name: str, predicted) -> None:
        """The row's four numbers of a readout that predicts this of the test images."""
        y, predicted = self.y.numpy(), np.asarray(predicted)
        of_forget, as_forget = np.isin(y, self.forget), np.isin(predicted, self.forget)
        assert self.row[f"{name}_retain"] == pytest.approx((predicted == y)[~of_forget].mean())
        assert self.row[f"{name}_forget"] == pytest.approx((predicted == y)[of_forget].mean())
        assert self.row[f"{name}_group"] == pytest.approx(as_forget[of_forget].mean())
        assert self.row[f"{name}_false_positives"] == pytest.approx(as_forget[~of_forget].mean())

    def expect_per_class(self, name: str, values, **within) -> None:
        values, of_forget = np.asarray(values), np.isin(np.arange(10), self.forget)
        within = within or {"rel": 1e-4}
        assert self.row[f"{name}_forget"] == pytest.approx(values[of_forget].mean(), **within), name
        assert self.row[f"{name}_retain"] == pytest.approx(values[~of_forget].mean(), **within), name


def nearest(train, labels, test):
    means = np.stack([train[labels == c].numpy().mean(0) for c in range(10)])
    return ((test.numpy()[:, None] - means[None]) ** 2).sum(2).argmin(1)


def probe(train, labels, test):
    return metrics.linear_probe(train, labels, 10, DIGITS.probe, seed=0)(test).detach()


@pytest.fixture(scope="module", params=[("original", "linear"), LINEAR, FROZEN, WITH_CMF], ids=" ".join)
def by_hand(request, shared_home) -> ByHand:
    return ByHand(*request.param)


def test_output_ncc_and_probe_are_what_they_say(by_hand):
    by_hand.expect("output", by_hand.logits.argmax(1))
    by_hand.expect("ncc", nearest(by_hand.train, by_hand.y_train, by_hand.test))
    odds = probe(by_hand.train, by_hand.y_train, by_hand.test).double().softmax(1)
    by_hand.expect("probe", odds.argmax(1))
    aurocs = [roc_auc_score(by_hand.y == c, (odds / (1 - odds)).log()[:, c]) for c in range(10)]
    by_hand.expect_per_class("probe_auroc", aurocs)
    if by_hand.cell.method == "original":  # else these tests would say little
        assert min(by_hand.row[f"{n}_{s}"] for n in ("output", "probe", "ncc") for s in ("retain", "forget")) > 0.3


def centred_means(of: ByHand) -> np.ndarray:
    inputs = of.model.head.transform(of.train).double().numpy()
    return np.stack([inputs[of.y_train == c].mean(0) for c in range(10)]) - inputs.mean(0)


def test_alignment_and_distance_are_those_of_the_centred_means(by_hand):
    means = torch.from_numpy(centred_means(by_hand))
    by_hand.expect_per_class("alignment", cosine_similarity(by_hand.model.head.weight.detach().double(), means, dim=1))
    by_hand.expect_per_class("mean_distance", means.norm(dim=1) / means.norm(dim=1).mean())


def test_weight_vectors_and_means_turned_from_the_originals(by_hand):
    if by_hand.cell.head == "cmf" or by_hand.cell.method == "original":
        assert "weight_turn_forget" not in by_hand.row
        return
    before = ByHand("original")
    weights = [of.model.head.weight.detach().double().numpy() for of in (before, by_hand)]
    for name, pairs in {"weight_turn": weights, "mean_turn": [centred_means(before), centred_means(by_hand)]}.items():
        cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(*pairs, strict=True)]
        by_hand.expect_per_class(name, np.degrees(np.arccos(np.clip(cosines, -1, 1))), abs=1e-3)
    frozen = by_hand.cell.variant == "classifier"
    assert (by_hand.row["mean_turn_forget"] < 1e-4) == frozen and by_hand.row["weight_turn_forget"] > 1


def test_a_class_mean_at_the_global_mean_has_no_direction_so_it_has_not_turned():
    turn = {"row_turn": [1.0, 2.0, 3.0], "mean_turn": [4.0, 5.0, 97.0]}
    found = row_of(3, {"turn": turn, "geometry": {"alignment": [0.9, 0.8, np.nan]}}, (2,))
    assert np.isnan(found["mean_turn_forget"])
    assert (found["mean_turn_retain"], found["weight_turn_forget"]) == (4.5, 3.0)


def test_margin_bias_and_membership_are_read_off_logits_biases_and_losses(by_hand):
    others = by_hand.logits.scatter(1, by_hand.y[:, None], -torch.inf).amax(1)
    margin = by_hand.logits.gather(1, by_hand.y[:, None])[:, 0] - others
    for side in ("retain", "forget"):
        classes = [c for c in range(10) if (c == 3) == (side == "forget")]
        parts = by_hand.row[f"margin_weight_{side}"] + by_hand.row[f"margin_bias_{side}"]
        assert parts == pytest.approx(np.mean([margin[by_hand.y == c].mean() for c in classes]), rel=1e-3)
    train, test = (
        cross_entropy(logits, y, reduction="none")
        for logits, y in ((by_hand.train_logits, by_hand.y_train), (by_hand.logits, by_hand.y))
    )
    expected = metrics.membership_inference(train[by_hand.y_train == 3], test[by_hand.y == 3])[0]
    assert by_hand.row["membership_forget"] == pytest.approx(expected)
    assert np.isnan(by_hand.row["membership_retain"]) == bool(by_hand.cell.forget)  # of the forget classes alone
    if by_hand.cell.head == "linear":
        bias = by_hand.model.head.bias.detach().double()
        apart = bias[3] - bias[[c for c in range(10) if c != 3]].mean()
        assert by_hand.row["bias_stability"] == pytest.approx(1 / (1 + abs(apart.item())))
    else:
        assert "bias_stability" not in by_hand.row


def test_a_cmf_model_is_read_as_its_head_sees_it():
    read = ByHand(*WITH_CMF)
    train, test = (normalize(f - read.model.head.centre, dim=1) for f in (read.train, read.test))
    read.expect("ncc_in_head", nearest(train, read.y_train, test))
    read.expect("probe_in_head", probe(train, read.y_train, test).argmax(1))


def test_the_original_is_read_as_the_cmf_head_that_it_would_get_sees_it():
    read, other = ByHand("original"), replace(DIGITS, cmf_normalisation="unit_length")
    centre = torch.stack([read.train[read.y_train == c].mean(0) for c in range(10)]).mean(0)
    train, test = (normalize(f - centre, dim=1) for f in (read.train, read.test))
    read.expect("ncc_in_head", nearest(train, read.y_train, test))
    asked = [Reading.of(cell(of, "original"), "ncc_in_head") for of in (DIGITS, other)]
    assert asked[0].question != asked[1].question and asked[0].requires[0].key == asked[1].requires[0].key


def test_classes_of_unequal_size_are_pooled_image_by_image():
    read = ByHand(*LINEAR, of=profile(LEARNED | {"data.test_per_class": 0}), forget=(0, 3, 8))
    assert len(torch.bincount(read.y).unique()) > 1
    read.expect("output", read.logits.argmax(1))
    read.expect("ncc", nearest(read.train, read.y_train, read.test))


def test_a_probe_of_another_recipe_is_fitted_anew_in_the_same_process():
    one, other = DIGITS, profile(LEARNED | {"probe.epochs": 1, "probe.lr": 1e-4})
    found = [done(Reading.of(cell(of, "original"), "probe"))["counts"] for of in (one, other, one)]
    assert np.trace(found[0]) > 2 * np.trace(found[1]) and found[2] == found[0]
    assert look(cell(one, "original"), "cpu") is not look(cell(other, "original"), "cpu")


def test_a_binary_probe_is_asked_for_by_name_and_is_one_logistic_regression_per_class():
    read = ByHand(*LINEAR)
    found = done(Reading.of(read.cell, "binary"))
    x, test = ((part - read.train.mean(0)) / read.train.std(0, unbiased=False) for part in (read.train, read.test))
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000, tol=1e-8)
    predicted = fitted.fit(x.double().numpy(), read.y_train == 3).predict(test.double().numpy())
    assert found["binary_recall"][3] == pytest.approx(predicted[read.y == 3].mean())
    assert found["binary_false_positives"][3] == pytest.approx(predicted[read.y != 3].mean())
    assert row_of(10, {"binary": found}, (3,))["binary_auroc_forget"] == found["binary_auroc"][3]


def test_every_cell_has_the_readouts_that_suit_its_head_and_shares_those_of_its_features():
    names = {
        model: {reading.name for reading in readings_of(cell(DIGITS, *model))}
        for model in (LINEAR, WITH_CMF, ("original", "cmf"), ("original", "linear"))
    }
    assert names[WITH_CMF] - names[LINEAR] == {"probe_in_head", "ncc_in_head"}
    assert names[WITH_CMF] == names["original", "cmf"]
    assert names["original", "linear"] - names[LINEAR] == {"probe_in_head", "ncc_in_head"}
    frozen, original = (cell(DIGITS, *model) for model in (FROZEN, ("original", "linear")))
    attacked = [Attacked.of(of, "few_shot", (1,), 1) for of in (frozen, original)]
    assert attacked[0] == attacked[1] and attacked[0].cell == original
    same = {name for name in READOUTS if Reading.of(frozen, name) == Reading.of(original, name)}
    assert same == {"probe", "ncc", "binary", "logistic", "ridge", "neighbours", "mlp"}


@pytest.mark.parametrize("returned", [3, {"counts": [[1, 2]]}, {"alignment": torch.ones(10)}, {"auroc": [[1], 2]}])
def test_a_readout_of_ones_own_may_be_written_without_brackets_and_is_checked(returned, monkeypatch):
    monkeypatch.setitem(READOUTS, "mine", None)  # taken out at the end

    def mine(at):
        return returned

    assert readout(mine) is mine
    with pytest.raises(BadInput, match="readout 'mine' must return"):
        read("mine", At(cell(DIGITS, *LINEAR), "cpu"))


# --- training, curves, steps


def test_the_history_ends_at_the_numbers_of_the_model_and_the_second_retrain_starts_elsewhere():
    original, retrain, again = (cell(DIGITS, method) for method in ("original", "retrain", "retrain_again"))
    last, read = done(trained(original))["history"][-1], ByHand("original")
    assert last["epoch"] == 15
    for part, logits, y in (("train", read.train_logits, read.y_train), ("test", read.logits, read.y)):
        assert last[f"{part}_hits"] == torch.bincount(y[logits.argmax(1) == y], minlength=10).tolist()
    epochs = {of.method: done(Collapse(of))["epochs"] for of in (original, retrain, again)}
    for nc in ("nc1", "nc2", "nc3"):
        assert epochs["original"][-1][nc] == pytest.approx(read.row[nc], rel=1e-3)
    assert epochs["original"][0]["nc1"] == epochs["retrain"][0]["nc1"] != epochs["retrain_again"][0]["nc1"]


@pytest.mark.parametrize("model", [LINEAR, ("unsir", "linear")], ids=" ".join)
def test_a_curve_reads_the_cells_own_run(model):
    curve, steps = done(Curve(cell(DIGITS, *model))), cell(DIGITS, *model).recipe.epochs
    begun, ended = curve["readings"][0], curve["readings"][-1]
    for name in ("output", "probe", "ncc"):
        assert ended[name] == done(Reading.of(cell(DIGITS, *model), name))["counts"]
        assert begun[name] == done(Reading.of(cell(DIGITS, *model).start, name))["counts"]
    ends, read_at = curve["epoch_ends"], [reading["x"] for reading in curve["readings"]]
    assert len(ends) == steps * (2 if model[0] == "unsir" else 1) and read_at[-1] == ends[-1]
    assert read_at == sorted({s for s in (0, 1, 2, 4, 8, 16, 32) if s <= ends[-1]} | set(ends))


def test_a_curve_of_a_cmf_model_refits_its_head_at_the_end_of_an_epoch():
    of = cell(profile(LEARNED | {"recipes.scrub.cmf.batch_size": 32}), *WITH_CMF)
    curve = done(Curve(of))
    assert curve["epoch_ends"] == [7]  # which is read for the end of the epoch alone
    assert curve["readings"][-1]["output"] == done(Reading.of(of, "output"))["counts"]


def test_the_steps_lie_between_the_original_and_the_stored_model_in_one_plane():
    task = Steps(cell(DIGITS, *LINEAR), images=24, steps=3)
    found, original = done(task), cell(DIGITS, "original")
    assert len(found["readings"]) == 3 and found["readings"][0]["step"] == 0
    for reading, of in ((found["readings"][0], original), (found["readings"][-1], task.cell)):
        at, features = look(of, "cpu"), load_features(of, "cpu")
        chosen = features.test[found["images"]]
        assert reading["output"] == output_predictions(load_model(of, "cpu"), chosen).tolist()
        assert reading["ncc"] == metrics.nearest(features.train, at.train_labels, chosen, 10)[0].tolist()
        assert {len(reading[name]) for name in ("points", "output", "probe", "ncc")} == {24}
    at = look(original, "cpu")
    means = class_means(at.features.train, at.train_labels, 10)
    assert found["classes"] == (means - means[3]).norm(dim=1).argsort()[:3].tolist() and found["classes"][0] == 3
    assert (
        at.test_labels[found["images"]].tolist() == found["labels"] == [c for c in found["classes"] for _ in range(8)]
    )
    first = torch.tensor(found["readings"][0]["means"])
    assert (first[0] - first[1]).norm() == pytest.approx(1, abs=0.002)


@pytest.mark.parametrize("count, kept", [(3, [0, 1, 2]), (13, [0, 4, 8, 12]), (5, [0, 1, 3, 4])])
def test_at_most_so_many_steps_are_kept_and_the_first_and_last_among_them(count, kept):
    assert thinned(list(range(count)), 4) == kept


# --- attacks and layouts


@pytest.mark.parametrize("attack", ["few_shot", "few_shot_shuffled"])
def test_an_attack_on_features_counts_the_test_images_that_it_gets_right(attack):
    read, drawn = ByHand(*WITH_CMF), generator("cpu", 0, attack)
    given = Features(read.train, read.test), read.y_train, read.y, [1, 4], 2, drawn
    expected = attacks.few_shot(*given, shuffled=attack == "few_shot_shuffled")
    found = done(Attacked.of(read.cell, attack, (1, 4), 2))["readings"]
    assert [(r["x"], r["draw"]) for r in found] == [(1, 0), (1, 1), (4, 0), (4, 1)]
    assert [r["hits"] for r in found] == [[round(10 * a) for a in r["accuracy"]] for r in expected]


def test_fine_tuning_begins_at_the_models_output_and_an_unknown_attack_is_refused():
    begun = done(Attacked.of(cell(DIGITS, *LINEAR), "own_head", (1,), 1))["readings"][0]
    counts = done(Reading.of(cell(DIGITS, *LINEAR), "output"))["counts"]
    assert begun["x"] == 0 and begun["hits"] == [counts[c][c] for c in range(10)]
    with pytest.raises(BadInput, match="no attack 'fewshot'; choose from few_shot"):
        Attacked.of(cell(DIGITS, *LINEAR), "fewshot", (1,), 1)


def test_a_layout_shows_the_first_test_images_of_each_class():
    layout = done(Embedded(cell(DIGITS, *LINEAR), 60))
    assert np.shape(layout["points"]) == (60, 2) and np.isfinite(layout["points"]).all()
    assert layout["labels"] == [c for c in range(10) for _ in range(6)]


# --- what goes wrong, and views


def test_a_training_that_diverged_has_no_numbers_and_raises_nothing():
    of = cell(profile(LEARNED | {"recipes.random_label.linear.lr": 1e17}), *LINEAR)
    assert all(done(reading) == {"diverged": True} for reading in readings_of(of))
    assert done(Curve(of))["readings"] and np.isnan(done(Embedded(of, 60))["points"]).all()
    assert done(Attacked.of(of, "own_head", (1,), 1))["readings"]


def test_classes_with_fewer_than_ten_images_have_no_membership():
    few = profile({"data.test_per_class": 9, "recipes.original.linear.epochs": 1})
    assert done(Reading.of(cell(few, *LINEAR), "members"))["membership"] == [None] * 10


def test_features_under_augmented_views_come_back_bit_for_bit():
    of = cell(profile({"data.readout_view": "augmented", "data.crop_padding": 1}), *LINEAR)
    done(trained(of))
    before, plain = load_features(of, "cpu"), load_model(of, "cpu")
    with torch.no_grad():
        seen = plain.features(dataset_of(of.profile).test_view(dataset_of(of.profile).train.pixels))
    assert not torch.allclose(before.train, seen, atol=1e-3)
    store.remove(Store().folder(features_spec(of)))
    assert torch.equal(load_features(of, "cpu").train, before.train)
