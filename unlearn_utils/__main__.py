"""The command line behind ``run_all.sh``: check everything, compute what is missing, execute the notebooks.

Only the standard library is imported until the command is known to be sound, so that a typing error costs no
time and ``--help`` works before anything is installed.
"""

from __future__ import annotations

import argparse
import ast
import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from .paths import ROOT, expanded, home
from .settings import BadInput
from .study import profiles

NOTEBOOKS = ROOT / "notebooks"


class Parser(argparse.ArgumentParser):
    """Refuses with one sentence that lists the options."""

    def error(self, message: str) -> None:
        options = ", ".join(option for action in self._actions for option in action.option_strings)
        sys.exit(f"run_all.sh: {message}; the options are {options}.")


def parser() -> argparse.ArgumentParser:
    made = Parser(
        prog="./run_all.sh", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run every notebook of the companion and regenerate every figure and table and the report.",
        epilog="Results are stored in .store/ and never computed twice; figures go to figures/<profile>/.",
    )
    made.add_argument("--profile", default="digits", metavar="NAME", help=f"one of {', '.join(profiles.names())}")
    made.add_argument("--only", action="append", default=[], metavar="NOTEBOOK", help="run this notebook (repeatable)")
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
                      help="set a notebook parameter (repeatable), e.g. --set 'forget_sets=[[3]]'")
    made.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    made.add_argument("--data-dir", default="", metavar="DIR",
                      help="where a data set lies or is downloaded to, or a folder with train/<class>/ and test/<class>/")
    made.add_argument("--batch-size", type=int, default=0, metavar="N",
                      help="images that go through a network at once, for less memory; the recipe's batches stay")
    made.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core or GPU)")
    made.add_argument("--cluster", default="", metavar="ADDRESS",
                      help="run on the workers of a Dask scheduler, e.g. tcp://host:8786; 'local' starts one here")
    made.add_argument("--results", default="", metavar="committed",
                      help="'committed': take results from the profile's result pack, without images; a section that "
                           "looks into a model trains it where that is quick, or is left out")
    made.add_argument("--force", action="store_true", help="compute everything again")
    made.add_argument("--list", action="store_true", help="show what would run, and the time")
    made.add_argument("--export", metavar="FILE", help="write what is stored of this study into a result pack")
    made.add_argument("--merge", action="append", default=[], metavar="FILE",
                      help="add another machine's result pack to this profile's (repeatable; the first result stays)")
    made.add_argument("--carry", metavar="DIR", help="copy the Originals and Retrains, for another machine")
    made.add_argument("--bring", metavar="DIR", help="take over Originals and Retrains that --carry wrote")
    made.add_argument("--refresh-reference", action="store_true",
                      help="for maintainers: write the result pack and, of the notebooks' own profile, the outputs in notebooks/")
    made.add_argument("--test", action="store_true", help="run the tests instead")
    return made


