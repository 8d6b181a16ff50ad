"""An executor of the workers of a Dask scheduler, which need the package and share nothing with the driver.

Dask moves bytes and says who is there; graph, store, progress and what is tried again stay with the driver, which
picks the worker of every batch. What a worker lacks it is sent, so an image or a model goes to each of them once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import dask
import torch
from distributed import Client, KilledWorker, LocalCluster, get_worker, wait
from tqdm import tqdm

from ..data import Dataset
from ..settings import BadInput
from . import code
from .cells import Task, dataset_of, images_of, received, stored
from .machine import Machine
from .store import Damaged, Files, Store
from .worker import Away, Outcome, UserDefined, compute, reason, welcome

_one_batch = threading.Lock()  # settings of torch hold for the process, however many threads a worker has


@dataclass(frozen=True)
class Asked:
    """What a worker is asked to compute, and by whom."""

    tasks: list[Task]
    keys: list[str]
    users: UserDefined
    device: str  # "cpu", or anything else for a GPU where there is one
    images: str  # their fingerprint
    torch: str = torch.__version__.partition("+")[0]  # builds for other devices count as the same


@dataclass(frozen=True)
class Reply:
    """What became of it: the worker is none for it, lacks something, or has done it."""

    refused: str = ""
    images: bool = False  # whether it lacks them
    records: tuple[str, ...] = ()  # keys of those that it lacks
    outcomes: tuple[Outcome, ...] = ()
    made: tuple[Files, ...] = ()  # empty where a task failed


def behind(tasks: list[Task]) -> dict[str, Task]:
    """All that tasks require, and what that requires, by key."""
    needed = {needed.key: needed for task in tasks for needed in task.requires}
    return needed | behind(list(needed.values())) if needed else {}


def work(asked: Asked, images: Dataset | None, records: list[tuple[dict, Files]]) -> Reply:
    """On a worker: compute tasks from what was sent and what is here already."""
    with _one_batch:
        os.environ["UNLEARN_HOME"] = str(Path(get_worker().local_directory) / "home")  # goes when the worker goes
        data, number = asked.tasks[0].cell.profile.data, get_worker().name
        if Asked.torch != asked.torch:
            return Reply(f"it has torch {Asked.torch}, the driver {asked.torch}")
        if asked.device == "cuda" and not torch.cuda.is_available():
            return Reply("it has no GPU")
        if code.edited():
            return Reply("its files have changed since it started, so it has to be started again")
        welcome(asked.users)
        if images:
            received[data] = images
        if data not in received or received[data].fingerprint != asked.images:
            return Reply(images=True)
        for spec, files in records:
            Store().unpack(spec, files)
        if [task.key for task in asked.tasks] != asked.keys:
            return Reply("its code is not the driver's")
        if lacking := tuple(key for key, task in behind(asked.tasks).items() if Store().get(task.spec) is None):
            return Reply(records=lacking)
        device = "cpu"
        if asked.device != "cpu" and torch.cuda.is_available():  # workers of one host, which are numbered, share GPUs
            device = f"cuda:{number % torch.cuda.device_count() if isinstance(number, int) else 0}"
        outcomes = compute(asked.tasks, asked.keys, device, asked.users)
        made = [{} if o.reason else stored(task).packed() for task, o in zip(asked.tasks, outcomes, strict=True)]
        return Reply(outcomes=tuple(outcomes), made=tuple(made))


class Cluster(Executor):
    """Runs each batch on the worker that it is submitted for; a thread here talks to that."""

    attempts, shared = 3, False  # a worker may end of other things, and takes no other's batch along

    def __init__(self, machine: Machine):
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is told below
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})  # a batch brings its models
        self.machine, self.workers, self.refused, self.told, self.served = machine, {}, {}, "", False
        self.threads, self.own = ThreadPoolExecutor(1000), None
        if machine.cluster == "local":  # which nobody else can reach
            own = {"n_workers": machine.jobs, "threads_per_worker": 1, "memory_limit": 0, "host": "127.0.0.1"}
            self.own = LocalCluster(**own, dashboard_address=None, silence_logs=logging.CRITICAL)
        try:
            self.client = Client(self.own or machine.cluster)
        except OSError:
            raise BadInput(f"no Dask scheduler answers at {machine.cluster}; start one and run again.") from None

    def free(self, busy: list[str]) -> list[str]:
        """Workers that can take a batch; none while the scheduler is away. Raises BadInput if none is ever of use."""
        usable, why = set(), "does not answer"
        try:
            if self.client.status == "closed":
                self.client = Client(self.machine.cluster)
            self.workers = self.client.sync(self.client.scheduler.identity)["workers"]
            usable, why = self.workers.keys() - self.refused.keys(), "has no worker for this"
        except (OSError, CancelledError):
            pass
        if self.workers and self.workers.keys() <= self.refused.keys() and not self.served:
            raise BadInput(f"no worker can be used: {'; '.join(self.refused.values())}.")
        if not usable:
            if why != self.told:
                tqdm.write(f"the scheduler {self.machine.cluster} {why}; waiting")
            time.sleep(1)
        self.told = "" if usable else why
        return [worker for worker in usable - set(busy) if self.workers[worker]["status"] == "running"]

    def submit(self, function, tasks: list[Task], keys: list[str], worker: str, users: UserDefined) -> Future:
        """``function`` is ``compute``, which the worker has as its own."""
        asked = Asked(tasks, keys, users, self.machine.devices[0], images_of(tasks[0].cell.profile).fingerprint)
        return self.threads.submit(self._talk, worker, asked)

    def _talk(self, worker: str, asked: Asked) -> list[Outcome]:
        reply = self._ask(worker, asked, None, [])
        while reply.images or reply.records:
            lacking = [task for key, task in behind(asked.tasks).items() if key in reply.records]
            try:
                records = [(task.spec, stored(task).packed()) for task in lacking]
            except Damaged as error:
                return [Outcome(0.0, str(error), damaged=True)] * len(asked.tasks)
            images = dataset_of(asked.tasks[0].cell.profile) if reply.images else None
            reply = self._ask(worker, asked, images, records)
        if reply.refused:
            self._refuse(worker, reply.refused)
        self.served = True
        for task, files in zip(asked.tasks, reply.made, strict=True):
            if files:
                Store().unpack(task.spec, files)
        return list(reply.outcomes)

    def _ask(self, worker: str, asked: Asked, images: Dataset | None, records: list) -> Reply:
        """What a worker answers. Raises BrokenProcessPool where it ended, Away where it cannot be reached or used."""
        if self.client.status != "running":
            raise Away

        def opened(message: bytes) -> Reply:  # nested, it travels by value: a worker without the package can say so
            function, *arguments = cloudpickle.loads(message)
            return function(*arguments)

        message, patience = cloudpickle.dumps((work, asked, images, records)), 60
        future = self.client.submit(opened, message, workers=[worker], pure=False)
        while True:
            try:
                wait(future, 1)
                return future.result(patience := 2 * patience)  # a large answer takes its time
            except (TimeoutError, KilledWorker) as error:
                if worker not in self.workers or isinstance(error, KilledWorker):
                    tqdm.write(f"worker {worker} is gone; {asked.tasks[0].label} runs again elsewhere")
                    raise BrokenProcessPool from None
            except Exception as error:
                if future.status == "error":  # it cannot even take the batch: another package, a full disk
                    self._refuse(worker, reason(error))
                raise Away from error

    def _refuse(self, worker: str, why: str) -> None:
        self.refused[worker] = f"{worker} ({self.workers.get(worker, {}).get('name', '')}) was refused, because {why}"
        tqdm.write(self.refused[worker])
        raise Away

    def shutdown(self, wait: bool = True, kill_workers: bool = False) -> None:
        """Leave the workers to others; those that were started here end."""
        self.client.close()
        if self.own:
            self.own.close()
        self.threads.shutdown(wait=False)
