"""From a checked command to computed cells, executed notebooks, provenance and a summary."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import torch
from joblib import Parallel, delayed

from .cells import Task
from .experiments import PLANS
from ..settings import BadInput
from ..paths import ROOT
from .store import Store, hardware
from .rows import Study
from .sweep import Failure, missing, with_requirements
from .sweep import run as run_tasks
from ..paths import folder, write

Given = dict[Path, dict[str, Any]]
STUDY_PARAMETERS = ("profile", "seeds", "forget_sets", "device", "data_dir", "jobs", "overrides", "hyperparameters")


@dataclass
class Plan:
    """The study of a run, and the tasks behind each notebook."""

    study: Study
    tasks: dict[Path, list[Task]]

    @staticmethod
    def of(parameters: Given) -> Plan:
        """Raises BadInput where a parameter cannot be used."""
        tasks = {}
        for path, values in parameters.items():
            if path.stem not in PLANS:
                raise BadInput(f"{path.name} has no plan; name its tasks in unlearn_utils/experiments.py.")
            study = Study.of(**{key: values[key] for key in STUDY_PARAMETERS})
            tasks[path] = with_requirements(PLANS[path.stem](study, values))
        return Plan(study, tasks)

    @property
    def everything(self) -> list[Task]:
        return list({task.key: task for tasks in self.tasks.values() for task in tasks}.values())

    def forget(self) -> None:
        """Take the results of all tasks out of the store."""
        for task in self.everything:
            shutil.rmtree(Store().folder(task.spec), ignore_errors=True)

    def show(self) -> None:
        """Print every task, whether it is stored, and an estimate of the time."""
        open_keys = {task.key for task in missing(self.everything)}
        for task in self.everything:
            print(f"{'to run' if task.key in open_keys else 'stored':7} {task.label}")
        seconds = self._estimate(open_keys)
        total = len(self.everything)
        estimate = "the time is not known yet" if seconds is None else f"about {seconds / 60:.1f} minutes"
        print(f"{total} results, {total - len(open_keys)} stored, {len(open_keys)} to run: {estimate} "
              f"in {self.study.machine.jobs} process(es).")

    def _estimate(self, open_keys: set[str]) -> float | None:
        """From the times in the store, else from those of the committed reference run."""
        known = seconds_by_kind(self.everything)
        reference = folder(self.study.profile.name) / "provenance.json"
        if reference.exists():
            known = json.loads(reference.read_text())["seconds"] | known
        kinds = [_kind(task) for task in self.everything if task.key in open_keys]
        if not all(kind in known for kind in kinds):
            return None
        return sum(known[kind] for kind in kinds) / self.study.machine.jobs


def _kind(task: Task) -> str:
    return f"{task.kind} {getattr(task, 'attack', '')} {task.cell.method} {task.cell.variant}"


def seconds_by_kind(tasks: list[Task]) -> dict[str, float]:
    """Mean seconds of the stored tasks, by kind of task."""
    rows = [(_kind(task), record.seconds) for task in tasks if (record := Store().get(task.spec))]
    return pd.DataFrame(rows, columns=["kind", "seconds"]).groupby("kind").seconds.mean().round(2).to_dict()


def run(plan: Plan, given: Given, refresh: bool, started: float) -> int:
    """Compute, execute, write the provenance, print the summary; 0 if nothing failed."""
    profile, failure = plan.study.profile.name, None
    try:
        run_tasks(plan.everything, plan.study.machine)
    except Failure as problem:
        failure = problem
    computed = time.time()
    executed = Parallel(n_jobs=min(plan.study.machine.jobs, len(given)))(
        delayed(execute)(path, parameters, folder(profile) / "notebooks", refresh) for path, parameters in given.items()
    )
    notebooks = pd.DataFrame(executed, columns=["notebook", "minutes", "problem"])
    _write_provenance(plan, given, notebooks, (computed - started) / 60)
    _summarise(plan, notebooks, failure, started)
    return 1 if failure or notebooks.problem.any() else 0


def execute(path: Path, parameters: dict[str, Any], into: Path, refresh: bool) -> tuple[str, float, str]:
    """Execute one notebook through papermill: (name, minutes, what went wrong or "")."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of comments that it cannot parse
    into.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # the kernel's
    begin, output = time.time(), into / path.name
    problem = ""
    try:
        papermill.execute_notebook(
            path, output, parameters, kernel_name="python3", cwd=path.parent, progress_bar=False, log_output=False,
            extra_arguments=["--log-level=ERROR"],
        )
    except papermill.PapermillExecutionError as error:
        problem = f"{error.ename}: {error.evalue}"
    except Exception as error:  # the kernel died or is missing: the other notebooks go on
        problem = f"{type(error).__name__}: {error}"
    if output.exists():
        text = without_data_dir(output.read_text(), parameters.get("data_dir", ""))
        tidy = tidied(nbformat.reads(text, as_version=4))
        nbformat.write(tidy, output)
        if refresh and not problem:
            nbformat.write(tidy, path)
    return path.stem, (time.time() - begin) / 60, problem


