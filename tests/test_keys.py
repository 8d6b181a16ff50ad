"""A key holds all that makes a result and nothing else: every input is changed in turn."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from unlearn_utils.methods import METHODS
from unlearn_utils.settings import Attack, Network, Probe, Recipe, Views
from unlearn_utils.study import cells, profiles, variants
from unlearn_utils.study.cells import Cell, Task, Trained, look_again, trained
from unlearn_utils.study.profiles import Images
from unlearn_utils.study.readings import Attacked, Collapse, Curve, Embedded, Reading, Steps
from unlearn_utils.study.readouts import READOUTS

DIGITS = replace(
    profiles.load("digits"), images=Images("0123456789abcdef", tuple("0123456789"), (107,) * 10, (71,) * 10)
)
BY_FEATURES, BY_FINE_TUNING = {"few_shot", "few_shot_shuffled"}, {"own_head"}
BY_PROBE = {"probe", "probe_in_head", "curve", "steps"}


def tasks_of(profile, shots=(1, 2), draws=1, points=60, **changed) -> dict[str, Task]:
    """One task of every kind and name, of SCRUB + CMF unless ``changed``."""
    cell = Cell(**{"profile": profile, "seed": 0, "forget": (0,), "method": "scrub", "variant": "cmf"} | changed)
    tasks = {"model": Trained(cell), "collapse": Collapse(cell), "curve": Curve(cell), "t-SNE": Embedded(cell, points)}
    tasks["steps"] = Steps(cell)
    tasks |= {name: Reading.of(cell, name) for name in READOUTS}
    return tasks | {a: Attacked.of(cell, a, shots, draws) for a in BY_FEATURES | BY_FINE_TUNING}


def keys(profile=DIGITS, **changed) -> dict[str, str]:
    cells._trained.clear()
    return {name: task.key for name, task in tasks_of(profile, **changed).items()}


UNCHANGED = keys()
EVERYTHING = set(UNCHANGED)


def changed_by(profile=DIGITS, **changed) -> set[str]:
    """The kinds of task whose key is another than that of the unchanged profile and cell."""
    after = keys(profile, **changed)
    return {name for name in UNCHANGED if UNCHANGED[name] != after[name]}


def another(value):
    made = {
        dict: lambda v: {"max_epochs": 3}, list: lambda v: [*v, 1], bool: lambda v: not v, int: lambda v: v + 1,
        float: lambda v: v + 0.25, str: "another {}".format,
    }  # fmt: skip
    return made[type(value)](value)


def with_one_changed(settings, field: str):
    values = {"architecture": "bottleneck_resnet", "weights": "imagenet"}
    return replace(settings, **{field: values.get(field) or another(getattr(settings, field))})


def with_recipe(method: str, variant: str, recipe: Recipe):
    return replace(DIGITS, recipes=DIGITS.recipes | {method: DIGITS.recipes[method] | {variant: recipe}})


NO_KEY = {
    "name": "another", "title": "another", "tuning": {}, "runs": (), "multi_runs": (), "multi_recipes": {},
    "data": replace(DIGITS.data, folder="elsewhere"), "images": replace(DIGITS.images, groups={"round": (0, 6)}),
}  # fmt: skip
SCRUB = DIGITS.recipes["scrub"]["cmf"]
PROFILES = {  # what is changed: the profile with it, and the kinds of task whose keys change
    **{
        f"recipe {field.name}": (with_recipe("scrub", "cmf", with_one_changed(SCRUB, field.name)), EVERYTHING)
        for field in fields(Recipe)
    },
    **{
        f"{part} {name}": (replace(DIGITS, **{part: with_one_changed(getattr(DIGITS, part), name)}), kinds)
        for part, names, kinds in (
            ("network", [field.name for field in fields(Network)], EVERYTHING),
            ("data", [*(field.name for field in fields(Views)), "readout_view"], EVERYTHING),
            ("images", ["fingerprint"], EVERYTHING),
            ("probe", [field.name for field in fields(Probe)], BY_PROBE),
            ("attack", [field.name for field in fields(Attack)], BY_FINE_TUNING),
        )
        for name in names
    },
    "the start's recipe": (with_recipe("original", "cmf", replace(SCRUB, constants={}, epochs=29)), EVERYTHING),
    "the Original's recipe": (with_recipe("original", "linear", replace(SCRUB, constants={}, epochs=29)), EVERYTHING),
    "normalisation": (replace(DIGITS, cmf_normalisation="unit_length"), EVERYTHING),
    "another method's recipe": (with_recipe("salun", "cmf", Recipe(1, 1.0)), set()),
    "another variant's recipe": (with_recipe("scrub", "linear", Recipe(1, 1.0)), set()),
    "a recipe for several": (replace(DIGITS, multi_recipes={"scrub": {"cmf": replace(SCRUB, epochs=3)}}), set()),
    **{name: (replace(DIGITS, **{name: value}), set()) for name, value in NO_KEY.items()},
}  # fmt: skip


@pytest.mark.parametrize("profile, kinds", PROFILES.values(), ids=PROFILES)
def test_what_a_profile_says_is_in_the_keys_of_what_depends_on_it(profile, kinds):
    assert changed_by(profile) == kinds


@pytest.mark.parametrize(
    "changed, kinds",
    [
        ({"seed": 1}, EVERYTHING),
        ({"forget": (1,)}, EVERYTHING),
        ({"forget": (0, 1)}, EVERYTHING),
        ({"method": "salun"}, EVERYTHING),
        ({"variant": "cmf_unit_length"}, EVERYTHING),
        ({"variant": "linear"}, EVERYTHING),
        ({"shots": (1, 3)}, BY_FEATURES),
        ({"draws": 2}, BY_FEATURES),
        ({"points": 90}, {"t-SNE"}),
    ],
)
def test_what_is_asked_of_a_cell_is_in_the_keys_of_what_depends_on_it(changed, kinds):
    assert changed_by(**changed) == kinds


@pytest.mark.parametrize(
    "changed", [{"data.train_per_class": 20}, {"data.test_per_class": 20}, {"data.evaluate_on": "validation"}]
)
def test_fewer_or_other_images_of_a_source_are_other_images(changed, home):
    usual, other = (Trained(Cell(profiles.load("digits", given), 0, (0,), "scrub")) for given in ({}, changed))
    assert other.key != usual.key


def test_the_variants_of_a_head_differ_from_each_other():
    named = [v for v in variants.VARIANTS if v not in ("cmf_budget", "tuned")]  # the linear head at another rate
    assert len({trained(Cell(DIGITS, 0, (0,), "scrub", variant)).key for variant in named}) == len(named)


def test_the_recipe_for_several_classes_counts_for_several_classes_alone():
    several, _ = PROFILES["a recipe for several"]
    assert keys(several, forget=(0, 1))["model"] != keys(forget=(0, 1))["model"]


def test_models_without_a_cmf_head_are_read_in_the_normalisation_that_they_would_get():
    of_linear, of_other = keys(variant="linear"), keys(PROFILES["normalisation"][0], variant="linear")
    assert {name for name, key in of_linear.items() if of_other[name] != key} == {"probe_in_head", "ncc_in_head"}


def test_the_file_of_first_weights_is_in_all_keys_by_its_content(tmp_path):
    def key(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        look_again()
        return keys(replace(DIGITS, network=replace(DIGITS.network, weights=str(tmp_path / name))))["model"]

    assert key("a", b"some") != key("a", b"others")


@pytest.mark.parametrize(
    "part, value, changes",
    [("label", " elsewhere", False), ("zeroed", True, True), ("encoder_frozen", False, True), ("head", "cmf", True)],
)
def test_what_a_variant_does_is_in_the_key_of_the_model_and_what_it_is_called_is_not(part, value, changes, monkeypatch):
    before = keys(variant="classifier")
    monkeypatch.setitem(variants.VARIANTS, "classifier", replace(variants.VARIANTS["classifier"], **{part: value}))
    with_start = with_recipe("original", "classifier", DIGITS.recipes["original"]["linear"])
    assert (keys(with_start, variant="classifier")["model"] != before["model"]) == changes


def test_the_initialisation_that_a_method_starts_from_is_in_its_key(monkeypatch):
    before = keys(method="retrain_again", variant="linear")
    monkeypatch.setattr(METHODS["retrain_again"], "other_seed", 2000)
    assert keys(method="retrain_again", variant="linear")["model"] != before["model"]


def edit(file, old, new, *kinds):
    return pytest.param(file, old, new, set(kinds), id=f"{file}: {(old or new).strip().splitlines()[0][:40]}")


EDITS = [
    edit("metrics.py", "", "\n\ndef a_new_metric(features):\n    return features.mean()\n"),
    edit("training.py", '"""The one training loop', '"""Another header; the one training loop'),
    edit("methods/scrub.py", "class Scrub(Method):", "# words\n\n\nclass Scrub(Method):"),
    edit("methods/salun.py", "class SalUn(RandomLabel):", "class SalUn(RandomLabel):\n    share = 0.5\n"),
    edit("training.py", "if now - self.last < self.seconds:", "if now - self.last <= self.seconds:", *EVERYTHING),
    edit("methods/scrub.py", "kl_div", "l1_loss", *EVERYTHING),
    edit("methods/__init__.py", "return [recipe]", "return [recipe] * 2", *EVERYTHING),
    edit("methods/references.py", "run.batches(run.everything)", "run.batches(run.retain)", *EVERYTHING),
    edit("models.py", "return relu(y + self.shortcut(x))", "return y + self.shortcut(x)", *EVERYTHING),
    edit("heads.py", "self.centre.copy_(means.mean(0))", "self.centre.copy_(means.sum(0))", *EVERYTHING),
    edit("representation.py", "batch_size: int = 500", "batch_size: int = 400", *EVERYTHING),
    edit("metrics.py", "best_hits, best_epoch = None, -1, 0", "best_hits, best_epoch = None, 0, 0", *BY_PROBE),
    edit("metrics.py", "(n * (len(labels) - n))", "(n * len(labels))", "probe", "ncc", "binary"),
    edit("geometry.py", "return (torch.trace(within", "return 2 * (torch.trace(within", "collapse_reading", "collapse"),
    edit("geometry.py", "rest - (rest @ first) * first", "rest", "steps"),
    edit("geometry.py", "scatter(1, own, -torch.inf)", "scatter(1, own, 0)", "margin"),
    edit("attacks.py", "(max_iter=1000)", "(max_iter=999)", "few_shot", "few_shot_shuffled"),
    edit("attacks.py", "epochs=1, lr=budget.lr", "epochs=1, lr=2 * budget.lr", *BY_FINE_TUNING),
    edit("study/readouts.py", "nearest(at.in_head.train", "nearest(at.features.train", "ncc_in_head"),
]


def compute_after_edits(root: str, edits: list) -> None:
    """Runs in a process of its own: print the keys as they stand, and after each edit of the copied package."""
    found = [named_keys()]
    for file, old, new in edits:
        path = Path(root) / "unlearn_utils" / file
        text = path.read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new) if old else text + new)
        found.append(named_keys())
        path.write_text(text)
    print(json.dumps([*found, named_keys()]))


def named_keys() -> dict[str, str]:
    """``keys``, the readout of neural collapse by another name than the training's."""
    look_again()
    tasks = tasks_of(DIGITS)
    reading = Reading.of(tasks["model"].cell, "collapse")
    return {n: t.key for n, t in tasks.items()} | {
        "collapse": Collapse(reading.cell).key,
        "collapse_reading": reading.key,
    }


@pytest.fixture(scope="module")
def edited(python, copied, tmp_path_factory) -> dict:
    """Keys of the copied package by edit, each noticed by one process that goes on running."""
    root, edits = copied(), [param.values[:3] for param in EDITS]
    script = (
        f"import sys; sys.path.append({os.path.dirname(__file__)!r})\n"
        f"import test_keys; test_keys.compute_after_edits({str(root)!r}, {edits!r})"
    )
    told, errors = python(script, tmp_path_factory.mktemp("home"), root).communicate()
    assert told, errors
    before, *after, undone = json.loads(told)
    return {"before": before, "undone": undone} | dict(zip(edits, after, strict=True))


def test_keys_are_the_same_wherever_the_package_lies_and_whichever_process_asks(edited):
    assert edited["before"] == named_keys() == edited["undone"]


@pytest.mark.parametrize("file, old, new, kinds", EDITS)
def test_an_edit_on_the_disk_is_in_the_keys_of_what_it_changes_and_in_no_other(file, old, new, kinds, edited):
    before, after = edited["before"], edited[file, old, new]
    everything = set(before) if "model" in kinds else kinds
    assert {name for name in before if before[name] != after[name]} == everything
