"""Cells give the same numbers however they are run, interrupted or combined; failures stay where they happen."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from unlearn_utils.study import sweep
from unlearn_utils.study.cells import Cell, Task, Trained, dataset_of, load_features, load_model, stored
from unlearn_utils.settings import BadInput
from unlearn_utils.study.readings import Curve, Measured
from unlearn_utils.representation import features_of
from unlearn_utils.paths import home as home_folder
from unlearn_utils.study.store import Store
from unlearn_utils.study.sweep import Failure, Machine

ONE = Machine(("cpu",), 1)
MODELS = [("original", "linear"), ("retrain", "linear"), ("random_label", "linear"), ("scrub", "cmf")]


def tasks_of(study) -> list[Task]:
    return [Measured(study.cell(seed, forget, *model)) for model in MODELS for seed, forget in study.pairs]


def contents(tasks) -> dict:
    """Everything that is stored of the tasks, except times."""
    found = {}
    for task in sweep.with_requirements(tasks):
        record = Store().get(task.spec)
        files = sorted(record.folder.glob("*.safetensors"))
        found[task.key] = (record.result, [hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
    return found


def test_the_number_of_processes_does_not_change_a_bit(study, tmp_path, monkeypatch):
    tasks = tasks_of(study)
    sweep.run(tasks, ONE)
    alone = contents(tasks)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "other"))
    assert sweep.missing(tasks) == sweep.with_requirements(tasks)
    sweep.run(tasks, Machine(("cpu",), 2))
    assert contents(tasks) == alone


def test_a_killed_run_is_taken_up_again_to_the_same_numbers(study, tiny, tmp_path, monkeypatch):
    tasks = tasks_of(study)
    sweep.run(tasks, ONE)
    undisturbed = contents(tasks)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "killed"))
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from test_sweep import tasks_of; from unlearn_utils.study import sweep; from unlearn_utils.study.rows import Study\n"
        f"sweep.run(tasks_of(Study.of('digits', [0], {tiny['forget_sets']}, 'cpu', jobs=1, "
        f"overrides={tiny['overrides']})), sweep.Machine(('cpu',), 1))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, os.path.dirname(__file__)], start_new_session=True,
                               stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while len(list(home_folder().glob(".store/*/*/record.json"))) < 3 and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = sweep.missing(tasks)
    assert 0 < len(left) < len(sweep.with_requirements(tasks))
    sweep.run(tasks, ONE)
    assert contents(tasks) == undisturbed


def test_nothing_is_computed_twice(study, monkeypatch):
    tasks = tasks_of(study)[:1]
    sweep.run(tasks, ONE)
    monkeypatch.setattr(sweep, "compute", None)
    sweep.run(tasks, ONE)


@dataclass(frozen=True)
class Broken(Task):
    cell: Cell
    kind = "broken"

    @property
    def inputs(self):
        return {"model": Trained(self.cell).key}

    def compute(self, device):
        raise RuntimeError("no more memory")


@dataclass(frozen=True)
class NeedsBroken(Broken):
    kind = "dependent"

    @property
    def requires(self):
        return [Broken(self.cell)]


def test_a_full_disk_ends_with_advice_and_leaves_nothing_half_written(study, monkeypatch, home):
    write = Path.write_bytes

    def full(path, content):
        write(path, b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Failure, match=f"the disk of {home} is full; make room and run again"):
        sweep.run([Trained(study.cell(0, (0,), "random"))], ONE)
    assert list((home / ".store" / "model").iterdir()) == []


@dataclass(frozen=True)
class Greedy(Broken):
    kind = "greedy"

    def compute(self, device):
        return torch.empty(2**58)


def test_too_little_memory_ends_with_the_options_that_help(study):
    with pytest.raises(Failure, match="the memory does not suffice; fewer --jobs, or a --batch-size"):
        sweep.run([Greedy(study.cell(0, (0,), "random"))], ONE)


def test_a_failure_is_reported_and_stops_only_what_needs_it(study):
    cell = study.cell(0, (0,), "random")
    measured = Measured(cell)
    with pytest.raises(Failure) as failure:
        sweep.run([NeedsBroken(cell), Broken(cell), measured], ONE)
    told = str(failure.value)
    assert "broken of Random network, seed 0: RuntimeError: no more memory" in told
    assert "dependent of Random network, seed 0: not run" in told
    assert stored(measured).result["output"]


@pytest.mark.parametrize("method", ["random_label", "salun", "neggrad_plus", "scrub", "unsir"])
def test_a_curve_reads_the_cells_own_run(method, study):
    cell = study.cell(0, (0,), method)
    sweep.run([Trained(cell), Curve(cell), Measured(cell)], ONE)
    last = stored(Curve(cell)).result["readings"][-1]
    final = stored(Measured(cell)).result
    assert {key: last[key] for key in ("output", "probe", "ncc")} == {k: final[k] for k in ("output", "probe", "ncc")}
    assert stored(Curve(cell)).result["epoch_ends"][-1] == last["x"]


def test_a_method_without_steps_has_no_curve(study):
    with pytest.raises(BadInput, match="'svd' takes no steps"):
        study.curves("svd")


def test_a_projected_model_is_found_again_with_its_projection(study):
    cell = study.cell(0, (0, 3), "pour_p")
    sweep.run([Trained(cell)], ONE)
    model, dataset = load_model(cell, "cpu"), dataset_of(study.profile)
    assert torch.linalg.matrix_rank(model.projection) == len(model.projection) - 2
    assert torch.equal(features_of(model, dataset, dataset.test), load_features(cell).test)


@pytest.mark.parametrize("variant, geometry", [("linear", None), ("cmf", "centred"), ("cmf_raw", "raw"), ("cmf_log_softmax", "log_softmax")])
def test_a_variant_names_the_geometry_of_its_head_and_of_its_start(variant, geometry, study):
    cell = study.cell(0, (0,), "salun", variant)
    assert cell.geometry == geometry and cell.start.geometry == geometry
    assert cell.recipe == study.profile.recipe("salun", "linear" if variant == "linear" else "cmf")


def test_retrain_starts_from_the_originals_initialisation(study):
    retrain, original = (study.cell(0, (0,), method) for method in ("retrain", "original"))
    sweep.run([Trained(retrain), Trained(original), Trained(study.cell(0, (0,), "random"))], ONE)
    first = [stored(Trained(cell)).result["history"][0] for cell in (retrain, original)]
    assert first[0]["test_accuracy"] == first[1]["test_accuracy"] and first[0]["nc1"] == first[1]["nc1"]
    assert Trained(retrain).spec["start"] is None


def test_classifier_only_leaves_encoder_and_features_bit_for_bit(study):
    changed = [study.cell(0, (0,), m, v) for m in ("random_label", "neggrad_plus") for v in ("classifier", "zeroed_classifier")]
    sweep.run([Trained(cell) for cell in changed], ONE)
    original = study.cell(0, (0,), "original")
    encoder, features = load_model(original, "cpu").encoder.state_dict(), load_features(original)
    for cell in changed:
        other = load_model(cell, "cpu")
        assert all(torch.equal(value, encoder[key]) for key, value in other.encoder.state_dict().items())
        assert torch.equal(load_features(cell).test, features.test)
        assert not torch.equal(other.head.weight, load_model(original, "cpu").head.weight)


def test_a_cmf_cell_starts_from_the_cmf_original_and_ends_with_the_means_of_its_features(study):
    cell = study.cell(0, (0,), "random_label", "cmf")
    assert cell.start == Cell(study.profile, 0, (), "original", "cmf")
    sweep.run([Trained(cell)], ONE)
    model, features = load_model(cell, "cpu"), load_features(cell)
    weight = model.head.weight.clone()
    model.head.refit(features.train, dataset_of(study.profile).train.labels)
    assert torch.equal(model.head.weight, weight)


def test_changing_the_probe_does_not_retrain_a_model(study, tiny):
    from unlearn_utils.study import profiles

    cell = study.cell(0, (0,), "random")
    other = Cell(profiles.load("digits", tiny["overrides"] | {"probe.epochs": 3}), 0, (), "random")
    assert Trained(other).key == Trained(cell).key and Measured(other).key != Measured(cell).key


@pytest.mark.parametrize("device, jobs", [("tpu", 0), ("cuda:99", 0), ("cpu", -1)])
def test_a_machine_that_is_not_there_is_refused(device, jobs):
    with pytest.raises(BadInput, match="must be 0|choose one of"):
        Machine.choose(device, jobs)
