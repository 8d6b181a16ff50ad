"""The command line behind ``run_all.sh``: check the options, then execute the notebooks.

Only the standard library is imported until the command is known to be sound, so that a typing error costs no
time and ``--help`` works before anything is installed.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

from .paths import REFERENCE, ROOT, expanded, home
from .settings import BadInput
from .study import parameters, profiles

NOTEBOOKS = ROOT / "notebooks"


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it names nothing; name a file or folder, or leave it out")
    return text


def number(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError("it must be 0 or more")
    return int(text)


REPEATED = {"action": "append", "default": []}
SWITCH = {"action": "store_true"}
OPTIONS = [  # name, what it takes, help
    ("profile", {"default": "digits", "metavar": "NAME"}, f"one of {', '.join(profiles.names())}"),
    ("only", {**REPEATED, "metavar": "NOTEBOOK"}, "execute this notebook (repeatable)"),
    ("set", {**REPEATED, "metavar": "NAME=VALUE"}, "set a notebook parameter (repeatable), e.g. --set 'forget=[3, 5]'"),
    ("device", {"default": "auto"}, "auto (default), cpu, cuda or cuda:N"),
    ("data-dir", {"default": "", "metavar": "DIR"}, "a folder with train/<class>/ and test/<class>/, or for downloads"),
    ("batch-size", {"type": number, "default": 0}, "images that go through a network at once, for less memory"),
    ("jobs", {"type": number, "default": 0}, "processes (default: one per core or GPU)"),
    ("cluster", {"default": "", "metavar": "ADDRESS"}, "of a Dask scheduler (tcp://host:8786); 'local' starts one"),
    ("results", {"default": "", "choices": ["", "committed"]}, "'committed': from the repository, without images"),
    ("force", SWITCH, "execute every notebook again, also unchanged ones"),
    ("check", SWITCH, "draw everything from the committed results and compare it with what is committed"),
    ("fresh", SWITCH, "with --check: compute the results here instead, and say by how much they differ"),
    ("export", {"type": _named, "metavar": "FILE"}, "write the results that the executed notebooks used into one file"),
    ("merge", {**REPEATED, "type": _named, "metavar": "FILE"}, "add such a file to the committed results (repeatable)"),
    ("carry", {"type": _named, "metavar": "DIR"}, "copy the Originals and Retrains, for another machine"),
    ("bring", {"type": _named, "metavar": "DIR"}, "take over Originals and Retrains that --carry wrote"),
    ("refresh-reference", SWITCH, "for maintainers: write the committed results, figures and notebooks"),
    ("test", SWITCH, "run the tests instead"),
]


class Parser(argparse.ArgumentParser):
    """Takes ``OPTIONS``; refuses with one sentence that lists them."""

    def __init__(self):
        super().__init__(
            prog="./run_all.sh",
            allow_abbrev=False,
            description="Execute every notebook of the companion and regenerate every figure and table and the report.",
            epilog="Results are cached in .store/ and never computed twice; figures go to figures/local/<profile>/.",
        )
        for name, takes, told in OPTIONS:
            self.add_argument(f"--{name}", help=told, **takes)

    def error(self, message: str) -> None:
        sys.exit(f"run_all.sh: {message}; the options are {', '.join(f'--{name}' for name, *_ in OPTIONS)}.")


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
    known = {name: path for path in everything for name in (path.stem, path.name, path.stem.partition("_")[0])}
    if unknown := [name for name in only if name not in known]:
        raise BadInput(f"there is no notebook '{unknown[0]}'; choose from {', '.join(p.stem for p in everything)}.")
    return sorted({known[name] for name in only}) or everything


def settings_of(given: list[str], own: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    """The ``--set`` options as the kinds of the notebooks' parameters."""
    known, settings = {name: value for defaults in own.values() for name, value in defaults.items()}, {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or name not in known:
            raise BadInput(f"--set {item[:80]}: write NAME=VALUE with one of {', '.join(sorted(known))}.")
        settings[name] = parameters.read(name, text, known[name])
    return settings


def checked(argv: list[str]) -> tuple[argparse.Namespace, dict[Path, dict[str, Any]]]:
    """The options, and by notebook the parameters that are not its own; ends with a sentence on what cannot be used."""
    options = Parser().parse_args(argv)
    try:
        return options, _given(options)
    except BadInput as problem:
        sys.exit(f"run_all.sh: {problem}")


def _given(options: argparse.Namespace) -> dict[Path, dict[str, Any]]:
    """The parameters by notebook; ``options`` get forget sets, seeds and overrides."""
    if options.test:
        raise BadInput("--test takes no other option.")
    if (options.refresh_reference or options.check) and (options.set or options.batch_size):
        raise BadInput("--check and --refresh-reference take a profile as it is; leave out --set and --batch-size.")
    if options.fresh and (not options.check or options.results):
        raise BadInput("--fresh goes with --check, and computes all: leave out --results.")
    home()
    own = {path: parameters_of(path) for path in chosen_notebooks(options.only)}
    changed = {"profile": options.profile} | settings_of(options.set, own)
    if options.batch_size:
        changed["overrides"] = {"network.images_per_pass": options.batch_size} | changed.get("overrides", {})
    usual = changed["profile"] == "digits"
    given = {
        path: {
            name: value for name, value in _named_as(changed, defaults).items() if defaults.get(name, value) != value
        }
        for path, defaults in own.items()
        if usual or options.only or "profile" in defaults
    }
    if unused := [name for name in changed if name != "profile" and not any(name in own[path] for path in given)]:
        raise BadInput(f"no notebook that would run has a parameter {unused[0]}.")
    options.data_dir = str(expanded(options.data_dir).resolve()) if options.data_dir else ""
    options.profile, options.overrides = changed["profile"], changed.get("overrides", {})
    options.forget, options.seeds = changed.get("forget", []), changed.get("seeds", [])
    profiles.load(options.profile, options.overrides, options.data_dir)
    return given


def _named_as(changed: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The changed parameters under a notebook's own names: one about models of one's own has a profile as example."""
    if "example" not in defaults or "example" in changed:
        return changed
    return {"example" if name == "profile" else name: value for name, value in changed.items()}


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

    if options.merge:
        exchange.merge(options.profile, options.merge)
        if not (options.export or options.carry or options.bring):
            return 0
    machine = {name: getattr(options, name) for name in ("device", "jobs", "cluster", "results", "data_dir")}
    if options.check and not options.fresh:
        machine["results"] = "committed"
    study = Study(options.profile, options.forget, options.seeds, options.overrides, **machine)
    machine["jobs"] = study.machine.jobs
    if options.export or options.carry or options.bring:
        exchange.exchange(study, options)
        return 0
    failed = run.run(study, given, machine, options.force or options.refresh_reference or options.check, write_report)
    if options.refresh_reference and not failed and not machine["results"]:
        exchange.refresh(study, bool(options.only))
    executed = [path.name for path in given]
    return failed or (compared(study, options.fresh, executed, bool(options.only)) if options.check else 0)


if __name__ == "__main__":
    sys.exit(main())
