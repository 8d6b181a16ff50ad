"""Run tasks: what is stored is read, what is missing is computed, in parallel where tasks are independent."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import json
import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from typing import Iterator

import loky
import sklearn  # noqa: F401  (its thread pools must be loaded before they can be limited)
import torch
from threadpoolctl import threadpool_limits

from ..paths import home
from ..settings import BadInput
from . import code
from .cells import Task, look_again
from .guests import Guests, place
from .machine import Machine
from .progress import Progress
from .store import Damaged, Store

NOT_RUN = "not run, because what it needs failed"
GIVEN_UP = "UNLEARN_GIVEN_UP"  # names a file of the tasks that failed before in this run, which are not tried again


class Failure(RuntimeError):
    """Some tasks could not be computed; the message names each reason once, and what failed for it first."""

    def __init__(self, reasons: dict[str, str]):
        labels: dict[str, list[str]] = {}
        for label, _, why in (line.partition(": ") for line in reasons.values()):
            labels.setdefault(why, []).append(label)
        lines = [f"{first}{f' and {len(more)} more' if more else ''}: {why}"
                 for why, (first, *more) in sorted(labels.items(), key=lambda item: item[0] == NOT_RUN)]
        super().__init__("\n".join(lines))
        self.reasons = reasons  # by key

    def _render_traceback_(self) -> list[str]:
        return [f"Failure: {self}"]


class Interrupted(KeyboardInterrupt):
    """Somebody stopped a sweep."""

    def _render_traceback_(self) -> list[str]:
        return ["Interrupted: what is finished is stored; run the cell again to go on from there."]


class Away(BrokenProcessPool):
    """A worker cannot be had any more through no fault of its tasks, which run again."""


def missing(tasks: list[Task]) -> list[Task]:
    """What has to be computed for the tasks: those that are not stored, each once, and before it what it requires.

    A stored result needs nothing any more. Tasks of one model stand together, so that its features are at hand.
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
    places = {key: place for place, key in reversed(list(enumerate(task.group for task in found.values())))}
    return sorted(found.values(), key=lambda task: places[task.group])


@dataclass(frozen=True)
class Outcome:
    """How a task ended in a worker: its seconds, or why it failed."""

    seconds: float
    reason: str = ""
    damaged: bool = False  # something that it needs has to be computed again


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread each: fastest for small models, and the same sums whatever the jobs. Undone at the end."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it a GPU's matrix products may differ
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def keep_memory() -> None:
    """Let the C library keep freed memory: to give it back at every step and take it again costs up to half the time.

    Dask's workers even start with an environment variable that gives back more. Only glibc has this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: smaller blocks come from what is kept
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: more than this is given back


def compute(tasks: list[Task], keys: list[str], device: str, guests: Guests) -> list[Outcome]:
    """Compute and store tasks, one after the other: what a worker process runs.

    A worker whose own key of a task is another than the one it was asked for has other code or other images, and
    refuses.
    """
    guests.welcome()
    keep_memory()
    outcomes = []
    with one_thread():
        for task, key in zip(tasks, keys):
            begin = time.perf_counter()
            try:
                if task.key != key:
                    raise BadInput("this process has other code or images than the one that asked; restart the kernel.")
                with Store().claimed(task.spec):  # another run may have been first
                    if Store().get(task.spec) is None:
                        result, tensors = task.compute(device)
                        Store().put(task.spec, result, tensors, time.perf_counter() - begin, device)
                outcomes.append(Outcome(time.perf_counter() - begin))
            except Exception as error:
                outcomes.append(Outcome(time.perf_counter() - begin, reason(error), isinstance(error, Damaged)))
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # another worker may need it
    return outcomes


def reason(error: BaseException) -> str:
    """Why a task failed, and what helps."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory does not suffice; a --batch-size below that of the recipe, like 32, needs less"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory does not suffice; fewer --jobs, or a --batch-size below that of the recipe, need less"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk of {home()} is full; make room and run again, what is stored stays"
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{home()} cannot be written ({error.strerror}); make it writable, or set UNLEARN_HOME to a folder that is"
    if isinstance(error, PicklingError):
        return (f"it cannot be sent to a worker process ({error.__cause__ or error}); let the cells that define methods and "
                "readouts use numbers, texts, functions and modules alone, or take jobs = 1")
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}{place(error)}"


