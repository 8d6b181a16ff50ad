"""Profiles: every shipped one loads, and what is misspelled, of another kind or out of range is refused by name."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from unlearn_utils import methods
from unlearn_utils.settings import BadInput
from unlearn_utils.study import parameters, profiles, tune
from unlearn_utils.study.cells import Cell, Trained, features_spec
from unlearn_utils.study.store import Store
from unlearn_utils.study.variants import RECORDED, VARIANTS, recipe_of

FIGURES = Path(__file__).parent.parent / "figures"
TUNED = [name for name in profiles.names() if (FIGURES / name / "tuning.csv").exists()]
FROM_THE_PAPER = [f"{name}{vit}" for name in ("cifar10", "cifar100", "tiny_imagenet") for vit in ("", "_vit")]


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_loads_and_its_methods_take_its_constants(name):
    profile = profiles.load(name)
    profiles.check_names(profile, methods.METHODS, VARIANTS)
    for method, variants in profile.recipes.items():
        for variant in variants:
            for several in (False, True):
                methods.check(method, variant, profile.recipe(method, variant, several))
    assert len(profile.pairs()) >= 3


@pytest.mark.parametrize("name", FROM_THE_PAPER)
def test_one_word_switches_to_the_papers_table_and_to_the_scripts_and_both_name_the_same_settings(name):
    printed = "table5" if name.endswith("_vit") else "table4"
    own, table, scripts = (profiles.load(name, {"recipes": which}) for which in ("", printed, "scripts"))
    changed = [
        {(m, v) for m in own.recipes for v in own.recipes[m] if table.recipes[m][v] != other.recipes[m][v]}
        for other in (own, scripts)
    ]
    assert changed[1] and changed[0] <= changed[1]
    with pytest.raises(BadInput, match="no recipes 'tabel4'"):
        profiles.load(name, {"recipes": "tabel4"})


def test_what_unlearns_on_a_quarter_of_the_width_is_what_unlearns_on_the_whole():
    slim, whole = profiles.load("cifar10_slim"), profiles.load("cifar10")
    ours = {("original", "linear"), ("retrain", "linear")}
    shared = {(m, v) for m, recipes in whole.recipes.items() for v in recipes} - ours
    assert shared and all(slim.recipes[m][v] == whole.recipes[m][v] for m, v in shared)


@pytest.mark.parametrize("name", ["cifar10_pretrained", "image_folder", "tiny_imagenet"])
def test_the_first_cell_of_a_profile_runs_on_miniature_data(name, home, tmp_path):
    data, network = profiles.load(name).data, profiles.load(name).network
    for part in ("train", "test"):
        for value, kind in enumerate("abc"):
            (tmp_path / part / kind).mkdir(parents=True)
            for i in range(2):
                image = Image.new("RGB", (data.image_size,) * 2, (80 * value, 10 * i, 0))
                image.save(tmp_path / part / kind / f"{i}.png")
    small = {"recipes.original.linear.epochs": 1, "data.folder": str(tmp_path), "network.weights": "none"}
    small |= {"network.width": 4} if network.is_resnet else {}
    task = Trained(Cell(profiles.load(name, small), 0, (), "original"))
    result, _ = task.compute("cpu")
    features = Store().get(features_spec(task.cell)).tensors("features")
    assert [reading["epoch"] for reading in result["history"]] == [0, 1]
    assert sorted(features) == ["test", "train"] and all(torch.isfinite(f).all() for f in features.values())


@pytest.mark.parametrize("name", TUNED)
def test_every_rate_of_a_profile_won_its_committed_search(name):
    table, profile = pd.read_csv(FIGURES / name / "tuning.csv"), profiles.load(name)
    rule = profile.tuning["tolerance"], profile.tuning.get("ties", "larger")
    winners = [tune.winner(rows, *rule) for _, rows in table.groupby(["method", "variant"])]
    assert sorted(winners) == list(table.index[table.chosen])
    assert tune.disagreements(profile, table) == []


@pytest.mark.parametrize("overrides, named", [
    ({"probe.epoch": 3}, "no key 'probe.epoch'; allowed are batch_size, epochs"),
    ({"probe.epochs": "many"}, "probe.epochs is 'many', but it must be a whole number"),
    ({"title.deep": 1}, "title.deep"),
    ({"recipes.scrub.cmf.schedule": "cosin"}, "'cosin', but it must be one of constant, cosine, step"),
    ({"recipes.scrub.linear.lr": math.nan}, "lr is nan, but it must be at least 0"),
    ({"recipes": 3}, "recipes is 3, but it must be a table"),
    ({"runs": []}, "runs is an empty list"),
    ({"runs": [{"seeds": ["a"], "forget_sets": [[0]]}]}, r"runs\[0\].seeds\[0\] is 'a', but it must be a whole number"),
    ({"multi_recipes.scrub.cmff": {"epochs": 1, "lr": 0.1}}, "no key 'multi_recipes.scrub.cmff'"),
    ({"data.image_size": 16}, "image_size 8"),
    ({"data.crop_to": 16, "data.enlarge_to": 12}, "must not fall"),
    ({"data.channels": 3}, "data.channels must be 1"),
    ({"network.architecture": "timm/resnet18", "network.width": 8}, "are a ResNet's; leave them out"),
    ({"network.weights": "imagenet"}, "for timm's encoders only"),
    ({"network.blocks": [1] * 5}, "has 5 stages, but 8 pixels allow at most 4"),
])  # fmt: skip
def test_a_wrong_override_is_refused_by_name(overrides, named):
    with pytest.raises(BadInput, match=named):
        profiles.load("digits", overrides)


@pytest.mark.parametrize("overrides, named", [
    ({"recipes.scrub.cmf_none": {"epochs": 1, "lr": 0.1}}, "no key 'recipes.scrub.cmf_none'"),
    ({"recipes.scrubb.cmf": {"epochs": 1, "lr": 0.1}}, "no key 'recipes.scrubb'; allowed are bias_shift"),
    ({"tuning.tolerence": 0.1}, "no key 'tuning.tolerence'"),
])  # fmt: skip
def test_a_key_that_nobody_would_read_is_refused_by_name(overrides, named):
    with pytest.raises(BadInput, match=named):
        profiles.check_names(profiles.load("digits", overrides), methods.METHODS, VARIANTS)


@pytest.mark.parametrize("content, named", [
    (b"\x00\xff", "profile 'mine' cannot be read as TOML"),
    (b"", "profile 'mine': title is missing"),
    (b"name = 'other'", "no key 'name'"),
])  # fmt: skip
def test_a_file_that_is_no_profile_is_refused_with_one_sentence(content, named, tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(BadInput, match=named):
        profiles.load("mine")
    with pytest.raises(BadInput, match="there is no profile 'cifar11'; choose one of mine"):
        profiles.load("cifar11")


def test_an_override_changes_only_its_key_and_a_folder_needs_a_profile_that_reads_one():
    plain, changed = profiles.load("digits"), profiles.load("digits", {"recipes.scrub.linear.lr": 1})
    assert repr(changed.recipe("scrub", "linear").lr) == "1.0"
    assert changed.recipe("scrub", "cmf") == plain.recipe("scrub", "cmf")
    assert profiles.load("image_folder", data_dir="somewhere").data.folder == "somewhere"
    with pytest.raises(BadInput, match="reads no image folder"):
        profiles.load("digits", data_dir="somewhere")


def test_a_forget_set_is_a_set_and_counts_once():
    given = profiles.load("digits").pairs([1, 1], [[1, 0], (0, 1), [4]])
    assert given == [(1, (0, 1)), (1, (4,))]
    with pytest.raises(BadInput, match=r"seeds\[0\] is -1, but it must be at least 0"):
        profiles.load("digits").pairs([-1])


def test_a_variant_takes_the_recipe_that_it_says():
    profile = profiles.load("digits")
    assert (
        recipe_of(profile, "scrub", "cmf_none")
        == recipe_of(profile, "scrub", "cmf")
        != recipe_of(profile, "scrub", "linear")
    )
    linear, cmf, budget = (recipe_of(profile, "neggrad_plus", v) for v in ("linear", "cmf", "cmf_budget"))
    assert (budget.lr, budget.epochs, budget.schedule, budget.clip) == (cmf.lr, cmf.epochs, cmf.schedule, cmf.clip)
    assert budget.constants == linear.constants != cmf.constants
    assert len(set(RECORDED.values())) == len(RECORDED) and not set(RECORDED.values()) & set(VARIANTS)
    with pytest.raises(BadInput, match="no recipe for method 'scrub', variant 'tuned'"):
        recipe_of(profile, "scrub", "tuned")


@pytest.mark.parametrize("name, given, meant", [
    ("seeds", "1", [1]),
    ("forget", "[3, [4, 5]]", [3, [4, 5]]),
    ("methods", "salun", ["salun"]),
    ("shots", "(1, 2)", [1, 2]),
    ("gamma", 1, 1.0),
    ("overrides", "{'probe.epochs': 1}", {"probe.epochs": 1}),
    ("machine", {"jobs": 2}, {"jobs": 2}),
    ("of_a_notebook_alone", "-3", -3),
])  # fmt: skip
def test_a_parameter_is_read_as_its_kind(name, given, meant):
    found = parameters.read(name, given, default=0)
    assert (found, type(found)) == (meant, type(meant))


@pytest.mark.parametrize("name, given, told", [
    ("seeds", "a", "must be a whole number"),
    ("seeds", -1, "must be at least 0"),
    ("shots", [0], "must be at least 1"),
    ("draws", 0, "must be at least 1"),
    ("overrides", 3, "must be a table"),
    ("machine", {"devise": "cpu"}, "no key 'machine.devise'; allowed are cluster"),
    ("machine", {"results": "x"}, "one of , committed"),
    ("of_a_notebook_alone", "x", "must be of type int, like 0"),
])  # fmt: skip
def test_a_parameter_of_another_kind_or_out_of_range_is_refused(name, given, told):
    with pytest.raises(BadInput, match=told):
        parameters.read(name, given, default=0)
