"""Readings: sentences that a profile's numbers can refute, written from the numbers, as Markdown."""

from __future__ import annotations

import pandas as pd

from ..methods import METHODS
from ..paths import ROOT
from .claims import WORDS
from .evidence import DISTILLED, EXAMPLE, FORGOTTEN, HALF, ORIGINAL, RETRAIN, ROOM, SMALL, TURNED, Key, Run
from .intervals import Interval, number
from .tables import attack_gaps, per_forget_set, published

GROUP = 0.2  # smallest distance of "some forget class" and "its own class" that says the group outlives its members
COLLAPSED = 0.05  # largest NC1 that is near collapse
CHANCE = 0.05  # largest distance from chance at which a shuffled control still is at chance
ATTACKS = {"few_shot": "a new head on frozen features", "fresh_head": "fine-tuning with a fresh head",
           "own_head": "fine-tuning with the model's own head", "retain_only": "fine-tuning on retain images alone"}


def collapse(curves: pd.DataFrame) -> str:
    """Whether the output lost half of its forget accuracy within the first epoch."""
    output = curves[curves.readout == "Output"].groupby(["step", "forget"]).forget_accuracy.mean().groupby("step").mean()
    ends = curves.step[curves.epoch_end & (curves.step > 0)]
    start, after = 100 * output.iloc[0], 100 * output[ends.min()]
    verdict = "it collapsed" if after <= HALF * start else "it did not collapse"
    return f"After one epoch the output is at {after:.1f} % (from {start:.1f} %): {verdict} within the first epoch."


def room(rows: pd.DataFrame) -> str:
    """Which readouts can tell hidden from removed."""
    points = {name: _run(rows).gap(ORIGINAL, RETRAIN, f"{readout}_forget").mean()
              for readout, name in {"probe": "the probe", "ncc": "NCC"}.items()}
    able = [name for name, value in points.items() if value >= ROOM]
    listed = ", ".join(f"{name} {100 * value:.1f}" for name, value in points.items())
    can = f"{' and '.join(able) or 'no readout'} can tell"
    return f"Points between the Original and Retrain: {listed}. From {100 * ROOM:.0f} on, {can} hidden from removed."


def verdicts(card: pd.DataFrame, claim: str, readout: str = "") -> str:
    """What the run shows for one claim, model by model: hidden: A, B; removed: C."""
    lines = card[(card.claim == claim) & card.counted.astype(bool)]
    lines = lines[lines.readout == readout] if readout else lines
    said = [f"{word}: {', '.join(lines.model[lines.shows == word])}" for word in WORDS if (lines.shows == word).any()]
    return "; ".join(said) or "not run"


def hiding(card: pd.DataFrame) -> str:
    return (f"By the probe {verdicts(card, 'Probe still reads it')}. "
            f"By NCC {verdicts(card, 'NCC still reads it')}.")


def turned_away(card: pd.DataFrame) -> str:
    threshold = card.threshold[card.claim == "Classifier turned away"].max()
    said = verdicts(card, "Classifier turned away")
    return f"The classifier turned away by more than half of the distilled head's {threshold / TURNED:.2f}: {said}."


def classifier_only(card: pd.DataFrame) -> str:
    lines = card[(card.claim == "Classifier alone is enough") & card.counted.astype(bool)]
    failed = [f"{line.model} ({line['this run']})" for _, line in lines[lines.shows != "holds"].iterrows()]
    but = f" Not, or not surely, for {'; '.join(failed)}." if failed else ""
    return f"Changing only the classifier is enough for {(lines.shows == 'holds').sum()} of {len(lines)} methods.{but}"


def several(rows: pd.DataFrame, readout: str = "probe", variant: str = "linear") -> str:
    """Several classes: is the group still readable where its members are not told apart?"""
    run, own, some = _run(rows), f"{readout}_forget", f"{readout}_any"
    keys = [key for key in [RETRAIN, *run.keys(variant, ("method", "extension"))] if len(run.values(key, some))]
    percent = {key: [100 * run.values(key, column).mean() for column in (own, some)] for key in keys}
    merged = [f"{run.label(key)} (own class {a:.1f} %, any {b:.1f} %)"
              for key, (a, b) in percent.items() if b - a > 100 * GROUP]
    if not keys:
        return "Whether forget images are still read as some forget class was not measured."
    if not merged:
        return "No method merges the forget classes: an image read as some forget class mostly is read as its own."
    return f"Merged into one group that is still read, so a low value for the own class is no erasure: {'; '.join(merged)}."


