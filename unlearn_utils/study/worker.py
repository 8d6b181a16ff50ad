"""What a worker of a cluster does: it says what it lacks, is sent that, computes, and sends back what it made."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from distributed import Nanny, Scheduler, SpecCluster, get_worker

from .. import sources
from ..data import Dataset
from ..settings import BadInput
from . import code
from .cells import Task, dataset_of, received
from .guests import Guests
from .machine import Machine
from .profiles import Profile
from .store import Files, Store
from .sweep import Outcome, compute

_one_batch = threading.Lock()  # settings of torch hold for the process, however many threads a worker has


@dataclass(frozen=True)
class Asked:
    """What a worker is asked to compute, and by whom."""

    tasks: list[Task]
    keys: list[str]
    guests: Guests
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
    """Compute tasks from what was sent and what is here already."""
    with _one_batch:
        os.environ["UNLEARN_HOME"] = str(Path(get_worker().local_directory) / "home")  # goes when the worker goes
        here, profile = Asked.torch, asked.tasks[0].cell.profile
        if here != asked.torch:
            return Reply(f"it has torch {here}, the driver {asked.torch}")
        if asked.device == "cuda" and not torch.cuda.is_available():
            return Reply("it has no GPU")
        if code.edited():
            return Reply("its files have changed since it started, so it has to be started again")
        asked.guests.welcome()
        if images:
            received[profile.data] = images
        if not _has_images(profile, asked.images):
            return Reply(images=True)
        for spec, files in records:
            Store().unpack(spec, files)
        if [task.key for task in asked.tasks] != asked.keys:
            return Reply("its code is not the driver's")
        if lacking := tuple(key for key, task in behind(asked.tasks).items() if Store().get(task.spec) is None):
            return Reply(records=lacking)
        device = "cuda:0" if asked.device != "cpu" and torch.cuda.is_available() else "cpu"
        outcomes = compute(asked.tasks, asked.keys, device, asked.guests)
        made = [{} if outcome.reason else Store().packed(task.spec) for task, outcome in zip(asked.tasks, outcomes)]
        return Reply(outcomes=tuple(outcomes), made=tuple(made))


def _has_images(profile: Profile, fingerprint: str) -> bool:
    """Whether it was sent these images, or has them in a data folder of its own; it makes and fills none."""
    if profile.data.folder and profile.data not in received and not sources.folder_of(profile.data).is_dir():
        return False
    try:
        return dataset_of(profile).fingerprint == fingerprint
    except BadInput:
        return False


def started(machine: Machine) -> SpecCluster:
    """A scheduler and workers on this host, which nobody else can reach: one for each process, with its own GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    workers = {}
    for i in range(machine.jobs):
        gpu = machine.devices[i % len(machine.devices)].partition(":")[2]
        seen = visible[int(gpu)] if gpu and visible != [""] else gpu
        workers[i] = {"cls": Nanny, "options": {
            "host": "127.0.0.1", "nthreads": 1, "memory_limit": 0, "env": {"CUDA_VISIBLE_DEVICES": seen},
            "silence_logs": logging.CRITICAL}}
    return SpecCluster(workers, {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard": False}})