def without_data_dir(text: str, data_dir: str) -> str:
    """What is kept in ``figures`` names no folder of the machine that made it."""
    return text.replace(data_dir, "path/to/images") if data_dir else text


def code_of(notebook: nbformat.NotebookNode) -> str:
    """Hash of a notebook's code, which its outputs carry so that a test can tell when they are stale."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without the paths and times that papermill notes in the file, and with the hash of its code."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    notebook.metadata["outputs_of"] = code_of(notebook)
    return notebook


def _write_provenance(plan: Plan, given: Given, notebooks: pd.DataFrame, minutes: float) -> None:
    """Note how each notebook of this run got its results; the notes on others stay."""
    study, target = plan.study, folder(plan.study.profile.name) / "provenance.json"
    packages = ("torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib", "seaborn", "papermill")
    common = {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted changes": bool(_git("status", "--porcelain", "--", "unlearn_utils")),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "machine": _machine(), "processes": study.machine.jobs,
        "pairs of seed and forget set": [[seed, list(forget)] for seed, forget in study.pairs],
        "minutes of computing before the notebooks": round(minutes, 2),
    }
    notes = {}
    for path, parameters in given.items():
        records = [record for task in plan.tasks[path] if (record := Store().get(task.spec))]
        made_with = [record.made_with for record in records]
        notes[path.stem] = {
            "changed parameters": {key: value for key, value in parameters.items() if key != "data_dir"}, **common,
            "results computed with": sorted({f"torch {m['torch']}, {m['device']}, {m['hardware']}" for m in made_with}),
            "core minutes of its results": round(sum(record.seconds for record in records) / 60, 1),
            "minutes of the notebook": round(float(notebooks.set_index("notebook").minutes[path.stem]), 2),
        }
    before = json.loads(target.read_text()) if target.exists() else {}
    content = {
        "profile": dataclasses.asdict(study.profile),
        "notebooks": dict(sorted((before.get("notebooks", {}) | notes).items())),
        "seconds": before.get("seconds", {}) | seconds_by_kind(plan.everything),
    }
    data_dir = next(iter(given.values())).get("data_dir", "")
    write(target, without_data_dir(json.dumps(content, indent=1), data_dir) + "\n")


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} cores of {hardware('cpu')}", f"{memory:.0f} GiB of memory", *gpus])


def _git(*arguments: str) -> str:
    """What git says, or "unknown" outside a repository."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()


def _summarise(plan: Plan, notebooks: pd.DataFrame, failure: Failure | None, started: float) -> None:
    figures = folder(plan.study.profile.name)
    print(f"\n{len(notebooks)} notebooks on profile '{plan.study.profile.name}' in {(time.time() - started) / 60:.1f} minutes")
    for row in notebooks.itertuples():
        print(f"  {row.notebook:28} {row.minutes:5.2f} min  {'FAILED: ' + row.problem if row.problem else 'done'}")
    scorecard = figures / "scorecard.csv"
    if "05_scorecard" in notebooks.notebook[notebooks.problem == ""].values:
        card = pd.read_csv(scorecard)
        for claim, lines in card.groupby("claim", sort=False):
            counts = lines.verdict.value_counts()
            print(f"  {claim:36} " + ", ".join(f"{verdict} {count}" for verdict, count in counts.items()))
    print(f"Figures, tables and executed notebooks: {figures}")
    if failure:
        print(f"\nSome results could not be computed:\n{failure}")
