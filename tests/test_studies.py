"""What parameters ask for: pairs, models, plans, and the folder where their figures go."""

import dataclasses
import json

import pandas as pd
import pytest
from conftest import learned_study

from unlearn_utils.methods import METHODS
from unlearn_utils.paths import Outputs
from unlearn_utils.settings import BadInput
from unlearn_utils.study import experiments, profiles, rows, sweep, tune
from unlearn_utils.study.cells import trained
from unlearn_utils.study.experiments import PLANS
from unlearn_utils.study.readings import Attacked, Curve, Reading
from unlearn_utils.study.running import Whole
from unlearn_utils.study.store import Store
from unlearn_utils.study.studies import DIFFERS, REFERENCES, Study, unlearned


@pytest.fixture(autouse=True)
def alone(home, monkeypatch):
    monkeypatch.delenv(DIFFERS, raising=False)


def digits(**given) -> Study:
    return Study.of(**{"profile": "digits", "device": "cpu", "jobs": 1} | given)


def test_a_searched_rate_stands_below_the_papers_and_is_shown_where_that_is():
    study = digits(overrides={"recipes.unsir.searched": {"epochs": 1, "lr": 0.003}})
    shown = experiments.own_head(study)
    at = shown.index(("unsir", "linear"))
    assert shown[at + 1] == ("unsir", "searched") and [m for m in shown if m[1] != "searched"] == unlearned(study.profile, "linear")
    for models in (experiments.misaligned_models, experiments.changed_models, experiments.attacked_models):
        assert ("unsir", "searched") in models(study)


def test_a_search_is_of_what_has_candidates():
    profile = profiles.load("digits", {"tuning": {"rule": "", "tolerance": 0.05, "seeds": [100], "forget_sets": [[5]],
                                                  "unsir": {"linear": [0.1]}, "prune": {"linear": [1.0]}}})
    assert tune.unlearning_recipes(profile) == [("unsir", "linear"), ("prune", "linear")]


@pytest.mark.parametrize("given, named", [
    ({"results": "commited"}, "results is 'commited'"), ({"seeds": [True]}, "seeds is"),
    ({"profile": "cifar10", "results": "committed"}, "there is no result pack"),
    ({"overrides": {"data.train_per_class": 1, "recipes.scrubb.linear": {"epochs": 1, "lr": 1.0}}}, "scrubb"),
])
def test_a_parameter_that_cannot_be_used_is_refused_by_name(given, named):
    with pytest.raises(BadInput, match=named):
        digits(**given)


def test_every_seed_comes_with_every_forget_set():
    assert digits(seeds=[1, 2], forget_sets=[[3], [5, 4]]).pairs == ((1, (3,)), (2, (3,)), (1, (4, 5)), (2, (4, 5)))


def test_few_are_the_first_three_forget_sets_with_their_first_seed_or_as_many_as_the_profile_says():
    asked = {"seeds": [7, 8], "forget_sets": [[4], [3], [2], [1]]}
    assert digits(**asked).few.pairs == ((7, (4,)), (7, (3,)), (7, (2,)))
    assert digits(**asked, overrides={"few_sets": 1}).few.pairs == ((7, (4,)),)


@pytest.mark.parametrize("notebook", sorted(PLANS))
def test_what_a_profile_leaves_out_no_notebook_asks_for_and_nothing_else_is_missing(notebook):
    gone = {("retrain_again", "linear"), ("salun", "cmf_budget"), ("scrub", "cmf_budget")}
    sets = [[0], [3]]
    whole = {task.question: task for task in PLANS[notebook](digits(forget_sets=sets)).tasks}
    slim = digits(forget_sets=sets, overrides={"left_out": ["retrain_again.*", "s*.cmf_budget"]})
    kept = {task.question for task in PLANS[notebook](slim).tasks}
    assert kept == {q for q, task in whole.items() if (task.cell.method, task.cell.variant) not in gone}


