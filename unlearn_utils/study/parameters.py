"""The parameters of notebooks: what kind each of them is, and in which range. They are checked here alone.

Only the standard library is needed, so that a typing error on the command line costs no time.
"""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import dataclass, make_dataclass
from typing import Any, Literal, get_origin

from ..settings import BadInput, read_table


@dataclass(frozen=True)
class Options:
    """The parameter ``machine``: what is not the experiment."""

    device: str = "auto"  # or "cpu", "cuda", "cuda:1"
    jobs: int = 0  # processes; 0: one per core or GPU
    cluster: str = ""  # "local", or the address of a Dask scheduler
    results: Literal["", "committed"] = ""  # "committed": the profile's committed results, which need no images
    data_dir: str = ""  # where the images lie


KINDS = {  # the names of numbers have their ranges in ``settings``
    "profile": str, "example": str, "method": str, "methods": list[str], "models": list[str], "forget": list,
    "seeds": list[int], "shots": list[int], "draws": int, "widths": list[int], "gamma": float, "epochs": int,
    "rate": float, "overrides": dict, "machine": Options,
}  # fmt: skip


def read(name: str, value: Any, default: Any = None) -> Any:
    """A parameter as its kind; of one that a notebook alone has it is that of its ``default``.

    One value stands for a list of one, and text may hold a list, a table or a number. What classes a profile has is
    checked where they are looked up. Raises BadInput for another kind, or a number out of range.
    """
    kind = KINDS.get(name, type(default))
    if isinstance(value, str) and (value.startswith(("[", "(")) if name == "forget" else kind is not str):
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = ast.literal_eval(value)
    if list in (kind, get_origin(kind)):
        value = list(value) if isinstance(value, (list, tuple, set, range)) else [value]
    if value == [] or name == "forget":
        return value
    if name in KINDS:
        found = read_table(make_dataclass("Parameters", [(name, kind)]), {name: value}, "parameters: ")
        return value if name == "machine" else getattr(found, name)
    value = float(value) if (kind, type(value)) == (float, int) else value
    if type(value) is not kind:
        raise BadInput(f"parameter {name} is {value!r:.80}, but it must be of type {kind.__name__}, like {default!r}.")
    return value
