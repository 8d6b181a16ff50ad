"""An executor of the workers of a Dask scheduler, which need the package and share nothing with the driver.

Dask moves bytes and says who is there; graph, store, progress and what is tried again stay with the driver, which
picks the worker of every batch. What a worker lacks it is sent, so an image or a model goes to each of them once.
"""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import dask
from distributed import Client, KilledWorker, Nanny, Scheduler, SpecCluster, wait
from tqdm import tqdm

from ..data import Dataset
from ..settings import BadInput
from .cells import Task, dataset_of, images_of
from .machine import Machine
from .store import Damaged, Store
from .sweep import Away, Outcome, reason
from .worker import Asked, Reply, behind, work


def started(machine: Machine) -> SpecCluster:
    """A scheduler and workers on this host, which nobody else can reach: one for each process, with its own GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    workers = {}
    for i in range(machine.jobs):
        gpu = machine.devices[i % len(machine.devices)].partition(":")[2]
        seen = visible[int(gpu)] if gpu and visible != [""] else gpu
        workers[i] = {"cls": Nanny, "options": {
            "host": "127.0.0.1", "nthreads": 1, "memory_limit": 0, "env": {"CUDA_VISIBLE_DEVICES": seen}}}
    return SpecCluster(workers, {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}})


class Cluster(Executor):
    """Runs each batch on the worker that it is submitted for; a thread here talks to that."""

    def __init__(self, machine: Machine):
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is told below
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})  # a batch brings its models
        self.machine, self.workers, self.refused, self.told = machine, {}, {}, ""
        self.threads = ThreadPoolExecutor(1000)
        self.own = started(machine) if machine.cluster == "local" else None
        try:
            self.client = Client(self.own or machine.cluster)
        except OSError:
            raise BadInput(f"no Dask scheduler answers at {machine.cluster}; start one, or leave out cluster.") from None

    def free(self, busy: set[str]) -> list[str]:
        """Workers that can take a batch now; none while the scheduler is away. Raises BadInput if all were refused."""
        try:
            if self.client.status == "closed":
                self.client = Client(self.machine.cluster)
            self.workers = self.client.sync(self.client.scheduler.identity)["workers"]
        except (OSError, CancelledError):
            return self._nobody(f"the scheduler {self.machine.cluster} does not answer; waiting for it")
        if not self.workers:
            return self._nobody(f"the scheduler {self.machine.cluster} has no workers; waiting for one")
        if self.workers.keys() <= self.refused.keys():
            raise BadInput(f"no worker can be used: {'; '.join(self.refused.values())}.")
        self.told = ""
        closed = busy | self.refused.keys()
        return [worker for worker, at in self.workers.items() if at["status"] == "running" and worker not in closed]

    def _nobody(self, why: str) -> list[str]:
        if why != self.told:
            tqdm.write(why)
        self.told = why
        time.sleep(1)
        return []

    def submit(self, function, tasks: list[Task], keys: list[str], worker: str, brought: dict[str, Any]) -> Future:
        """``function`` is ``compute``, which the worker has as its own."""
        images = images_of(tasks[0].cell.profile).fingerprint
        return self.threads.submit(self._talk, worker, Asked(tasks, keys, brought, self.machine.devices[0], images))

    def _talk(self, worker: str, asked: Asked) -> list[Outcome]:
        reply = self._ask(worker, asked, None, [])
        while reply.images or reply.records:
            lacking = [task for key, task in behind(asked.tasks).items() if key in reply.records]
            try:
                records = [(task.spec, Store().packed(task.spec)) for task in lacking]
            except Damaged as error:
                return [Outcome(0.0, str(error), damaged=True)] * len(asked.tasks)
            reply = self._ask(worker, asked, dataset_of(asked.tasks[0].cell.profile) if reply.images else None, records)
        if reply.refused:
            self._refuse(worker, reply.refused)
        for task, files in zip(asked.tasks, reply.made):
            if files:
                Store().unpack(task.spec, files)
        return list(reply.outcomes)

    def _ask(self, worker: str, asked: Asked, images: Dataset | None, records: list) -> Reply:
        """What a worker answers. Raises BrokenProcessPool where it died, Away where it or the scheduler is out of reach."""
        if self.client.status != "running":
            raise Away
        future, patience = self.client.submit(work, asked, images, records, workers=[worker], pure=False), 60
        while True:
            try:
                wait(future, 1)
                return future.result(patience := 2 * patience)  # a large answer takes its time
            except TimeoutError:
                if worker not in self.workers:
                    raise BrokenProcessPool(f"worker {worker} is gone") from None
            except KilledWorker:
                raise BrokenProcessPool(f"worker {worker} is gone") from None
            except (Exception, CancelledError) as error:
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
