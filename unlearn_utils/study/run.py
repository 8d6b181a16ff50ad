"""Notebooks executed through papermill, two at a time, and what each of them used.

The command knows nothing of what is in a notebook: the notebook computes what the cache lacks, and notes in its
metadata which results and files it used, so that an unchanged one need not run again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import loky
import nbformat
import torch

from ..paths import REFERENCE, ROOT, Outputs, git, write
from ..settings import BadInput
from .cells import inputs_of
from .code import as_text, bare
from .progress import QUIET
from .results import USED
from .store import Store, digest, hardware
from .study import FROM_COMMAND, Study

MADE = "unlearning"  # the key of a notebook's metadata under which the notes on its results stand
VERSIONS = ("torch", "torchvision", "numpy", "scikit-learn", "pandas", "matplotlib", "seaborn", "papermill")
Given = dict[Path, dict[str, Any]]  # parameters by notebook


@dataclass(frozen=True)
class Executed:
    """How a notebook ended: minutes, and what went wrong."""

    name: str
    minutes: float
    problem: str

    def __str__(self) -> str:
        return f"  {self.name:28} " + (f"FAILED: {self.problem}" if self.problem else f"{self.minutes:5.2f} min")


def run(
    study: Study, given: Given, machine: dict[str, Any], again: bool, report: Callable[[Outputs, dict], Path]
) -> int:
    """Execute what is not unchanged, write provenance and report, print a summary; 0 if nothing failed."""
    started, outputs, images = time.time(), study.outputs, inputs_of(study.profile)
    stale = [path for path, values in given.items() if again or not unchanged(path, values, machine, outputs, images)]
    print(f"{study!r}\n{len(stale)} of {len(given)} notebooks to execute", flush=True)
    done = _execute(stale, given, machine, outputs, images) if stale else []
    problems = {one.name: one.problem for one in done if one.problem}
    if stale:
        _write_provenance(study, outputs, done, machine)
    page = report(outputs, problems)
    print(f"{len(given)} notebooks on profile '{study.profile.name}' in {(time.time() - started) / 60:.1f} minutes")
    print(f"Figures and tables: {outputs.path}\nReport: {page}")
    return 1 if problems else 0


def _execute(stale: list[Path], given: Given, machine: dict[str, Any], outputs: Outputs, images: str) -> list[Executed]:
    """Two notebooks at a time, which share the processes; a line for the first figure and for each notebook."""
    started, side_by_side = time.time(), min(2, machine["jobs"], len(stale))
    each = machine | {"jobs": max(1, machine["jobs"] // side_by_side)}
    pool = loky.ProcessPoolExecutor(side_by_side, timeout=60, initializer=_end_quietly)  # idle ones of a killed command
    early = dict.fromkeys([*stale[:1], *stale[-1:], *stale])  # the first figure soon; the appendix takes longest
    waiting = {pool.submit(execute, path, given[path], each, outputs, images) for path in early}
    done, drawn = [], []
    try:
        while waiting:
            ended, waiting = wait(waiting, 0.5, FIRST_COMPLETED)
            if not drawn and (drawn := [f for f in outputs.path.glob("*.png") if f.stat().st_mtime >= started]):
                print(f"first figure after {time.time() - started:.0f} s: {drawn[0]}", flush=True)
            for future in ended:
                done.append(future.result())
                print(done[-1], flush=True)
    finally:
        pool.shutdown(kill_workers=bool(waiting))
    return done


def _end_quietly() -> None:
    """A killed command leaves no half-written notebook: temporary folders go when the process is told to end."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))


def execute(path: Path, parameters: dict[str, Any], machine: dict[str, Any], outputs: Outputs, images: str) -> Executed:
    """Execute one notebook; it takes its place in one step, and only where it did not fail."""
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of comments that it cannot parse
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    os.environ |= {QUIET: "1", FROM_COMMAND: json.dumps(machine | {"profile": outputs.profile})}
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))  # another notebook has the rest
    began, problem = time.time(), ""
    with tempfile.TemporaryDirectory() as scratch:
        partial, used = Path(scratch) / path.name, Path(scratch) / "used"
        os.environ[USED] = str(used)
        options = {"kernel_name": "python3", "cwd": path.parent, "progress_bar": False, "start_timeout": 300}
        try:
            papermill.execute_notebook(path, partial, parameters, **options, extra_arguments=["--log-level=CRITICAL"])
            notebook = nbformat.read(partial, as_version=4)
            for part in (notebook, *notebook.cells):  # the paths and times that papermill notes
                part.metadata.pop("papermill", None)
                part.metadata.pop("execution", None)
            notes = sorted(set(used.read_text(encoding="utf-8").splitlines())) if used.exists() else []
            notebook.metadata[MADE] = {
                "of": _made_of(path, parameters, machine, outputs, images),
                "used": " ".join(notes),
            }
            target = outputs.file(f"notebooks/{path.name}")
            target.parent.mkdir(exist_ok=True)
            write(target, nbformat.writes(notebook) + "\n")
            if os.environ.get(REFERENCE) and not {"profile", "example"} & set(parameters):  # notebooks/ shows digits
                notebook.cells = [cell for cell in notebook.cells if "injected" not in str(cell.metadata)]
                write(path, nbformat.writes(notebook) + "\n")
        except papermill.PapermillExecutionError as error:
            problem = f"{error.ename}: {error.evalue}"
        except Exception as error:  # the kernel died or is missing, the disk is full: the other notebooks go on
            problem = f"{type(error).__name__}: {error}"
    return Executed(path.stem, (time.time() - began) / 60, problem)


