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


@pytest.fixture
def watched(monkeypatch):
    """watched(): standard error as a terminal, which keeps what is written."""
    monkeypatch.delenv(progress.QUIET, raising=False)
    monkeypatch.setattr(progress, "in_a_notebook", lambda: False)

    def terminal(is_one=True):
        screen = io.StringIO()
        screen.isatty = lambda: is_one
        monkeypatch.setattr(sys, "stderr", screen)
        return screen

    return terminal


def a_sweep():
    with Progress(3) as shown:
        shown.done("model of A: 1.0 s")
        time.sleep(0.15)
        shown.done("model of B and 1 more: 1.0 s", 2)


def test_a_log_gets_one_plain_line_for_each_batch(watched, capsys):
    screen = watched(is_one=False)
    a_sweep()
    assert capsys.readouterr().out == "[1/3] model of A: 1.0 s\n[3/3] model of B and 1 more: 1.0 s\n"
    assert not screen.getvalue()


def test_a_terminal_gets_a_bar_with_the_time_left(watched, capsys):
    screen = watched()
    a_sweep()
    assert re.search(r"3/3 \[\d\d:\d\d<\d\d:\d\d, .*task", screen.getvalue()) and not capsys.readouterr().out


def test_a_notebook_that_a_command_executes_gets_nothing(watched, capsys, monkeypatch):
    screen = watched()
    monkeypatch.setenv(progress.QUIET, "1")
    monkeypatch.setattr(progress, "in_a_notebook", lambda: True)
    a_sweep()
    assert list(tracked("ab", "letters", 2)) == ["a", "b"]
    assert (screen.getvalue(), capsys.readouterr().out) == ("", "")


def test_what_is_tracked_comes_in_its_order_and_its_bar_goes(watched):
    screen = watched()
    assert list(tracked(range(3), "numbers", 0)) == [0, 1, 2]
    assert "numbers" in screen.getvalue() and screen.getvalue().endswith("\r")


class Kernel:
    """A live notebook, as its front end sees it."""

    def __init__(self, home):
        environment = os.environ | {"UNLEARN_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop(progress.QUIET, None)
        self.manager, self.client = start_new_kernel(kernel_name="python3", env=environment, cwd=str(home))

    def run(self, source, on_message=lambda message: None, timeout=240):
        """The reply, what a saved notebook would keep, and all that the one place of the bar showed."""
        asked, kept, places, shown = self.client.execute(source), [], {}, []
        ended = time.time() + timeout
        while time.time() < ended:
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                on_message(None)
                continue
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                while (reply := self.client.get_shell_msg(timeout=30))["parent_header"].get("msg_id") != asked:
                    pass  # to a question at the start
                return reply["content"], kept, shown
            if kind == "display_data":
                places[content["transient"]["display_id"]] = content
                kept.append(content)
            elif kind == "update_display_data":
                places[content["transient"]["display_id"]]["data"] = content["data"]
                shown.append(content["data"].get("text/plain", ""))
            elif kind in ("stream", "error"):
                kept.append(content)
            on_message(message)
        raise TimeoutError(source)


@pytest.fixture
def kernel(home):
    started = Kernel(home)
    yield started
    started.manager.shutdown_kernel(now=True)


def workers_of(kernel) -> list[psutil.Process]:
    """Processes that compute for a kernel and have not ended."""

    def computes(process: psutil.Process) -> bool:
        try:
            return process.status() != psutil.STATUS_ZOMBIE and "popen_loky" in " ".join(process.cmdline())
        except psutil.NoSuchProcess:  # it has just ended
            return False

    return list(filter(computes, psutil.Process(kernel.manager.provisioner.pid).children(recursive=True)))


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

    def compute(self, device):
        time.sleep(SECONDS)
        return {"done": True}, {}

tasks = [Noted(Cell(None, 0, (), "random"), f"{i} of COUNT") for i in range(COUNT)]
machine = Machine(("cpu",), JOBS)
"""


def test_a_live_notebook_shows_one_bar_and_survives_an_interrupt(kernel, home):
    """The bar has the time left, and nothing of it is kept; what is finished is stored, and the workers end."""
    kernel.run(TASKS.replace("SECONDS", "0.2").replace("COUNT", "8").replace("JOBS", "1"))
    reply, kept, shown = kernel.run("sweep.run(tasks, machine); print('after')")
    assert reply["status"] == "ok" and any(re.search(r"[1-7]/8 \[\d\d:\d\d<\d\d:\d\d", text) for text in shown)
    assert [content.get("data", content.get("text")) for content in kept] == [{}, "after\n"]
    kernel.run(TASKS.replace("SECONDS", "0.5").replace("COUNT", "40").replace("JOBS", "2"))
    already = set(home.glob(".store/noted/*/record.json"))
    stored, interrupted = lambda: sorted(set(home.glob(".store/noted/*/record.json")) - already), []

    def interrupt(_):
        if len(stored()) >= 2 and not interrupted:
            interrupted.append(True)
            kernel.manager.interrupt_kernel()

    _, kept, _ = kernel.run("sweep.run(tasks, machine)", interrupt)
    assert kept[-1]["ename"] == "Interrupted" and 2 <= len(stored()) < 40
    assert kept[-1]["traceback"] == ["Interrupted: what is finished is stored; run the cell again to go on from there."]
    before = {path: path.stat().st_mtime_ns for path in stored()}
    reply, [printed], _ = kernel.run("print(len(sweep.missing(tasks)))")
    assert reply["status"] == "ok" and printed["text"] == f"{40 - len(before)}\n"
    ended = time.time() + 30
    while workers_of(kernel) and time.time() < ended:
        time.sleep(0.2)
    assert not workers_of(kernel)
    reply, _, _ = kernel.run("sweep.run([tasks[-1]], machine); assert sweep.missing(tasks[-1:]) == []")
    assert reply["status"] == "ok" and all(path.stat().st_mtime_ns == at for path, at in before.items())
