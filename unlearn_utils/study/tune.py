"""The search that chose the learning rates (SVD: its alpha) of a profile: ``python -m unlearn_utils.study.tune NAME``.

The rule and the candidates stand in the profile's ``[tuning]``. The table of all candidates is written to
``figures/<profile>/tuning.csv``; the winners are put into the profile by hand.
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from ..methods import METHODS
from ..paths import Outputs, write
from ..settings import BadInput
from . import profiles
from .cells import Cell, images_of, stored
from .machine import Machine
from .profiles import Profile
from .readings import Reading
from .readouts import row_of
from .sweep import Failure, run
from .variants import VARIANTS, recipe_of

READ = ("output", "probe", "ncc")
MODEL = ["method", "variant", "setting", "value"]  # what names a candidate


def candidates(name: str, data_dir: str) -> list[tuple[str, str, str, float, Cell]]:
    """(method, variant, setting, value, cell) of every model of the search, on held-out training images.

    The unlearning methods vary their learning rate over the profile's candidates; those of ``[tuning.<method>]``, and
    the ``setting`` there, take their place, and a closed form has only its own.
    """
    profile = profiles.load(name, data_dir=data_dir)
    profiles.check_names(profile, METHODS, VARIANTS)
    if not profile.tuning:
        raise BadInput(f"profile '{name}' has no [tuning]: its rates are the authors', and nothing is searched.")
    listed = []
    for method, variant in ((m, v) for m, variants in profile.recipes.items() for v in variants):
        own = profile.tuning.get(method, {})
        values = own.get(variant) or ([] if METHODS[method].closed_form else profile.tuning.get(variant, []))
        setting = own.get("setting", "lr")
        for value in values if METHODS[method].start == "original" else []:
            changed = {"data.evaluate_on": "validation", f"recipes.{method}.{variant}.{setting}": value}
            search = profiles.load(name, changed, data_dir)
            for seed, forget in search.pairs(profile.tuning["seeds"], profile.tuning["forget_sets"]):
                listed.append((method, variant, setting, value, Cell(search, seed, forget, method, variant)))
    return listed


def score(cell: Cell) -> dict[str, float]:
    """Held-out accuracies of the cell's output, the retain accuracy that it costs, and what its features still hold.

    The output alone decides. Probe and NCC are noted, so that everybody can see how they follow the rate.
    """

    def row(of: Cell) -> dict[str, float]:
        results = {name: stored(Reading.of(of, name)).result for name in READ}
        return row_of(len(images_of(of.profile).classes), results, cell.forget)

    own, original = row(cell), row(Cell(cell.profile, cell.seed, (), "original"))
    retain = own.get("output_retain", 0.0)  # a rate that is too high diverges, which is what a search is to find out
    forget, probe, ncc = (own.get(f"{name}_forget", float("nan")) for name in READ)
    cost = original["output_retain"] - retain
    return {"retain": retain, "forget": forget, "cost": cost, "probe": probe, "ncc": ncc}


def winner(rows: pd.DataFrame, tolerance: float, ties: str = "larger") -> int:
    """Index of the winning row by the profile's rule; ties go to the larger value, which moves the features most."""
    kept = rows[rows.cost <= tolerance]
    by, among = ("cost", rows) if kept.empty else ("forget", kept)
    return among.sort_values([by, "value"], ascending=[True, ties != "larger"]).index[0]


def table(name: str, data_dir: str, machine: Machine) -> pd.DataFrame:
    """One row per method, variant and candidate: mean accuracies over the search's cells, and whether it won."""
    listed = candidates(name, data_dir)
    cells = [c for *_, cell in listed for c in (Cell(cell.profile, cell.seed, (), "original"), cell)]
    try:
        run([Reading.of(cell, readout) for cell in cells for readout in READ], machine)
    except Failure as failure:
        raise BadInput(f"the search is not complete: {failure}") from None
    rows = pd.DataFrame([dict(zip(MODEL, named)) | score(cell) for *named, cell in listed])
    means, rule = rows.groupby(MODEL, sort=False).mean().reset_index().round(6), profiles.load(name).tuning
    by_model = means.groupby(MODEL[:2], sort=False)
    winners = [winner(some, rule["tolerance"], rule.get("ties", "larger")) for _, some in by_model]
    return means.assign(chosen=means.index.isin(winners))


def disagreements(profile: Profile, means: pd.DataFrame) -> list[str]:
    """Recipes whose setting is not the winner's."""
    listed = []
    for row in means[means.chosen].itertuples():
        recipe = recipe_of(profile, row.method, row.variant)
        value = recipe.lr if row.setting == "lr" else recipe.constants.get(row.setting)
        if value != row.value:
            listed.append(f"{row.method}.{row.variant}: {row.setting} is {value} there, {row.value} in the search")
    return listed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m unlearn_utils.study.tune", description=__doc__)
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
    write(Outputs(options.profile).file("tuning.csv"), means.round(4).to_csv(index=False))
    print(means.round(4).to_string(index=False))
    differing = disagreements(profile, means)
    print("\n".join(differing) or "Every setting of the profile is the winner of its search.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
