"""``Study`` as a notebook sees it: names, rows, where results come from, where pictures go."""

import json

import pandas as pd
import pytest

from unlearn_utils import Study
from unlearn_utils.paths import ROOT
from unlearn_utils.settings import BadInput
from unlearn_utils.study.cells import trained
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.store import Store


def test_references_come_first_and_a_model_is_named_by_method_and_variant(ran):
    rows = ran.measure(["random_label.classifier"])
    assert rows.model.unique()[:2].tolist() == ["Original", "Retrain"]
    assert rows.model.iloc[-1] == "Random Label, classifier only"
    with pytest.raises(BadInput, match="nothing_like_it"):
        ran.measure(["nothing_like_it"])


@pytest.mark.parametrize(
    "forget, pairs",
    [
        (3, [(3,)]),
        ([3, 5], [(3,), (5,)]),
        ([[3, 5]], [(3, 5)]),
        ("3", [(3,)]),
        ("[[3]]", [(3,)]),
        (["1", [0, 2]], [(1,), (0, 2)]),
    ],
)
def test_forget_sets_by_number_and_name(home, forget, pairs):
    assert [forgotten for _, forgotten in Study("digits", forget).pairs] == pairs


@pytest.mark.parametrize(
    "given", [{"forget": ["cat"]}, {"seeds": ["a"]}, {"overrides": {"no.key": 1}}, {"devise": "cpu"}, {"results": "x"}]
)
def test_what_cannot_be_meant_is_refused(home, given):
    with pytest.raises(BadInput):
        Study("digits", **given)


def test_a_changed_study_has_a_folder_of_its_own(home):
    changed = Study("digits", overrides={"recipes.random_label.linear.lr": 0.5})
    assert changed.outputs.path.name.startswith("digits+") and Study("digits").outputs.path.name == "digits"
    shown = changed.recipes(["random_label", "salun_random_mask", "random_label.cmf"])["rate from"]
    assert shown.tolist() == ["changed here", "tuned", "tuned"]
    of_salun = Study("digits", overrides={"recipes.salun.linear.lr": 0.5}).recipes(["salun", "salun_random_mask"])
    assert of_salun["learning rate"].tolist() == [0.5, 0.5] and set(of_salun["rate from"]) == {"changed here"}


@pytest.mark.parametrize("profile", ["cifar10_slim", "cifar10_pretrained", "digits"])
def test_committed_results_give_the_committed_numbers_without_images(home, profile):
    study = Study(profile, results="committed")
    committed = pd.read_csv(ROOT / "figures" / profile / "measurements.csv", dtype={"forget": str})
    models = committed[committed.variant.isin(["linear", "cmf"])].drop_duplicates("model")
    rows = study.measure([f"{m.method}.{m.variant}" for m in models.itertuples()], references=False)
    both = rows.merge(committed, on=["model", "seed", "forget"], suffixes=("", "_committed"))
    assert len(both) == len(rows)
    for column in ("output_forget", "probe_forget", "ncc_forget", "output_retain", "alignment_forget"):
        assert both[column].to_numpy() == pytest.approx(both[f"{column}_committed"].to_numpy(), abs=1e-5, nan_ok=True)


def test_committed_results_never_answer_for_other_images(home):
    assert Study("digits", results="committed").pack and Study("digits", results="committed", seeds=[5]).pack
    for changed in ({"data.train_per_class": 10}, {"data.test_per_class": 5}, {"data.evaluate_on": "validation"}):
        assert not Study("digits", overrides=changed, results="committed").pack


def test_the_image_folder_of_a_command_is_for_its_own_profile(home, monkeypatch):
    monkeypatch.setenv("UNLEARN_MACHINE", json.dumps({"profile": "image_folder", "data_dir": "/nowhere", "jobs": 1}))
    assert Study("digits").profile.data.folder == "" and Study("digits").machine.jobs == 1
    with pytest.raises(BadInput, match="nowhere"):
        Study("image_folder").classes  # noqa: B018


def test_what_was_used_is_noted(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_USED", str(tmp_path / "used"))
    ran.measure(["random_label"])
    notes = set((tmp_path / "used").read_text().split())
    assert f"reading/{Reading.of(ran.cell(0, (3,), 'random_label'), 'ncc').key}" in notes
    assert all((Store().root / note / "record.json").exists() for note in notes)
    ran.model("random_label")
    assert f"model/{trained(ran.cell(0, (0,), 'random_label')).key}" in (tmp_path / "used").read_text()


def test_nested_overrides_are_merged_and_a_method_that_is_not_there_is_named(home):
    nested = Study("digits", overrides={"recipes": {"random_label": {"linear": {"lr": 0.5}}}})
    assert nested.profile == Study("digits", overrides={"recipes.random_label.linear.lr": 0.5}).profile
    with pytest.raises(BadInput, match="no method 'random_lable'"):
        Study("digits", overrides={"recipes.random_lable.linear.lr": 0.5})


def test_unsir_is_shown_with_the_optimiser_and_the_rates_of_its_two_phases(home):
    row = Study("digits").recipes(["unsir"]).loc["UNSIR"]
    impair, repair = map(float, row["learning rate"].split(", then "))
    assert row["optimiser"] == "adam" and repair == Study("digits").profile.recipe("unsir", "linear").lr != impair
