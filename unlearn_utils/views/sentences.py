"""Readings: sentences that a profile's numbers can refute, written from the numbers, as Markdown."""

from __future__ import annotations

import math

import pandas as pd

from ..methods import METHODS
from ..paths import ROOT
from ..settings import READOUTS, Network
from .claims import WORDS, unstable, were_run
from .evidence import (
    DESTROYED, DISTILLED, EXAMPLE, FORGOTTEN, HALF, ORIGINAL, OWN_HEAD, RANDOM, RETRAIN, ROOM, SMALL, TURNED, Key, Run,
)
from .intervals import FEWEST_SIGNS, Interval, number
from .tables import LABELS, attack_gaps, per_forget_set, published

GROUP = 0.2  # smallest distance of "some forget class" and "its own class" that says the group outlives its members
COLLAPSED = 0.05  # largest NC1 that is near collapse
CHANCE = 0.05  # largest distance from chance at which a shuffled control still is at chance
MANY = 8  # models over which a list of those that are not apart says nothing
FALLS = 0.10  # smallest fall between two rates that is named; the search reads few images
SAME = 0.05  # points: under it two readings of a probe are printed alike
GEOMETRIES = {"raw": "features of unit length", "centred": "features less their mean, of unit length",
              "log_softmax": "log-softmax over the feature dimensions, of unit length"}
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
    points = {name: Interval.of(run_of(rows).gap(ORIGINAL, RETRAIN, f"{readout}_forget"))
              for readout, name in {"probe": "the probe", "ncc": "NCC"}.items()}
    able = [name for name, value in points.items() if value.mean >= ROOM and value.above()]
    listed = ", ".join(f"{name} {value.percent()}" for name, value in points.items())
    can = f"{' and '.join(able) or 'no readout'} can tell"
    return f"Points between the Original and Retrain: {listed}. From {100 * ROOM:.0f} on, surely above 0, {can} hidden from removed."


def untouched(network: Network) -> list[str]:
    """What the untrained network is where all others start from pretrained weights; nothing where it is untrained."""
    if network.weights == "none":
        return []
    return ["The untrained network is here the pretrained encoder as it came, with a new classifier; the Original and Retrain "
            "start from it, too. What these weights were trained on may hold the forget class: then Retrain never saw the "
            "class here, but its start did, and only the gap to Retrain is the method's own."]


def verdicts(card: pd.DataFrame, claim: str, readout: str = "") -> str:
    """What the run shows for one claim, model by model: hidden: A, B; removed: C."""
    lines = were_run(card)[lambda lines: (lines.claim == claim) & lines.counted.astype(bool)]
    lines = lines[lines.readout == readout] if readout else lines
    names = lines.model + lines.reason.astype(str).map(lambda reason: " (below Retrain)" * reason.startswith("less of the class"))
    said = [f"{word}: {', '.join(names[lines.shows == word])}" for word in WORDS if (lines.shows == word).any()]
    return "; ".join(said) or "not run"


def hiding(card: pd.DataFrame) -> str:
    return (f"By the probe {verdicts(card, 'Probe still reads it')}. "
            f"By NCC {verdicts(card, 'NCC still reads it')}.")


def misaligned(card: pd.DataFrame) -> str:
    turn = card.threshold[card.claim == "Head misaligned"].max() / TURNED
    known = (f"the {turn:.2f} of the distilled head, whose features did not move" if turn == turn
             else "what the distilled head's did, which was not read")
    return (f"Where the output forgets, row and class mean turned apart (in cosine, beyond the retain classes') by more than half of {known}: "
            f"{verdicts(card, 'Head misaligned')}.")


def classifier_only(card: pd.DataFrame) -> str:
    lines = card[(card.claim == "Classifier alone is enough") & card.counted.astype(bool)]
    failed = [f"{line.model} ({line['this run']})" for _, line in lines[lines.shows != "holds"].iterrows()]
    but = f" Not, or not surely, for {'; '.join(failed)}." if failed else ""
    zeroed = card[(card.claim == "Classifier alone is enough") & (card.variant == "zeroed_classifier")]
    also = (f" From a head set to zero, where it is nearly built in: {(zeroed.shows == 'holds').sum()} of {len(zeroed)}."
            if len(zeroed) else "")
    return (f"Changing only the classifier, from the trained head, is enough for {(lines.shows == 'holds').sum()} of "
            f"{len(lines)} methods.{but}{also}")