def honest(card: pd.DataFrame) -> str:
    """CMF: output against NCC, both in the head's geometry, and the retain cost that disqualifies."""
    lines = card[card.claim == "With CMF the output is honest"]
    apart = "; ".join(f"{line.model} {line['this run'].removeprefix('output ')}" for _, line in lines.iterrows())
    dear = card[card.claim.str.startswith("CMF removes") & card.reason.str.contains("cost")].model.unique()
    cost = f" They cost over 5 points of retain accuracy, or may: {', '.join(dear)}." if len(dear) else ""
    return f"The output is honest ({verdicts(card, 'With CMF the output is honest')}): {apart}.{cost}"


def centre(rows: pd.DataFrame) -> str:
    """Centre distance of the forget class under Random Label + CMF, beside models that never saw or lost the class."""
    run, key, column = _run(rows), ("random_label", "cmf"), "centre_distance_forget"
    means = {run.label(k): run.values(k, column).mean() for k in (ORIGINAL, RETRAIN, EXAMPLE, key)}
    half = means[run.label(key)] < HALF * means[run.label(RETRAIN)]
    nearer = half and Interval.of(run.gap(key, RETRAIN, column)).below()
    says = ("the tied head moved the class to the centre, to less than half of Retrain's distance" if nearer
            else "hardly nearer than in any model without the class")
    return f"Distance from the centre: {', '.join(f'{name} {mean:.2f}' for name, mean in means.items())}: {says}."


def relearning(readings: pd.DataFrame, key: Key = EXAMPLE) -> str:
    """Each attack's gap to Retrain for one model; the few-shot head at the fewest images, fine-tuning over its steps."""
    gaps, said = attack_gaps(readings), []
    model = _run(readings).label(key)
    for attack, name in ATTACKS.items():
        if f"{attack}_difference" in gaps and model in gaps.index:
            interval = gaps.loc[model, f"{attack}_difference"]
            word = "faster than" if interval.above() else "slower than" if interval.below() else "not to be told from"
            said.append(f"{name}: {word} Retrain, {interval.percent()} points")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else "No attack was run."


def shuffled(readings: pd.DataFrame, classes: int) -> str:
    """Whether the control with shuffled labels is at chance: every model, every number of images."""
    control = readings[readings.attack == "few_shot_shuffled"].groupby(["model", "x", "forget"]).forget_accuracy.mean()
    control = control.groupby(["model", "x"]).mean()
    (model, x), worst = control.idxmax(), control.max()
    verdict = "within" if worst <= 1 / classes + CHANCE else "not within"
    return (f"The shuffled control is {verdict} {100 * CHANCE:.0f} points of chance ({100 / classes:.1f} %): "
            f"at most {100 * worst:.1f} %, {model} at {x} images per class.")


def inconclusive(card: pd.DataFrame) -> str:
    """How many lines cannot tell, and why."""
    open_ = card[(card.shows == "cannot tell") & card.counted.astype(bool)]
    kinds = {"missing": "a model is missing", "still read": "the output still reads the class",
             "forget sets": "too few sets", "retain accuracy": "retain accuracy", "nearly as well": "no room",
             "": "the interval is too wide"}
    why = open_.reason.map(lambda reason: next(kind for mark, kind in kinds.items() if mark in reason))
    counts = ", ".join(f"{kind} {n}" for kind, n in why.value_counts().items())
    return f"{len(open_)} of {int(card.counted.sum())} lines cannot tell{': ' + counts if counts else ''}."


def neural_collapse(histories: pd.DataFrame) -> str:
    """How near the Original is to the collapse that the theory assumes."""
    nc1 = histories[histories.method == "original"].sort_values("epoch").groupby("seed").nc1.last().mean()
    word = "near collapse" if nc1 < COLLAPSED else "on the way to collapse, not there" if nc1 < 1 else "far from collapse"
    return f"After training NC1 of the Original is {nc1:.2f}: {word}."


