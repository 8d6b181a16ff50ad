"""Tasks give the same numbers however they are run, killed, interrupted or shared; failures stay where they happen."""

import errno
import hashlib
import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from pickle import PicklingError

import pytest
import torch

from unlearn_utils.methods import METHODS, Method, method
from unlearn_utils.settings import BadInput
from unlearn_utils.study import code, store, sweep, worker
from unlearn_utils.study.cells import Cell, Task, Trained, load_state, stored, trained
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.readouts import READOUTS, readout
from unlearn_utils.study.store import Damaged, Store
from unlearn_utils.study.sweep import Failure

ONE, TWO = Machine(("cpu",), 1), Machine(("cpu",), 2)
CELL = Cell(None, 0, (), "random")


@dataclass(frozen=True)
class Fake(Task):
    """A task without images, which takes some seconds and notes who computed it."""

    cell: Cell = CELL
    name: str = ""
    seconds: float = 0.0
    kind = "fake"
    requires, code = (), ""
    group = property(lambda task: task.key)

    @property
    def asked(self):
        return {"name": self.name}

    def compute(self, device):
        with open(Store().root / "noted.txt", "a") as file:
            file.write(f"{self.name} {os.getpid()}\n")
        time.sleep(self.seconds)
        return {"done": True}, {}


@dataclass(frozen=True)
class Broken(Fake):
    kind = "broken"

    def compute(self, device):
        raise SystemExit("no more of it") if self.name == "exit" else RuntimeError("no more of it")


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


class Forked(ProcessPoolExecutor):
    """Its processes start at once; it breaks as loky's does."""

    def __init__(self, count, timeout, **more):
        super().__init__(count, mp_context=get_context("fork"), **more)

    def shutdown(self, wait, kill_workers):
        super().shutdown(wait)


@pytest.fixture
def forked(monkeypatch):
    monkeypatch.setattr(sweep.loky, "ProcessPoolExecutor", Forked)


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


def test_two_processes_one_of_which_is_killed_give_the_same_bits_as_one(study, tmp_path, monkeypatch, forked):
    cells = [study.cell(0, forget, "random_label") for forget in ((0,), (3,))]
    tasks = [Reading.of(cell, name) for cell in cells for name in ("output", "probe", "geometry", "turn")]
    computed = sweep.run(tasks, ONE)
    alone = contents(tasks)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another"))
    assert sweep.run([*tasks, Killer()], TWO) == computed + 1
    assert contents(tasks) == alone and sweep.missing(tasks) == [] and stored(Killer()).result == {"done": True}


@pytest.mark.parametrize("jobs, edited, here", [(1, False, True), (2, False, False), (1, True, False)])
def test_one_job_runs_in_this_process_unless_its_code_is_older_than_the_files(jobs, edited, here, monkeypatch):
    monkeypatch.setattr(code, "edited", lambda: edited)
    processes = sweep.Processes(Machine(("cuda:0", "cuda:1"), jobs), 3)
    assert processes.here == here and processes.devices == ["cuda:0", "cuda:1"][:jobs]


def test_more_processes_than_tasks_are_not_started_and_they_are_shared_among_the_devices():
    processes = sweep.Processes(Machine(("cuda:0", "cuda:1"), 64), 3)
    assert processes.devices == ["cuda:0", "cuda:1", "cuda:0"] and processes.free([1]) == [0, 2]


def test_processes_serve_the_next_sweep_unless_a_file_or_the_home_has_changed(home, tmp_path, monkeypatch):
    places = [sweep.Processes(TWO, 2).place for _ in range(2)]
    monkeypatch.setattr(code, "state", lambda: {"method.py": 1})
    places.append(sweep.Processes(TWO, 2).place)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "another"))
    places.append(sweep.Processes(TWO, 2).place)
    assert places[0] == places[1] and len(set(places)) == 3


def test_nothing_is_computed_twice(study, count):
    tasks = [Reading.of(study.cell(0, forget, "random"), name) for forget in ((0,), (3,)) for name in ("ncc", "output")]
    assert sweep.run(tasks, ONE) == 3 == len(count)
    assert sweep.run(tasks, ONE) == 0 and len(count) == 3


def noted() -> tuple[list[str], set[str]]:
    """The names of the fakes that were computed, in order, and the processes that did."""
    names, processes = zip(*(line.split() for line in (Store().root / "noted.txt").read_text().splitlines()))
    return sorted(names), set(processes)