def parameters_of(notebook: Path) -> dict[str, Any]:
    """The names and default values in a notebook's parameters cell."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        source = next("".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", []))
        return {
            statement.targets[0].id: ast.literal_eval(statement.value)
            for statement in ast.parse(source).body
            if isinstance(statement, ast.Assign)
        }
    except (ValueError, KeyError, SyntaxError, StopIteration):
        raise BadInput(
            f"notebook {notebook.name} cannot be run from here: it needs a cell with the tag 'parameters' that holds "
            "lines of the form NAME = VALUE; give it one, or move it out of notebooks/."
        ) from None


def chosen_notebooks(only: list[str]) -> list[Path]:
    """All notebooks, or those named (with or without ending; the number alone will do)."""
    everything = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if not everything:
        raise BadInput("there are no notebooks beside this package; run it from a clone of the repository. (evaluate, for "
                       "models of your own, runs anywhere: python -m unlearn_utils evaluate --help.)")
    if not only:
        return everything
    chosen = set()
    for name in only:
        wanted = name.removesuffix(".ipynb")
        match = [path for path in everything if wanted in (path.stem, path.stem.partition("_")[0])]
        if not match:
            raise BadInput(f"there is no notebook '{name}'; choose from {', '.join(p.stem for p in everything)}.")
        chosen.add(match[0])
    return [path for path in everything if path in chosen]


def settings_of(given: list[str], notebooks: list[Path]) -> dict[str, Any]:
    """The ``--set`` options, checked against the notebooks' parameters and their types."""
    known = {key: value for path in notebooks for key, value in parameters_of(path).items()}
    settings = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise BadInput(f"--set {item} must have the form NAME=VALUE.")
        if name not in known:
            raise BadInput(f"there is no notebook parameter '{name}'; choose from {', '.join(sorted(known))}.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = text
        kind = type(known[name])
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise BadInput(f"--set {item[:80]}: {name} must be of type {kind.__name__}, like {known[name]!r}.")
        settings[name] = value
    return settings


def parameters(options: argparse.Namespace, notebooks: list[Path]) -> dict[Path, dict[str, Any]]:
    """The parameters that each notebook will get, only where they differ from its own defaults."""
    common = {
        "results": options.results, "profile": options.profile, "device": options.device, "jobs": options.jobs,
        "data_dir": options.data_dir,
    }
    changed = common | settings_of(options.settings, notebooks)
    if changed["data_dir"]:  # counts from here; a notebook runs in its own folder
        changed["data_dir"] = str(expanded(changed["data_dir"]).resolve())
    if options.batch_size < 0:
        raise BadInput(f"--batch-size is {options.batch_size}, but it must be a number of images, or 0 for all.")
    if options.batch_size:
        changed["overrides"] = {"network.images_per_pass": options.batch_size} | changed.get("overrides", {})
    profiles.load(changed["profile"], changed.get("overrides"), changed["data_dir"], changed.get("hyperparameters", ""))
    own = {path: parameters_of(path) for path in notebooks}
    return {
        path: {key: value for key, value in changed.items() if key in own[path] and own[path][key] != value}
        for path in notebooks
    }


def checked(argv: list[str]) -> tuple[argparse.Namespace, dict[Path, dict[str, Any]]]:
    """The options and the parameters of each notebook; ends with one sentence where they cannot be used."""
    options = parser().parse_args(argv)
    try:
        if options.test:
            raise BadInput("--test takes no other option.")
        if empty := [name for name in ("export", "merge", "carry", "bring") if getattr(options, name) in ("", [""])]:
            raise BadInput(f"--{empty[0]} names nothing; name a file or folder, or leave it out.")
        home()
        given = parameters(options, chosen_notebooks(options.only))
        if options.results not in ("", "committed"):
            raise BadInput(f"--results is '{options.results}', but it must be 'committed', or left out.")
        changed = {name for values in given.values() for name in values}
        if options.refresh_reference and changed - {"profile", "data_dir", "jobs", "device"}:
            raise BadInput("--refresh-reference takes a profile's own parameters; leave out --set, --results, --batch-size.")
    except BadInput as problem:
        sys.exit(f"run_all.sh: {problem}")
    return options, given


def main() -> int:
    if sys.argv[1:2] == ["evaluate"]:
        from .evaluation import command  # other people's models

        return command(sys.argv[2:])
    started = time.time()
    options, given = checked(sys.argv[1:])
    os.environ["UNLEARN_HOME"] = str(home())  # where a relative one counts from is this folder, not a notebook's
    try:
        from .study import machine, running, sweep  # need torch

        if options.cluster:
            os.environ[machine.CLUSTER] = options.cluster
        whole = running.Whole.of({path: parameters_of(path) | values for path, values in given.items()})
        if options.export or options.merge or options.carry or options.bring:
            return running.exchange(whole, options)
        if options.list:
            whole.show()
            return 0
        if options.force:
            whole.forget()
        from .views.report import write_report

        return running.run(whole, given, options, started, write_report)
    except BadInput as problem:
        sys.exit(f"run_all.sh: {problem}")
    except OSError as problem:
        if problem.errno in (errno.EPIPE, errno.ENOSPC):
            raise
        sys.exit(f"run_all.sh: {sweep.reason(problem)}.")
    except KeyboardInterrupt:
        print("\nrun_all.sh: interrupted; run it again to go on, what is stored stays.", file=sys.stderr)
        return 130


def run_from_a_shell() -> int:
    """``main``, whose output may go to a pipe that is closed (it ends quietly) or to a full disk (with a sentence)."""
    try:
        try:
            return main()
        finally:
            print(end="", flush=True)
    except OSError as reason:
        if reason.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what is written when Python ends
        if reason.errno == errno.EPIPE:
            return 1
        sys.exit(f"run_all.sh: {reason.strerror}; make room and run again, what is stored stays.")


if __name__ == "__main__":
    sys.exit(run_from_a_shell())