def unchanged(path: Path, parameters: dict[str, Any], machine: dict[str, Any], outputs: Outputs, images: str) -> bool:
    """Whether the executed notebook is what would come out again: the same code, and what it used is there."""
    executed, store = outputs.path / "notebooks" / path.name, Store().root
    made = nbformat.read(executed, as_version=4).metadata.get(MADE, {}) if executed.exists() else {}
    if made.get("of") != _made_of(path, parameters, machine, outputs, images):
        return False
    notes = [note.split("/", 1) for note in made["used"].split() if "/" in note]  # a committed result has no slash
    files = [outputs.path / key if kind == "file" else store / kind / key / "record.json" for kind, key in notes]
    return all(file.exists() for file in files)


def drawn_by(notebook: Path) -> set[str]:
    """The tables of numbers that an executed notebook kept."""
    notes = nbformat.read(notebook, as_version=4).metadata.get(MADE, {}).get("used", "").split()
    files = [Path(note).name for note in notes if note.startswith("file/")]
    return {name.replace(".png", "_points.csv") for name in files}


def _made_of(path: Path, parameters: dict[str, Any], machine: dict[str, Any], outputs: Outputs, images: str) -> str:
    """Hash of a notebook's code, its parameters, images, the package, and the committed results of all profiles."""
    cells = nbformat.read(path, as_version=4).cells
    sources = [c.source for c in cells if c.cell_type == "code" and "injected" not in str(c.metadata)]
    which = {name: machine[name] for name in ("results", "data_dir", "device")}
    return digest([sources, parameters, which, outputs.name, images, _package()])


@cache
def _package() -> str:
    """Hash of all code of the package and of the committed results."""
    package = ROOT / "unlearn_utils"
    code = [as_text(bare(file.read_text(encoding="utf-8"))) for file in sorted(package.rglob("*.py"))]
    data = [*sorted(package.rglob("*.toml")), *sorted((ROOT / "figures").glob("*/results.jsonl.xz"))]
    return digest([code, [hashlib.sha256(file.read_bytes()).hexdigest() for file in data]])


def used_by(outputs: Outputs) -> list[str]:
    """``kind/key`` of all cached results that the executed notebooks of a folder noted. Raises BadInput without any."""
    notes = set()
    for path in (outputs.path / "notebooks").glob("[0-9A]*.ipynb"):
        notes |= set(nbformat.read(path, as_version=4).metadata.get(MADE, {}).get("used", "").split())
    kept = sorted(note for note in notes if "/" in note and not note.startswith("file/"))
    if not kept:
        raise BadInput(f"no notebook in {outputs.path} was executed on results that were computed here; run it first.")
    return kept


def _write_provenance(study: Study, outputs: Outputs, done: list[Executed], machine: dict[str, Any]) -> None:
    """Note how this run went; the notes on other notebooks stay."""
    import psutil

    target = outputs.file("provenance.json")
    before = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    common = {
        "commit": git("rev-parse", "HEAD"),
        "uncommitted changes": bool(git("status", "--porcelain", "--", "unlearn_utils")),
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in VERSIONS}},
        "machine": ", ".join([f"{os.cpu_count()} cores of {hardware('cpu')}", memory, *gpus]),
        "processes": machine["jobs"],
        "results": machine["results"] or "computed here",
    }
    notes = {one.name: common | {"minutes": round(one.minutes, 2)} for one in done if not one.problem}
    profile = dataclasses.asdict(dataclasses.replace(study.profile, images=None))
    profile["data"]["folder"] = Path(profile["data"]["folder"]).name  # no path of this machine
    content = {"profile": profile, "notebooks": dict(sorted((before.get("notebooks", {}) | notes).items()))}
    write(target, json.dumps(content, indent=1, default=list) + "\n")
