"""Profiles: every shipped one loads, and what is misspelled or of the wrong type is refused by name."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from unlearn_utils import methods
from unlearn_utils.study import profiles, tune
from unlearn_utils.study.cells import Cell, Trained, features_spec, images_of
from unlearn_utils.settings import BadInput, Recipe
from unlearn_utils.study.store import Store
from unlearn_utils.study.studies import Study, numbered
from unlearn_utils.study.variants import VARIANTS, recipe_of
from unlearn_utils.training import learning_rate


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_loads_and_its_methods_take_its_constants(name):
    profile = profiles.load(name)
    for method, variants in profile.recipes.items():
        for variant in variants:
            for several in (False, True):
                methods.check(method, variant, profile.recipe(method, variant, several))
    assert len(profile.pairs()) >= 3 and all(len(forget) > 1 for _, forget in profile.multi_pairs)


TUNED = [name for name in profiles.names() if profiles.load(name).tuning]
FIGURES = Path(__file__).parent.parent / "figures"
SEARCHED = [name for name in TUNED if (FIGURES / name / "tuning.csv").exists()]
FROM_THE_PAPER = sorted(set(profiles.names()) - set(TUNED) - {"cifar10_slim"})  # which takes cifar10's, see below


@pytest.mark.parametrize("name", FROM_THE_PAPER)
def test_one_word_switches_to_the_papers_table_and_to_the_scripts_and_both_name_the_same_settings(name):
    printed = "table5" if name.endswith("_vit") else "table4"
    own, table, scripts = (profiles.load(name, hyperparameters=which) for which in ("", printed, "scripts"))
    changed = [
        {(m, v) for m in own.recipes for v in own.recipes[m] if table.recipes[m][v] != other.recipes[m][v]}
        for other in (own, scripts)
    ]
    assert changed[1] and changed[0] <= changed[1]
    with pytest.raises(BadInput, match=f"no hyper-parameters 'tabel4'; choose one of {printed}, scripts"):
        profiles.load(name, hyperparameters="tabel4")


def test_what_unlearns_on_a_quarter_of_the_width_is_what_unlearns_on_the_whole():
    slim, whole = profiles.load("cifar10_slim"), profiles.load("cifar10")
    ours = {("original", "linear"), ("retrain", "linear")}
    shared = {(m, v) for m, recipes in whole.recipes.items() for v in recipes} - ours
    assert shared and all(slim.recipes[m][v] == whole.recipes[m][v] for m, v in shared)


@pytest.mark.parametrize("name", sorted(set(TUNED) - set(SEARCHED)))
def test_a_profile_whose_rates_were_not_searched_has_no_committed_results(name):
    assert not list((FIGURES / name).glob("*"))


@pytest.mark.parametrize("name", profiles.names())
def test_the_first_cell_of_every_profile_runs_on_miniature_data(name, home, tmp_path):
    small = {"recipes.original.linear.epochs": 1}
    if name != "digits":
        data, network = profiles.load(name).data, profiles.load(name).network
        for part in ("train", "test"):
            for value, kind in enumerate("abc"):
                (tmp_path / part / kind).mkdir(parents=True)
                for i in range(2):
                    image = Image.new("RGB", (data.image_size,) * 2, (80 * value, 10 * i, 0))
                    image.save(tmp_path / part / kind / f"{i}.png")
        small |= {"data.folder": str(tmp_path), "network.weights": "none"}
        small |= {"network.width": 4} if "resnet" in network.architecture else {}
    task = Trained(Cell(profiles.load(name, small), 0, (), "original"))
    result, _ = task.compute("cpu")
    features = Store().get(features_spec(task.cell)).tensors("features")
    assert [reading["epoch"] for reading in result["history"]] == [0, 1]
    assert sorted(features) == ["test", "train"] and all(torch.isfinite(f).all() for f in features.values())


def test_a_profile_without_alternatives_says_so():
    with pytest.raises(BadInput, match="'digits' has no hyper-parameters 'table4'; it has only its own"):
        profiles.load("digits", hyperparameters="table4")


def test_another_geometry_has_the_same_recipe():
    profile = profiles.load("digits")
    assert recipe_of(profile, "scrub", "cmf_raw") == recipe_of(profile, "scrub", "cmf") != recipe_of(profile, "scrub", "linear")


@pytest.mark.parametrize("name", SEARCHED)
def test_every_rate_of_a_profile_won_its_committed_search(name):
    table = pd.read_csv(FIGURES / name / "tuning.csv")
    profile = profiles.load(name)
    winners = [tune.winner(rows, profile.tuning["tolerance"], profile.tuning.get("ties", "larger")) for _, rows in table.groupby(["method", "variant"])]
    assert sorted(winners) == list(table.index[table.chosen])
    assert tune.disagreements(profile, table) == []


@pytest.mark.parametrize("overrides, named", [
    ({"probe.epoch": 3}, "epoch"),
    ({"probe.epochs": "many"}, "many"),
    ({"recipes.scrub.linear.lr": "fast"}, "fast"),
    ({"nonsense": 1}, "nonsense"),
    ({"title.deep": 1}, "title.deep"),
    ({"recipes.scrub.cmf.schedule": "cosin"}, "cosin"),
    ({"network.precision": "bf16"}, "bf16"),
    ({"probe.epochs": 0}, "at least 1"),
    ({"recipes.scrub.cmf.lr": -0.1}, "at least 0"),
    ({"data.image_size": 16}, "image_size 8"),
    ({"data.crop_to": 16, "data.enlarge_to": 12}, "must not fall"),
    ({"data.random_resized_crop": True}, "needs 'crop_to'"),
    ({"data.normalisation": "imagenet"}, "3 for ImageNet"),
    ({"network.architecture": "vit_small_patch16_224"}, "takes 224 pixels and 3 channels, not 8 and 1"),
    ({"network.weights": "imagenet"}, "there for timm's encoders"),
    ({"network.images_per_pass": -1}, "at least 0"),
    ({"data.source": "digit"}, "one of digits, folder, fashion_mnist"),
    ({"recipes": 3}, "table"),
    ({"runs": 3}, "runs is 3, but it must be a list of tables"),
    ({1: 2}, "dotted key"),
    ({"cmf_geometry": "center"}, "center"),
    ({"title": 3}, "title is 3, but it must be a text"),
    ({"tuning": 3}, "tuning is 3, but it must be a table"),
    ({"tuning.ties": "upwards"}, "tuning.ties is 'upwards', but it must be one of larger, smaller"),
    ({"multi_runs": 3}, "multi_runs is 3"),
    ({"recipes.prune.linear": 3}, "recipes.prune.linear is 3, but it must be a table"),
    ({"runs": []}, "runs is an empty list"),
    ({"runs": [{"seeds": [], "forget_sets": [[0]]}]}, r"runs\[0\].seeds is an empty list"),
    ({"runs": [{"seeds": ["a"], "forget_sets": [[0]]}]}, r"seeds\[0\] is 'a', but it must be a whole number"),
    ({"runs": [{"seeds": [2**64], "forget_sets": [[0]]}]}, r"seeds\[0\] is 18446744073709551616, .* below 1e\+18"),
    ({"runs": [{"seeds": [0], "forget_sets": [0, [1]]}]}, r"forget_sets\[0\] is 0, but it must be a list"),
    ({"network.blocks": ["a"]}, r"network.blocks\[0\] is 'a'"),
    ({"network.blocks": [1, -1]}, r"network.blocks\[1\] is -1, but it must be at least 1"),
    ({"network.blocks": []}, "blocks is an empty list"),
    ({"probe.validation": 1.0}, "probe.validation is 1.0, but it must be at least 0 and below 1"),
    ({"recipes.scrub.linear.momentum": 5.0}, "recipes.scrub.linear.momentum is 5.0, .* below 1"),
    ({"recipes.scrub.linear.lr": math.nan}, "lr is nan, but it must be at least 0"),
    ({"recipes.scrub.linear.lr": math.inf}, "lr is inf, but it must be at least 0"),
    ({"recipes.scrub.linear.lr": 10**400}, "but it must be at least 0 and below"),
    ({"recipes.scrub.linear.max_epochs": -1}, "max_epochs is -1, but it must be at least 0"),
    ({"recipes.neggrad_plus.cmf.ascent_scale": math.nan}, "ascent_scale is nan"),
    ({"multi_recipes.scrubb.cmf": {"epochs": 1, "lr": 0.1}}, "no key 'multi_recipes.scrubb'"),
    ({"multi_recipes.scrub.cmff": {"epochs": 1, "lr": 0.1}}, "no key 'multi_recipes.scrub.cmff'; allowed are classifier, cmf"),
])
def test_a_wrong_override_is_refused_by_name(overrides, named):
    with pytest.raises(BadInput, match=named):
        profiles.load("digits", overrides)


@pytest.mark.parametrize("validation", [0, 0.5])
def test_a_share_may_be_nothing_but_not_everything(validation):
    assert profiles.load("digits", {"probe.validation": validation}).probe.validation == validation


SEARCH = {"rule": "the lowest wins", "tolerance": 0.05, "seeds": [100], "forget_sets": [[5]]}


@pytest.mark.parametrize("overrides, named", [
    ({"recipes.scrub.cmf_raw": {"epochs": 1, "lr": 0.1}}, "no key 'recipes.scrub.cmf_raw'"),
    ({"recipes.scrub.cmf_budget": {"epochs": 1, "lr": 0.1}}, "no key 'recipes.scrub.cmf_budget'"),
    ({"recipes.scrubb.cmf": {"epochs": 1, "lr": 0.1}}, "no key 'recipes.scrubb'; allowed are bias_shift, distilled_head"),
    ({"recipes.random.linear": {"epochs": 1, "lr": 0.1}}, "no key 'recipes.random'"),
    ({"recipes.retrain.cmf": {"epochs": 1, "lr": 0.1}}, "recipes.retrain.cmf would start from an Original that saw"),
    ({"multi_recipes.original.cmf": {"epochs": 1, "lr": 0.1}}, "no key 'multi_recipes.original'"),
    ({"tuning.tolerence": 0.1}, "no key 'tuning.tolerence'"),
    ({"tuning.tolerance": "much"}, "tuning.tolerance is 'much'"),
    ({"tuning.seeds": ["a"]}, r"tuning.seeds\[0\] is 'a'"),
    ({"tuning.unsir.linnear": [0.1]}, "no key 'tuning.unsir.linnear'"),
    ({"tuning.unsir.linear": 0.1}, "tuning.unsir.linear is 0.1, but it must be a list"),
    *(({"tuning": {k: v for k, v in SEARCH.items() if k != gone}}, f"tuning.{gone} is missing") for gone in SEARCH),
])
def test_a_key_that_nobody_would_read_is_refused_by_name(overrides, named):
    profile = profiles.load("digits", overrides)
    with pytest.raises(BadInput, match=named):
        profiles.check_names(profile, methods.METHODS, VARIANTS)


@pytest.mark.parametrize("name", profiles.names())
def test_the_names_of_every_profile_are_known(name):
    profiles.check_names(profiles.load(name), methods.METHODS, VARIANTS)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(content) -> a name under which the digits' profile stands with something put before it or in its place."""
    digits = (profiles.FOLDER / "digits.toml").read_text(encoding="utf-8")
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)

    def write(content):
        content = content.replace("<digits>", digits).encode() if isinstance(content, str) else content
        (tmp_path / "mine.toml").write_bytes(content)
        return "mine"

    return write


