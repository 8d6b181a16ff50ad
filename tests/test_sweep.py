"""Cells give the same numbers however they are run, interrupted or combined; failures stay where they happen."""

import errno
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from unlearn_utils.methods import METHODS
from unlearn_utils.methods.random_label import RandomLabel
from unlearn_utils.settings import BadInput
from unlearn_utils.study import rows, store, sweep
from unlearn_utils.study.cells import (
    Cell, Task, Trained, dataset_of, load_features, load_model, load_state, prepare, stored, trained,
)
from unlearn_utils.study.guests import Guests
from unlearn_utils.study.readings import Reading, readings_of
from unlearn_utils.study.store import Damaged, Store
from unlearn_utils.study.studies import Study
from unlearn_utils.study.sweep import GIVEN_UP, Failure, Machine, Outcome

ONE, TWO = Machine(("cpu",), 1), Machine(("cpu",), 2)
MODELS = [("original", "linear"), ("random_label", "linear"), ("scrub", "cmf")]
TESTS = os.path.dirname(__file__)


def two_seeds(tiny) -> Study:
    return Study.of("digits", [0, 1], [[0]], "cpu", jobs=1, overrides=tiny["overrides"])


def tasks_of(study) -> list[Task]:
    cells = [study.cell(seed, forget, *model) for model in MODELS for seed, forget in study.pairs]
    return [reading for cell in cells for reading in readings_of(cell)]


