"""What a cluster costs: ``python tools/cluster_times.py PROFILE [--only NOTEBOOK] [--workers 1 2]``.

Everything that the notebooks ask for is computed in empty stores: by so many processes of a local run, and by as many
workers that are started here and share nothing with the driver. The start of both counts, and is told by itself.
Bytes are those of the messages; the overhead is what a batch of tasks takes beside computing them.
"""

from __future__ import annotations

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    given = {path: parameters_of(path) | {"profile": options.profile} for path in chosen_notebooks(options.only)}
    tasks = Whole.of(given).tasks
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