@pytest.mark.parametrize("content, named", [
    ("title = 'Übung'".encode("latin-1"), "profile 'mine' cannot be read as TOML .*utf-8"),
    (b"\x00\xff", "cannot be read as TOML"),
    ("a = " + "[" * 5000, "cannot be read as TOML"),
    ("", "profile 'mine': title is missing"),
    ("alternatives = 3\n<digits>", "alternatives is 3, but it must be a table"),
    ("<digits>\n[alternatives]\ntable4 = 3", "alternatives.table4 is 3, but it must be a table"),
    ("<digits>\n[alternatives.table4]\n'recipes.scrub.linear.lr' = nan", "alternatives.table4.recipes.scrub.linear.lr is nan"),
    ("name = 'other'\n<digits>", "no key 'name'"),
])
def test_a_file_that_is_no_profile_is_refused_with_one_sentence(written, content, named):
    with pytest.raises(BadInput, match=named) as refused:
        profiles.load(written(content))
    assert "\n" not in str(refused.value)


def test_what_is_no_file_is_no_profile(written, tmp_path):
    written("<digits>")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    (tmp_path / "gone.toml").symlink_to("nowhere")
    assert profiles.names() == ["mine"]
    with pytest.raises(BadInput, match="there is no profile 'loop'; choose one of mine"):
        profiles.load("loop")


