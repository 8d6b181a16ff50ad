"""From a checked command to computed cells, executed notebooks, provenance and a summary."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import re
import time
from collections import defaultdict
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any, Callable

import nbformat
import torch
from joblib import Parallel, delayed

from ..paths import ROOT, Outputs, git, write
from ..settings import BadInput
from . import packs
from .cells import Task, images_of, trained
from .code import as_text, bare
from .experiments import PLANS, Plan
from .progress import QUIET
from .store import Store, digest, hardware, remove
from .steps import MIME
from .studies import DIFFERS, Study
from .sweep import GIVEN_UP, Failure, missing
from .sweep import run as run_tasks

NOTES = ("provenance.json", "report.html", "reproduction.txt")  # on how a run went, beside what it found
Given = dict[Path, dict[str, Any]]
STUDY_PARAMETERS = (
    "profile", "seeds", "forget_sets", "device", "data_dir", "jobs", "overrides", "hyperparameters", "results", "cluster",
)
VERSIONS = ("torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib", "seaborn", "papermill")


@dataclasses.dataclass(frozen=True)
class Whole:
    """All notebooks of a command: the study, and the plan of each."""

    study: Study
    plans: dict[Path, Plan]

    @staticmethod
    def of(parameters: Given) -> Whole:
        """Raises BadInput where a parameter cannot be used."""
        plans = {}
        for path, values in parameters.items():
            if path.stem not in PLANS:
                raise BadInput(f"{path.name} has no plan; say in unlearn_utils/study/experiments.py what it asks for.")
            study = Study.of(**{key: values[key] for key in STUDY_PARAMETERS if key in values})
            own = {key: value for key, value in values.items() if key not in STUDY_PARAMETERS}
            plans[path] = PLANS[path.stem](study, **own)
        differs = {k: v for plan in plans.values() for k, v in json.loads(plan.outputs.differs or "{}").items()}
        os.environ[DIFFERS] = json.dumps(differs)
        outputs = study.outputs(differs)
        return Whole(study, {path: dataclasses.replace(plan, outputs=outputs) for path, plan in plans.items()})

    @property
    def tasks(self) -> list[Task]:
        """What is not in the pack, each once."""
        pack = self.study.pack
        listed = [task for plan in self.plans.values() for task in plan.tasks if not (pack and pack.find(task))]
        return list({task.key: task for task in listed}.values())

    def forget(self) -> None:
        """Take the results of all tasks out of the store, with the models behind them and unfinished trainings."""
        for task in self.tasks:
            for gone in {t.key: t for t in _behind(task)}.values():
                remove(Store().folder(gone.spec))
                remove(Store().unfinished(gone.spec))

    def show(self) -> None:
        """Print what would be computed, and an estimate of the time."""
        tasks, to_run = self.tasks, missing(self.tasks)
        for task in to_run:
            print(f"to run  {task.label}")
        known = seconds_by_kind(tasks)
        reference = self.outputs.path / "provenance.json"
        if reference.exists():
            known = json.loads(reference.read_text(encoding="utf-8"))["seconds"] | known
        kinds = [_kind(task) for task in to_run]
        estimate = "the time is not known yet"
        if all(kind in known for kind in kinds):
            estimate = f"about {sum(known[kind] for kind in kinds) / self.study.machine.jobs / 60:.1f} minutes"
        print(f"{len(tasks)} results asked for, {len(to_run)} to run with what they need: {estimate} "
              f"in {self.study.machine.jobs} process(es).")

    @property
    def outputs(self) -> Outputs:
        return next(iter(self.plans.values())).outputs


def _behind(task: Task) -> list[Task]:
    return [task] + [t for needed in task.requires for t in _behind(needed)]


def _kind(task: Task) -> str:
    return f"{task.kind} {getattr(task, 'attack', getattr(task, 'name', ''))} {task.cell.method} {task.cell.variant}"


def seconds_by_kind(tasks: list[Task]) -> dict[str, float]:
    """Mean seconds of the stored tasks and their models, by kind of task."""
    found = defaultdict(list)
    for task in {t.key: t for task in tasks for t in (task, trained(task.cell))}.values():
        if record := Store().get(task.spec):
            found[_kind(task)].append(record.seconds)
    return {kind: round(mean(seconds), 3) for kind, seconds in sorted(found.items())}


def run(
    whole: Whole, given: Given, options, started: float, report: Callable[[Outputs, dict[str, str]], Path] | None = None
) -> int:
    """Compute, execute, write the provenance and the ``report`` (told what failed), print the summary; 0 if nothing failed."""
    failure = None
    whole.study.check_images(whole.tasks)
    try:
        run_tasks(whole.tasks, whole.study.machine)
    except Failure as problem:  # the notebooks do not try again what failed
        failure = problem
        given_up = Store().root / f"given-up-{os.getpid()}.json"
        write(given_up, json.dumps(failure.reasons))
        os.environ[GIVEN_UP] = str(given_up)
    if options.refresh_reference and not failure:
        packs.refresh(_collected(whole), whole.outputs.file(packs.NAME), bool(options.only))
    computed, before = time.time(), _files(whole.outputs.path)
    again = options.force or options.refresh_reference
    stale = {path: stamp for path, plan in whole.plans.items()
             if (stamp := _stamp(path, plan, given[path])) != _made_of(path, plan) or again}
    executed = Parallel(n_jobs=min(whole.study.machine.jobs, max(1, len(stale))))(
        delayed(execute)(path, given[path], whole.plans[path].outputs, stamp, options.refresh_reference)
        for path, stamp in stale.items()
    )
    if failure:
        remove(Path(os.environ.pop(GIVEN_UP)))
    problems = {name: problem for name, _, problem in executed if problem}
    if stale:
        _write_provenance(whole, given, {name: spent for name, spent, _ in executed}, (computed - started) / 60)
    page = report(whole.outputs, problems) if report else None
    _summarise(whole, executed, failure, started)
    if whole.study.pack and not failure and not problems:
        _keep_notes(whole.outputs.path, before)
    if page:
        print(f"Report: {page}")
    return 1 if failure or problems else 0


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*") if file.is_file()}


def _keep_notes(folder: Path, before: dict[str, bytes]) -> None:
    """Put back the notes on the run that computed the numbers, where drawing from its pack has changed nothing else."""
    after, notes = _files(folder), {name: text for name, text in before.items() if name in NOTES}
    if notes.keys() == set(NOTES) and after | notes == before:
        for name, text in notes.items():
            (folder / name).write_bytes(text)


def _names(tasks: list[Task]) -> list[str]:
    return [f"{task.kind}/{task.key}" for task in tasks]


def _collected(whole: Whole) -> packs.Pack:
    profile = whole.study.profile
    return packs.collect(profile.name, images_of(profile), _names(whole.tasks))


def exchange(whole: Whole, options) -> int:
    """Results to and from other machines, instead of a run."""
    name, reference = whole.study.profile.name, packs.reference(whole.study.profile.name)
    if options.bring:
        print(f"{packs.bring(Path(options.bring))} models taken into the store.")
    if options.merge:
        merged = packs.read(reference, name) if reference.exists() else None
        for path in options.merge:
            pack = packs.read(Path(path), name)
            merged, said = packs.merge(merged, pack) if merged else (pack, f"{len(pack.records)} results.")
            print(f"{path}: {said}")
        packs.write(merged, Outputs(name).file(packs.NAME))
    if options.export:
        pack = _collected(whole)
        if not pack.records:
            raise BadInput("nothing of this study is stored here, so --export has nothing to write; run it first.")
        packs.write(pack, Path(options.export))
        print(f"{len(pack.records)} results in {options.export}")
    if options.carry:
        if not (count := packs.carry(_names(whole.tasks), Path(options.carry))):
            raise BadInput("no model of this study is stored here, so --carry has nothing to copy; run it first.")
        print(f"{count} models in {options.carry}")
    return 0


def _stamp(path: Path, plan: Plan, parameters: dict[str, Any]) -> str:
    """Hash of all that a notebook's outputs are made of: its code, parameters and results, the package, and other cards."""
    store, pack = Store(), plan.study.pack
    records = sorted({
        "packed" if pack and pack.find(task) else record.checksum if (record := store.get(task.spec)) else "missing"
        for task in plan.tasks})
    own = plan.outputs.path / "scorecard.csv"
    cards = sorted(own.parents[1].glob("*/scorecard.csv")) if path.stem.startswith("05") else []  # it shows every profile's
    files = [file for file in (packs.reference(plan.study.profile.name), *cards) if file.exists() and file != own]
    read = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return digest([code_of(nbformat.read(path, as_version=4)), parameters, records, read, _package()])