@pytest.mark.parametrize("pattern", ["retrain_agian.*", "salun", "*.cmf_rwa"])
def test_a_pattern_that_leaves_nothing_out_is_refused(pattern):
    with pytest.raises(BadInput, match=r"left_out has '.*', but it must be a method and a variant, like unsir.cmf"):
        digits(overrides={"left_out": [pattern]})


@pytest.mark.parametrize("pattern", ["*", "retrain.*", "random.linear", "*.cmf"])
def test_what_every_notebook_shows_is_not_left_out(pattern):
    with pytest.raises(BadInput, match="left_out has .* but every notebook shows"):
        digits(overrides={"left_out": [pattern]})


def test_nothing_may_be_left_out():
    assert digits(overrides={"left_out": []}).profile.left_out == []


def test_a_model_that_saw_all_is_the_same_for_every_forget_set_and_the_others_are_not():
    study = digits()
    for method in METHODS:
        one, other = (study.cell(0, forget, method) for forget in ((0,), (3,)))
        assert (one == other) == METHODS[method].sees_all


def test_a_method_that_is_not_there_is_refused_with_the_list():
    with pytest.raises(BadInput, match="there is no method 'srub'; choose one of .*scrub"):
        digits().cell(0, (0,), "srub")


def test_a_variant_needs_the_recipes_that_it_is_made_of():
    profile = profiles.load("digits")
    assert ("svd", "linear") in unlearned(profile, "linear") and ("svd", "cmf") not in unlearned(profile, "cmf")
    both = {method for method, recipes in profile.recipes.items() if {"linear", "cmf"} <= recipes.keys()}
    assert {method for method, _ in unlearned(profile, "cmf_budget")} == both - {"original"}
    assert not {"original", "retrain"} & {m for m, _ in unlearned(profile, "linear")}


def test_a_study_of_the_profiles_own_parameters_goes_to_its_folder_and_any_other_beside_it():
    own = digits().outputs({})
    others = [digits(seeds=[1]), digits(forget_sets=[[3]]), digits(overrides={"probe.epochs": 3}),
              digits(overrides={"data.train_per_class": 50})]
    names = [study.outputs({}).name for study in others] + [digits().outputs({"draws": 3}).name]
    assert own == Outputs("digits") and len(set(names)) == 5 and all(name.startswith("digits+") for name in names)
    assert digits(seeds=[0], forget_sets=["single"], overrides={"probe.epochs": 100}).outputs({}) == own


def test_the_folder_is_named_by_what_all_notebooks_of_a_command_differ_in(monkeypatch):
    monkeypatch.setenv(DIFFERS, json.dumps({"draws": 3}))
    assert digits().outputs({}) == Outputs("digits", json.dumps({"draws": 3}))


@pytest.mark.parametrize("notebook", sorted(PLANS))
def test_a_plan_with_its_own_parameters_goes_to_the_folder_of_the_study_and_another_value_does_not(notebook):
    own, study = PLANS[notebook].own, digits()
    assert PLANS[notebook](study, **own).outputs == Outputs("digits")
    for name, value in own.items():
        other = [9] if isinstance(value, list) else "scrub" if isinstance(value, str) else value + 1
        assert name in PLANS[notebook](study, **own | {name: other}).outputs.differs


def test_what_a_plan_computes_is_what_its_notebook_takes(study, count):
    plan = PLANS["00_original_and_retrain"](study)
    sweep.run(plan.tasks, study.machine)
    count.clear()
    assert len(plan.get("references")) == 8 and set(plan.get("histories").method) == {m for m, _ in REFERENCES}
    assert count == [] and plan.packed("references") is None


def test_attacks_that_fine_tune_are_aimed_at_every_cell_by_its_own_forget_set():
    study = digits(forget_sets=[[0], [3]])
    asked = experiments.PLANS["04_relearning_attacks"](study, shots=[1], draws=1).tasks
    aimed = {(task.attack, task.target) for task in asked if isinstance(task, Attacked)}
    assert {t for a, t in aimed if a in ("prototype", "retain_only")} == {(0,), (3,)}
    assert {t for a, t in aimed if a not in ("prototype", "retain_only")} == {()}