def contents(tasks) -> dict:
    """Everything that is stored of the tasks and of what they need, except times."""
    found, behind = {}, list(tasks)
    while task := behind.pop() if behind else None:
        if task.key in found:
            continue
        behind += task.requires
        record = Store().get(task.spec)
        files = sorted(record.folder.glob("*.safetensors"))
        found[task.key] = (json.dumps(record.result), [hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny) -> dict:
    """What one process computes that nothing disturbs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(tmp_path_factory.mktemp("undisturbed")))
        tasks = tasks_of(two_seeds(tiny))
        sweep.run(tasks, ONE)
        return contents(tasks)


def workers() -> list[psutil.Process]:
    """The processes of pools that compute for this one."""
    return [p for p in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(p.cmdline())]


def kill_one_worker_after(results: int, killed: list) -> threading.Thread:
    def kill() -> None:
        deadline = time.time() + 60
        while len(list(Store().root.glob("*/*/record.json"))) < results and time.time() < deadline:
            time.sleep(0.002)
        for worker in workers()[:1]:
            worker.kill()
            killed.append(worker.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def test_two_processes_one_of_which_is_killed_give_the_same_bits_as_one(home, tiny, undisturbed):
    tasks, killed = tasks_of(two_seeds(tiny)), []
    thread = kill_one_worker_after(3, killed)
    computed = sweep.run(tasks, TWO)
    thread.join()
    assert killed and computed == len(undisturbed)
    assert contents(tasks) == undisturbed
    assert sweep.missing(tasks) == []


def test_more_processes_than_tasks_are_not_started(home, tiny, undisturbed, monkeypatch):
    started = []
    monkeypatch.setattr(sweep.loky, "ProcessPoolExecutor", lambda n, **more: started.append(n) or sweep._Here())
    task = trained(two_seeds(tiny).cell(0, (), "original"))
    sweep.run([task], Machine(("cpu",), 64))
    assert started == [1] and contents([task])[task.key] == undisturbed[task.key]


RUN = f"""
import sys; sys.path.append({TESTS!r})
import tomllib
from test_sweep import tasks_of, two_seeds
from unlearn_utils.study import sweep
tiny = tomllib.loads(open({os.path.join(TESTS, 'tiny.toml')!r}).read())
sweep.run(tasks_of(two_seeds(tiny)), sweep.Machine(("cpu",), int(sys.stdin.readline())))
"""


def test_an_interrupted_run_ends_its_workers_and_is_taken_up_to_the_same_numbers(home, tiny, undisturbed, python):
    process = python(RUN, home)
    process.stdin.write("2\n")
    process.stdin.flush()
    deadline = time.time() + 60
    while len(list(Store().root.glob("*/*/record.json"))) < 3 and time.time() < deadline:
        time.sleep(0.002)
    theirs = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=30)[1]
    assert process.returncode and "KeyboardInterrupt" in told
    _, alive = psutil.wait_procs(theirs, timeout=10)
    tasks = tasks_of(two_seeds(tiny))
    assert not alive and 0 < len(sweep.missing(tasks)) < len(undisturbed)
    assert not list(Store().root.glob("*/.partial-*"))
    sweep.run(tasks, ONE)
    assert contents(tasks) == undisturbed


def test_a_task_that_another_process_finishes_meanwhile_is_not_computed(study, count):
    task = trained(study.cell(0, (0,), "random"))
    with Store().claimed(task.spec):  # another process computes it
        waiting = ThreadPoolExecutor(1).submit(sweep.compute, [task], [task.key], "cpu", Guests.here())
        time.sleep(0.1)
        assert not waiting.done()
        Store().put(task.spec, {"theirs": True}, {}, 0.0, "cpu")
    assert waiting.result()[0].reason == "" and count == []
    assert Store().get(task.spec).result == {"theirs": True}


def test_nothing_is_computed_twice(study, count):
    tasks = [Reading.of(study.cell(0, forget, "original"), name) for forget in ((0,), (3,)) for name in ("ncc", "output")]
    assert sweep.run(tasks, ONE) == 3 == len(count)
    assert sweep.run(tasks, ONE) == 0 and len(count) == 3


FAULTS = """
import resource, torch
from unlearn_utils.study.sweep import keep_memory
faults = []
for before in (lambda: None, keep_memory):
    before()
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        torch.ones(1_000_000)  # 977 pages of 4 KiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin)
print(*faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back at every step")
def test_a_worker_keeps_the_memory_that_it_frees():
    """With the environment in which Dask starts its workers."""
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, told.split())
    assert given_back > 50 * 977 and kept < 10 * 977


def test_memory_that_a_worker_keeps_is_not_taken_for_a_leak_for_which_it_is_restarted(study):
    schedule = sweep._Schedule([trained(study.cell(0, (), name)) for name in ("original", "random")], Machine(("cpu",), 2))
    pool = schedule._pool("cpu")
    limit = pool.submit(lambda: __import__("loky.process_executor").process_executor._MAX_MEMORY_LEAK_SIZE).result()
    pool.shutdown()
    assert limit > psutil.virtual_memory().total


def test_one_process_leaves_threads_and_determinism_as_they_were(study):
    torch.set_num_threads(3)
    seen = []

    class Seen(Broken):
        def compute(self, device):
            seen.append((torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()))
            return {}, {}

    sweep.run([Seen(study.cell(0, (0,), "random"))], ONE)
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    assert seen == [(1, True)] and after == (3, False)


# Failures


@dataclass(frozen=True)
class Broken(Task):
    cell: Cell
    name: str = ""
    kind = "broken"
    code = ""

    @property
    def asked(self):
        return {"name": self.name}

    @property
    def requires(self):
        return []

    def compute(self, device):
        raise RuntimeError("no more of it")


@dataclass(frozen=True)
class NeedsBroken(Broken):
    kind = "dependent"

    @property
    def requires(self):
        return [Broken(self.cell)]


@dataclass(frozen=True)
class Killer(Broken):
    kind = "killer"

    def compute(self, device):
        time.sleep(0.1)  # the other one runs by now
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Slow(Broken):
    kind = "slow"

    def compute(self, device):
        time.sleep(0.3)
        return {"done": True}, {}


@pytest.fixture
def forked(monkeypatch):
    """Pools whose processes start at once; they break as loky's do."""
    start = partial(ProcessPoolExecutor, mp_context=get_context("fork"))
    monkeypatch.setattr(sweep.loky, "ProcessPoolExecutor", start)


@dataclass(frozen=True)
class Noted(Broken):
    kind = "noted"

    def compute(self, device):
        with open(Store().root / "noted.txt", "a") as file:
            file.write(f"{self.name}\n")
        time.sleep(0.1)
        return {"by": os.getpid()}, {}


def test_two_commands_on_one_store_both_finish_and_compute_nothing_twice(study):
    tasks = [Noted(study.cell(0, (0,), "random"), name) for name in "abcd"]
    commands = [get_context("fork").Process(target=sweep.run, args=(tasks, ONE)) for _ in range(2)]
    for command in commands:
        command.start()
    for command in commands:
        command.join(30)
    assert [command.exitcode for command in commands] == [0, 0] and sweep.missing(tasks) == []
    assert sorted((Store().root / "noted.txt").read_text().split()) == list("abcd")


def test_of_tasks_that_run_beside_each_other_only_the_one_that_kills_its_process_is_blamed(study, forked):
    cell = study.cell(0, (0,), "random")
    killer, slow = Killer(cell), [Slow(cell, name) for name in "ab"]
    with pytest.raises(Failure) as failure:
        sweep.run([killer, *slow], TWO)
    assert list(failure.value.reasons) == [killer.key]
    assert "killer of Untrained network, seed 0: its process was killed" in str(failure.value)
    assert all(stored(task).result == {"done": True} for task in slow)


@dataclass(frozen=True)
class KilledOnce(Broken):
    kind = "killed once"

    def compute(self, device):
        mark = Store().root / "was-here"
        if not mark.exists():
            mark.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"done": True}, {}


