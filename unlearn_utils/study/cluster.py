"""The workers of a Dask scheduler, which have this code and share the driver's home on a disk that all of them see.

Dask moves requests and says who is there; what is computed goes to the store of that home.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path

import cloudpickle
import torch
from distributed import Client, KilledWorker, LocalCluster, get_worker
from tqdm import tqdm

from ..settings import BadInput
from . import code
from .cells import Task
from .machine import Machine
from .store import Store
from .worker import Outcome, UserDefined, compute, reason

VERSION = torch.__version__.partition("+")[0]  # builds for other devices count as the same
_one_batch = threading.Lock()  # settings of torch hold for the process, however many threads a worker has


def work(mark: str, version: str, kind: str, tasks: list[Task], keys: list[str], users: UserDefined) -> list[Outcome]:
    """On a worker: the outcomes of tasks, computed into the driver's home. Raises BadInput where it is of no use.

    ``mark`` is a file that the driver made in the home's store, ``version`` its torch, ``kind`` the device, or "auto".
    """
    home, number = Path(mark).parents[2], get_worker().name
    with _one_batch:
        for wrong, why in (
            (not Path(mark).exists(), f"it does not see {home}; set UNLEARN_HOME to a folder that all share"),
            (version != VERSION, f"it has torch {VERSION}, the driver {version}"),
            (kind == "cuda" and not torch.cuda.is_available(), "it has no GPU"),
            (code.edited(), "its files have changed since it started, so it has to be started again"),
        ):
            if wrong:
                raise BadInput(why)
        os.environ["UNLEARN_HOME"], device = str(home), "cpu"
        if kind != "cpu" and torch.cuda.is_available():  # workers of one host, which are numbered, share its GPUs
            device = f"cuda:{number % torch.cuda.device_count() if isinstance(number, int) else 0}"
        return compute(device, tasks, keys, users)


class Cluster:
    """Runs each batch on the worker that it is submitted to; a thread here waits for the answer."""

    attempts = 3  # at a task whose worker ends, which may have other reasons

    def __init__(self, machine: Machine):
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is told below
        self.machine, self.own, self.waits, self.threads = machine, None, False, ThreadPoolExecutor(1000)
        self.workers: dict[str, dict] = {}  # what the scheduler knows of each, by address
        self.refused: dict[str, str] = {}
        (Store().root / "locks").mkdir(parents=True, exist_ok=True)
        self.mark = tempfile.NamedTemporaryFile(dir=Store().root / "locks")
        if machine.cluster == "local":  # which nobody else can reach
            own = {"n_workers": machine.jobs, "threads_per_worker": 1, "memory_limit": 0, "host": "127.0.0.1"}
            self.own = LocalCluster(**own, dashboard_address=None, silence_logs=logging.CRITICAL)
        try:
            self.client = Client(self.own or machine.cluster)
        except OSError:
            raise BadInput(f"no Dask scheduler answers at {machine.cluster}; start one and run again.") from None

    def free(self, busy: list[str]) -> list[str]:
        """Workers that can take a batch; none while the scheduler is away. Raises BadInput if all are refused."""
        usable: set[str] = set()
        with suppress(OSError, CancelledError):
            if self.client.status == "closed":
                self.client = Client(self.machine.cluster)
            self.workers = self.client.sync(self.client.scheduler.identity)["workers"]
            usable = self.workers.keys() - self.refused.keys()
            if self.workers and not usable:
                raise BadInput(f"no worker can be used: {'; '.join(self.refused.values())}.")
        if not usable:
            if not self.waits:
                tqdm.write(f"no worker of the scheduler {self.machine.cluster} can be reached; waiting")
            time.sleep(1)
        self.waits = not usable
        return [worker for worker in usable - set(busy) if self.workers[worker]["status"] == "running"]

    def submit(self, worker: str, tasks: list[Task], keys: list[str], users: UserDefined) -> Future:
        """A future of the outcomes."""
        asked = partial(work, self.mark.name, VERSION, self.machine.devices[0], tasks, keys, users)
        return self.threads.submit(self._ask, worker, tasks, cloudpickle.dumps(asked))

    def _ask(self, worker: str, tasks: list[Task], message: bytes) -> list[Outcome]:
        """What a worker answers. Raises BrokenProcessPool where it ended."""
        opened = lambda message: pickle.loads(message)()  # noqa: E731 (by value: the scheduler needs no code of ours)
        future = self.client.submit(opened, message, workers=[worker], pure=False)
        while True:
            try:
                return future.result(timeout=1)
            except (TimeoutError, KilledWorker) as error:
                if worker not in self.workers or isinstance(error, KilledWorker):
                    tqdm.write(f"worker {worker} is gone; {tasks[0].label} runs again elsewhere")
                    raise BrokenProcessPool from None
            except (OSError, CancelledError):  # the scheduler is away
                return [Outcome(0.0, busy=True)] * len(tasks)
            except Exception as error:  # it is of no use: another package, other images
                self.refused[worker] = f"{worker} was refused, because {reason(error)}"
                tqdm.write(self.refused[worker])
                return [Outcome(0.0, busy=True)] * len(tasks)

    def close(self, kill: bool) -> None:
        """Leave the workers to others; those that were started here end."""
        self.client.close()
        if self.own:
            self.own.close()
        self.threads.shutdown(wait=False)
        self.mark.close()