def several(rows: pd.DataFrame, readout: str = "probe", variant: str = "linear") -> str:
    """Several classes: is the group still readable where its members are not told apart?"""
    run, own, some = run_of(rows), f"{readout}_forget", f"{readout}_any"
    keys = [key for key in [RETRAIN, *run.keys(variant, ("method", "extension"))] if len(run.values(key, some))]
    percent = {key: [100 * run.values(key, column).mean() for column in (own, some)] for key in keys}
    usual = percent[RETRAIN][1] - percent[RETRAIN][0] if RETRAIN in percent else 0.0  # not having seen them mixes them
    merged = [f"{run.label(key)} (own class {a:.1f} %, any {b:.1f} %)"
              for key, (a, b) in percent.items() if b - a - usual > 100 * GROUP]
    if not keys:
        return "Whether forget images are still read as some forget class was not measured."
    if not merged:
        return ("No method merges the forget classes more than Retrain mixes them: an image read as some forget class mostly "
                "is read as its own.")
    return ("Merged into one group that is still read, so a low value for the own class is no erasure (in Retrain "
            f"{usual:.1f} points lie between the two): {'; '.join(merged)}.")


def honest(card: pd.DataFrame) -> str:
    """CMF: output against NCC, both in the head's geometry, and the retain cost that disqualifies."""
    lines = card[card.claim == "With CMF the output is honest"]
    apart = "; ".join(f"{line.model} {line['this run'].removeprefix('output ')}" for _, line in lines.iterrows())
    dear = card[card.claim.str.startswith("CMF removes") & card.reason.str.contains("cost")].model.unique()
    cost = f" They cost over 5 points of retain accuracy, or may: {', '.join(dear)}." if len(dear) else ""
    return f"Is the output honest ({verdicts(card, 'With CMF the output is honest')})? {apart}.{cost}"


def geometry(rows: pd.DataFrame, name: str) -> str:
    """What the geometry of a CMF head alone does to the readouts, in Retrain."""
    run, said = run_of(rows), []
    for readout, label in {"probe": "probe", "ncc": "NCC"}.items():
        both = [100 * run.values(RETRAIN, column).mean() for column in (f"{readout}_in_head_forget", f"{readout}_forget")]
        said.append(f"{label} {number(both[0], 1)} and {number(both[1], 1)} %")
    return (f"The CMF head's geometry here is `{name}` ({GEOMETRIES[name]}). In it and in raw features Retrain reads {', '.join(said)}: "
            "so CMF rows, read in it, and Retrain's row in a table like the paper's are not read alike.")


def centre(rows: pd.DataFrame) -> str:
    """Centre distance of the forget class under Random Label + CMF, beside models that never saw or lost the class."""
    run, key, column = run_of(rows), ("random_label", "cmf"), "centre_distance_forget"
    means = {run.label(k): run.values(k, column).mean() for k in (ORIGINAL, RETRAIN, EXAMPLE, key)}
    gap = Interval.of(run.gap(key, RETRAIN, column))
    half = "to less than half" if means[run.label(key)] < HALF * means[run.label(RETRAIN)] else "not to half"
    says = (f"nearer than in Retrain by {Interval.of(-run.gap(key, RETRAIN, column)).text()}, {half} of its distance"
            if gap.below() else "not surely nearer than in a model that never saw the class")
    return f"Distance from the centre: {', '.join(f'{name} {number(mean, 2)}' for name, mean in means.items())}: {says}."


def relearning(readings: pd.DataFrame, key: Key = EXAMPLE) -> str:
    """Each attack's gap to Retrain for one model; the few-shot head at the fewest images, fine-tuning after its last step."""
    gaps, said = attack_gaps(readings), []
    model = run_of(readings).label(key)
    for attack, name in ATTACKS.items():
        if f"{attack}_difference" in gaps and model in gaps.index:
            interval = gaps.loc[model, f"{attack}_difference"]
            word = "above" if interval.above() else "below" if interval.below() else "not to be told from"
            of = readings[(readings.model == model) & (readings.attack == attack) & (readings.x == 0)].forget_accuracy
            start = f" (at {100 * of.mean():.1f} % before the first step)" if len(of) and attack != "few_shot" else ""
            said.append(f"{name}: {word} Retrain, {interval.percent()} points{start}")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if said else "No attack was run."


