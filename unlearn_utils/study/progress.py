"""How far it is: one bar where somebody looks on, plain lines in a log, nothing that is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

QUIET = "UNLEARN_QUIET"  # set by a command for the notebooks that it executes: nobody looks on there


def in_a_notebook() -> bool:
    """Whether this process is the kernel of a notebook, on this machine or on somebody's server."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def bar(things: Iterable | None = None, **options: Any) -> tqdm:
    """A bar in a notebook or on a terminal, which goes when it is closed; a disabled one where nobody looks on."""
    cell = in_a_notebook()
    unseen = bool(os.environ.get(QUIET)) or not (cell or sys.stderr.isatty())
    # In a cell the plain form: a widget leaves a broken one in the file, and what goes to stderr looks like an error.
    place = {"file": sys.stdout, "ncols": 100} if cell else {"file": sys.stderr}
    return tqdm(things, disable=unseen, leave=False, **place, **options)


def tracked(things: Iterable, what: str, total: int) -> tqdm:
    """The things, one after the other, under a bar; ``total`` 0 where nobody knows how many they are."""
    return bar(things, total=total or None, desc=what)


class Progress:
    """Of a sweep: a bar where somebody looks on, one plain line for each batch in a log."""

    def __init__(self, total: int):
        self.total, self.count = total, 0
        self.bar = bar(total=total, unit="task")

    def done(self, line: str, count: int = 1) -> None:
        self.count += count
        if self.bar.disable and not in_a_notebook():
            print(f"[{self.count}/{self.total}] {line}", flush=True)
        self.bar.set_postfix_str(line[:40], refresh=False)
        self.bar.update(count)
