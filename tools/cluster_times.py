"""What a cluster costs: ``python tools/cluster_times.py PROFILE [--only NOTEBOOK] [--workers 1 2]``.

Everything that the notebooks ask for is computed in empty stores: by so many processes of a local run, and by as many
workers that are started here and share nothing with the driver. The start of both counts, and is told by itself.
Bytes are those of the messages; the overhead is what a batch of tasks takes beside computing them.

``--estimate 8 64`` computes nothing: it puts the same tasks on so many workers on paper, and prints how often the time
of one worker goes into theirs. A model costs the epochs of its recipe, a task that only reads one ``--reading`` epochs.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import statistics
import tempfile
import time
from collections import Counter

import cloudpickle

from unlearn_utils.__main__ import chosen_notebooks, parameters_of
from unlearn_utils.study import cluster as cluster_engine
from unlearn_utils.study import sweep
from unlearn_utils.study.cells import Task
from unlearn_utils.study.machine import Machine
from unlearn_utils.study.running import Whole
from unlearn_utils.study.store import Store


class Counted(cluster_engine.Cluster):
    """Counts what is moved, and the time in which nothing is computed."""

    counts: Counter = Counter()
    waits: list[float] = []

    def _talk(self, worker, asked):
        begin = time.perf_counter()
        outcomes = super()._talk(worker, asked)
        self.waits.append(time.perf_counter() - begin - sum(outcome.seconds for outcome in outcomes))
        self.counts["tasks"] += len(outcomes)
        return outcomes

    def _ask(self, worker, asked, images, records):
        reply = super()._ask(worker, asked, images, records)
        self.counts["sent"] += len(cloudpickle.dumps((asked, images, records)))
        self.counts["received"] += len(pickle.dumps(reply))
        self.counts["first answer"] = self.counts["first answer"] or time.perf_counter()
        return reply


def finish(tasks: list[Task], cost: dict[str, float], workers: int, beside: float = 0.0) -> tuple[float, float]:
    """When the last task ends, and the longest chain: each free worker takes the ready task with most behind it.

    ``tasks`` stand after what they require; ``beside`` is what every task takes besides its cost.
    """
    needs = {task.key: {needed.key for needed in task.requires} & cost.keys() for task in tasks}
    behind = dict(cost)  # of a task: its cost, and that of the longest chain of tasks that wait for it
    for task in reversed(tasks):
        for needed in needs[task.key]:
            behind[needed] = max(behind[needed], cost[needed] + behind[task.key])
    waiting, done, running, now, free = dict(needs), set(), [], 0.0, workers
    while waiting or running:
        ready = sorted((key for key, needed in waiting.items() if needed <= done), key=behind.get, reverse=True)
        for key in ready[:free]:
            del waiting[key]
            heapq.heappush(running, (now + cost[key] + beside, key))
        now, key = heapq.heappop(running)
        done.add(key)
        free = workers - len(running)
    return now, max(behind.values())


def estimate(tasks: list[Task], counts: list[int], reading: float, beside: float) -> None:
    """Print the time of all tasks on so many workers, in epochs."""
    cost = {task.key: task.cell.recipe.epochs if task.kind == "model" else reading for task in tasks}
    alone, chain = finish(tasks, cost, 1, beside)
    print(f"{len(tasks)} tasks, {alone:.0f} epochs on one worker; the longest chain {chain:.0f} epochs")
    for count in counts:
        time_taken, _ = finish(tasks, cost, count, beside)
        print(f"{count} worker(s): {time_taken:.0f} epochs, {alone / time_taken:.1f} times faster")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--estimate", type=int, nargs="+", default=[])
    parser.add_argument("--reading", type=float, default=0.1, help="epochs (default: 0.1)")
    parser.add_argument("--beside", type=float, default=0.0, help="epochs that every task takes besides")
    options = parser.parse_args()
    own = {"profile": options.profile, "data_dir": options.data_dir}
    tasks = Whole.of({path: parameters_of(path) | own for path in chosen_notebooks(options.only)}).tasks
    if options.estimate:
        with tempfile.TemporaryDirectory() as home:
            os.environ["UNLEARN_HOME"] = home  # nothing is stored in it
            tasks = sweep.missing(tasks)
        estimate(tasks, options.estimate, options.reading, options.beside)
        return
    sweep.Progress.done = lambda *_: None
    cluster_engine.Cluster = Counted
    for count in options.workers:
        for cluster in ("", "local"):
            with tempfile.TemporaryDirectory() as home:
                os.environ["UNLEARN_HOME"] = home
                Counted.counts, Counted.waits, begin = Counter(), [], time.perf_counter()
                done = sweep.run(tasks, Machine(("cpu",), count, cluster))
                seconds = time.perf_counter() - begin
                computing = sum(Store().get(task.spec).seconds for task in tasks)
                print(f"{count} {'workers' if cluster else 'processes'}: {done} tasks in {seconds:.1f} s "
                      f"({computing:.1f} s of computing in those that were asked for)")
                if waits := Counted.waits:
                    found, each = Counted.counts, 1000 * statistics.median(waits)
                    print(f"  first answer after {found['first answer'] - begin:.1f} s; {len(waits)} batches; overhead "
                          f"{each:.0f} ms a batch (median), {each * len(waits) / found['tasks']:.0f} ms a task; "
                          f"{found['sent'] / 1e6:.2f} MB sent, {found['received'] / 1e6:.2f} MB received")


if __name__ == "__main__":
    main()