def test_a_task_whose_process_was_killed_while_it_ran_alone_is_tried_once_more(study, forked):
    task = KilledOnce(study.cell(0, (0,), "random"))
    sweep.run([task], TWO)
    assert stored(task).result == {"done": True}


def test_a_failure_is_reported_and_stops_only_what_needs_it(study):
    cell = study.cell(0, (0,), "random")
    reading = Reading.of(cell, "output")
    with pytest.raises(Failure) as failure:
        sweep.run([NeedsBroken(cell), Broken(cell), reading], ONE)
    told = re.sub(r" \(test_sweep.py, line \d+\)", " (where)", str(failure.value))
    assert told.splitlines() == [
        "broken of Untrained network, seed 0: RuntimeError: no more of it (where)",
        "dependent of Untrained network, seed 0: not run, because what it needs failed",
    ]
    assert stored(reading).result["counts"]


def test_what_an_earlier_run_gave_up_is_not_tried_and_said_in_the_same_words(study, home, monkeypatch):
    cell = study.cell(0, (0,), "random")
    with pytest.raises(Failure) as first:
        sweep.run([Broken(cell), NeedsBroken(cell)], ONE)
    (home / "given-up.json").write_text(json.dumps(first.value.reasons))
    monkeypatch.setenv(GIVEN_UP, str(home / "given-up.json"))
    monkeypatch.setattr(Broken, "compute", lambda task, device: ({}, {}))  # it would succeed by now
    slow = Slow(cell)
    with pytest.raises(Failure) as second:
        sweep.run([Broken(cell), NeedsBroken(cell), slow], ONE)
    assert sorted(second.value.reasons.values()) == sorted(first.value.reasons.values())
    assert stored(slow)


def test_a_full_disk_ends_with_advice_and_leaves_nothing_half_written(study, monkeypatch, home):
    write = Path.write_bytes

    def full(path, content):
        write(path, b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Failure, match=f"the disk of {home} is full; make room and run again"):
        sweep.run([trained(study.cell(0, (0,), "random"))], ONE)
    assert [left for kind in (home / ".store").iterdir() if kind.name != "locks" for left in kind.iterdir()] == []


@pytest.mark.parametrize("error, advice", [
    (OSError(errno.EROFS, "Read-only file system"), "cannot be written (Read-only file system); make it writable"),
    (MemoryError(), "the memory does not suffice; fewer --jobs, or a --batch-size"),
    (torch.OutOfMemoryError(), "the GPU's memory does not suffice; a --batch-size"),
    (BadInput("one sentence."), "one sentence."),
    (ValueError("text"), "ValueError: text"),
])
def test_a_reason_says_what_helps(error, advice, home):
    assert advice in sweep.reason(error)


