"""Run tasks: what is stored is read, what is missing is computed, in parallel where tasks are independent."""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import sklearn  # noqa: F401  (its thread pools must be loaded before they can be limited)
import torch
from joblib.externals.loky import ProcessPoolExecutor  # unlike the standard one it needs no __main__ guard
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from .cells import Task
from ..settings import BadInput
from ..paths import home
from .store import Store


class Failure(RuntimeError):
    """Some tasks could not be computed; the message names each with its reason."""

    def _render_traceback_(self) -> list[str]:
        return [f"Failure: {self}"]


@dataclass(frozen=True)
class Machine:
    """Where tasks run: devices and how many processes."""

    devices: tuple[str, ...]
    jobs: int

    @staticmethod
    def choose(device: str = "auto", jobs: int = 0) -> Machine:
        """``auto`` takes every GPU, or the CPU; ``jobs`` 0 takes one process per core, or per GPU.

        Raises BadInput for a device that is not there or a negative number of jobs.
        """
        gpus = tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        allowed = {"auto": gpus or ("cpu",), "cpu": ("cpu",), **{g: (g,) for g in gpus}}
        if gpus:
            allowed["cuda"] = gpus
        if device not in allowed:
            raise BadInput(f"device '{device}' is not available here; choose one of {', '.join(allowed)}.")
        if jobs < 0:
            raise BadInput(f"jobs is {jobs}, but it must be 0 (one per core or GPU) or a positive number.")
        devices = allowed[device]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Machine(devices, jobs or (cores if devices == ("cpu",) else len(devices)))


def with_requirements(tasks: list[Task]) -> list[Task]:
    """The tasks and all that they need, each once, requirements first."""
    ordered: dict[str, Task] = {}

    def visit(task: Task) -> None:
        if task.key not in ordered:
            for needed in task.requires:
                visit(needed)
            ordered[task.key] = task

    for task in tasks:
        visit(task)
    return list(ordered.values())


def missing(tasks: list[Task]) -> list[Task]:
    """Those of the tasks, with their requirements, that are not stored yet."""
    store = Store()
    return [task for task in with_requirements(tasks) if store.get(task.spec) is None]


def compute(task: Task, device: str) -> float:
    """Compute one task and store it; seconds it took. The pure function that a worker process runs."""
    torch.set_num_threads(1)  # one thread each: fastest for small models, and the same sums whatever the jobs
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it a GPU's matrix products may differ
    torch.use_deterministic_algorithms(True, warn_only=True)
    begin = time.perf_counter()
    with threadpool_limits(1):
        result, tensors = task.compute(device)
    seconds = time.perf_counter() - begin
    Store().put(task.spec, result, tensors, seconds, device)
    return seconds


def run(tasks: list[Task], machine: Machine) -> None:
    """Bring every task into the store.

    A task that fails does not stop those that do not need it. Raises Failure at the end if any failed.
    """
    Store().tidy()
    if waiting := missing(tasks):
        failed = _Schedule(waiting, machine).run()
        if failed:
            raise Failure("\n".join(failed.values()))


class _Schedule:
    """Tasks that wait, run or failed. A task starts as soon as what it needs is stored and a process is free."""

    def __init__(self, tasks: list[Task], machine: Machine):
        self.machine = machine
        self.waiting = {task.key: task for task in tasks}
        self.needs = {task.key: {needed.key for needed in task.requires} & self.waiting.keys() for task in tasks}
        self.running: dict[Future, tuple[Task, str]] = {}
        self.free = [machine.devices[i % len(machine.devices)] for i in range(machine.jobs)]
        self.failed: dict[str, str] = {}
        self.retried: set[str] = set()
        self.pool = _executor(machine)
        self.progress = Progress(len(tasks))

    def run(self) -> dict[str, str]:
        """What failed, by key, with its reason."""
        with self.progress:
            while self.waiting or self.running:
                self._start()
                self._finish()
                self._give_up()
        self.pool.shutdown()
        return self.failed

    def _start(self) -> None:
        unfinished = self.waiting.keys() | self.failed.keys() | {task.key for task, _ in self.running.values()}
        ready = (task for key, task in self.waiting.items() if not self.needs[key] & unfinished)
        for task in list(itertools.islice(ready, len(self.free))):
            device = self.free.pop()
            self.running[self.pool.submit(compute, task, device)] = (task, device)
            del self.waiting[task.key]

    def _finish(self) -> None:
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            done, _ = wait(self.running, return_when=ALL_COMPLETED)  # all of them are lost with the pool
            self.pool = _executor(self.machine)
        for future in done:
            task, device = self.running.pop(future)
            self.free.append(device)
            error = future.exception()
            if error is None:
                self.progress.done(f"{task.label}: {future.result():.1f} s")
            elif isinstance(error, BrokenProcessPool) and task.key not in self.retried:
                self.retried.add(task.key)
                self.waiting[task.key] = task  # perhaps it was not the one to blame
            else:
                self._fail(task, _reason(error))

    def _give_up(self) -> None:
        for task in [task for key, task in self.waiting.items() if self.needs[key] & self.failed.keys()]:
            del self.waiting[task.key]
            self._fail(task, "not run, because what it needs failed")

    def _fail(self, task: Task, reason: str) -> None:
        self.failed[task.key] = f"{task.label}: {reason}"
        self.progress.done(f"FAILED {self.failed[task.key]}")


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "a process was killed (out of memory?); fewer --jobs need less"
    if isinstance(error, torch.OutOfMemoryError):
        return "the GPU's memory does not suffice; a --batch-size below that of the recipe, like 32, needs less"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory does not suffice; fewer --jobs, or a --batch-size below that of the recipe, need less"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk of {home()} is full; make room and run again, what is stored stays"
    return f"{type(error).__name__}: {error}"


class _Here(Executor):
    """One process: tasks run where they are submitted."""

    def submit(self, function, *arguments) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def _executor(machine: Machine) -> Executor:
    if machine.jobs == 1:
        return _Here()
    return ProcessPoolExecutor(machine.jobs, initializer=_end_with_parent, initargs=(os.getpid(),))


def _end_with_parent(parent: int) -> None:
    """In a worker: do not outlive a run that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Progress:
    """A bar with the time left on a terminal, one plain line per task in a log."""

    def __init__(self, total: int):
        self.total, self.count = total, 0
        self.bar = tqdm(total=total, unit="task") if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self.bar:
            self.bar.close()

    def done(self, line: str) -> None:
        self.count += 1
        if not self.bar:
            print(f"[{self.count}/{self.total}] {line}", flush=True)
            return
        if line.startswith("FAILED"):
            self.bar.write(line)
        self.bar.set_postfix_str(line[:60])
        self.bar.update()