def shuffled(readings: pd.DataFrame, classes: int) -> str:
    """Whether the control with shuffled labels is at chance where it has the most images: every model."""
    control = readings[readings.attack == "few_shot_shuffled"]
    most = control[control.x == control.x.max()]
    off = most.groupby(["model", "forget"]).forget_accuracy.mean().groupby("model").mean() - 1 / classes
    worst = off.abs().idxmax()
    verdict = "within" if off.abs().max() <= CHANCE else "not within"
    above = "The attack leaks no labels." if off.max() <= CHANCE else "It is above chance: the attack leaks labels."
    return (f"At {most.x.max()} images per class the shuffled control is {verdict} {100 * CHANCE:.0f} points of chance "
            f"({100 / classes:.1f} %): farthest off {100 * (off[worst] + 1 / classes):.1f} %, {worst}. {above} (All models and forget "
            f"sets share their draws, {readings.draw.nunique()} of them, so with few images the control is coarse.)")


def inconclusive(card: pd.DataFrame) -> str:
    """How many lines cannot tell, and why."""
    counted = were_run(card)[lambda lines: lines.counted.astype(bool)]
    open_ = counted[counted.shows == "cannot tell"]
    kinds = {"still read": "the output still reads the class", "do not agree": "the sets do not agree",
             "forget sets": "too few sets", "retain accuracy": "retain accuracy", "nearly as well": "no room",
             "": "the interval is too wide"}
    why = open_.reason.map(lambda reason: next(kind for mark, kind in kinds.items() if mark in reason))
    counts = ", ".join(f"{kind} {n}" for kind, n in why.value_counts().items())
    return f"{len(open_)} of {len(counted)} lines cannot tell{': ' + counts if counts else ''}."


def neural_collapse(histories: pd.DataFrame) -> str:
    """How near the Original is to the collapse that the theory assumes."""
    nc1 = histories[histories.method == "original"].sort_values("epoch").groupby("seed").nc1.last().mean()
    if nc1 != nc1:
        return "NC1 of the Original could not be read."
    word = "near collapse" if nc1 < COLLAPSED else "on the way to collapse, not there" if nc1 < 1 else "far from collapse"
    return f"After training NC1 of the Original is {nc1:.2f}: {word}."


def apart(rows: pd.DataFrame, column: str, name: str, models: list[str] = (), reference: str = "Retrain") -> str:
    """Models against a reference in one column: the gaps in points, and which of them may be none."""
    values = per_forget_set(rows, column)
    if reference not in values:
        return f"{name} of {reference} is not there to compare with: not run, or not read."
    gaps = {m: Interval.of(values[m] - values[reference]) for m in models or values if m in values and m != reference}
    words = {m: "above" if gap.above() else "below" if gap.below() else "not apart" if gap.n >= FEWEST_SIGNS else
             f"under {FEWEST_SIGNS} forget sets, so nothing is told" for m, gap in gaps.items()}
    of = {word: [m for m in gaps if words[m] == word] for word in dict.fromkeys(words.values())}
    listed = "; ".join(f"{word}: " + (", ".join(f"{m} {gaps[m].percent()}" for m in names) if len(names) <= MANY or word != "not apart"
                                      else f"{len(names)} models") for word, names in of.items())
    return f"{name} reads {100 * values[reference].mean():.1f} % in {reference}; {listed or 'no other model was run here'}."


def unfit(rows: pd.DataFrame) -> str:
    """Models that say nothing about hiding: the output still reads the class, or the model is broken."""
    run = run_of(rows)
    why = {key: run.unusable(key) for v in ("linear", "cmf") for key in run.keys(v, ("method", "extension"))}
    listed = "; ".join(f"{run.label(key)}: {reason}" for key, reason in why.items() if reason)
    return f"No evidence of hiding or removing: {listed or 'none, all outputs forgot and all networks still work'}."


def attractor(rows: pd.DataFrame) -> str:
    """A recovery above 1: does NCC know the class better than in the Original, or name it more often?"""
    run, keys = run_of(rows), run_of(rows).keys("linear", ("method", "extension"))
    beyond = [key for key in keys if run.gap(key, ORIGINAL, "ncc_forget").mean() > 0]
    alarms = [f"{run.label(key)} {number(100 * run.values(key, 'ncc_alarms').mean(), 1)} %" for key in [*beyond, ORIGINAL]]
    return "No model's NCC reads more of the forget class than the Original's." if not beyond else (
        "NCC reads more of the forget class than in the Original, but how many retain images does it call by that name? "
        f"{', '.join(alarms)}. Where that is more than in the Original, recall is bought with false alarms.")


