"""``./run_all.sh --check``: is what is drawn here what is committed, and by how much does it differ?"""

from pathlib import Path

import pandas as pd

from ..paths import ROOT
from ..study.run import drawn_by
from ..study.study import Study

NOISE = 1e-6  # rounding of what is written with six digits
TRAINED = ("by_hand_points.csv", "own_method.csv")  # of models that notebooks 02 and 06 train while they draw


def compared(study: Study, fresh: bool, executed: list[str], some: bool = False) -> int:
    """Print each table of numbers that differs from the committed one; 1 if one does, and the run was not ``fresh``.

    Tables of models that a notebook trains may differ, since a processor acts like a seed. ``executed`` are the names
    of the notebooks; where they are only ``some``, what the others draw is not compared.
    """
    here, committed = study.outputs.path, ROOT / "figures" / study.profile.name
    drawn = set().union(*(drawn_by(here / "notebooks" / name) for name in executed))
    names = {path.name for path in committed.glob("*.csv")} - {"tuning.csv"}
    places = {name: here / name if name in drawn else None for name in sorted(names & drawn if some else names)}
    found = {name: difference(committed / name, place) for name, place in places.items()}
    table = pd.DataFrame(found.values(), found, ["difference", "note"])
    trained = table.index.isin(TRAINED) & table.note.eq("") & (table.difference > NOISE)
    table.loc[trained, "note"] = "of models trained here"
    apart = table[(table.difference > NOISE) | table.note.ne("")]
    print(f"\n{len(table)} tables compared with the committed ones, {len(apart)} differ.")
    if len(apart):
        print(apart.to_string())
    if fresh and (path := here / "measurements.csv").exists():
        print(another_seed(pd.read_csv(path), pd.read_csv(committed / "measurements.csv")))
    return int(len(apart) > trained.sum() and not fresh)


def difference(committed: Path, here: Path | None) -> tuple[float, str]:
    """Largest absolute difference of two tables of numbers, in their own unit, and what else differs."""
    if not here or not here.exists():
        return 0.0, "not drawn here"
    old, new = pd.read_csv(committed), pd.read_csv(here)
    if not old.columns.equals(new.columns) or len(old) != len(new):
        return 0.0, "other rows or columns"
    numbers = old.select_dtypes("number").columns
    notes = [f"text in {name}" for name in old.columns.difference(numbers) if not old[name].equals(new[name])]
    notes += [f"missing numbers in {name}" for name in numbers if not old[name].isna().equals(new[name].isna())]
    return (old[numbers] - new[numbers]).abs().max().max(), ", ".join(notes)


def another_seed(here: pd.DataFrame, committed: pd.DataFrame) -> str:
    """By how many points means over forget sets differ here, next to what another seed changes in Retrain."""
    columns = ["output_forget", "probe_forget", "ncc_forget", "output_retain"]
    ours, theirs = (100 * rows.groupby("model")[columns].mean() for rows in (here, committed))
    one, other = (committed[committed.method == name].groupby("forget") for name in ("retrain_again", "retrain"))
    seeds = 100 * (one[columns].mean() - other[columns].mean()).mean().abs()
    apart = (ours - theirs).abs()
    table = {"median": apart.median(), "largest": apart.max(), "model": apart.idxmax()}
    return pd.DataFrame(table | {"another seed of Retrain": seeds}).round(2).rename_axis("points").to_string()
