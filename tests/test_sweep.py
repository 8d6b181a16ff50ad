"""Tasks give the same numbers however they are run, killed, interrupted or shared; failures stay where they happen."""

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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from pickle import PicklingError
from types import SimpleNamespace

import nbformat
import psutil
import pytest
import torch
from nbclient import NotebookClient

from unlearn_utils.methods import METHODS, Method, method
from unlearn_utils.paths import ROOT
from unlearn_utils.settings import BadInput
from unlearn_utils.study import code, store, sweep, worker
from unlearn_utils.study.cells import Cell, Task, Trained, load_state, stored, trained
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.readings import Reading, readings_of
from unlearn_utils.study.readouts import READOUTS, Readout, read, readout
from unlearn_utils.study.store import Damaged, Store
from unlearn_utils.study.sweep import GIVEN_UP, Failure

ONE, TWO = Machine(("cpu",), 1), Machine(("cpu",), 2)
CELL = Cell(None, 0, (), "random")


@dataclass(frozen=True)
class Fake(Task):
    """A task without images, which takes some seconds and notes who computed it."""

    cell: Cell = CELL
    name: str = ""
    seconds: float = 0.0
    kind = "fake"
    code = ""
    requires = ()

    @property
    def asked(self):
        return {"name": self.name}

    def compute(self, device):
        with open(Store().root / "noted.txt", "a") as file:
            file.write(f"{self.name}\n")
        time.sleep(self.seconds)
        return {"done": True}, {}


@dataclass(frozen=True)
class Broken(Fake):
    kind = "broken"

    def compute(self, device):
        raise RuntimeError("no more of it")


@dataclass(frozen=True)
class NeedsBroken(Fake):
    kind = "dependent"
    requires = (Broken(),)


@dataclass(frozen=True)
class Killer(Fake):
    """Ends its process, the first time or always."""

    kind = "killer"

    def compute(self, device):
        mark = Store().root / "was-here"
        if self.name == "always" or not mark.exists():
            mark.write_text("")
            time.sleep(0.1)  # the other one runs by now
            os.kill(os.getpid(), signal.SIGKILL)
        return {"done": True}, {}


@dataclass(frozen=True)
class Limit(Fake):
    """The growth of memory for which loky would restart a worker."""

    kind = "limit"

    def compute(self, device):
        from loky import process_executor

        return {"bytes": process_executor._MAX_MEMORY_LEAK_SIZE}, {}