def apart(rows: pd.DataFrame, column: str, name: str, models: list[str] = (), reference: str = "Retrain") -> str:
    """Models against a reference in one column: the gaps in points, and which of them may be none."""
    values = per_forget_set(rows, column)
    gaps = {m: Interval.of(values[m] - values[reference]) for m in models or values if m in values and m != reference}
    words = {m: "above" if gap.above() else "below" if gap.below() else "not apart" for m, gap in gaps.items()}
    listed = "; ".join(f"{word}: " + ", ".join(f"{m} {gaps[m].percent()}" for m in gaps if words[m] == word)
                       for word in dict.fromkeys(words.values()))
    return f"{name} reads {100 * values[reference].mean():.1f} % in {reference}; {listed or 'no other model was read'}."


def unfit(rows: pd.DataFrame) -> str:
    """Models that say nothing about hiding: the output still reads the class, or the model is broken."""
    run = _run(rows)
    why = {key: run.unusable(key) for v in ("linear", "cmf") for key in run.keys(v, ("method", "extension"))}
    listed = "; ".join(f"{run.label(key)}: {reason}" for key, reason in why.items() if reason)
    return f"No evidence of hiding or removing: {listed or 'none, all outputs forgot and all networks still work'}."


def attractor(rows: pd.DataFrame) -> str:
    """A recovery above 1: does NCC know the class better than in the Original, or name it more often?"""
    run, keys = _run(rows), _run(rows).keys("linear", ("method", "extension"))
    beyond = [key for key in keys if run.gap(key, ORIGINAL, "ncc_forget").mean() > 0]
    alarms = [f"{run.label(key)} {100 * run.values(key, 'ncc_alarms').mean():.1f} %" for key in [*beyond, ORIGINAL]]
    return "No model's NCC reads more of the forget class than the Original's." if not beyond else (
        "NCC reads more of the forget class than in the Original, but how many retain images does it call by that name? "
        f"{', '.join(alarms)}. Where that is more than in the Original, recall is bought with false alarms.")


def hidden_by(rows: pd.DataFrame) -> str:
    """Which part of the head makes the forget images lose: the row or the bias."""
    run, lost = _run(rows), {"row": [], "bias": []}
    for key in [*run.keys("linear", ("method", "extension", "reference")), DISTILLED]:
        part = {part: run.values(key, f"margin_{part}_forget").mean() for part in lost}
        if sum(part.values()) < 0:
            lost[min(part, key=part.get)].append(f"{run.label(key)} ({number(part['row'], 1)}, {number(part['bias'], 1)})")
    said = [f"mostly by the {part}: {', '.join(names)}" for part, names in lost.items() if names]
    return f"Forget images lose to another class (mean margin of row, of bias) {'; '.join(said) or 'in no model'}."


def refitted(rows: pd.DataFrame) -> str:
    """With CMF: what an ordinary head, fitted to the same features on retain images alone, would show instead."""
    run = _run(rows)
    columns = ("output_forget", "refitted_forget")
    said = {key: [run.values(key, column).mean() for column in columns] for key in run.keys("cmf")}
    listed = "; ".join(f"{run.label(key)} {100 * a:.1f} and {100 * b:.1f} %" for key, (a, b) in said.items())
    hides = sum(b < HALF * a for a, b in said.values())
    return f"Output and refitted head: {listed}. The refitted head hides more than half in {hides} of {len(said)}."


def by_rate(profile: str, method: str = "random_label") -> str:
    """What the search's held-out images read at every rate of a method, and whether the smallest hides most."""
    path = ROOT / "figures" / profile / "tuning.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["method", "variant"])
    table = table[(table.method == method) & (table.variant == "linear")]
    if not len(table) or "ncc" not in table:
        return "No search with probe and NCC at every rate is kept for this profile, so how they follow the rate is not known."
    lines = "; ".join(f"rate {row.value:g}: output {100 * row.forget:.1f}, probe {100 * row.probe:.1f}, NCC {100 * row.ncc:.1f}"
                      for row in table.itertuples())
    fooled = table[table.forget <= FORGOTTEN].sort_values("value")
    falls = len(fooled) > 1 and any(fooled[name].iloc[-1] < fooled[name].iloc[0] - SMALL for name in ("probe", "ncc"))
    verdict = "falls with the rate, so a small one flatters hiding" if falls else "does not fall with the rate"
    return (f"{METHODS[method].label} on the held-out images of the search, per cent of the forget classes: {lines}. Among the "
            f"rates at which the output forgets, what the features hold {verdict}.")


def _run(rows: pd.DataFrame) -> Run:
    return Run(rows, published("", "", 0))
