"""Small cells of the digits and their results, computed in this process and kept in the store."""

import tomllib
from pathlib import Path

from unlearn_utils.study import profiles
from unlearn_utils.study.cells import Cell
from unlearn_utils.study.readings import Reading
from unlearn_utils.study.readouts import READOUTS, row_of
from unlearn_utils.study.store import Store

TINY = tomllib.loads((Path(__file__).parent / "tiny.toml").read_text())["overrides"]
BY_NAME = ("logistic", "ridge", "neighbours", "mlp", "binary")  # readouts that nothing reads unless it names them
# Long enough that networks and probes tell most digits apart.
LEARNED = {"network.width": 6, "probe.epochs": 20}
LEARNED |= {f"recipes.{method}.linear.epochs": 15 for method in ("original", "retrain")}


def profile(overrides: dict) -> profiles.Profile:
    """The digits with the settings of tiny.toml and these."""
    return profiles.load("digits", TINY | overrides)


def cell(of: profiles.Profile, method: str, variant: str = "linear", forget=(3,), seed: int = 0) -> Cell:
    return Cell(of, seed, () if method in ("original", "random") else forget, method, variant)


def done(task) -> dict:
    """The result of a task, computed after what it requires where it is not in the store."""
    if (record := Store().get(task.spec)) is None:
        for needed in task.requires:
            done(needed)
        Store().put(task.spec, *task.compute("cpu"), seconds=0.0, device="cpu")
        record = Store().get(task.spec)
    return record.result


def readings_of(of: Cell) -> list[Reading]:
    """Every readout that a cell has."""
    return [Reading.of(of, name) for name, readout in READOUTS.items() if name not in BY_NAME and readout.where(of)]


def row(of: Cell, forget=(3,)) -> dict:
    """A row of all readouts that the cell has."""
    return row_of(10, {reading.name: done(reading) for reading in readings_of(of)}, forget)