def contents(tasks) -> dict:
    """Everything that is stored of the tasks and of what they need, except times."""
    found, behind = {}, list(tasks)
    while task := behind.pop() if behind else None:
        if task.key not in found:
            behind += task.requires
            record = Store().get(task.spec)
            files = sorted(record.folder.glob("*.safetensors"))
            found[task.key] = (json.dumps(record.result), [hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
    return found


def test_two_processes_one_of_which_is_killed_give_the_same_bits_as_one(study, tmp_path, monkeypatch):
    cells = [study.cell(0, forget, "random_label") for forget in ((0,), (3,))]
    tasks, killed = [reading for cell in cells for reading in readings_of(cell)], []
    computed = sweep.run(tasks, ONE)
    alone = contents(tasks)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another"))

    def kill() -> None:
        deadline = time.time() + 100
        while len(list(Store().root.glob("*/*/record.json"))) < 3 and time.time() < deadline:
            time.sleep(0.002)
        workers = [p for p in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(p.cmdline())]
        killed.append(workers[0].pid)
        workers[0].kill()

    thread = threading.Thread(target=kill)
    thread.start()
    assert sweep.run([*tasks, Limit()], TWO) == computed + 1
    thread.join()
    assert killed and contents(tasks) == alone and sweep.missing(tasks) == []
    assert stored(Limit()).result["bytes"] > psutil.virtual_memory().total


def test_more_processes_than_tasks_are_not_started_and_they_are_shared_among_the_devices(monkeypatch):
    started = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, count, **more):
            started.append(count)

        def submit(self, *_):
            """Nothing runs."""

    monkeypatch.setattr(sweep.loky, "ProcessPoolExecutor", Pool)
    processes = sweep._Processes(Machine(("cuda:0", "cuda:1"), 64), 3)
    assert processes.free([]) == ["cuda:0", "cuda:1", "cuda:0"] and processes.free(["cuda:0"]) == ["cuda:1", "cuda:0"]
    for device in ("cuda:0", "cuda:1"):
        processes.submit(worker.compute, [], [], device, [])
    assert started == [2, 1]


@pytest.mark.parametrize("jobs, edited, here", [(1, False, True), (2, False, False), (1, True, False)])
def test_one_job_runs_in_this_process_unless_its_code_is_older_than_the_files(jobs, edited, here, monkeypatch):
    monkeypatch.setattr(code, "edited", lambda: edited)
    assert sweep._Processes(Machine(("cpu",), jobs), 9).here == here


def test_nothing_is_computed_twice(study, count):
    tasks = [Reading.of(study.cell(0, forget, "random"), name) for forget in ((0,), (3,)) for name in ("ncc", "output")]
    assert sweep.run(tasks, ONE) == 3 == len(count)
    assert sweep.run(tasks, ONE) == 0 and len(count) == 3


def in_processes(count: int, tasks: list[Task]) -> float:
    """Seconds that so many processes take, each of which runs the tasks."""
    begin = time.perf_counter()
    processes = [get_context("fork").Process(target=sweep.run, args=(tasks, ONE)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count
    return time.perf_counter() - begin


def test_two_processes_with_the_same_tasks_share_them(home):
    tasks = [Fake(name=name, seconds=0.5) for name in "abcdefgh"]
    seconds = in_processes(2, tasks)
    assert sweep.missing(tasks) == [] and sorted((Store().root / "noted.txt").read_text().split()) == list("abcdefgh")
    assert seconds < 0.75 * 8 * 0.5


def test_a_task_that_another_process_computes_is_waited_for_where_nothing_else_is_ready(home):
    task, other = Fake(name="theirs"), Fake(name="other")
    with Store().claimed(task.spec) as mine:
        assert mine
        thread = threading.Thread(target=sweep.run, args=([task, other], ONE))
        thread.start()
        while Store().get(other.spec) is None:
            time.sleep(0.01)
        time.sleep(2 * sweep.PAUSE)
        assert thread.is_alive()
        Store().put(task.spec, {"theirs": True}, {}, 0.0, "cpu")
    thread.join(10)
    assert not thread.is_alive() and stored(task).result == {"theirs": True}
    assert (Store().root / "noted.txt").read_text().split() == ["other"]


FAULTS = """
import resource, torch
from unlearn_utils.study.worker import keep_memory
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
    told = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    ).stdout
    given_back, kept = map(int, told.split())
    assert given_back > 50 * 977 and kept < 10 * 977


def test_one_process_leaves_threads_and_determinism_as_they_were(home, monkeypatch):
    torch.set_num_threads(3)
    seen = []
    state = lambda: (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())  # noqa: E731
    monkeypatch.setattr(Fake, "compute", lambda task, device: (seen.append(state()) or {}, {}))
    sweep.run([Fake()], ONE)
    after = state()
    torch.set_num_threads(1)
    assert seen == [(1, True)] and after == (3, False)


# Failures


@pytest.fixture
def forked(monkeypatch):
    """Pools whose processes start at once; they break as loky's do."""
    start = partial(ProcessPoolExecutor, mp_context=get_context("fork"))
    monkeypatch.setattr(sweep.loky, "ProcessPoolExecutor", start)


def test_of_tasks_that_run_beside_each_other_only_the_one_that_kills_its_process_is_blamed(home, forked):
    killer, slow = Killer(name="always"), [Fake(name=name, seconds=0.3) for name in "ab"]
    with pytest.raises(Failure, match="killer of Untrained network, seed 0: .* killed") as failure:
        sweep.run([killer, *slow], TWO)
    assert list(failure.value.reasons) == [killer.key] and all(stored(task).result == {"done": True} for task in slow)


def test_a_task_whose_process_was_killed_while_it_ran_alone_is_tried_once_more(home, forked):
    sweep.run([Killer()], TWO)
    assert stored(Killer()).result == {"done": True}


def test_a_failure_is_reported_and_stops_only_what_needs_it(home):
    with pytest.raises(Failure) as failure:
        sweep.run([NeedsBroken(), Broken(), Fake()], ONE)
    assert re.sub(r" \(test_sweep.py, line \d+\)", " (where)", str(failure.value)).splitlines() == [
        "broken of Untrained network, seed 0: RuntimeError: no more of it (where)",
        "dependent of Untrained network, seed 0: not run, because what it needs failed",
    ]
    assert stored(Fake())


def test_what_a_sweep_of_the_same_run_gave_up_is_not_tried_and_said_in_the_same_words(home, monkeypatch):
    monkeypatch.setenv(GIVEN_UP, str(home / "given-up"))
    with pytest.raises(Failure) as first:
        sweep.run([Broken(), NeedsBroken()], ONE)
    with open(home / "given-up", "a") as file:
        file.write('{"cut off by a full d')
    monkeypatch.setattr(Broken, "compute", lambda task, device: ({}, {}))  # it would succeed by now
    with pytest.raises(Failure) as second:
        sweep.run([Broken(), NeedsBroken(), Fake()], ONE)
    assert second.value.reasons == first.value.reasons and stored(Fake())
    monkeypatch.delenv(GIVEN_UP)
    assert sweep.run([Broken()], ONE) == 1


def test_a_full_disk_ends_with_advice_and_leaves_nothing_half_written(home, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        write(path, b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Failure, match=f"the disk of {home} is full; make room and run again"):
        sweep.run([Fake()], ONE)
    assert list((home / ".store" / "fake").iterdir()) == []


@pytest.mark.parametrize("error, advice", [
    (OSError(errno.EROFS, "Read-only file system"), "cannot be written (Read-only file system); make it writable"),
    (MemoryError(), "the memory does not suffice; fewer --jobs, or a --batch-size"),
    (torch.OutOfMemoryError(), "the GPU's memory does not suffice; a --batch-size"),
    (PicklingError("no lock"), "cannot be sent to a worker process (no lock); take jobs = 1"),
    (BadInput("one sentence."), "one sentence."), (ValueError("text"), "ValueError: text"),
])  # fmt: skip
def test_a_reason_says_what_helps(error, advice, home):
    assert advice in worker.reason(error)


def test_a_model_whose_tensors_are_damaged_is_computed_again_by_the_sweep_that_finds_it(ran, count):
    cell, original = ran.cell(0, (0,), "random_label"), ran.cell(0, (), "original")
    before = [(c, load_state(c)) for c in (cell, original)]
    for damaged in (cell, original):
        file = Store().folder(trained(damaged).spec) / "weights.safetensors"
        file.write_bytes(file.read_bytes()[:-3])
    store.remove(Store().root / "features")
    again = Reading.of(cell, "output")
    store.remove(Store().folder(again.spec))
    assert sweep.run([again], ONE) == 1
    assert count[0] == count[-1] == again.label and {trained(cell).label, trained(original).label} <= set(count)
    for c, state in before:
        assert all(torch.equal(load_state(c)[name], tensor) for name, tensor in state.items())


def test_what_stays_damaged_fails_once_and_for_all(home, monkeypatch):
    tried = []

    def damaged(task, device):
        tried.append(task)
        raise Damaged("it is damaged")

    monkeypatch.setattr(Broken, "compute", damaged)
    with pytest.raises(Failure, match="it is damaged"):
        sweep.run([Broken()], ONE)
    assert len(tried) == 2


def test_a_worker_with_other_code_or_images_refuses(home):
    [outcome] = worker.compute([Fake()], ["the key that another process found"], "cpu", [])
    assert "other code or images than the one that asked" in outcome.reason and Store().get(Fake().spec) is None


def test_a_method_that_says_head_only_and_changes_the_encoder_is_refused(study, monkeypatch):
    monkeypatch.setattr(METHODS["random_label"], "head_only", True)
    with pytest.raises(Failure, match="Random Label is to leave the encoder as it is, but changed encoder."):
        sweep.run([Trained(study.cell(0, (0,), "random_label"))], ONE)


@pytest.mark.parametrize("device, jobs", [("tpu", 0), ("cuda:99", 0), ("cpu", -1)])
def test_a_machine_that_is_not_there_is_refused(device, jobs):
    with pytest.raises(BadInput, match="must be 0|choose one of"):
        Machine.choose(device, jobs)


def test_one_process_is_enough_for_each_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Machine.choose() == Machine(("cuda:0", "cuda:1"), 2)
    assert Machine.choose("cuda:1", 3) == Machine(("cuda:1",), 3)


# Methods and readouts that the package does not define

DEFINED = """
import argparse, torch
from dataclasses import dataclass
from unlearn_utils.methods import Method, method
from unlearn_utils.metrics import confusion
from unlearn_utils.study.readouts import readout

SIGN = {sign}

@method("{name}", "{name}")
@dataclass(frozen=True)
class Ascent(Method):
    def losses(self, run, epoch):
        for x, y in run.batches(run.forget):
            yield SIGN * args.scale * criterion(run.model(x.to(device)), y)

@readout(of_features=True)
def neighbour_{name}(at):
    nearest = torch.cdist(at.features.test, at.features.train).argmin(1)
    return {{"counts": confusion(at.train_labels[nearest], at.test_labels, at.classes).tolist()}}

device, args = torch.device("cpu"), argparse.Namespace(scale=1.0)
criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
"""
MEASURED = """
import json, os
from conftest import learned_study
from unlearn_utils.study import sweep
from unlearn_utils.study.cells import stored
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.readings import Reading
os.environ["UNLEARN_HOME"] = {home!r}
given = {{f"recipes.{{name}}.linear": {{"epochs": 3, "lr": 0.1}} for name in {names!r}}}
study = learned_study({tiny!r}, overrides={{"recipes.original.linear.epochs": 3}} | given)
tasks = [Reading.of(study.cell(0, (0,), n), r) for n in {names!r} for r in ("geometry", f"neighbour_{{n}}")]
sweep.run(tasks, Machine(("cpu",), {jobs}))
print("MEASURED", json.dumps([stored(task).result for task in tasks]))
"""


def test_methods_and_readouts_of_a_cell_and_of_a_module_reach_the_workers_and_count_by_their_code(home, tiny):
    """One kernel: here; edited, here; in an empty store by two processes; beside it the same from a module."""
    (home / "their_module.py").write_text(DEFINED.format(sign=-1, name="theirs"))
    cells = []
    for sign, place, jobs, names in [(1, "a", 1, ["mine"]), (-1, "a", 1, ["mine"]), (-1, "b", 2, ["mine", "theirs"])]:
        cells.append(DEFINED.format(sign=sign, name="mine") + ("\nimport their_module" if len(names) > 1 else ""))
        cells.append(MEASURED.format(home=str(home / place), names=names, tiny=tiny, jobs=jobs))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(home)])
    client = NotebookClient(notebook, kernel_name="python3", timeout=240)
    client.execute(env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, cwd=str(home))
    texts = ["".join(out.get("text", "") for out in cell.outputs) for cell in notebook.cells[1::2]]
    lines = [line.removeprefix("MEASURED") for text in texts for line in text.splitlines() if "MEASURED" in line]
    descent, ascent, (elsewhere_geometry, elsewhere_readout, *of_module) = map(json.loads, lines)
    assert descent[0] != ascent[0] and ascent == [elsewhere_geometry, elsewhere_readout]
    assert of_module[1]["counts"] and of_module[0] != descent[0]


def mine(module="__main__"):
    return type("Mine", (Method,), {"__module__": module})


def named(name):
    def function(at):
        return {}

    function.__name__ = name
    return function


@pytest.fixture
def registries(monkeypatch):
    """What is registered here leaves again."""
    for registry in (METHODS, READOUTS):
        for name, thing in list(registry.items()):
            monkeypatch.setitem(registry, name, thing)
    yield
    for registry in (METHODS, READOUTS):
        registry.pop("mine", None)




def test_a_cell_that_is_run_again_registers_its_own_anew(registries):
    first, second = (method("mine", label)(mine()) for label in ("Mine", "Mine, too"))
    assert METHODS["mine"] is second is not first
    readout()(named("mine")), readout()(named("mine"))




def test_the_place_of_an_error_is_a_users_own_line():
    try:
        json.loads("nothing")
    except ValueError as error:
        assert re.search(r" .test_sweep.py, line \d+.$", worker.reason(error))
    assert worker.reason(ValueError("nothing")) == "ValueError: nothing"
