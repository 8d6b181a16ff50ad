"""Workers of a Dask scheduler give what this process gives, bit for bit, whatever happens to them on the way."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from unlearn_utils.paths import ROOT
from unlearn_utils.settings import BadInput
from unlearn_utils.study import machine, sweep
from unlearn_utils.study.cells import Cell, Task, trained
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.store import Store
from unlearn_utils.study.worker import KILLED, Outcome, compute


def tasks_of(study) -> list[Task]:
    models = (("original", "linear"), ("random_label", "linear"), ("scrub", "cmf"))
    cells = [study.cell(0, (0,), *model) for model in models]
    return [Reading.of(cell, name) for cell in cells for name in ("output", "geometry", "ncc")]


def digest_of(tasks) -> str:
    """Of everything that is stored of the tasks and the models behind them, except times and places."""
    found = hashlib.sha256()
    for key, task in sorted({t.key: t for one in tasks for t in (one, trained(one.cell))}.items()):
        record = Store().get(task.spec)
        found.update(f"{key} {record.result} {sorted(record.files.items())}".encode())
    return found.hexdigest()


def test_private_encrypted_and_expressly_public_addresses_are_taken_and_others_refused(monkeypatch):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: True)
    for cluster in ("host:8786", "tcp://127.0.0.1", "http://127.0.0.1:8786", "tcp://8.8.8.8:8786"):
        with pytest.raises(BadInput, match="is no address|public address without TLS"):
            Machine.choose("cpu", cluster=cluster)
    for cluster in ("tcp://10.0.0.3:8786", "tls://8.8.8.8:8786", "public:tcp://8.8.8.8:8786"):
        assert Machine.choose("cuda", cluster=cluster).cluster == cluster.removeprefix("public:")


def test_without_dask_the_extra_is_named_and_without_a_cluster_dask_is_not_imported(monkeypatch):
    dasks = re.compile("^(import|from) (dask|distributed|.*cluster import)", re.M)
    assert {f.name for f in (ROOT / "unlearn_utils").rglob("*.py") if dasks.search(f.read_text())} == {"cluster.py"}
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"unlearn-utils\[cluster\]"):
        Machine.choose("cpu", cluster="local")


@dataclass(frozen=True)
class Noted(Task):
    """Takes a second, and says before who computes it."""

    cell: Cell
    kind = "noted"
    asked, code = {}, ""

    def compute(self, device):
        Path(os.environ["NOTES"], str(os.getpid())).touch()
        time.sleep(1)
        return {"done": True}, {}


class Mortal:
    """Workers without end, each of which dies of what is noted; the first one is out of reach."""

    attempts = 3

    def __init__(self):
        self.asked = []

    def free(self, busy):
        return [f"worker {len(self.asked)}"]

    def submit(self, worker, tasks, keys, users):
        self.asked.append([task.kind for task in tasks])
        future = Future()
        if len(self.asked) == 1:
            future.set_result([Outcome(0.0, busy=True)] * len(tasks))
        elif "noted" in self.asked[-1]:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(compute("cpu", tasks, keys, users))
        return future

    def close(self, kill):
        """There is nothing to end."""


def test_a_task_that_ends_three_workers_is_given_up_and_the_rest_goes_on(study):
    cell, workers = study.cell(0, (0,), "random"), Mortal()
    poison = Noted(cell)
    tasks = [trained(cell), poison, Reading.of(cell, "output")]
    assert sweep.Schedule(tasks, workers).run() == {poison.key: (poison.label, KILLED)}
    assert workers.asked[:3] == [["model"], ["model"], ["noted", "reading"]]
    assert sorted(workers.asked[3:]) == [["noted"], ["noted"], ["reading"]] and sweep.missing(tasks) == [poison]


@pytest.mark.parametrize(
    "other, why",
    [
        ({"mark": "/elsewhere/.store/locks/mark"}, "it does not see /elsewhere; set UNLEARN_HOME"),
        ({"version": "1.0"}, "it has torch .*, the driver 1.0"),
        ({"kind": "cuda"}, "it has no GPU"),
        ({"keys": ["other"]}, "other code or images than the one that asked"),
        ({}, ""),
    ],
)
def test_a_worker_with_something_else_is_refused(other, why, study, home, monkeypatch):
    cluster = pytest.importorskip("unlearn_utils.study.cluster")
    monkeypatch.setattr(cluster, "get_worker", lambda: SimpleNamespace(name=0))
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: False)
    (home / ".store" / "locks").mkdir(parents=True)
    task, mark = trained(study.cell(0, (0,), "random")), home / ".store" / "locks" / "mark"
    mark.touch()
    asked = {"mark": str(mark), "version": cluster.VERSION, "kind": "auto", "tasks": [task], "keys": [task.key]}
    asked |= other
    if why:
        with pytest.raises(BadInput, match=why):
            cluster.work(**asked, users=[])
    else:
        assert cluster.work(**asked, users=[])[0].done
    assert (Store().get(task.spec) is None) == bool(why)


@pytest.fixture
def dask(tmp_path):
    """dask(count) starts a scheduler and so many workers: its address, and the workers' processes."""
    pytest.importorskip("distributed")
    processes, file = [], tmp_path / "scheduler.json"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "NOTES": str(tmp_path)}
    environment.pop("UNLEARN_HOME", None)

    def process(*command):
        whole = [sys.executable, "-m", f"distributed.cli.dask_{command[0]}", *command[1:], "--host", "127.0.0.1"]
        processes.append(subprocess.Popen(whole, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL))
        return processes[-1]

    def start(count):
        process("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
        workers = [process("worker", "--scheduler-file", str(file), *alone) for _ in range(count)]
        deadline = time.time() + 60
        while not file.exists() and time.time() < deadline:
            time.sleep(0.05)
        return json.loads(file.read_text())["address"], workers

    yield start
    for started in processes:
        started.kill()
        started.wait()


def test_two_workers_of_which_one_is_killed_give_what_this_process_gives(study, dask, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES", str(tmp_path))
    address, workers = dask(2)
    tasks = [*tasks_of(study), Noted(study.cell(0, (0,), "retrain"))]
    sweep.run(tasks, Machine(("cpu",), 1))
    alone = digest_of(tasks)
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "driver"))
    with monkeypatch.context() as patch, pytest.raises(BadInput, match="no worker can be used: .* the driver 1.0"):
        patch.setattr("unlearn_utils.study.cluster.VERSION", "1.0")
        sweep.run(tasks, Machine(("cpu",), 1, address))

    def kill():
        while not (computing := [worker for worker in workers if (tmp_path / str(worker.pid)).exists()]):
            time.sleep(0.01)
        computing[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    sweep.run(tasks, Machine(("cpu",), 1, address))
    assert digest_of(tasks) == alone and [worker.poll() for worker in workers].count(None) == 1
