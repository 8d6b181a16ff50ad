"""How far it is: one bar with the time left where somebody looks on, plain lines in a log, nothing that is kept."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

QUIET = "UNLEARN_QUIET"  # set by a command for the notebooks that it executes: nobody looks on there
warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, where another package asks it for a widget


def in_a_notebook() -> bool:
    """Whether this process is the kernel of a notebook, on this machine or on somebody's server."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


class _Place:
    """One place of a cell's output that shows the last line written to it, as every front end can; empty at the end."""

    def __init__(self):
        from IPython.display import display

        self.handle = display({"text/plain": ""}, raw=True, display_id=True)

    def write(self, text: str) -> None:
        self.handle.update({"text/plain": text.strip()} if text.strip() else {}, raw=True)

    def flush(self) -> None:
        """What is written is shown at once."""


def bar(total: int | None, leave: bool = True, **options: Any) -> tqdm:
    """A bar in a notebook or on a terminal, which goes when it is closed; a disabled one where nobody looks on."""
    if in_a_notebook() and not os.environ.get(QUIET):  # the plain form: a widget leaves a broken one in the file
        return tqdm(total=total, file=_Place(), ncols=100, leave=False, **options)
    unseen = bool(os.environ.get(QUIET)) or not sys.stderr.isatty()
    return tqdm(total=total, disable=unseen, leave=leave, **options)


def tracked(things: Iterable, what: str, total: int) -> Iterator:
    """The things, one after the other, under a bar; ``total`` 0 where nobody knows how many they are."""
    with bar(total or None, leave=False, desc=what) as shown:
        for thing in things:
            yield thing
            shown.update()


class Progress:
    """Of a sweep: a bar where somebody looks on, one plain line per task in a log."""

    def __init__(self, total: int):
        self.total, self.count = total, 0
        self.bar = bar(total, unit="task")

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def done(self, line: str, count: int = 1) -> None:
        self.count += count
        if self.bar.disable and not in_a_notebook():
            print(f"[{self.count}/{self.total}] {line}", flush=True)
        elif line.startswith("FAILED") and not in_a_notebook():  # which shows all that failed at the end
            self.bar.write(line)
        self.bar.set_postfix_str(line[:40], refresh=False)
        self.bar.update(count)