def test_too_little_memory_ends_with_the_options_that_help(study, monkeypatch):
    monkeypatch.setattr(Broken, "compute", lambda task, device: torch.empty(2**58))
    with pytest.raises(Failure, match="the memory does not suffice; fewer --jobs, or a --batch-size"):
        sweep.run([Broken(study.cell(0, (0,), "random"))], ONE)


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()  # tensors that are loaded lie in the old file
    file.write_bytes(content[:-3])


def test_a_model_whose_tensors_are_damaged_is_computed_again_by_the_sweep_that_finds_it(ran, count):
    cell, original = ran.cell(0, (0,), "random_label"), ran.cell(0, (), "original")
    before = [(c, load_state(c)) for c in (cell, original)]
    for damaged in (cell, original):
        cut(Store().folder(trained(damaged).spec) / "weights.safetensors")
    store.remove(Store().root / "features")
    again = Reading.of(cell, "output")
    store.remove(Store().folder(again.spec))
    assert sweep.run([again], ONE) == 1
    assert count[0] == count[-1] == again.label and {trained(cell).label, trained(original).label} <= set(count)
    for c, state in before:
        for name, tensor in state.items():
            assert torch.equal(load_state(c)[name], tensor), (c.label, name)


def test_what_stays_damaged_fails_once_and_for_all(study, monkeypatch):
    tried = []

    def damaged(task, device):
        tried.append(task)
        raise Damaged("it is damaged")

    monkeypatch.setattr(Broken, "compute", damaged)
    with pytest.raises(Failure, match="it is damaged"):
        sweep.run([Broken(study.cell(0, (0,), "random"))], ONE)
    assert len(tried) == 2


# Other code and other images


def test_a_worker_with_other_code_or_images_refuses(study, count):
    task = trained(study.cell(0, (0,), "random"))
    [outcome] = sweep.compute([task], ["the key that another process found"], "cpu", Guests.here())
    assert isinstance(outcome, Outcome) and "this process has other code or images than the one that asked" in outcome.reason
    assert count == [] and Store().get(task.spec) is None


EDITED = f"""
import sys; sys.path.append({TESTS!r})
import tomllib
from pathlib import Path
from unlearn_utils.study import rows
from unlearn_utils.study.studies import Study
tiny = tomllib.loads(open({os.path.join(TESTS, 'tiny.toml')!r}).read())
for line in sys.stdin:
    old, new = line.strip().split(" | ") if line.strip() else ("", "")
    file = Path("unlearn_utils/methods/random_label.py")
    file.write_text(file.read_text().replace(old, new) if old else file.read_text())
    study = Study.of("digits", [0], [[0]], "cpu", jobs=1, overrides=tiny["overrides"])
    print("MEASURED", rows.measurements(study, [("random_label", "linear")]).get().margin_row_forget.tolist(), flush=True)
"""
EDIT = "yield cross_entropy(run.model(x), y) | yield -cross_entropy(run.model(x), y)"


def test_an_edit_on_the_disk_is_noticed_at_the_next_sweep_of_a_running_process(home, tiny, python, copied, monkeypatch):
    told, errors = python(EDITED, home / "theirs", copied()).communicate(f"\n{EDIT}\n")
    before, after = [line for line in told.splitlines() if line.startswith("MEASURED")] or [errors, ""]
    usual = RandomLabel.losses
    monkeypatch.setattr(RandomLabel, "losses", lambda self, run, epoch: (-loss for loss in usual(self, run, epoch)))
    study = Study.of("digits", [0], [[0]], "cpu", jobs=1, overrides=tiny["overrides"])
    expected = rows.measurements(study, [("random_label", "linear")]).get().margin_row_forget.tolist()
    assert before != after == f"MEASURED {expected}"


def test_images_that_change_on_the_disk_are_noticed_at_the_next_sweep(home, tmp_path):
    for part in ("train", "test"):
        for c, name in enumerate("abcd"):
            (tmp_path / "pictures" / part / name).mkdir(parents=True)
            Image.new("L", (8, 8), 60 * c).save(tmp_path / "pictures" / part / name / "1.png")

    def key() -> str:
        sweep.look_again()
        given = {"data.source": "folder", "data.folder": str(tmp_path / "pictures"), "data.image_size": 8, "data.channels": 1}
        return trained(Study.of("image_folder", [0], [[0]], "cpu", overrides=given).cell(0, (0,), "random_label")).key

    before = key()
    assert key() == before
    Image.new("L", (8, 8), 7).save(tmp_path / "pictures" / "train" / "a" / "2.png")
    assert key() != before