def test_an_override_changes_only_its_key():
    plain, changed = profiles.load("digits"), profiles.load("digits", {"recipes.scrub.linear.lr": 1})
    assert changed.recipe("scrub", "linear").lr == 1.0
    assert changed.recipe("scrub", "cmf") == plain.recipe("scrub", "cmf")


def test_a_forget_set_is_a_set_and_counts_once():
    given = profiles.load("digits").pairs([1, 1], [[1, 0], (0, 1), [4]])
    assert given == [(1, (0, 1)), (1, (4,))]
    several = [{"seeds": [0], "forget_sets": [[2, 1], [1, 2], [3, 5]]}]
    assert profiles.load("digits", {"multi_runs": several}).multi_pairs == [(0, (1, 2)), (0, (3, 5))]


@pytest.mark.parametrize("seeds", [[-1], [2**64]])
def test_a_seed_that_no_generator_takes_is_refused(seeds):
    with pytest.raises(BadInput, match=r"seeds\[0\] is .*, but it must be at least 0 and below"):
        profiles.load("digits").pairs(seeds)


def test_an_unknown_profile_is_refused_with_the_list():
    with pytest.raises(BadInput, match="cifar11.*digits"):
        profiles.load("cifar11")


def test_a_folder_for_a_profile_without_one_is_refused():
    with pytest.raises(BadInput, match="reads no image folder"):
        profiles.load("digits", data_dir="somewhere")


