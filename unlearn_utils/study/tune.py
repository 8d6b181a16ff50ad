"""The search that chose the learning rates (SVD: its alpha) of a profile: ``python -m unlearn_utils.study.tune NAME``.

The rule and the candidates stand in the profile's ``[tuning]``. The table of all candidates is written to
``figures/<profile>/tuning.csv``; the winners are put into the profile by hand.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pandas as pd

from ..methods import METHODS
from ..paths import Outputs, write
from ..settings import BadInput
from . import profiles
from .profiles import Profile
from .study import Study
from .variants import recipe_of

MODEL = ["method", "variant"]
CANDIDATE = [*MODEL, "setting", "value"]


def candidates(profile: Profile) -> pd.DataFrame:
    """A row per method, variant and value of its setting that the search tries.

    The unlearning methods vary their learning rate over the profile's candidates; those of ``[tuning.<method>]``, and
    the ``setting`` there, take their place, and a closed form has only its own.
    """
    if not profile.tuning:
        raise BadInput(f"profile '{profile.name}' has no [tuning]: its rates are the authors', none is searched.")
    listed = []
    for method, variant in ((m, v) for m, variants in profile.recipes.items() for v in variants):
        own = profile.tuning.get(method, {})
        values = own.get(variant) or ([] if METHODS[method].closed_form else profile.tuning.get(variant, []))
        if METHODS[method].start == "original":
            listed += [(method, variant, own.get("setting", "lr"), value) for value in values]
    return pd.DataFrame(listed, columns=CANDIDATE)


def winner(rows: pd.DataFrame, tolerance: float, ties: str = "larger") -> int:
    """Index of the winning row by the profile's rule; ties go to the larger value, which moves the features most."""
    kept = rows[rows.cost <= tolerance]
    by, among = ("cost", rows) if kept.empty else ("forget", kept)
    return among.sort_values([by, "value"], ascending=[True, ties != "larger"]).index[0]


def table(profile: Profile, machine: dict[str, Any]) -> pd.DataFrame:
    """One row per method, variant and candidate: mean accuracies on held-out images, and whether it won.

    The output alone decides: ``forget`` at what it ``cost`` of the Original's ``retain``. Probe and NCC on the forget
    class are noted, so that everybody can see how they follow the rate.
    """
    tried, rule, rows = candidates(profile), profile.tuning, []
    for _, some in tried.groupby(tried.groupby(MODEL).cumcount()):  # the first value of every model, the second, ...
        changed = {f"recipes.{c.method}.{c.variant}.{c.setting}": c.value for c in some.itertuples()}
        changed["data.evaluate_on"] = "validation"
        study = Study(profile.name, rule["forget_sets"], rule["seeds"], changed, **machine)
        measured = study.measure(["original", *(some.method + "." + some.variant)], references=False)
        lost = measured.output_retain.isna() & measured.probe_retain.notna()  # where it diverged there is neither
        if lost.any() or len(measured) < (1 + len(some)) * len(study.pairs):
            raise BadInput("the search is not complete, for the reason above.")
        original = measured[measured.method == "original"].set_index(["seed", "forget"]).output_retain
        rows.append(measured.join(original.rename("of_original"), on=original.index.names).merge(some, on=MODEL))
    found = pd.concat(rows)
    retain = found.output_retain.fillna(0.0)  # a rate that is too high diverges, which is what a search is to find out
    found = found[CANDIDATE].assign(
        retain=retain,
        forget=found.output_forget,
        cost=found.of_original - retain,
        probe=found.probe_forget,
        ncc=found.ncc_forget,
    )
    means = tried.join(found.groupby(CANDIDATE).mean().round(6), on=CANDIDATE)
    by_model = means.groupby(MODEL, sort=False)
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
    machine = vars(parser.parse_args())
    try:
        profile = profiles.load(machine.pop("profile"), data_dir=machine["data_dir"])
        means = table(profile, machine)
    except BadInput as problem:
        sys.exit(f"tune: {problem}")
    write(Outputs(profile.name).file("tuning.csv"), means.round(4).to_csv(index=False))
    print(means.round(4).to_string(index=False))
    differing = disagreements(profile, means)
    print("\n".join(differing) or "Every setting of the profile is the winner of its search.")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