def test_a_whole_run_asks_for_each_result_once_and_forgets_models_and_unfinished_trainings(study):
    plan = PLANS["00_original_and_retrain"](study)
    whole = Whole(study, {"a": plan, "b": plan})
    assert len(whole.tasks) == len({task.key for task in plan.tasks})
    sweep.run(whole.tasks, study.machine)
    original, other = trained(study.cell(0, (), "original")), Reading.of(study.cell(0, (0,), "prune"), "output")
    sweep.run([other], study.machine)
    Store().unfinished(original.spec).parent.mkdir(exist_ok=True)
    Store().unfinished(original.spec).write_bytes(b"")
    whole.forget()
    assert all(Store().get(task.spec) is None for task in [*whole.tasks, original])
    assert not Store().unfinished(original.spec).exists() and Store().get(other.spec)


def test_costs_are_epochs_and_passes_over_the_training_images(ran):
    table = rows.costs(ran, [(m, "linear") for m in ("original", "retrain", "random_label", "prune")]).get()
    found = table[table.forget == "0"].set_index("method")
    assert found.image_passes.to_dict() == {"original": 15.0, "retrain": 13.5, "random_label": 2.0, "prune": 0.0}
    assert found.epochs.to_dict() == {"original": 15, "retrain": 15, "random_label": 2, "prune": 0} and (found.seconds > 0).all()


def test_where_results_come_from_is_counted_once_for_each(ran):
    for _ in range(2):
        rows.measurements(ran, [("original", "linear")]).get()
    assert ran.origin() == "9 results: 9 computed here, 0 from the result pack."


def test_curves_are_drawn_for_the_few():
    study = digits(seeds=[0, 1])
    tasks = rows.curves(study, "random_label").tasks
    assert [(t.cell.seed, t.cell.forget) for t in tasks if isinstance(t, Curve)] == [(0, (3,)), (0, (8,)), (0, (0,))]


def test_the_search_chooses_within_the_tolerance_and_gives_ties_to_the_larger_rate():
    table = pd.DataFrame({"value": [1, 2, 3, 4], "forget": [0.5, 0.1, 0.1, 0.0], "cost": [0.0, 0.05, 0.05, 0.06]})
    assert table.value[tune.winner(table, 0.05)] == 3
    assert table.value[tune.winner(table.assign(cost=[0.2, 0.1, 0.1, 0.3]), 0.05)] == 3


def test_a_study_keeps_its_settings_when_only_its_pairs_change(tiny):
    study = learned_study(tiny)
    several = study.several([[1, 2]])
    assert dataclasses.replace(several, pairs=study.pairs) == study


def test_models_to_look_at_are_computed_or_left_out_with_a_sentence(tiny, monkeypatch, capsys):
    study = learned_study(tiny)
    wanted = [("original", "linear"), ("random", "linear")]
    cells = study.at_hand(wanted)
    assert [cell.method for cell in cells] == ["original", "random"] and "left out" not in capsys.readouterr().out
    assert all(Store().get(trained(cell).spec) for cell in cells)

    def away(profile):
        raise BadInput("there are no images.")

    monkeypatch.setattr("unlearn_utils.study.studies.dataset_of", away)
    assert study.at_hand(wanted) == cells  # stored, so no image is needed
    assert study.at_hand([("retrain", "linear")]) == []
    assert "so it is left out: there are no images." in capsys.readouterr().out


@pytest.mark.parametrize("seconds, told", [
    (1.0, "2 computed here"), (90.0, "takes about 3 minutes; leave out --results"), (None, "is not known; leave out")])
def test_beside_a_pack_only_what_is_quick_is_computed(tiny, capsys, seconds, told):
    study = learned_study(tiny)
    pack = type("Pack", (), {"find": lambda self, task: seconds and {"seconds": seconds}})()
    cells = dataclasses.replace(study, pack=pack).at_hand([("original", "linear"), ("random", "linear")])
    assert told in capsys.readouterr().out and len(cells) == (2 if seconds == 1.0 else 0)