def refitted(rows: pd.DataFrame) -> str:
    """With CMF: what an ordinary head, fitted to the same features on retain images alone, would show instead."""
    run = run_of(rows)
    columns = ("output_forget", "refitted_forget")
    said = {key: [run.values(key, column).mean() for column in columns] for key in run.keys("cmf")
            if not run.missing(*((key, column) for column in columns))}
    listed = "; ".join(f"{run.label(key)} {100 * a:.1f} and {100 * b:.1f} %" for key, (a, b) in said.items())
    hides = sum(b < HALF * a for a, b in said.values())
    return (f"Output and refitted head: {listed or 'not read'}. The refitted head hides more than half in {hides} of {len(said)}, "
            "as it would on many features: no image asks for the forget row, so a low value is nearly built in.")


def by_rate(profile: str, example: str = "random_label") -> str:
    """What the search's held-out images read at every rate, and for which methods less is left at a larger one."""
    path = ROOT / "figures" / profile / "tuning.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["method", "variant"])
    table = table[table.variant.isin(OWN_HEAD)]
    if table.empty or "ncc" not in table:
        return "No search of a rate is kept for this profile: how probe and NCC follow it is not known."
    lines = "; ".join(f"rate {row.value:g}: output {100 * row.forget:.1f}, probe {100 * row.probe:.1f}, NCC {100 * row.ncc:.1f}"
                      for row in table[table.method == example].itertuples())
    found = {"falls": [], "does not fall": []}
    table = table[(table.forget <= FORGOTTEN) & (table.cost <= DESTROYED) & (table.setting == "lr")]
    for method, rates in table.groupby("method"):
        rates = rates.sort_values("value")
        change = {name: rates[name].iloc[-1] - rates[name].iloc[0] for name in ("probe", "ncc")}
        if len(rates) > 1:
            least = min(change, key=change.get)
            falls = "falls" if change[least] < -FALLS else "does not fall"
            found[falls].append(f"{METHODS[method].label} ({READOUTS[least]} {100 * change[least]:+.1f})")
    said = "; ".join(f"{word} for {', '.join(names)}" for word, names in found.items() if names) or "is read at one such rate at most"
    return ("The held-out images of the search, one network; forget class, per cent. "
            f"{METHODS[example].label}: {lines or 'not searched'}. From the smallest to the largest rate at which the output forgets "
            f"and the network works, what the features hold {said}. Where it falls, a small rate flatters hiding.")


def by_profile(cards: dict[str, pd.DataFrame], claim: str = "NCC still reads it") -> str:
    """What every profile shows of the paper's example, and which claims turn into their opposite between profiles."""
    example = {name: card[(card.claim == claim) & (card.method == EXAMPLE[0]) & (card.variant == EXAMPLE[1])]
               for name, card in cards.items()}
    said = ", ".join(f"{name}: {lines.shows.iloc[0]}" for name, lines in example.items() if len(lines))
    if len(cards) < 2:
        return f"{METHODS[EXAMPLE[0]].label} by NCC – {said}. No other profile was run with this code: nothing to compare yet."
    flips = unstable({name: card[card.counted.astype(bool)] for name, card in cards.items()}) if len(cards) > 1 else None
    turned = sorted(set(flips.claim[flips.opposite & (flips.question == "shows")])) if flips is not None else []
    return (f"{METHODS[EXAMPLE[0]].label} by NCC – {said or 'on no profile'}. Claims that show the opposite for some model "
            f"on another profile: {', '.join(turned) or 'none'}.")


def known_answers(controls: pd.DataFrame) -> str:
    """How often the rules give models of known answer that answer; ``controls`` of ``claims.controls``."""
    told = {"right": [], "cannot tell": [], "wrong": []}
    for _, line in controls.iterrows():
        hidden = ("removed",) if line.expected.startswith("not hidden") else ("hidden", "partly hidden")
        expected = dict.fromkeys(("probe", "NCC"), hidden)
        if "misaligned" in line.expected:
            expected["head misaligned"] = ("does not hold",) if "not misaligned" in line.expected else ("holds",)
        for name, answers in expected.items():
            word = "right" if line[name] in answers else "cannot tell" if line[name] == "cannot tell" else "wrong"
            told[word].append(f"{line.control} by {name}")
    open_ = f"; {len(told['cannot tell'])} cannot tell ({', '.join(told['cannot tell'])})" if told["cannot tell"] else ""
    wrong = f"wrong: {', '.join(told['wrong'])}; there distrust the rule" if told["wrong"] else "none is wrong"
    return f"{len(told['right'])} of {sum(map(len, told.values()))} readings of controls are the known answer{open_}; {wrong}."


