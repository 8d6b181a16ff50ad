"""How far it is: one bar with the time left where somebody looks on, plain lines in a log, nothing that is kept."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, Iterable

from tqdm import tqdm

QUIET = "UNLEARN_QUIET"  # set by a command for the notebooks that it executes: nobody looks on there
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, where another package asks it for a widget


def in_a_notebook() -> bool:
    """Whether this process is the kernel of a notebook, on this machine or on somebody's server."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class Place:
    """One place of a cell's output that shows the last line written to it. Every front end knows how; empty at the end."""

    def __init__(self):
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        shown = text.strip()
        self.handle.update({"text/plain": shown} if shown else {}, raw=True)

    def flush(self) -> None:
        """What is written is shown at once."""


def bar(total: int | None, **options: Any) -> tqdm | None:
    """A bar in a notebook or on a terminal, which goes when it is closed; None where nobody looks on."""
    if os.environ.get(QUIET):
        return None
    if in_a_notebook():  # the plain form: a widget leaves a broken one in the saved notebook
        return tqdm(total=total, file=Place(), ncols=100, **{**options, "leave": False})
    return tqdm(total=total, **options) if sys.stderr.isatty() else None


def tracked(things: Iterable, what: str, total: int) -> Iterable:
    """The things, one after the other, under a bar; ``total`` 0 where nobody knows how many they are."""
    shown = bar(total or None, desc=what, leave=False)
    try:
        for thing in things:
            yield thing
            if shown is not None:
                shown.update()
    finally:
        if shown is not None:
            shown.close()


class Progress:
    """Of a sweep: a bar where somebody looks on, one plain line per task in a log."""

    def __init__(self, total: int):
        self.total, self.count = total, 0
        self.bar = bar(total, unit="task")
        self.log = self.bar is None and not in_a_notebook()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()

    def done(self, line: str, count: int = 1) -> None:
        self.count += count
        if self.log:
            print(f"[{self.count}/{self.total}] {line}", flush=True)
        if self.bar is None:
            return
        if line.startswith("FAILED") and not in_a_notebook():  # which shows all that failed at the end
            self.bar.write(line)
        self.bar.set_postfix_str(line[:40 if in_a_notebook() else 60], refresh=False)
        self.bar.update(count)
