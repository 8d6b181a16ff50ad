"""What a process does with the tasks that it is given, and what travels to it: user-defined methods and readouts."""

from __future__ import annotations

import copyreg
import ctypes
import errno
import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import PicklingError
from traceback import extract_tb
from typing import Any

import sklearn  # noqa: F401  (its thread pools must be loaded before they can be limited)
import torch
from threadpoolctl import threadpool_limits

from ..methods import METHODS
from ..paths import home
from ..settings import BadInput
from . import code
from .cells import Task, look_again
from .readouts import READOUTS, Readout
from .store import Damaged, Store

UserDefined = list[tuple[str, Any, str]]  # name, what is registered, version of its code where only a notebook has that
KILLED = "the processes that computed it were killed (out of memory?); try fewer --jobs"


@dataclass(frozen=True)
class Outcome:
    """How a task ended in a worker: its seconds, or why it failed."""

    seconds: float
    reason: str = ""
    again: bool = False  # another attempt may help: its process died, or something that it needs has to be recomputed
    busy: bool = False  # another process computes it

    @property
    def done(self) -> bool:
        return not (self.reason or self.busy)


for _module in (torch.classes, torch.ops):  # a function that names torch and some ``.classes`` is sent with this module
    copyreg.pickle(type(_module), lambda module: (importlib.import_module, (module.__name__,)))


def _defined(registered: Any) -> Any:
    return registered.function if isinstance(registered, Readout) else registered


def user_defined() -> UserDefined:
    """Methods and readouts that a notebook cell or another package registered, for a worker process."""
    return [
        (name, thing, code.version(_defined(thing)) if _defined(thing).__module__ == "__main__" else "")
        for name, thing in [*METHODS.items(), *READOUTS.items()]
        if code.is_user_defined(_defined(thing))
    ]


def welcome(methods_and_readouts: UserDefined) -> None:
    """Register them here. Of one that a file defines this process finds the version itself."""
    for name, thing, version in methods_and_readouts:
        (READOUTS if isinstance(thing, Readout) else METHODS)[name] = thing
        if version:
            code.received(_defined(thing), version)


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


def compute(device: str, tasks: list[Task], keys: list[str], users: UserDefined) -> list[Outcome]:
    """Compute and store tasks, one after the other, except those that another process is at.

    Raises BadInput where this process has other keys of the tasks than the one that asks, so other code or images.
    """
    welcome(users)
    if [task.key for task in tasks] != keys:
        look_again(tasks)  # a process that was kept knows images as they were
    if [task.key for task in tasks] != keys:
        raise BadInput("this process has other code or images than the one that asked; start both again.")
    keep_memory()
    with one_thread():
        outcomes = [_outcome(task, device) for task in tasks]
    if device.startswith("cuda"):
        torch.cuda.empty_cache()  # another worker may need it
    return outcomes


def _outcome(task: Task, device: str) -> Outcome:
    begin = time.perf_counter()
    try:
        with Store().claimed(task.spec) as mine:
            if mine and Store().get(task.spec) is None:  # another run may have been first
                result, tensors = task.compute(device)
                Store().put(task.spec, result, tensors, time.perf_counter() - begin, device)
        return Outcome(time.perf_counter() - begin, busy=not mine)
    except (Exception, SystemExit) as error:
        return Outcome(time.perf_counter() - begin, reason(error), again=isinstance(error, Damaged))


def reason(error: BaseException) -> str:
    """Why a task failed, and what helps."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error):
        return "the memory does not suffice; take fewer --jobs, or a --batch-size (network.images_per_pass), like 32"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{home()} cannot be written to ({error.strerror}); make room, or set UNLEARN_HOME; what is stored stays"
    if isinstance(error, PicklingError):
        told = str(error.__cause__ or error).strip(' \n"').splitlines()[-1]  # loky's cause is a whole traceback
        return f"it cannot be sent to a worker process ({told}); take jobs = 1"
    return str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {error}{_line_of(error)}"


def _line_of(error: BaseException) -> str:
    """Where in a user's own code an error was raised, in brackets; empty where none of it ran."""
    for frame in reversed(extract_tb(error.__traceback__)):
        if "ipykernel" in frame.filename or frame.filename.startswith("<ipython"):
            return f" (line {frame.lineno} of its cell)"
        if not frame.filename.startswith("<") and code.is_theirs(frame.filename):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""


def end_with_parent(parent: int) -> None:
    """In a worker: do not outlive a run that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