def test_two_processes_with_the_same_tasks_share_them(home):
    tasks = [Fake(name=name, seconds=0.3) for name in "abcdefgh"]
    processes = [get_context("fork").Process(target=sweep.run, args=(tasks, ONE)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0] and sweep.missing(tasks) == []
    assert noted() == (list("abcdefgh"), {str(process.pid) for process in processes})


def test_a_task_that_another_process_computes_is_waited_for_where_nothing_else_is_ready(home):
    task, other = Fake(name="theirs"), Fake(name="other")
    with Store().claimed(task.spec) as mine:
        assert mine
        thread = threading.Thread(target=sweep.run, args=([task, other], ONE))
        thread.start()
        while Store().get(other.spec) is None:
            time.sleep(0.01)
        time.sleep(3 * sweep.PAUSE)
        assert thread.is_alive()
        Store().put(task.spec, {"theirs": True}, {}, 0.0, "cpu")
    thread.join(10)
    assert not thread.is_alive() and stored(task).result == {"theirs": True}
    assert noted()[0] == ["other"]


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


def test_of_tasks_that_run_beside_each_other_only_the_one_that_kills_its_process_is_blamed(home, forked):
    killer, slow = Killer(name="always"), [Fake(name=name, seconds=0.3) for name in "ab"]
    with pytest.raises(Failure, match="killer of Untrained network, seed 0: .* killed") as failure:
        sweep.run([killer, *slow], TWO)
    assert list(failure.value.failed) == [killer.key] and all(stored(task).result == {"done": True} for task in slow)


def test_a_failure_is_reported_and_stops_only_what_needs_it(home):
    with pytest.raises(Failure) as failure:
        sweep.run([NeedsBroken(), Broken(), Broken(name="exit"), Fake()], ONE)
    assert re.sub(r" \(test_sweep.py, line \d+\)", " (where)", str(failure.value)).splitlines() == [
        "broken of Untrained network, seed 0: RuntimeError: no more of it (where)",
        "broken of Untrained network, seed 0: SystemExit: no more of it (where)",
        "dependent of Untrained network, seed 0: not run, because what it needs failed",
    ]
    assert stored(Fake())


def test_a_full_disk_ends_with_advice_and_leaves_nothing_half_written(home, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        write(path, b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Failure, match=f"{home} cannot be written to .No space left on device.; make room"):
        sweep.run([Fake()], ONE)
    assert list((home / ".store" / "fake").iterdir()) == []


@pytest.mark.parametrize(
    "error, advice",
    [
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written to (Read-only file system)"),
        (MemoryError(), "take fewer --jobs, or"),
        (torch.OutOfMemoryError(), "the memory does not suffice"),
        (PicklingError("no lock"), "cannot be sent to a worker process (no lock); take jobs = 1"),
        (BadInput("one sentence."), "one sentence."),
        (ValueError("text"), "ValueError: text"),
    ],
)
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


def test_a_method_that_says_head_only_and_changes_the_encoder_is_refused(study, monkeypatch):
    monkeypatch.setattr(METHODS["random_label"], "head_only", True)
    with pytest.raises(Failure, match="Random Label is to leave the encoder as it is, but changed encoder."):
        sweep.run([Trained(study.cell(0, (0,), "random_label"))], ONE)


def test_a_machine_has_one_process_for_each_gpu_and_no_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Machine.choose() == Machine(("cuda:0", "cuda:1"), 2)
    assert Machine.choose("cuda:1", 3) == Machine(("cuda:1",), 3)
    for device in ("tpu", "cuda:99"):
        with pytest.raises(BadInput, match="choose one of"):
            Machine.choose(device)


# Methods and readouts that the package does not define


def test_a_cell_that_is_run_again_registers_its_own_anew(monkeypatch):
    def mine(at):
        return {}

    mine.__module__ = "__main__"
    for registry in (METHODS, READOUTS):
        monkeypatch.setitem(registry, "mine", None)  # taken out at the end
        del registry["mine"]
    first, second = (method("mine", label)(type("Mine", (Method,), {"__module__": "__main__"})) for label in "ab")
    assert METHODS["mine"] is second is not first
    readout()(mine), readout()(mine)


def test_what_is_computed_in_this_process_does_not_keep_the_version_that_a_cell_had(monkeypatch, home):
    mine = type("Mine", (Method,), {"__module__": "__main__"})
    monkeypatch.setattr(sweep, "user_defined", lambda: [("mine", mine, "of before the edit")])
    sweep.run([Fake()], ONE)
    assert mine not in code._RECEIVED
