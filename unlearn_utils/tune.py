"""The search that chose the learning rates of a profile: ``python -m unlearn_utils.tune PROFILE``.

The rule and the candidates stand in the profile's ``[tuning]``. The table of all candidates is written to
``figures/<profile>/tuning.csv``; the winners are put into the profile by hand.
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from . import profiles
from .cells import Cell, Trained, stored
from .profiles import BadInput, Profile
from .sweep import Machine, run
from .tables import folder, write


def candidates(name: str, data_dir: str) -> list[tuple[str, str, float, Cell]]:
    """(method, variant, rate, cell) of every model of the search, on held-out training images."""
    listed = []
    profile = profiles.load(name, data_dir=data_dir)
    for method, variants in profile.recipes.items():
        for variant in variants:
            if method in ("original", "retrain"):
                continue
            for rate in profile.tuning[variant]:
                changed = {"data.evaluate_on": "validation", f"recipes.{method}.{variant}.lr": rate}
                search = profiles.load(name, changed, data_dir)
                for seed, forget in search.pairs(profile.tuning["seeds"], profile.tuning["forget_sets"]):
                    listed.append((method, variant, rate, Cell(search, seed, forget, method, variant)))
    return listed


def held_out(cell: Cell, forget: tuple[int, ...]) -> tuple[float, float]:
    """Held-out (retain, forget) accuracy of the model's output."""
    accuracy = pd.Series(stored(Trained(cell)).result["history"][-1]["test_accuracy"])
    forgotten = accuracy.index.isin(forget)
    return accuracy[~forgotten].mean(), accuracy[forgotten].mean()


def score(cell: Cell) -> dict[str, float]:
    """The cell's accuracies, and the retain accuracy that it costs against its original."""
    retain, forget = held_out(cell, cell.forget)
    original, _ = held_out(Cell(cell.profile, cell.seed, (), "original"), cell.forget)
    return {"retain": retain, "forget": forget, "cost": original - retain}


def winner(rows: pd.DataFrame, tolerance: float) -> int:
    """Index of the winning row by the profile's rule; ties go to the smaller rate."""
    kept = rows[rows.cost <= tolerance]
    if kept.empty:
        return rows.sort_values(["cost", "lr"]).index[0]
    return kept.sort_values(["forget", "lr"]).index[0]


def table(name: str, data_dir: str, machine: Machine) -> pd.DataFrame:
    """One row per method, variant and rate: mean accuracies over the search's cells, and whether it won."""
    listed = candidates(name, data_dir)
    run([Trained(cell) for *_, cell in listed], machine)
    rows = [{"method": m, "variant": v, "lr": rate, **score(cell)} for m, v, rate, cell in listed]
    means = pd.DataFrame(rows).groupby(["method", "variant", "lr"], sort=False).mean().reset_index().round(6)
    tolerance = profiles.load(name).tuning["tolerance"]
    winners = [winner(rows, tolerance) for _, rows in means.groupby(["method", "variant"], sort=False)]
    means["chosen"] = means.index.isin(winners)
    return means


def disagreements(profile: Profile, means: pd.DataFrame) -> list[str]:
    """Recipes whose rate is not the winner's."""
    chosen = means[means.chosen]
    return [
        f"{row.method}.{row.variant}: the profile has {profile.recipe(row.method, row.variant).lr}, the search {row.lr}"
        for row in chosen.itertuples()
        if profile.recipe(row.method, row.variant).lr != row.lr
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m unlearn_utils.tune", description=__doc__)
    parser.add_argument("profile")
    parser.add_argument("--data-dir", default="")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=0)
    options = parser.parse_args()
    try:
        profile = profiles.load(options.profile, data_dir=options.data_dir)
        means = table(options.profile, options.data_dir, Machine.choose(options.device, options.jobs))
    except BadInput as problem:
        sys.exit(f"tune: {problem}")
    write(folder(options.profile) / "tuning.csv", means.round(4).to_csv(index=False))
    print(means.round(4).to_string(index=False))
    differing = disagreements(profile, means)
    print("\n".join(differing) or "Every rate of the profile is the winner of its search.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
