"""Run tasks: what is stored is read, what is missing is computed, in parallel where tasks are independent."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path

import loky

from . import code
from .cells import Task, look_again
from .machine import Machine
from .progress import Progress
from .store import Store
from .worker import Away, Outcome, compute, end_with_parent, reason, user_defined

NOT_RUN = "not run, because what it needs failed"
GIVEN_UP = "UNLEARN_GIVEN_UP"  # names a file of the tasks that failed in this run, which no notebook of it tries again
PAUSE = 0.2  # seconds until a task is looked at again that another process computes


class Failure(RuntimeError):
    """Some tasks could not be computed; the message names each reason once, and what failed for it first."""

    def __init__(self, reasons: dict[str, str]):
        labels: dict[str, list[str]] = {}
        for label, _, why in (line.partition(": ") for line in reasons.values()):
            labels.setdefault(why, []).append(label)
        lines = [
            f"{first}{f' and {len(more)} more' if more else ''}: {why}"
            for why, (first, *more) in sorted(labels.items(), key=lambda item: item[0] == NOT_RUN)
        ]
        super().__init__("\n".join(lines))
        self.reasons = reasons  # by key

    def _render_traceback_(self) -> list[str]:
        return [f"Failure: {self}"]


class Interrupted(KeyboardInterrupt):
    """Somebody stopped a sweep."""

    def _render_traceback_(self) -> list[str]:
        return ["Interrupted: what is finished is stored; run the cell again to go on from there."]


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


def run(tasks: list[Task], machine: Machine) -> int:
    """Bring every task into the store; how many were computed, with what they require.

    A task that fails does not stop those that do not need it. Raises Failure at the end if any failed.
    """
    look_again(tasks)
    Store().tidy()
    if waiting := missing(tasks):
        executor: Executor = _Processes(machine, len(waiting))
        if machine.cluster:
            from .cluster import Cluster  # only now: Dask is an extra

            executor = Cluster(machine)
        if failed := _Schedule(waiting, executor).run():
            raise Failure(failed)
    return len(waiting)


class _Processes(Executor):
    """This process, or a pool for each device, so that a process keeps to one GPU."""

    attempts, shared = 2, True  # where a process dies, all that ran in its pool is lost

    def __init__(self, machine: Machine, most: int):
        self.slots = [machine.devices[i % len(machine.devices)] for i in range(min(machine.jobs, most))]
        self.here = machine.jobs == 1 and not code.edited()  # else a process of its own reads the files as they are
        self.pools: dict[str, Executor] = {}
        os.environ.setdefault("LOKY_MAX_MEMORY_LEAK_SIZE", "1e12")  # what ``keep_memory`` keeps is no leak

    def free(self, busy: list[str]) -> list[str]:
        """The devices that can take a batch, each as often as it has processes free."""
        free = list(self.slots)
        for device in busy:
            free.remove(device)
        return free

    def submit(self, function, tasks: list[Task], keys: list[str], device: str, *more) -> Future:
        try:
            if not self.here:
                return self._pool(device).submit(function, tasks, keys, device, *more)
        except BrokenProcessPool:  # since it was last used
            self.pools.pop(device).shutdown(wait=False)
            return self._pool(device).submit(function, tasks, keys, device, *more)
        future: Future = Future()
        try:
            future.set_result(function(tasks, keys, device, *more))
        except Exception as error:
            future.set_exception(error)
        return future

    def _pool(self, device: str) -> Executor:
        if device not in self.pools:
            own = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
            self.pools[device] = loky.ProcessPoolExecutor(self.slots.count(device), **own)
        return self.pools[device]

    def shutdown(self, wait: bool = True, kill_workers: bool = False) -> None:
        for pool in self.pools.values():
            pool.shutdown(wait, **({"kill_workers": True} if kill_workers else {}))


class _Schedule:
    """Tasks that wait, run or failed. A task starts as soon as what it needs is stored and a worker is free.

    Tasks of one model that are ready run together. One that another run computes waits while something else is ready.
    Where a process dies, all that ran beside it is run once more, each alone: only what dies a second time, and alone,
    is to blame.
    """

    def __init__(self, tasks: list[Task], executor: Executor):
        self.executor = executor
        self.waiting = {task.key: task for task in tasks}
        self.needs = {task.key: {needed.key for needed in task.requires} for task in tasks}
        self.later: dict[str, float] = {}  # when to look again at what another process computes
        self.running: dict[Future, tuple[list[Task], str]] = {}
        self.suspects: list[list[Task]] = []
        self.failed: dict[str, str] = {}
        self.retried: set[str] = set()
        self.deaths: Counter[str] = Counter()
        self.progress = Progress(len(tasks))
        self.users = user_defined()

    def run(self) -> dict[str, str]:
        """What failed, by key, with its reason."""
        before = _failed_before()
        for task in [self.waiting.pop(key) for key in before if key in self.waiting]:
            self._fail(task, before[task.key].removeprefix(f"{task.label}: "))
        try:
            with self.progress:
                self._give_up()
                while self.waiting or self.running or self.suspects:
                    self._start()
                    self._finish()
                    self._give_up()
        except BaseException as stopped:  # an interrupt: what runs is ended, what is stored stays
            self.executor.shutdown(wait=False, kill_workers=True)
            raise (Interrupted() if type(stopped) is KeyboardInterrupt else stopped) from None
        self.executor.shutdown()
        _note({key: why for key, why in self.failed.items() if key not in before})
        return self.failed

    def _start(self) -> None:
        free = self.executor.free([worker for _, worker in self.running.values()])
        alone = bool(self.suspects) and self.executor.shared
        if alone and self.running:
            return
        batches = [self.suspects.pop() for _ in zip(list(self.suspects), free[: 1 if alone else None], strict=False)]
        if not alone:
            ready = self._ready()[: len(free) - len(batches)]
            for task in (task for together in ready for task in together):
                del self.waiting[task.key]
            batches += ready
        for together, worker in zip(batches, free, strict=False):
            sent = [dataclasses.replace(task) for task in together]  # without their keys: a worker finds its own
            future = self.executor.submit(compute, sent, [task.key for task in together], worker, self.users)
            self.running[future] = together, worker

    def _ready(self) -> list[list[Task]]:
        """The tasks that can start, those of one model together."""
        under_way = [*(tasks for tasks, _ in self.running.values()), *self.suspects]
        unfinished = self.waiting.keys() | self.failed.keys() | {task.key for tasks in under_way for task in tasks}
        now = time.monotonic()
        groups: dict[str, list[Task]] = {}
        for key, task in self.waiting.items():
            if not self.needs[key] & unfinished and self.later.get(key, 0) <= now:
                groups.setdefault(task.group, []).append(task)
        return list(groups.values())

    def _finish(self) -> None:
        if not self.running:
            time.sleep(PAUSE)
        polled = self.later or not self.executor.shared
        done, _ = wait(self.running, PAUSE if polled else None, FIRST_COMPLETED)
        alone = len(self.running) == 1 or not self.executor.shared
        if not alone and any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            done, _ = wait(self.running)
        for future in done:
            tasks, _ = self.running.pop(future)
            error = future.exception()
            if error is None:
                self._end(tasks, future.result())
            elif isinstance(error, Away):
                self.waiting |= {task.key: task for task in tasks}
            elif isinstance(error, BrokenProcessPool):
                self._died(tasks, alone)
            else:
                for task in tasks:
                    self._fail(task, reason(error))

    def _died(self, tasks: list[Task], alone: bool) -> None:
        self.deaths.update(task.key for task in tasks)
        deaths = self.deaths[tasks[0].key]
        if alone and len(tasks) == 1 and deaths >= self.executor.attempts:
            self._fail(
                tasks[0], f"{deaths} processes that computed it were killed (out of memory?); fewer --jobs need less"
            )
        else:
            self.suspects += [[task] for task in tasks]

    def _end(self, tasks: list[Task], outcomes: list[Outcome]) -> None:
        done = [task for task, outcome in zip(tasks, outcomes, strict=True) if not (outcome.reason or outcome.busy)]
        if done:
            more = f" and {len(done) - 1} more" if len(done) > 1 else ""
            self.progress.done(f"{done[0].label}{more}: {sum(o.seconds for o in outcomes):.1f} s", len(done))
        for task, outcome in zip(tasks, outcomes, strict=True):
            self.later.pop(task.key, None)
            if outcome.busy:
                self.waiting[task.key] = task
                self.later[task.key] = time.monotonic() + PAUSE
            elif outcome.damaged and task.key not in self.retried:
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


def _failed_before() -> dict[str, str]:
    """What failed in an earlier sweep of this run, by key, with its reason."""
    noted, found = Path(os.environ.get(GIVEN_UP, "")), {}
    for line in noted.read_text(encoding="utf-8").splitlines() if noted.is_file() else ():
        with suppress(ValueError):  # a line that a full disk cut off
            found |= json.loads(line)
    return found


def _note(failed: dict[str, str]) -> None:
    if failed and os.environ.get(GIVEN_UP):
        with suppress(OSError), open(os.environ[GIVEN_UP], "a", encoding="utf-8") as file:  # else it is tried again
            file.write(json.dumps(failed) + "\n")
