"""Writes RESULTS.md, and the block of the README between its two marks, from the tables in ``figures/``.

    python tools/results_page.py           # for maintainers, after ./run_all.sh --refresh-reference

No number of either is typed: a test writes both again and finds nothing changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from unlearn_utils.study import profiles
from unlearn_utils.views import claims, sentences, tables

ROOT = Path(__file__).parent.parent
MARKS = ("<!-- from figures/: tools/results_page.py -->", "<!-- end -->")
SHOWN = {"original": "Original", "random_label": "Random Label", "scrub": "SCRUB", "unsir": "UNSIR", "retrain": "Retrain",
         "random": "random network"}


def markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(profile: str) -> tuple[pd.DataFrame, pd.DataFrame, bool]:
    """(rows, card, whether code of today made them) of a profile whose measurements lie in ``figures``."""
    folder = ROOT / "figures" / profile
    rows = pd.read_csv(folder / "measurements.csv", dtype={"forget": str})
    saved = pd.read_csv(folder / "scorecard.csv")
    if tables.CARD <= set(saved):
        return rows, saved, True
    network = profiles.load(profile).network
    return rows, claims.scorecard(rows, None, None, profile, network.architecture, network.weights != "none"), False


def origin(profile: str) -> str:
    """On what, over how much, and where the numbers were made."""
    notes = json.loads((ROOT / "figures" / profile / "provenance.json").read_text(encoding="utf-8"))["notebooks"]
    note = notes["05_scorecard"]
    pairs = note["pairs of seed and forget set"]
    seeds = len({seed for seed, _ in pairs})
    return (f"{profiles.load(profile).title}. {len({str(f) for _, f in pairs})} forget sets, {seeds} training "
            f"seed{'s' * (seeds > 1)}; commit {note['commit'][:10]}, {'; '.join(note['results computed with'])}.")


def of_profile(profile: str) -> str:
    rows, card, today = measured(profile)
    older = "" if today else ("\nMade by earlier code, without the curve, the attacks and the newer readings, and judged by the "
                              "rules of today; it will be measured again.\n")
    readings = [sentences.room(rows), sentences.hiding(card), sentences.turned_away(card),
                sentences.classifier_only(card), sentences.honest(card), sentences.centre(rows), sentences.inconclusive(card)]
    screen = claims.one_screen(card).reset_index()
    return "\n".join([f"## {profile}", "", origin(profile), older, markdown(screen), "",
                      *(f"- {reading}" for reading in readings), ""])


def results(names: list[str]) -> str:
    cards = {name: measured(name)[1] for name in names}
    head = ["# What was and was not reproduced", "",
            "Written by `tools/results_page.py` from the tables in `figures/`. The paper's numbers are quoted second hand from "
            "public reproductions; we have not seen its tables. They are for ResNet-18 on CIFAR-10. These profiles are smaller networks on smaller or fewer "
            "images than the paper's, so only signs compare.", "", claims.CAPTION, "",
            markdown(claims.claims_by_profile(cards).reset_index(names="claim")), "", "What the runs show:",
            "", markdown(claims.claims_by_profile(cards, "shows").reset_index(names="claim")), ""]
    sentences_of = [f"- **{claim.name}** ({claim.place}): {claim.sentence}" for claim in claims.CLAIMS.values()]
    return "\n".join([*head, "## The claims", "", *sentences_of, "", *(of_profile(name) for name in names)])


def block(names: list[str]) -> str:
    """The README's table: three readouts of the forget class, in per cent, per profile."""
    lines = []
    for name in names:
        rows, _, _ = measured(name)
        linear = rows[rows.variant == "linear"].groupby("method").mean(numeric_only=True) * 100
        for method, label in SHOWN.items():
            lines.append({"profile": name, "model": label, **{
                text: f"{linear.loc[method, f'{readout}_forget']:.1f}"
                for readout, text in {"output": "output", "probe": "linear probe", "ncc": "nearest class centre"}.items()}})
    return markdown(pd.DataFrame(lines))


def main(root: Path = ROOT) -> int:
    names = sorted((path.parent.name for path in (ROOT / "figures").glob("*/measurements.csv") if "+" not in str(path)),
                   key=lambda name: (name != "digits", name))
    (root / "RESULTS.md").write_text(results(names).rstrip() + "\n", encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    (root / "README.md").write_text(f"{before}{MARKS[0]}\n{block(names)}\n{MARKS[1]}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
