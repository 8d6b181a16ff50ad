"""``./run_all.sh --check``: is what is drawn here what is committed, and by how much does it differ?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..paths import ROOT
from ..study.study import Study

NOISE = 1e-6  # rounding of what is written with six digits


def compared(study: Study, fresh: bool) -> int:
    """Print every table of numbers that differs from the committed one; 1 if one does, and the run was not ``fresh``."""
    here, committed = study.outputs.path, ROOT / "figures" / study.profile.name
    lines = [
        {"table": path.name, **difference(path, here / path.name)}
        for path in sorted(committed.glob("*.csv"))
        if path.name not in ("tuning.csv", "headroom.csv")
    ]
    table = pd.DataFrame(lines).set_index("table")
    apart = table[(table.difference > NOISE) | table.note.ne("")]
    print(f"\n{len(table)} tables compared with the committed ones, {len(apart)} differ.")
    if len(apart):
        print(apart.to_string())
    if fresh and (path := here / "measurements.csv").exists():
        print(another_seed(pd.read_csv(path), pd.read_csv(committed / "measurements.csv")))
        return 0
    return int(len(apart) > 0)


def difference(committed: Path, here: Path) -> dict[str, object]:
    """Largest absolute difference of two tables of numbers, in their own unit, and what else differs."""
    if not here.exists():
        return {"difference": 0.0, "note": "not drawn here"}
    old, new = pd.read_csv(committed), pd.read_csv(here)
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        return {"difference": 0.0, "note": "other rows or columns"}
    numbers = old.select_dtypes("number").columns
    words = [c for c in old if c not in numbers and (old[c].fillna("") != new[c].fillna("")).any()]
    largest = (old[numbers] - new[numbers]).abs().max().max()
    gone = (old[numbers].isna() != new[numbers].isna()).any().any()
    note = ", ".join(filter(None, [f"text in {', '.join(words)}" if words else "", "missing numbers" if gone else ""]))
    return {"difference": 0.0 if pd.isna(largest) else largest, "note": note}


def another_seed(here: pd.DataFrame, committed: pd.DataFrame) -> str:
    """By how many points means over forget sets differ here, next to what another seed changes in Retrain."""
    lines = []
    for column in ("output_forget", "probe_forget", "ncc_forget", "output_retain"):
        apart = 100 * (here.groupby("model")[column].mean() - committed.groupby("model")[column].mean()).abs()
        by_set = committed.pivot_table(index="forget", columns="method", values=column)
        seed = (
            100 * abs((by_set["retrain_again"] - by_set["retrain"]).mean())
            if "retrain_again" in by_set
            else float("nan")
        )
        lines.append(
            {
                "points": column,
                "median": apart.median(),
                "largest": apart.max(),
                "model": apart.idxmax(),
                "another seed of Retrain": seed,
            }
        )
    return pd.DataFrame(lines).round(2).to_string(index=False)
