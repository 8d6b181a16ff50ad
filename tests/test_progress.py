"""One bar where somebody looks on, plain lines in a log, nothing that is kept; and a kernel after an interrupt."""

import io
import os
import queue
import re
import sys
import time

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
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(home))

    def run(self, source, at_every_turn=lambda: None, timeout=240):
        """Whether it succeeded, its text, and the traceback of an error."""
        asked, text, traceback = self.client.execute(source), "", []
        ended = time.time() + timeout
        while time.time() < ended:
            at_every_turn()
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") == asked:
                if kind == "status" and content["execution_state"] == "idle":
                    return text, traceback
                text += content["text"] if kind == "stream" else ""
                traceback = content["traceback"] if kind == "error" else traceback
        raise TimeoutError(source)

    def workers(self) -> list[psutil.Process]:
        """Processes that compute for it and have not ended."""

        def computes(process: psutil.Process) -> bool:
            try:
                return process.status() != psutil.STATUS_ZOMBIE and "popen_loky" in " ".join(process.cmdline())
            except psutil.NoSuchProcess:  # it has just ended
                return False

        return list(filter(computes, psutil.Process(self.manager.provisioner.pid).children(recursive=True)))


@pytest.fixture
def kernel(home):
    started = Kernel(home)
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


def test_a_live_notebook_shows_one_bar_and_survives_an_interrupt(kernel, home):
    """What is finished is stored, and the workers end."""
    kernel.run(TASKS)
    stored, interrupted = lambda: set(home.glob(".store/noted/*/record.json")), []

    def interrupt():
        if len(stored()) >= 4 and not interrupted:
            interrupted.append(True)
            kernel.manager.interrupt_kernel()

    text, traceback = kernel.run("sweep.run(tasks, machine)", interrupt)
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