def pictured(rows: pd.DataFrame, models: list[str]) -> str:
    """What NCC reads of the forget class in the models of a picture."""
    values = per_forget_set(rows, "ncc_forget")
    said = ", ".join(f"{model} {100 * values[model].mean():.1f}" for model in models if model in values)
    return f"NCC reads of this forget set, in per cent: {said}. The picture keeps neighbours, not distances."


def by_hand(hand: pd.Series, study: pd.Series, again: float) -> str:
    """One model's readouts by hand beside the study's (per cent), and whether its probe recipe is the whole difference."""
    there = {readout: 100 * study[f"{readout.lower()}_forget"] for readout in hand.index}
    fixed = max(abs(hand[readout] - there[readout]) for readout in ("output", "NCC"))
    said = "the study's" if fixed < SAME else f"up to {fixed:.1f} points from the study's"
    said = f"Output and NCC are {said}. "
    apart = f"The probe reads {hand.probe:.1f} % by hand and {there['probe']:.1f} % in the study"
    if abs(hand.probe - there["probe"]) < SAME:
        return f"{said}{apart}: here the recipe makes no difference."
    reason = ("the recipe is the whole difference" if abs(again - there["probe"]) < SAME
              else "so the recipe is not the only difference: the study's features are not these, bit for bit")
    return f"{said}{apart}; its recipe on the features above reads {again:.1f} %: {reason}."


def cheaper(costs: pd.DataFrame) -> str:
    """Which models took no fewer passes over the images than Retrain; ``costs`` by model."""
    passes = costs.image_passes
    dear = [f"{name} ({value:.1f})" for name, value in passes.items()
            if value >= passes["Retrain"] and name not in ("Original", "Retrain", "Retrain, second seed")]
    return (f"Retrain takes {passes['Retrain']:.1f} passes over the training images; "
            f"{'no cheaper: ' + ', '.join(dear) if dear else 'every method is cheaper'}.")


def last_step(readings: pd.DataFrame, key: Key = EXAMPLE) -> str:
    """Where fine-tuning ends: forget accuracy of one model, of Retrain and of the Original after the last step."""
    run, said = run_of(readings), []
    for attack in ("fresh_head", "own_head", "retain_only"):
        part = readings[readings.attack == attack]
        end = run_of(part[part.x == part.x.max()])
        values = [f"{run.label(k)} {100 * end.values(k, 'forget_accuracy').mean():.1f}"
                  for k in (ORIGINAL, RETRAIN, RANDOM, key) if len(end.of(k))]
        said += [f"{ATTACKS[attack]}: {', '.join(values)}"] if values else []
    return f"After the last step, forget accuracy in per cent, {'; '.join(said)}." if said else "No fine-tuning was run."


def explained(table: pd.DataFrame) -> str:
    """Of ``spread.explained``: how many published numbers the choice of classes explains, and which lies farthest off."""
    told = table[table.within.isin(("yes", "no"))]
    if not len(told):
        return "No published number of such a setting can be held against these forget sets."
    sides = {side: told[told.measure.str.endswith(f"_{side}")] for side in ("forget", "retain")}
    within = ", ".join(f"of {len(part)} on the {side} class{'es' * (side == 'retain')} {(part.within == 'yes').sum()}"
                       for side, part in sides.items() if len(part))
    far = told.loc[told.difference.abs().idxmax()]
    name, side = far.measure.rsplit("_", 1)
    return (f"Of {len(table)} published numbers that this run has, too, {len(told)} can be judged, and another choice of classes "
            f"would explain {(told.within == 'yes').sum()} ({within}); where it would not, images, network or training are others. Farthest off: "
            f"{far.model}, {LABELS.get(name, name)} on the {side} class, {100 * far.here:.1f} against {100 * far.paper:.1f} %.")


def run_of(rows: pd.DataFrame) -> Run:
    return Run(rows, published("", "", 0))
