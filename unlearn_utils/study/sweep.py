"""Run tasks: what is stored is read, what is missing is computed, in parallel where tasks are independent."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

import loky

from ..paths import home
from . import code
from .cells import Task, look_again
from .machine import Machine
from .progress import Progress
from .store import Store
from .worker import KILLED, Outcome, UserDefined, compute, end_with_parent, reason, user_defined

NOT_RUN = "not run, because what it needs failed"
IDLE = 120  # seconds after which a process that has nothing to do ends
PAUSE = 0.2  # seconds until it is looked again whether another run has finished, or which workers there are


def some(labels: list[str]) -> str:
    """The first of them, and how many more there are."""
    return labels[0] + (f" and {len(labels) - 1} more" if labels[1:] else "")


class Failure(RuntimeError):
    """Some tasks could not be computed; the message names each reason once, and what failed for it first."""

    def __init__(self, failed: dict[str, tuple[str, str]]):
        labels: dict[str, list[str]] = {}  # by reason; what was not run comes last
        for label, why in failed.values():
            labels.setdefault(why, []).append(label)
        super().__init__("\n".join(f"{some(named)}: {why}" for why, named in labels.items()))
        self.failed = failed  # label and reason by key


class Interrupted(KeyboardInterrupt):
    """Somebody stopped a sweep."""

    def _render_traceback_(self) -> list[str]:
        return ["Interrupted: what is finished is stored; run the cell again to go on from there."]


def missing(tasks: list[Task]) -> list[Task]:
    """What has to be computed for the tasks: those that are not stored, each once, and before it what it requires.

    A stored result needs nothing any more.
    """
    store, found = Store(), {}

    def visit(task: Task) -> None:
        if task.key in found or store.get(task.spec) is not None:
            return
        for needed in task.requires:
            visit(needed)
        found[task.key] = task

    for task in tasks:
        visit(task)
    return list(found.values())


def run(tasks: list[Task], machine: Machine) -> int:
    """Bring every task into the store; how many were computed, with what they require.

    A task that fails does not stop those that do not need it. Raises Failure at the end if any failed.
    """
    look_again(tasks)
    Store().tidy()
    if waiting := missing(tasks):
        if machine.cluster:
            from .cluster import Cluster  # only now: Dask is an extra

            workers = Cluster(machine)
        else:
            workers = Processes(machine, len({task.group for task in waiting}))
        if failed := Schedule(waiting, workers).run():
            raise Failure(failed)
    return len(waiting)


class Processes:
    """This process, or one for each job, which keeps to its device; where it dies no other's tasks die with it.

    They are kept for the next sweep, which would spend seconds on starting them, and end when they are idle. After an
    edit others are started, which read the files as they are.
    """

    attempts = 2  # at a task whose process is killed, or for which something turns out to be damaged
    kept: ClassVar[dict[tuple, Executor]] = {}  # by home, state of the files, device and number

    def __init__(self, machine: Machine, most: int):
        self.devices = [machine.devices[i % len(machine.devices)] for i in range(min(machine.jobs, most))]
        self.place = home(), frozenset(code.state().items())
        self.here = machine.jobs == 1 and not code.edited()
        os.environ.setdefault("LOKY_MAX_MEMORY_LEAK_SIZE", "1e12")  # what ``keep_memory`` keeps is no leak

    def free(self, busy: list[int]) -> list[int]:
        """The numbers of the processes that can take a batch."""
        return [number for number in range(len(self.devices)) if number not in busy]

    def submit(self, number: int, tasks: list[Task], keys: list[str], users: UserDefined) -> Future:
        """A future of the outcomes."""
        if self.here:
            future: Future = Future()
            future.set_result(compute(self.devices[number], tasks, keys, []))  # what users defined is here
            return future
        place = *self.place, self.devices[number], number
        if place not in self.kept:
            own = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
            self.kept[place] = loky.ProcessPoolExecutor(1, timeout=IDLE, **own)
        try:
            return self.kept[place].submit(compute, self.devices[number], tasks, keys, users)
        except BrokenProcessPool:  # it was killed
            del self.kept[place]
            return self.submit(number, tasks, keys, users)

    def close(self, kill: bool) -> None:
        """After an interrupt end them all, with what they run."""
        while kill and self.kept:
            self.kept.popitem()[1].shutdown(wait=False, kill_workers=True)


class Schedule:
    """Tasks that wait, run or failed. A task starts as soon as what it needs is stored and a worker is free.

    Tasks of one model that are ready run together. One that another run computes goes to the end of the queue; one
    whose process died runs again, alone, so that what dies again is to blame.
    """

    def __init__(self, tasks: list[Task], workers):
        self.workers, self.users, self.progress = workers, user_defined(), Progress(len(tasks))
        self.waiting: dict[str, Task] = {}
        self.needs: dict[str, set[str]] = {}
        self.running: dict[Future, tuple[list[Task], Any]] = {}
        self.failed: dict[str, tuple[str, str]] = {}
        self.attempts: Counter[str] = Counter()
        self._wait(tasks)

    def run(self) -> dict[str, tuple[str, str]]:
        """What failed, by key: its label and the reason."""
        finished = False
        try:
            while self.running or self._ready():
                self._start()
                self._finish()
            finished = True
        except KeyboardInterrupt:
            raise Interrupted from None
        finally:  # after an interrupt what runs is ended, and what is stored stays
            self.progress.bar.close()
            self.workers.close(kill=not finished)
        return self.failed | {key: (task.label, NOT_RUN) for key, task in self.waiting.items()}

    def _wait(self, tasks: list[Task]) -> None:
        self.waiting |= {task.key: task for task in tasks}
        self.needs |= {task.key: {needed.key for needed in task.requires} for task in tasks}

    def _ready(self) -> list[list[Task]]:
        """The tasks that can start, those of one model together."""
        under_way = {task.key for tasks, _ in self.running.values() for task in tasks}
        unstored = self.waiting.keys() | self.failed.keys() | under_way
        groups: dict[str, list[Task]] = {}
        for key, task in self.waiting.items():
            if self.needs[key].isdisjoint(unstored):
                groups.setdefault(key if self.attempts[key] else task.group, []).append(task)
        return list(groups.values())

    def _start(self) -> None:
        free = self.workers.free([worker for _, worker in self.running.values()])
        for tasks, worker in zip(self._ready(), free, strict=False):
            keys = [task.key for task in tasks]
            for key in keys:
                del self.waiting[key]
            sent = [dataclasses.replace(task) for task in tasks]  # without their keys: a worker finds its own
            self.running[self.workers.submit(worker, sent, keys, self.users)] = tasks, worker

    def _finish(self) -> None:
        for future in wait(self.running, PAUSE, FIRST_COMPLETED).done:
            tasks, _ = self.running.pop(future)
            try:
                self._end(tasks, future.result())
            except BrokenProcessPool:
                self._end(tasks, [Outcome(0.0, KILLED, again=True)] * len(tasks))
            except Exception as error:  # it could not be sent there
                self._end(tasks, [Outcome(0.0, reason(error))] * len(tasks))

    def _end(self, tasks: list[Task], outcomes: list[Outcome]) -> None:
        for task, outcome in zip(tasks, outcomes, strict=True):
            self.attempts[task.key] += outcome.again
            if outcome.busy:
                self._wait([task])
            elif outcome.again and self.attempts[task.key] < self.workers.attempts:
                self._wait(missing([task]))
            elif outcome.reason:
                self.failed[task.key] = task.label, outcome.reason
                self.progress.done(f"FAILED {task.label}: {outcome.reason}")
        if done := [task.label for task, outcome in zip(tasks, outcomes, strict=True) if outcome.done]:
            self.progress.done(f"{some(done)}: {sum(outcome.seconds for outcome in outcomes):.1f} s", len(done))
        if all(outcome.busy for outcome in outcomes):
            time.sleep(PAUSE / max(1, len(self._ready())))  # until another run has finished