# Models


def test_a_projected_model_is_found_again_with_its_projection(study):
    cell = study.cell(0, (0, 3), "pour_p")
    sweep.run([trained(cell)], ONE)
    model = load_model(cell, "cpu")
    assert torch.linalg.matrix_rank(model.projection) == len(model.projection) - 2


@pytest.mark.parametrize("variant, geometry", [
    ("linear", None), ("cmf", "centred"), ("cmf_raw", "raw"), ("cmf_log_softmax", "log_softmax"),
])
def test_a_variant_names_the_geometry_of_its_head_and_of_its_start(variant, geometry, study):
    cell = study.cell(0, (0,), "salun", variant)
    assert cell.geometry == geometry and cell.start.geometry == geometry


def test_a_cmf_cell_starts_from_the_cmf_original_and_ends_with_the_means_of_its_features(ran):
    cell = ran.cell(0, (0,), "scrub", "cmf")
    assert cell.start == Cell(ran.profile, 0, (), "original", "cmf") and cell.start.start == Cell(ran.profile, 0, (), "original")
    model, features = load_model(cell, "cpu"), load_features(cell, "cpu")
    weight = model.head.weight.clone()
    model.head.refit(features.train, dataset_of(ran.profile).train.labels)
    assert torch.equal(model.head.weight, weight)


def test_classifier_only_leaves_the_encoder_bit_for_bit_and_changes_the_head(ran):
    models = ("random_label", "classifier"), ("original", "linear")
    changed, original = (load_model(ran.cell(0, (0,), *model), "cpu") for model in models)
    encoder = original.encoder.state_dict()
    assert all(torch.equal(value, encoder[key]) for key, value in changed.encoder.state_dict().items())
    assert not torch.equal(changed.head.weight, original.head.weight)


@pytest.mark.parametrize("variant, frozen, zeroed", [
    ("linear", False, False), ("classifier", True, False), ("zeroed_classifier", True, True),
])
def test_a_variant_begins_with_what_it_freezes_and_zeroes_and_keeps_the_original_as_teacher(variant, frozen, zeroed, ran):
    run, _ = prepare(ran.cell(0, (0,), "random_label", variant), "cpu")
    original = load_model(ran.cell(0, (), "original"), "cpu")
    assert not any(p.requires_grad for p in run.model.encoder.parameters()) == frozen
    assert (not run.model.head.weight.any()) == zeroed and torch.equal(run.teacher.head.weight, original.head.weight)
    assert all(torch.equal(p, q) for p, q in zip(run.model.encoder.parameters(), original.encoder.parameters()))


def test_a_method_that_says_head_only_and_changes_the_encoder_is_refused(study, monkeypatch):
    monkeypatch.setattr(METHODS["random_label"], "head_only", True)
    with pytest.raises(Failure, match="Random Label is to leave the encoder as it is, but changed encoder."):
        sweep.run([Trained(study.cell(0, (0,), "random_label"))], ONE)


@pytest.mark.parametrize("device, jobs", [("tpu", 0), ("cuda:99", 0), ("cpu", -1)])
def test_a_machine_that_is_not_there_is_refused(device, jobs):
    with pytest.raises(BadInput, match="must be 0|choose one of"):
        Machine.choose(device, jobs)


def test_processes_are_shared_among_the_devices_and_one_is_enough_for_each_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Machine.choose() == Machine(("cuda:0", "cuda:1"), 2) and Machine.choose("cuda:1", 3) == Machine(("cuda:1",), 3)
    tasks = [Broken(Cell(None, 0, (), "random"), str(i)) for i in range(9)]
    assert sweep._Schedule(tasks, Machine(("cuda:0", "cuda:1"), 3)).processes == {"cuda:0": 2, "cuda:1": 1}
