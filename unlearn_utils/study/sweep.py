"""Run tasks: what is stored is read, what is missing is computed, in parallel where tasks are independent."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool

import loky

from . import code
from .cells import Task, look_again
from .machine import Machine
from .progress import Progress
from .store import Store
from .worker import Away, Outcome, compute, end_with_parent, reason, user_defined

NOT_RUN = "not run, because what it needs failed"
PAUSE = 0.2  # seconds until it is looked again whether another run has finished, or which workers there are


class Failure(RuntimeError):
    """Some tasks could not be computed; the message names each reason once, and what failed for it first."""

    def __init__(self, failed: dict[str, tuple[str, str]]):
        labels: dict[str, list[str]] = {}
        for label, why in failed.values():
            labels.setdefault(why, []).append(label)
        lines = [
            f"{first}{f' and {len(more)} more' if more else ''}: {why}"
            for why, (first, *more) in sorted(labels.items(), key=lambda item: item[0] == NOT_RUN)
        ]
        super().__init__("\n".join(lines))
        self.failed = failed  # label and reason by key

    def _render_traceback_(self) -> list[str]:
        return [f"Failure: {self}"]


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
        return list((Counter(self.slots) - Counter(busy)).elements())

    def submit(self, function, tasks: list[Task], keys: list[str], device: str, *more) -> Future:
        if self.here:
            future: Future = Future()
            try:
                future.set_result(function(tasks, keys, device, *more))
            except Exception as error:
                future.set_exception(error)
            return future
        try:
            return self._pool(device).submit(function, tasks, keys, device, *more)
        except BrokenProcessPool:  # since it was last used
            self.pools.pop(device).shutdown(wait=False)
            return self._pool(device).submit(function, tasks, keys, device, *more)

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

    Tasks of one model that are ready run together. One that another run computes goes to the end of the queue. Where a
    process dies, all that ran beside it is run once more, each alone: what dies again is to blame.
    """

    def __init__(self, tasks: list[Task], executor: Executor):
        self.executor, self.users, self.progress = executor, user_defined(), Progress(len(tasks))
        self.waiting: dict[str, Task] = {}
        self.needs: dict[str, set[str]] = {}
        self.running: dict[Future, tuple[list[Task], str]] = {}
        self.suspects: list[Task] = []
        self.failed: dict[str, tuple[str, str]] = {}
        self.retried: set[str] = set()
        self.deaths: Counter[str] = Counter()
        self.in_vain = 0  # batches in a row that another run was at
        self._wait(tasks)

    def run(self) -> dict[str, tuple[str, str]]:
        """What failed, by key: its label and the reason."""
        try:
            while self.waiting or self.running or self.suspects:
                self._start()
                self._finish()
        except BaseException as stopped:  # an interrupt: what runs is ended, what is stored stays
            self.executor.shutdown(wait=False, kill_workers=True)
            raise (Interrupted() if type(stopped) is KeyboardInterrupt else stopped) from None
        finally:
            self.progress.bar.close()
        self.executor.shutdown()
        return self.failed

    def _wait(self, tasks: list[Task]) -> None:
        self.waiting |= {task.key: task for task in tasks}
        self.needs |= {task.key: {needed.key for needed in task.requires} for task in tasks}

    def _start(self) -> None:
        free = self.executor.free([worker for _, worker in self.running.values()])
        if self.suspects and self.executor.shared:
            free = [] if self.running else free[:1]
        batches = [*([task] for task in self.suspects), *self._ready()]
        for together, worker in zip(batches, free, strict=False):
            for task in together:
                self.waiting.pop(task.key, None)
            self.suspects = [task for task in self.suspects if task not in together]
            sent = [dataclasses.replace(task) for task in together]  # without their keys: a worker finds its own
            future = self.executor.submit(compute, sent, [task.key for task in together], worker, self.users)
            self.running[future] = together, worker

    def _ready(self) -> list[list[Task]]:
        """The tasks that can start, those of one model together."""
        under_way = [*self.suspects, *(task for tasks, _ in self.running.values() for task in tasks)]
        unfinished = self.waiting.keys() | {task.key for task in under_way}
        groups: dict[str, list[Task]] = {}
        for key, task in self.waiting.items():
            if not self.needs[key] & unfinished:
                groups.setdefault(task.group, []).append(task)
        return list(groups.values())

    def _finish(self) -> None:
        done, _ = wait(self.running, None if self.executor.shared else PAUSE, FIRST_COMPLETED)
        for future in done:
            tasks, _ = self.running.pop(future)
            error = future.exception()
            if error is None:
                self._end(tasks, future.result())
            elif isinstance(error, Away):
                self._wait(tasks)
            elif isinstance(error, BrokenProcessPool):
                self._died(tasks)
            else:
                for task in tasks:
                    self._fail(task, reason(error))

    def _died(self, tasks: list[Task]) -> None:
        self.deaths.update(task.key for task in tasks)
        for task in tasks:
            if (deaths := self.deaths[task.key]) < self.executor.attempts:
                self.suspects.append(task)
            else:
                self._fail(task, f"{deaths} processes that computed it were killed (out of memory?); try fewer --jobs")

    def _end(self, tasks: list[Task], outcomes: list[Outcome]) -> None:
        done = [task for task, outcome in zip(tasks, outcomes, strict=True) if not (outcome.reason or outcome.busy)]
        if done:
            more = f" and {len(done) - 1} more" if len(done) > 1 else ""
            self.progress.done(f"{done[0].label}{more}: {sum(o.seconds for o in outcomes):.1f} s", len(done))
        for task, outcome in zip(tasks, outcomes, strict=True):
            if outcome.busy:
                self._wait([task])
            elif outcome.damaged and task.key not in self.retried:
                self.retried.add(task.key)
                self._wait(missing([task]))
            elif outcome.reason:
                self._fail(task, outcome.reason)
        self.in_vain = self.in_vain + 1 if all(outcome.busy for outcome in outcomes) else 0
        if self.in_vain > len(self._ready()):
            time.sleep(PAUSE)

    def _fail(self, task: Task, why: str) -> None:
        self.failed[task.key] = task.label, why
        self.progress.done(f"FAILED {task.label}: {why}")
        for key, other in list(self.waiting.items()):
            if task.key in self.needs[key] and self.waiting.pop(key, None):
                self._fail(other, NOT_RUN)
