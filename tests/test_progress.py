"""One bar where somebody looks on, plain lines in a log; a kernel after an interrupt, and what is defined there."""

import io
import json
import os
import re
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from unlearn_utils.paths import ROOT
from unlearn_utils.study import progress
from unlearn_utils.study.progress import Progress, tracked


def a_sweep(monkeypatch, capsys, terminal=True, notebook=False, quiet=False) -> tuple[str, str]:
    """What a sweep of three tasks shows on the screen, and what it prints."""
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "in_a_notebook", lambda: notebook)
    monkeypatch.setenv(progress.QUIET, "1" if quiet else "")
    shown = Progress(3)
    shown.done("model of A: 1.0 s")
    time.sleep(0.15)
    shown.done("model of B and 1 more: 1.0 s", 2)
    shown.bar.close()
    return screen.getvalue(), capsys.readouterr().out


def test_a_log_gets_a_line_for_each_batch_and_who_looks_on_a_bar_that_goes(monkeypatch, capsys):
    lines = "[1/3] model of A: 1.0 s\n[3/3] model of B and 1 more: 1.0 s\n"
    assert a_sweep(monkeypatch, capsys, terminal=False) == ("", lines)
    bar, printed = a_sweep(monkeypatch, capsys)
    assert re.search(r"3/3 \[\d\d:\d\d<\d\d:\d\d, .*task", bar) and bar.endswith("\r") and not printed
    nothing, bar = a_sweep(monkeypatch, capsys, notebook=True)
    assert not nothing and "3/3" in bar and bar.endswith("\r")
    assert a_sweep(monkeypatch, capsys, notebook=True, quiet=True) == ("", "")


def test_what_is_tracked_comes_in_its_order():
    assert list(tracked(range(3), "numbers", 0)) == [0, 1, 2] == list(tracked(range(3), "numbers", 3))


class Kernel:
    """A live notebook, as its front end sees it."""

    def __init__(self, home):
        environment = os.environ | {"UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop(progress.QUIET, None)
        self.home = home
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(home))

    def run(self, source) -> tuple[str, list[str]]:
        """Its text, and the traceback of an error."""
        text, traceback = [], []

        def hear(message):
            text.append(message["content"].get("text", ""))
            traceback.extend(message["content"].get("traceback", []))

        self.client.execute_interactive(source, output_hook=hear, timeout=240)
        return "".join(text), traceback

    def workers(self) -> int:
        """How many processes compute for it."""
        below = psutil.Process(self.manager.provisioner.pid).children(recursive=True)
        with suppress(psutil.NoSuchProcess):  # one has just ended
            alive = [process for process in below if process.status() != psutil.STATUS_ZOMBIE]
            return sum("popen_loky" in " ".join(process.cmdline()) for process in alive)
        return len(below)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    started = Kernel(tmp_path_factory.mktemp("kernel"))
    yield started
    started.manager.shutdown_kernel(now=True)


TASKS = """
import time
from dataclasses import dataclass
from unlearn_utils.study import sweep
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.cells import Cell, Task

@dataclass(frozen=True)
class Noted(Task):
    cell: Cell
    name: str
    kind, code, requires = "noted", "", []
    asked = property(lambda task: {"name": task.name})
    group = property(lambda task: task.name)

    def compute(self, device):
        time.sleep(0.2)
        return {"done": True}, {}

tasks = [Noted(Cell(None, 0, (), "random"), f"task {i}") for i in range(100)]
machine = Machine(("cpu",), 2)
"""


def test_a_live_notebook_shows_one_bar_and_survives_an_interrupt(kernel):
    """What is finished is stored, and the workers end."""
    kernel.run(TASKS)
    stored = lambda: set(kernel.home.glob(".store/noted/*/record.json"))  # noqa: E731

    def interrupt():
        while len(stored()) < 4:
            time.sleep(0.05)
        kernel.manager.interrupt_kernel()

    threading.Thread(target=interrupt, daemon=True).start()
    text, traceback = kernel.run("sweep.run(tasks, machine)")
    assert traceback == ["Interrupted: what is finished is stored; run the cell again to go on from there."]
    assert re.search(r"[1-9]/100 \[\d\d:\d\d<\d\d:\d\d", text) and text.endswith("\r")
    before = {path: path.stat().st_mtime_ns for path in stored()}
    assert 4 <= len(before) < 100
    assert kernel.run("print(len(sweep.missing(tasks)))") == (f"{100 - len(before)}\n", [])
    ended = time.time() + 30
    while kernel.workers() and time.time() < ended:
        time.sleep(0.2)
    assert not kernel.workers()
    assert not kernel.run("sweep.run(tasks[:1] + tasks[-1:], Machine(('cpu',), 1))")[1]
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


# Methods and readouts that the package does not define

DEFINED = """
import argparse, torch
from dataclasses import dataclass
from unlearn_utils.methods import Method, method
from unlearn_utils.metrics import confusion
from unlearn_utils.study.readouts import readout

@method("{name}", "{name}")
@dataclass(frozen=True)
class Ascent(Method):
    def losses(self, run, epoch):
        for x, y in run.batches(run.forget):
            yield -args.scale * criterion(run.model(x.to(device)), y)

@readout(of_features=True)
def neighbour_{name}(at):
    nearest = torch.cdist(at.features.test, at.features.train).argmin(1)
    return {{"counts": confusion(at.train_labels[nearest], at.test_labels, at.classes).tolist()}}

device, args = torch.device("cpu"), argparse.Namespace(scale=1.0)
criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
"""
MEASURED = """
import json, os, their_module
from unlearn_utils import Study
from unlearn_utils.study import sweep
from unlearn_utils.study.cells import stored
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.readings import Reading
names = ("mine", "theirs")
overrides = {tiny!r} | {{f"recipes.{{name}}.linear": {{"epochs": 2, "lr": 0.1}} for name in names}}
study = Study("digits", [3], [0], overrides)
tasks = [Reading.of(study.cell(0, (3,), n), r) for n in names for r in ("geometry", f"neighbour_{{n}}")]
for elsewhere in (False, True):
    sweep.code.edited = lambda: elsewhere  # so that one process of its own computes
    os.environ["UNLEARN_HOME"] = f"{home!s}/{{elsewhere}}"
    sweep.run(tasks, Machine(("cpu",), 1))
    print("MEASURED", json.dumps([stored(task).result for task in tasks]))
"""


def test_methods_and_readouts_of_a_cell_and_of_a_module_reach_the_workers(kernel, tiny):
    """Computed in the kernel, and by another process in an empty store."""
    (kernel.home / "their_module.py").write_text(DEFINED.format(name="theirs"))
    assert kernel.run(DEFINED.format(name="mine")) == ("", [])
    text, traceback = kernel.run(MEASURED.format(home=kernel.home, tiny=tiny["overrides"]))
    here, there = (json.loads(line.split(" ", 1)[1]) for line in text.splitlines() if line.startswith("MEASURED"))
    assert here == there and len(here) == 4 and here[1]["counts"] and not traceback
