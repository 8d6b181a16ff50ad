"""Six findings of a profile, one number and at most 25 words each: written from its scorecard and rows, either way."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from .evidence import EXAMPLE, ORIGINAL, RANDOM, RETRAIN, Key
from .intervals import number
from .sentences import run_of

WORDS = {"holds": "yes", "hidden": "yes", "partly hidden": "yes", "does not hold": "no", "removed": "no",
         "cannot tell": "open"}
SIDES = ("yes", "no", "open")  # what WORDS make of a verdict


@dataclass(frozen=True)
class Finding:
    title: str
    sentence: str
    notebook: str


def findings(rows: pd.DataFrame, card: pd.DataFrame) -> list[Finding]:
    """What the six say of this profile; a line that its card lacks is said to be not run."""
    said = {
        ("The output forgets", "01_misalignment_discovery"): _output(card),
        ("The features keep it", "01_misalignment_discovery"): _features(card),
        ("The classifier is enough", "02_classifier_only"): _classifier(card),
        ("Zero is the wrong reference", "00_original_and_retrain"): _retrain(rows, card),
        ("A tied classifier", "03_cmf_unlearning"): _tied(card),
        ("One image brings it back", "04_relearning_attacks"): _one_image(card),
    }
    return [Finding(title, text or "Not run on this profile.", notebook) for (title, notebook), text in said.items()]


def _line(card: pd.DataFrame, claim: str, readout: str = "", key: Key = EXAMPLE) -> pd.Series | None:
    found = card[(card.claim == claim) & (card.method == key[0]) & (card.variant == key[1])]
    found = found[found.readout == readout] if readout else found
    return found.iloc[0] if len(found) and found["mean"].notna().iloc[0] else None


def _output(card: pd.DataFrame) -> str:
    line = _line(card, "Output forgets")
    if line is None:
        return ""
    names = {"holds": "hardly names", "does not hold": "still names"}.get(line.shows, "may still name")
    return (f"Random Label, the paper's example, {names} the forgotten class at its output: {_percent(line['mean'])} of "
            "test images.")


def _features(card: pd.DataFrame) -> str:
    ncc, probe = _line(card, "NCC still reads it"), _line(card, "Probe still reads it")
    if ncc is None or probe is None:
        return ""
    return (f"In its features the nearest class centre reads the class {_points(ncc['mean'])} than in Retrain's: "
            f"{ncc.shows}. A linear probe: {probe.shows}.")


def _classifier(card: pd.DataFrame) -> str:
    holds, of = _counted(card, "Classifier alone is enough")
    word = "is mostly enough" if 2 * holds > of else "is seldom seen to be enough"
    return f"Training nothing but the classifier {word} to look unlearned: {holds} of {of} methods." if of else ""


def _retrain(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    line = _line(card, "Retrain reads it too", key=RETRAIN)
    if line is None:
        return ""
    word = {"holds": "more", "does not hold": "no more"}.get(line.shows, "not surely more")
    value = run_of(rows).values(RETRAIN, "probe_forget").mean()
    return (f"A linear probe reads {_percent(value)} of a class that Retrain never saw, {word} than an untrained network "
            "gives away.")


def _tied(card: pd.DataFrame) -> str:
    holds, of = _counted(card, "CMF removes more, raw features")
    word = "removes more" if 2 * holds > of else "is seldom seen to remove more"
    said = f"A classifier tied to the class means {word} from the features at an equal budget: {holds} of {of} comparisons."
    return said if of else ""


def _one_image(card: pd.DataFrame) -> str:
    line = _line(card, "One image brings it back")
    if line is None:
        return ""
    sure = {"holds": "", "does not hold": ": it does not come back"}.get(line.shows, ", not surely")
    return (f"One image per class teaches a new head the class {_points(line['mean'])} on its features than on "
            f"Retrain's{sure}.")


def _counted(card: pd.DataFrame, claim: str) -> tuple[int, int]:
    """(lines that show a claim, lines that count)"""
    lines = card[(card.claim == claim) & card.counted.astype(bool)]
    return int((lines.shows.map(WORDS) == "yes").sum()), len(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * abs(value):.1f} points {'better' if value >= 0 else 'worse'}"


def tallies(card: pd.DataFrame) -> dict[str, str]:
    """Per claim on a card, how many of its lines say yes, no, and cannot tell: 4/1/2."""
    lines = card.assign(side=card.shows.map(WORDS))
    own = {claim: part[part.counted.astype(bool)] if part.counted.any() else part for claim, part in lines.groupby("claim")}
    return {claim: "/".join(str(int((part.side == side).sum())) for side in SIDES) for claim, part in own.items()}


def beside(rows: pd.DataFrame) -> str:
    """The forget class in the models that no number stands without: probe and NCC, in per cent."""
    run = run_of(rows)
    named = {ORIGINAL: "the Original", RETRAIN: "Retrain", RANDOM: "an untrained network"}
    read = {name: [100 * run.values(key, f"{readout}_forget").mean() for readout in ("probe", "ncc")]
            for key, name in named.items()}
    return ", ".join(f"{number(probe, 1)} and {number(ncc, 1)} % in {name}" for name, (probe, ncc) in read.items())