@cache
def _package() -> str:
    """Hash of all code of the package: views draw what a notebook shows."""
    return digest([as_text(bare(f.read_text(encoding="utf-8"))) for f in sorted((ROOT / "unlearn_utils").rglob("*.py"))])


def _made_of(path: Path, plan: Plan) -> str:
    """What the outputs that lie there were made of; empty where one of them is missing."""
    executed = plan.outputs.path / "notebooks" / path.name
    if not executed.exists():
        return ""
    names = re.findall(r'"(\w+)", plan\.outputs', executed.read_text(encoding="utf-8").replace('\\"', '"'))
    there = {file.stem for file in plan.outputs.path.iterdir()}
    return nbformat.read(executed, as_version=4).metadata.get("made_of", "") if set(names) <= there else ""


def execute(path: Path, parameters: dict[str, Any], outputs: Outputs, stamp: str, refresh: bool) -> tuple[str, float, str]:
    """Execute one notebook through papermill: (name, minutes, what went wrong or "").

    The executed notebook takes its place in one step, and only where it did not fail.
    """
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of comments that it cannot parse
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))  # the kernel's
    os.environ[QUIET], begin = "1", time.time()
    try:
        target = outputs.file(f"notebooks/{path.name}")
        target.parent.mkdir(exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial.ipynb")
        try:
            papermill.execute_notebook(
                path, partial, parameters, kernel_name="python3", cwd=path.parent, progress_bar=False, log_output=False,
                extra_arguments=["--log-level=CRITICAL"], start_timeout=300,  # ERROR: that a kernel was told to end
            )
            tidy = tidied(nbformat.read(partial, as_version=4), _folders_of(parameters), stamp)
            write(target, nbformat.writes(tidy) + "\n")
            if refresh and "profile" not in parameters:  # notebooks/ shows their own profile, and no --jobs
                tidy.cells = [cell for cell in tidy.cells if "injected" not in str(cell.metadata)]
                write(path, nbformat.writes(tidy) + "\n")
        finally:
            partial.unlink(missing_ok=True)
    except papermill.PapermillExecutionError as error:
        return path.stem, (time.time() - begin) / 60, f"{error.ename}: {error.evalue}"
    except Exception as error:  # the kernel died or is missing, the disk is full: the other notebooks go on
        return path.stem, (time.time() - begin) / 60, f"{type(error).__name__}: {error}"
    return path.stem, (time.time() - begin) / 60, ""


def code_of(notebook: nbformat.NotebookNode) -> str:
    """Hash of a notebook's own code, which its outputs carry so that it can be told when they are stale."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "injected" not in str(cell.metadata)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def _folders_of(parameters: dict[str, Any]) -> list[str]:
    """The folders of this machine that parameters name, and that of its packages, which warnings name."""
    weights = str(parameters.get("overrides", {}).get("network.weights", ""))
    return [parameters.get("data_dir", ""), str(Path(weights).parent) if "/" in weights else "", str(Path(torch.__file__).parents[1])]


def tidied(notebook: nbformat.NotebookNode, folders: list[str], stamp: str) -> nbformat.NotebookNode:
    """Without the paths and times that papermill notes in the file; with what it was made of."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.source = without(cell.source, folders)
        for output in cell.get("outputs", ()):
            if MIME in output.get("data", {}):  # no script is kept: a viewer that runs none would show an empty place
                output.data.pop("text/html", None)
            for key, value in [*output.items(), *output.get("data", {}).items()]:
                holder = output.data if key in output.get("data", {}) else output
                if isinstance(value, str) and not key.startswith("image/"):
                    holder[key] = without(value, folders)
    notebook.metadata["outputs_of"] = code_of(notebook)
    notebook.metadata["made_of"] = stamp
    return notebook


def without(text: str, folders: list[str]) -> str:
    """What is kept names no folder of the machine that made it; a part of a longer name is not the folder."""
    for folder in folders:
        if folder.strip("/"):
            text = re.sub(rf"{re.escape(folder.rstrip('/'))}(?![\w.-])", "path/to/files", text)
    return text


def _write_provenance(whole: Whole, given: Given, minutes: dict[str, float], computing: float) -> None:
    """Note how each notebook of this run got its results; the notes on others stay."""
    study, target = whole.study, whole.outputs.file("provenance.json")
    common = {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted changes": bool(git("status", "--porcelain", "--", "unlearn_utils")),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in VERSIONS}},
        "machine": _machine(), "processes": study.machine.jobs,
        "pairs of seed and forget set": [[seed, list(forget)] for seed, forget in study.pairs],
        "minutes of computing before the notebooks": round(computing, 2),
    }
    notes = {}
    for path, parameters in given.items():
        if path.stem not in minutes:
            continue
        tasks = whole.plans[path].tasks
        packed = [found for task in tasks if study.pack and (found := study.pack.find(task))]
        records = [record for task in {t.key: t for t in tasks}.values() if (record := Store().get(task.spec))]
        made_with = [found["made_with"] for found in packed] or [record.made_with for record in records]
        notes[path.stem] = {
            "changed parameters": {key: value for key, value in parameters.items() if key != "data_dir"}, **common,
            "results computed with": sorted({f"torch {m['torch']}, {m['device']}, {m['hardware']}" for m in made_with}),
            "minutes of the notebook": round(minutes[path.stem], 2),
        }
    before = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    content = {
        "profile": dataclasses.asdict(dataclasses.replace(study.profile, images=None)),
        "notebooks": dict(sorted((before.get("notebooks", {}) | notes).items())),
        "seconds": before.get("seconds", {}) | seconds_by_kind(whole.tasks),
    }
    write(target, without(json.dumps(content, indent=1, default=list), _folders_of(next(iter(given.values())))) + "\n")


def _machine() -> str:
    import psutil

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = psutil.virtual_memory().total / 2**30
    return ", ".join([f"{os.cpu_count()} cores of {hardware('cpu')}", f"{memory:.0f} GiB of memory", *gpus])


def _summarise(whole: Whole, executed: list, failure: Failure | None, started: float) -> None:
    folder, count = whole.outputs.path, len(whole.plans)
    told = folder / "reproduction.txt"
    print(f"\n{count} notebooks on profile '{whole.study.profile.name}' in {(time.time() - started) / 60:.1f} minutes")
    done = {name: (minutes, problem) for name, minutes, problem in executed}
    for path in whole.plans:
        minutes, problem = done.get(path.stem, (0.0, ""))
        ended = "FAILED: " + problem if problem else f"{minutes:5.2f} min" if path.stem in done else "unchanged"
        print(f"  {path.stem:28} {ended}")
    compared = done if whole.study.pack else [path.stem for path in whole.plans]  # else it is an older run's
    if told.exists() and any(name.startswith("05") for name in compared):
        print("".join(f"  {line}\n" for line in told.read_text(encoding="utf-8").splitlines()), end="")
    print(f"Figures, tables and executed notebooks: {folder}")
    if failure:
        print(f"\nSome results could not be computed:\n{failure}")
