"""The command line behind ``run_all.sh``: check the options, then execute the notebooks.

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
from pathlib import Path
from typing import Any

from .paths import REFERENCE, ROOT, expanded, home
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
        prog="./run_all.sh",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Execute every notebook of the companion and regenerate every figure and table and the report.",
        epilog="Results are cached in .store/ and never computed twice; figures go to figures/local/<profile>/.",
    )
    add = made.add_argument
    add("--profile", default="digits", metavar="NAME", help=f"one of {', '.join(profiles.names())}")
    add("--only", action="append", default=[], metavar="NOTEBOOK", help="execute this notebook (repeatable)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="set a notebook parameter (repeatable), e.g. --set 'forget=[3, 5]'",
    )
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add(
        "--data-dir",
        default="",
        metavar="DIR",
        help="where a data set lies or is downloaded to, or a folder with train/<class>/ and test/<class>/",
    )
    add(
        "--batch-size",
        type=int,
        default=0,
        metavar="N",
        help="images that go through a network at once, for less memory; the recipe's batches stay",
    )
    add("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core or GPU)")
    add(
        "--cluster",
        default="",
        metavar="ADDRESS",
        help="run on the workers of a Dask scheduler, e.g. tcp://host:8786; 'local' starts one here",
    )
    add(
        "--results",
        default="",
        metavar="committed",
        help="'committed': take results from the repository, without images",
    )
    add("--force", action="store_true", help="execute every notebook again, also unchanged ones")
    add(
        "--check",
        action="store_true",
        help="draw everything from the committed results and compare it with what is committed",
    )
    add(
        "--fresh",
        action="store_true",
        help="with --check: compute the results here instead, and say by how much they differ",
    )
    add("--export", metavar="FILE", help="write the results that the executed notebooks used into one file")
    add(
        "--merge",
        action="append",
        default=[],
        metavar="FILE",
        help="add such a file to the committed results (repeatable)",
    )
    add("--carry", metavar="DIR", help="copy the Originals and Retrains, for another machine")
    add("--bring", metavar="DIR", help="take over Originals and Retrains that --carry wrote")
    add(
        "--refresh-reference",
        action="store_true",
        help="for maintainers: write the committed results, figures and notebooks",
    )
    add("--test", action="store_true", help="run the tests instead")
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
    everything = sorted(NOTEBOOKS.glob("[0-9A]*.ipynb"))
    if not everything:
        raise BadInput(
            "there are no notebooks beside this package; run it from a clone of the repository. (evaluate, for "
            "models of your own, runs anywhere: python -m unlearn_utils evaluate --help.)"
        )
    chosen = set()
    for name in only:
        wanted = name.removesuffix(".ipynb")
        match = [path for path in everything if wanted in (path.stem, path.stem.partition("_")[0])]
        if not match:
            raise BadInput(f"there is no notebook '{name}'; choose from {', '.join(p.stem for p in everything)}.")
        chosen.add(match[0])
    return [path for path in everything if path in chosen or not only]


def settings_of(given: list[str], notebooks: list[Path]) -> dict[str, Any]:
    """The ``--set`` options, checked against the kinds of the notebooks' parameters."""
    known = {key: value for path in notebooks for key, value in parameters_of(path).items()}
    settings = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or name not in known:
            raise BadInput(f"--set {item[:80]}: write NAME=VALUE with one of {', '.join(sorted(known))}.")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = text
        kind = type(known[name])
        value = [value] if kind is list and not isinstance(value, (list, tuple)) else value
        value = kind(value) if (kind, type(value)) in ((float, int), (list, tuple)) else value
        if type(value) is not kind:
            raise BadInput(f"--set {item[:80]}: {name} must be of type {kind.__name__}, like {known[name]!r}.")
        settings[name] = value
    return settings