def run(tasks: list[Task], machine: Machine) -> int:
    """Bring every task into the store; how many were computed, with what they require.

    A task that fails does not stop those that do not need it. Raises Failure at the end if any failed.
    """
    look_again(tasks)
    Store().tidy()
    waiting = missing(tasks)
    if waiting and (failed := _Schedule(waiting, machine).run()):
        raise Failure(failed)
    return len(waiting)


class _Schedule:
    """Tasks that wait, run or failed. A task starts as soon as what it needs is stored and a process is free.

    Tasks of one model that are ready run together. Where a process dies, all that ran beside it is run once more,
    each alone: only what dies a second time, and alone, is to blame.
    """

    def __init__(self, tasks: list[Task], machine: Machine):
        slots = min(machine.jobs, len(tasks))
        self.free = [machine.devices[i % len(machine.devices)] for i in range(slots)]
        self.processes = {device: self.free.count(device) for device in self.free}
        self.here = machine.jobs == 1 and not code.edited()  # else a process of its own reads the files as they are
        self.waiting = {task.key: task for task in tasks}
        self.needs = {task.key: {needed.key for needed in task.requires} for task in tasks}
        self.pools: dict[str, Executor] = {}  # one for each device, so that a process keeps to one GPU
        self.cluster = None
        if machine.cluster:
            from .cluster import Cluster  # only now: Dask is an extra

            self.cluster = self.pools[machine.cluster] = Cluster(machine)
        self.running: dict[Future, tuple[list[Task], str]] = {}
        self.places: dict[str, str] = {}  # where the tasks of a group ran last
        self.suspects: list[list[Task]] = []
        self.failed: dict[str, str] = {}
        self.retried: set[str] = set()
        self.deaths: Counter[str] = Counter()
        self.progress = Progress(len(tasks))
        self.guests = Guests.here()

    def run(self) -> dict[str, str]:
        """What failed, by key, with its reason."""
        given_up = os.environ.get(GIVEN_UP)
        for key, why in json.loads(Path(given_up).read_text(encoding="utf-8")).items() if given_up else ():
            if task := self.waiting.pop(key, None):
                self._fail(task, why.removeprefix(f"{task.label}: "))
        try:
            with self.progress:
                self._give_up()
                while self.waiting or self.running or self.suspects:
                    self._start()
                    self._finish()
                    self._give_up()
        except BaseException as stopped:  # an interrupt: what runs is ended, what is stored stays
            for pool in self.pools.values():
                pool.shutdown(wait=False, kill_workers=True)
            raise (Interrupted() if type(stopped) is KeyboardInterrupt else stopped) from None
        for pool in self.pools.values():
            pool.shutdown()
        return self.failed

    def _start(self) -> None:
        if self.cluster:  # its workers come and go, and each takes one batch at a time
            self.free = self.cluster.free({worker for _, worker in self.running.values()})
        elif self.suspects:
            if not self.running:
                self._submit(self.suspects.pop())
            return
        while self.suspects and self.free:
            self._submit(self.suspects.pop())
        under_way = [*(tasks for tasks, _ in self.running.values()), *self.suspects]
        unfinished = self.waiting.keys() | self.failed.keys() | {task.key for tasks in under_way for task in tasks}
        ready: dict[str, list[Task]] = {}
        for key, task in self.waiting.items():
            if not self.needs[key] & unfinished:
                ready.setdefault(task.group, []).append(task)
        for together in list(ready.values())[: len(self.free)]:
            for task in together:
                del self.waiting[task.key]
            self._submit(together)

    def _submit(self, tasks: list[Task]) -> None:
        known = self.places.get(tasks[0].group)  # where the model is at hand
        device = self.free.pop(self.free.index(known) if known in self.free else -1)
        self.places[tasks[0].group] = device
        pool = self.cluster or self._pool(device)
        sent = [dataclasses.replace(task) for task in tasks]  # without the keys known here: a worker finds its own
        try:
            future = pool.submit(compute, sent, [task.key for task in tasks], device, self.guests)
        except BrokenProcessPool as error:  # it broke since it was last looked at
            future = Future()
            future.set_exception(error)
        self.running[future] = tasks, device

    def _pool(self, device: str) -> Executor:
        if device not in self.pools:
            os.environ.setdefault("LOKY_MAX_MEMORY_LEAK_SIZE", "1e12")  # what ``keep_memory`` keeps is no leak
            self.pools[device] = _Here() if self.here else loky.ProcessPoolExecutor(
                self.processes[device], initializer=_end_with_parent, initargs=(os.getpid(),))
        return self.pools[device]

    def _finish(self) -> None:
        done, _ = wait(self.running, 1 if self.cluster else None, FIRST_COMPLETED)
        broken = {self.running[f][1] for f in done if isinstance(f.exception(), BrokenProcessPool)} & self.pools.keys()
        if broken:  # all that ran in these pools is lost
            lost = [future for future, (_, device) in self.running.items() if device in broken]
            wait(lost, return_when=ALL_COMPLETED)
            done = done | set(lost)
            for device in broken:
                self.pools.pop(device).shutdown(wait=False)
        alone = len(self.running) == 1 or self.cluster is not None
        for future in done:
            tasks, device = self.running.pop(future)
            self.free.append(device)
            error = future.exception()
            if error is None:
                self._end(tasks, future.result())
            elif not isinstance(error, BrokenProcessPool):
                for task in tasks:
                    self._fail(task, reason(error))
            elif isinstance(error, Away):
                self.waiting |= {task.key: task for task in tasks}
            else:
                self._died(tasks, alone)

    def _died(self, tasks: list[Task], alone: bool) -> None:
        self.deaths.update(task.key for task in tasks)
        deaths = self.deaths[tasks[0].key]
        if alone and len(tasks) == 1 and deaths >= (3 if self.cluster else 2):  # a worker may end of other things
            self._fail(tasks[0], f"{deaths} workers ended while they computed it (out of memory? a --lifetime too short?)"
                       if self.cluster else "its process was killed (out of memory?); fewer --jobs need less")
        else:
            self.suspects += [[task] for task in tasks]

    def _end(self, tasks: list[Task], outcomes: list[Outcome]) -> None:
        done = [task for task, outcome in zip(tasks, outcomes) if not outcome.reason]
        if done:
            more = f" and {len(done) - 1} more" if len(done) > 1 else ""
            self.progress.done(f"{done[0].label}{more}: {sum(o.seconds for o in outcomes):.1f} s", len(done))
        for task, outcome in zip(tasks, outcomes):
            if outcome.damaged and task.key not in self.retried:
                self.retried.add(task.key)
                for again in missing([task]):
                    self.waiting[again.key] = again
                    self.needs[again.key] = {needed.key for needed in again.requires}
            elif outcome.reason:
                self._fail(task, outcome.reason)

    def _give_up(self) -> None:
        while hopeless := [task for key, task in self.waiting.items() if self.needs[key] & self.failed.keys()]:
            for task in hopeless:
                del self.waiting[task.key]
                self._fail(task, NOT_RUN)

    def _fail(self, task: Task, why: str) -> None:
        self.failed[task.key] = f"{task.label}: {why}"
        self.progress.done(f"FAILED {self.failed[task.key]}")


class _Here(Executor):
    """One process: tasks run where they are submitted."""

    def submit(self, function, *arguments) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, kill_workers: bool = False) -> None:
        """Nothing runs here any more."""


def _end_with_parent(parent: int) -> None:
    """In a worker: do not outlive a run that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
