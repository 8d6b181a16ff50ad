"""Workers of a Dask scheduler give what this process gives, bit for bit, whatever happens to them on the way."""

import dataclasses
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

from unlearn_utils.settings import BadInput
from unlearn_utils.study import machine, sweep
from unlearn_utils.study.cells import Cell, Task, dataset_of, images_of, received, trained
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.readings import Attacked, Reading
from unlearn_utils.study.store import Damaged, Store
from unlearn_utils.study.sweep import Failure
from unlearn_utils.study.worker import Away

ROOT = Path(__file__).parent.parent


def tasks_of(study) -> list[Task]:
    cells = [
        study.cell(0, (0,), *model) for model in (("original", "linear"), ("random_label", "linear"), ("scrub", "cmf"))
    ]
    attacked = [Attacked.of(cell, "few_shot", (1, 2), 1) for cell in cells]
    return [Reading.of(cell, name) for cell in cells for name in ("output", "geometry", "ncc")] + attacked


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
class Poison(Task):
    """Ends the process that computes it."""

    cell: Cell
    kind = "poison"
    asked, code = {}, ""

    def compute(self, device):
        os._exit(1)


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


class FakeCluster:
    """Workers without end, each of which dies of a poison; the first is out of reach when it is asked."""

    attempts, shared = 3, False

    def __init__(self, machine):
        self.asked = []

    def free(self, busy):
        return [f"worker {len(self.asked)}"]

    def submit(self, function, tasks, keys, worker, users):
        self.asked.append([task.kind for task in tasks])
        future = Future()
        if len(self.asked) == 1:
            future.set_exception(Away())
        elif "poison" in self.asked[-1]:
            future.set_exception(BrokenProcessPool())
        else:
            future.set_result(function(tasks, keys, "cpu", users))
        return future

    def shutdown(self, **_):
        """There is nothing to end."""


def test_a_poison_ends_after_three_workers_and_the_rest_goes_on(study, monkeypatch):
    cluster = pytest.importorskip("unlearn_utils.study.cluster")
    monkeypatch.setattr(cluster, "Cluster", FakeCluster)
    cell = study.cell(0, (0,), "random")
    with pytest.raises(Failure, match="poison of Untrained network, seed 0: 3 processes that computed it were killed"):
        sweep.run([Poison(cell), Reading.of(cell, "output")], Machine(("cpu",), 1, "tcp://10.0.0.3:8786"))
    assert sweep.missing([Poison(cell), Reading.of(cell, "output")]) == [Poison(cell)]


@pytest.fixture
def asked(study, tmp_path, monkeypatch):
    """What a worker is asked, and a worker in this process."""
    cluster = pytest.importorskip("unlearn_utils.study.cluster")
    monkeypatch.setattr(
        cluster, "get_worker", lambda: SimpleNamespace(local_directory=str(tmp_path / "worker"), name=0)
    )
    monkeypatch.setenv("UNLEARN_HOME", "")  # restored at the end
    task = trained(study.cell(0, (0,), "random"))
    yield cluster.Asked([dataclasses.replace(task)], [task.key], [], "cpu", images_of(study.profile).fingerprint)
    received.clear()


@pytest.mark.parametrize(
    "other, why",
    [({"torch": "1.0"}, "it has torch .*, the driver 1.0"), ({"keys": ["other"]}, "its code is not the driver's")],
)
def test_a_worker_with_something_else_is_refused(other, why, asked):
    from unlearn_utils.study.cluster import work

    images = dataset_of(asked.tasks[0].cell.profile)
    assert re.search(why, work(dataclasses.replace(asked, **other), images, []).refused)


def test_a_worker_asks_for_images_that_it_does_not_have(asked):
    from unlearn_utils.study.cluster import work

    profile = asked.tasks[0].cell.profile
    other = dataclasses.replace(dataset_of(profile), fingerprint="other")
    assert work(asked, None, []).images
    assert "code" in work(dataclasses.replace(asked, images="other"), other, []).refused  # so it is another task
    assert received[profile.data] is other and work(asked, None, []).images


def test_what_a_worker_sends_back_stays_in_the_folder_of_its_result(asked, home, tmp_path, monkeypatch):
    from unlearn_utils.study import cluster

    reply = cluster.work(asked, dataset_of(asked.tasks[0].cell.profile), [])
    made = reply.made[0] | {"../../../outside": b"x"}
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "driver"))
    driver = cluster.Cluster.__new__(cluster.Cluster)
    driver._ask = lambda *_: dataclasses.replace(reply, made=(made,))
    with pytest.raises(Damaged):
        driver._talk("worker", asked)
    assert not list(tmp_path.rglob("outside")) and Store().get(asked.tasks[0].spec) is None
    driver._ask = lambda *_: reply
    assert driver._talk("worker", asked) == list(reply.outcomes) and Store().get(asked.tasks[0].spec)


@pytest.fixture
def dask(tmp_path):
    """dask(count) starts a scheduler and so many workers: its address, and the workers' processes and folders."""
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
        folders = [tmp_path / f"worker {i}" for i in range(count)]
        alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--local-directory")
        workers = [process("worker", "--scheduler-file", str(file), *alone, str(folder)) for folder in folders]
        deadline = time.time() + 30
        while not file.exists() and time.time() < deadline:
            time.sleep(0.05)
        return json.loads(file.read_text())["address"], workers, folders

    yield start
    for started in processes:
        started.kill()
        started.wait()


def test_two_workers_of_which_one_is_killed_give_what_this_process_gives(study, dask, tmp_path, monkeypatch):
    monkeypatch.setenv("NOTES", str(tmp_path))
    address, workers, folders = dask(2)
    tasks = [*tasks_of(study), Noted(study.cell(0, (0,), "retrain"))]
    sweep.run(tasks, Machine(("cpu",), 1))
    alone = digest_of(tasks)

    def kill():
        while not (computing := [worker for worker in workers if (tmp_path / str(worker.pid)).exists()]):
            time.sleep(0.01)
        computing[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path / "driver"))
    sweep.run(tasks, Machine(("cpu",), 1, address))
    assert digest_of(tasks) == alone
    assert [worker.poll() for worker in workers].count(None) == 1 and all(
        any(folder.rglob("record.json")) for folder in folders
    )
