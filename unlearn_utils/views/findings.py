"""Six findings of a profile, one or two numbers and at most 25 words each, and what README and RESULTS.md say beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import pandas as pd

from ..settings import READOUTS
from .claims import were_run
from .evidence import EXAMPLE, FORGOTTEN, ORIGINAL, RANDOM, RAW, RETRAIN, Key
from .intervals import number
from .sentences import run_of

WORDS = {"holds": "yes", "hidden": "yes", "partly hidden": "yes", "does not hold": "no", "removed": "no",
         "cannot tell": "open"}
SIDES = ("yes", "no", "open")  # what WORDS make of a verdict


NOT_RUN = "Not run on this profile."


@dataclass(frozen=True)
class Finding:
    title: str
    sentence: str
    notebook: str


class NotRun(LookupError):
    """The card lacks what a finding is about."""


def findings(rows: pd.DataFrame, card: pd.DataFrame) -> list[Finding]:
    """What the six say of this profile; one whose line its card lacks is said to be not run."""
    def written(title: str, notebook: str, write: Callable[[pd.DataFrame, pd.DataFrame], str]) -> Finding:
        try:
            return Finding(title, write(rows, card), notebook)
        except NotRun:
            return Finding(title, NOT_RUN, notebook)

    return [
        written("The output forgets", "01_misalignment_discovery", _output),
        written("The features keep it", "01_misalignment_discovery", _features),
        written("The classifier is enough", "02_classifier_only", _classifier),
        written("Zero is the wrong reference", "00_original_and_retrain", _retrain),
        written("A tied classifier", "03_cmf_unlearning", _tied),
        written("One image brings it back", "04_relearning_attacks", _one_image),
    ]


def _line(card: pd.DataFrame, claim: str, key: Key = EXAMPLE) -> pd.Series:
    found = card[(card.claim == claim) & (card.method == key[0]) & (card.variant == key[1]) & card["mean"].notna()]
    if not len(found):
        raise NotRun
    return found.iloc[0]


def _output(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    line, (holds, of) = _line(card, "Output forgets"), _counted(card, "Output forgets")
    own = ", at the paper's rates" if (card.variant == "searched").any() else ""  # these have lines of their own
    return (f"Random Label's output names {_percent(line['mean'])} of the forgotten class's test images right. Shown "
            f"to be under {100 * FORGOTTEN:.0f} %: {holds} of {of} methods{own}.")


def _features(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    ncc, probe = _line(card, "NCC still reads it"), _line(card, "Probe still reads it")
    return (f"Random Label's features let a probe read the class {_points(probe['mean'])} than Retrain's "
            f"({probe.shows}), the nearest class centre {_points(ncc['mean'])} ({ncc.shows}).")


def _classifier(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    holds, of = _counted(card, "Classifier alone is enough")
    word = {of: "is enough", 0: "was never seen to be enough"}.get(holds, "is mostly enough" if 2 * holds > of else "can be enough")
    return f"Training nothing but the classifier {word} to look unlearned: {holds} of {of} methods, from the trained head."


def _retrain(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    line = _line(card, "Retrain reads it too", RETRAIN)
    word = {"holds": "more", "does not hold": "no more"}.get(line.shows, "not surely more")
    value = run_of(rows).values(RETRAIN, "probe_forget").mean()
    return (f"A linear probe reads {_percent(value)} of a class that Retrain never saw, {word} than an untrained network "
            "gives away.")


def _tied(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    (less, of), (control, both) = (_counted(card, claim) for claim in ("CMF removes more", RAW))
    return (f"A classifier tied to class means leaves less in {less} of {of} readings (the paper's comparison), at an equal budget "
            f"in {control} of {both}.")


def _one_image(rows: pd.DataFrame, card: pd.DataFrame) -> str:
    line = _line(card, "One image brings it back")
    sure = {"holds": "", "does not hold": ": it does not come back"}.get(line.shows, ", not surely")
    return (f"A new head, fitted to one image of each class, reads the forgotten one {_points(line['mean'])} on Random Label's "
            f"features than on Retrain's{sure}.")


def _counted(card: pd.DataFrame, claim: str) -> tuple[int, int]:
    """(lines that show a claim, lines that count)."""
    lines = were_run(card)[lambda lines: (lines.claim == claim) & lines.counted.astype(bool)]
    if not len(lines):
        raise NotRun
    return int((lines.shows.map(WORDS) == "yes").sum()), len(lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * abs(value):.1f} points {'better' if value > -0.0005 else 'worse'}"


def tallies(card: pd.DataFrame) -> dict[str, str]:
    """Per claim on a card, how many of its lines say yes, no, and cannot tell: 4/1/2."""
    lines = were_run(card).assign(side=card.shows.map(WORDS))
    own = {claim: part[part.counted.astype(bool)] if part.counted.any() else part for claim, part in lines.groupby("claim")}
    return {claim: "/".join(str(int((part.side == side).sum())) for side in SIDES) for claim, part in own.items()}


def beside(rows: pd.DataFrame, pretrained: bool = False) -> str:
    """The forget class in the models that no number stands without: probe and NCC, in per cent."""
    named = {ORIGINAL: "the Original", RETRAIN: "Retrain",
             RANDOM: "the backbone as it came" if pretrained else "an untrained network"}
    return ", ".join(_both(rows, key, name) for key, name in named.items())


def backbone(rows: pd.DataFrame) -> str:
    """The same with a pretrained backbone, and what an unlearned one leaves."""
    return f"Probe and nearest class centre read {beside(rows, True)}, and {_both(rows, EXAMPLE, 'Random Label')}."


def price(rows: pd.DataFrame, card: pd.DataFrame) -> list[str]:
    """What the models lost of retain accuracy that a readout shows to have removed the class; nothing where none has."""
    gone, run = card[card.shows == "removed"].drop_duplicates("model"), run_of(rows)
    lost = {line.model: run.gap(RETRAIN, (line.method, line.variant), "output_retain").mean() for line in gone.itertuples()}
    listed = ", ".join(f"{name} {number(100 * value, 1)}" for name, value in lost.items())
    return [f"Retain accuracy below Retrain's, in points, where a readout shows the class removed: {listed}."] if listed else []


def differing(card: pd.DataFrame) -> str:
    """What did not come out on the paper's side, line by line; an output that does not forget, beside that at a searched rate."""
    lines = card[card.agrees.isin(("sign differs", "does not agree")) & card["mean"].notna()]
    ours = card[(card.variant == "searched") & (card.claim == "Output forgets")].set_index("method")["mean"].to_dict()
    said = []
    for line in lines.to_dict("records"):
        by = f" by {READOUTS[line['readout']]}" if line["readout"] in ("probe", "ncc") else ""
        own = f", searched {100 * ours[line['method']]:.1f}" if line["readout"] == "output" and line["method"] in ours else ""
        said.append(f"{line['claim']}, {line['model']}{by}: {number(100 * line['mean'], 1)} "
                    f"(paper {number(100 * line['published'], 1)}{own})")
    return (f"Not on the paper's side of 0, or of the bound, {len(lines)} lines: {'; '.join(said)}." if said
            else "Every sign that is known is the paper's.")


def _both(rows: pd.DataFrame, key: Key, name: str) -> str:
    probe, ncc = (100 * run_of(rows).values(key, f"{readout}_forget").mean() for readout in ("probe", "ncc"))
    return f"{number(probe, 1)} and {number(ncc, 1)} % in {name}"