def checked(argv: list[str]) -> tuple[argparse.Namespace, dict[Path, dict[str, Any]]]:
    """The options, and for each notebook the parameters that are not its own; ends with one sentence where they cannot be used."""
    options = parser().parse_args(argv)
    try:
        if options.test:
            raise BadInput("--test takes no other option.")
        if empty := [name for name in ("export", "merge", "carry", "bring") if getattr(options, name) in ("", [""])]:
            raise BadInput(f"--{empty[0]} names nothing; name a file or folder, or leave it out.")
        if options.results not in ("", "committed"):
            raise BadInput(f"--results is '{options.results}', but it must be 'committed', or left out.")
        if options.batch_size < 0:
            raise BadInput(f"--batch-size is {options.batch_size}, but it must be a number of images, or 0 for all.")
        if (options.refresh_reference or options.check) and (options.settings or options.batch_size):
            raise BadInput("--check and --refresh-reference take a profile as it is; leave out --set and --batch-size.")
        if options.fresh and not options.check:
            raise BadInput("--fresh goes with --check.")
        home()
        notebooks = chosen_notebooks(options.only)
        changed = {"profile": options.profile} | settings_of(options.settings, notebooks)
        if not all(type(seed) is int for seed in changed.get("seeds", [])):
            raise BadInput(f"--set seeds is {changed['seeds']!r}, but it must be a list of whole numbers, like [0, 1].")
        options.data_dir = str(expanded(options.data_dir).resolve()) if options.data_dir else ""
        if options.batch_size:
            changed["overrides"] = {"network.images_per_pass": options.batch_size} | changed.get("overrides", {})
        own = {path: parameters_of(path) for path in notebooks}
        usual = changed["profile"] == parser().get_default("profile")
        given = {
            path: {key: value for key, value in changed.items() if own[path].get(key, value) != value}
            for path in notebooks
            if usual or options.only or "profile" in own[path]
        }
        if unused := [name for name in changed if name != "profile" and not any(name in own[path] for path in given)]:
            raise BadInput(f"no notebook that would run has a parameter {unused[0]}.")
        options.profile, options.overrides = changed["profile"], changed.get("overrides", {})
        profiles.load(
            options.profile,
            {k: v for k, v in options.overrides.items() if k != "recipes"},
            options.data_dir,
            options.overrides.get("recipes", ""),
        )
        options.forget, options.seeds = changed.get("forget", []), changed.get("seeds", [])
    except BadInput as problem:
        sys.exit(f"run_all.sh: {problem}")
    return options, given


def main() -> int:
    if sys.argv[1:2] == ["evaluate"]:
        from .shell import command  # other people's models

        return command(sys.argv[2:])
    options, given = checked(sys.argv[1:])
    os.environ["UNLEARN_HOME"] = str(home())  # where a relative one counts from is this folder, not a notebook's
    if options.refresh_reference:
        os.environ[REFERENCE] = "drawn" if options.results else options.profile
    try:
        return work(options, given)
    except BadInput as problem:
        sys.exit(f"run_all.sh: {problem}")
    except KeyboardInterrupt:
        print("\nrun_all.sh: interrupted; run it again to go on, what is cached stays.", file=sys.stderr)
        return 130


def work(options: argparse.Namespace, given: dict[Path, dict[str, Any]]) -> int:
    from .study import exchange, run  # need torch
    from .study.study import Study
    from .views.check import compared
    from .views.report import write_report

    results = "committed" if options.check and not options.fresh else options.results
    machine = {
        "device": options.device,
        "jobs": options.jobs,
        "cluster": options.cluster,
        "results": results,
        "data_dir": options.data_dir,
    }
    study = Study(options.profile, options.forget, options.seeds, options.overrides, **machine)
    machine["jobs"] = study.machine.jobs
    if options.export or options.merge or options.carry or options.bring:
        return exchange.exchange(study, options)
    failed = run.run(study, given, machine, options.force or options.refresh_reference or options.check, write_report)
    if options.refresh_reference and not failed and not results:
        exchange.refresh(study, bool(options.only))
    return failed or (compared(study, options.fresh) if options.check else 0)


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
        sys.exit(f"run_all.sh: {reason.strerror}; make room and run again, what is cached stays.")


if __name__ == "__main__":
    sys.exit(run_from_a_shell())