def test_the_cmf_budget_is_cmfs_schedule_with_the_methods_own_constants():
    profile = profiles.load("digits")
    linear, cmf, budget = (recipe_of(profile, "neggrad_plus", v) for v in ("linear", "cmf", "cmf_budget"))
    assert (budget.lr, budget.epochs, budget.schedule, budget.clip) == (cmf.lr, cmf.epochs, cmf.schedule, cmf.clip)
    assert budget.constants == linear.constants != cmf.constants


def test_the_cosine_rate_warms_up_and_ends_at_the_minimum():
    recipe = Recipe(epochs=12, lr=1.0, schedule="cosine", warmup_epochs=2, min_lr=0.1)
    assert [learning_rate(recipe, epoch) for epoch in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert math.isclose(learning_rate(recipe, 7), 0.55)
    assert math.isclose(learning_rate(recipe, 12), 0.1)
    assert learning_rate(Recipe(epochs=3, lr=0.2), 2) == 0.2


@pytest.mark.parametrize("parameters, named", [
    ({"seeds": ["a"]}, "seeds"), ({"seeds": [1.5]}, "seeds"), ({"forget_sets": [3]}, "forget_sets"),
    ({"forget_sets": [[10]]}, "10"), ({"forget_sets": [[3, 3]]}, "3"), ({"forget_sets": [list(range(9))]}, "retain"),
    ({"seeds": 0}, r"seeds is 0, but it must be a list"), ({"forget_sets": 3}, "forget_sets is 3"),
    ({"jobs": "2"}, "jobs is '2'"), ({"jobs": 1.5}, "jobs is 1.5"), ({"cluster": 3}, "cluster is 3"),
    ({"device": "abacus"}, "abacus"), ({"forget_sets": [[[3]]]}, "forget_sets"),
    ({"overrides": {"recipes.scrub.cmff": {"epochs": 1, "lr": 0.1}}}, "cmff"),
    ({"overrides": {"recipes.scrubb.cmf": {"epochs": 1, "lr": 0.1}}}, "scrubb"),
])
def test_a_wrong_notebook_parameter_is_refused_by_name(home, parameters, named):
    with pytest.raises(BadInput, match=named):
        Study.of("digits", **parameters)


@pytest.mark.parametrize("given, expected", [
    ([["0", 3]], [(0, 3)]),  # on digits the names are the digits
    (["single"], [(c,) for c in (3, 8, 0, 1, 2, 4, 5, 6, 7, 9)]),
    (["multi", [9]], [(0, 1, 2), (3, 4, 5), (6, 7, 8), (9,)]),
])
def test_forget_sets_may_be_named(given, expected):
    assert numbered("forget_sets", given, profiles.load("digits")) == expected


def test_a_coarse_class_stands_for_its_classes():
    digits = profiles.load("digits")
    grouped = replace(digits, images=replace(images_of(digits), groups={"round": (0, 6, 8, 9)}))
    assert numbered("forget_sets", [["round", 3]], grouped) == [(0, 3, 6, 8, 9)]


@pytest.mark.parametrize("given, named", [
    ([["zero"]], "there is no class 'zero' in profile 'digits'; its classes are 0, 1, 2"),
    (["multy"], "the names \"single\" and \"multi\""),
    ([["3", 3]], r"forget set \[3, 3\] must list different classes"),
])
def test_a_forget_set_that_names_no_class_or_one_twice_is_refused(home, given, named):
    with pytest.raises(BadInput, match=named):
        Study.of("digits", forget_sets=given)


@pytest.mark.parametrize("changed", [{"network.width": 8}, {"network.blocks": [1, 1]}])
def test_what_only_a_resnet_has_is_refused_for_another_network(changed):
    with pytest.raises(BadInput, match="are a ResNet's, and timm/tf_efficientnet_lite0 has its own"):
        profiles.load("cifar10_pretrained", changed)
