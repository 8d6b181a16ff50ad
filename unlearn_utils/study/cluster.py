"""An executor of the workers of a Dask scheduler, which need the package and share nothing with the driver.

Dask moves bytes and says who is there; graph, store, progress and what is tried again stay with the driver, which
picks the worker of every batch. What a worker lacks it is sent, so an image or a model goes to each of them once.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cloudpickle
import dask
from distributed import Client, KilledWorker, wait
from tqdm import tqdm

from ..data import Dataset
from ..settings import BadInput
from .cells import Task, dataset_of, images_of
from .guests import Guests
from .machine import Machine
from .store import Damaged, Store
from .sweep import Away, Outcome, reason
from .worker import Asked, Reply, behind, started, work


class Cluster(Executor):
    """Runs each batch on the worker that it is submitted for; a thread here talks to that."""

    def __init__(self, machine: Machine):
        for name in ("distributed", "distributed.client"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters is told below
        dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"})  # a batch brings its models
        self.machine, self.workers, self.refused, self.told, self.served = machine, {}, {}, "", False
        self.threads = ThreadPoolExecutor(1000)
        self.own = started(machine) if machine.cluster == "local" else None
        try:
            self.client = Client(self.own or machine.cluster)
        except OSError:
            raise BadInput(f"no Dask scheduler answers at {machine.cluster}; start one and run again.") from None

    def free(self, busy: set[str]) -> list[str]:
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
        return [worker for worker in usable - busy if self.workers[worker]["status"] == "running"]

    def submit(self, function, tasks: list[Task], keys: list[str], worker: str, guests: Guests) -> Future:
        """``function`` is ``compute``, which the worker has as its own."""
        asked = Asked(tasks, keys, guests, self.machine.devices[0], images_of(tasks[0].cell.profile).fingerprint)
        return self.threads.submit(self._talk, worker, asked)

    def _talk(self, worker: str, asked: Asked) -> list[Outcome]:
        reply = self._ask(worker, asked, None, [])
        while reply.images or reply.records:
            lacking = [task for key, task in behind(asked.tasks).items() if key in reply.records]
            try:
                records = [(task.spec, Store().packed(task.spec)) for task in lacking]
            except Damaged as error:
                return [Outcome(0.0, str(error), damaged=True)] * len(asked.tasks)
            images = dataset_of(asked.tasks[0].cell.profile) if reply.images else None
            reply = self._ask(worker, asked, images, records)
        if reply.refused:
            self._refuse(worker, reply.refused)
        self.served = True
        for task, files in filter(all, zip(asked.tasks, reply.made)):
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
