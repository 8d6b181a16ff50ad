"""The scorecard: a verdict for each claim of the paper, computed from rows.

Thresholds stand here, once. A claim about several methods gets a line for each, beside the paper's own number
for that method where we know it. Where the paper's number has the other sign than its headline (SCRUB's probe
lies below Retrain's, for instance), the number counts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from ..methods import METHODS
from ..metrics import recovery
from .tables import Interval, difference, paper_number, per_forget_set

FORGOTTEN = 0.05  # largest output accuracy on the forget class that "looks unlearned"
PRESERVED = 0.05  # largest loss of retain accuracy that "preserves" it: the tolerance of the rate search
ROOM = 0.02  # smallest difference (Original - Retrain here, or in the paper's numbers) that says anything
DESTROYED = 0.10  # loss of retain accuracy beyond which a model is no evidence
MISALIGNED = 0.25  # smallest fall of the cosine, beyond that of the retain classes, that counts as turning away
HALF = 0.5  # a recovery above it is nearer to the Original than to Retrain

Verdict = tuple[str, str]  # the word and the reason


@dataclass(frozen=True)
class Line:
    claim: str
    subject: str
    paper: str
    measured: str
    interval: str  # 95 % over forget sets
    n: int
    verdict: str
    reason: str


@dataclass(frozen=True)
class Readout:
    """One readout of the forget class in one model, against Retrain."""

    gap: Interval
    room: float
    recovery: float

    @staticmethod
    def of(rows: pd.DataFrame, readout: str, model: str) -> Readout:
        values = per_forget_set(rows, f"{readout}_forget").mean()
        gap = difference(rows, f"{readout}_forget", model, "Retrain")
        original, retrain = values["Original"], values["Retrain"]
        return Readout(gap, original - retrain, recovery(values[model], retrain, original))


def _judge(interval: Interval, positive: bool = True) -> Verdict:
    low, high = (interval.low, interval.high) if positive else (-interval.high, -interval.low)
    if interval.n < 2:
        return "inconclusive", "one forget set gives no interval"
    if low > 0:
        return "reproduced", ""
    if high < 0:
        return "not reproduced", "the difference has the other sign"
    return "inconclusive", "the interval contains 0"


def _line(
    claim: str, subject: str, paper: str, what: str, interval: Interval, verdict: Verdict, scale: int = 100
) -> Line:
    digits = 1 if scale == 100 else 2
    mean, *bounds = (f"{scale * value:.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    shown = f"[{', '.join(bounds)}]" if interval.n > 1 else "–"
    return Line(claim, subject, paper, f"{what}: {mean}", shown, interval.n, *verdict)


def _models(rows: pd.DataFrame, variant: str, roles: tuple[str, ...] = ("method",)) -> list[str]:
    chosen = rows[(rows.variant == variant) & rows.method.map(lambda name: METHODS[name].role in roles)]
    return list(chosen.model.unique())


def _unusable(rows: pd.DataFrame, model: str) -> Verdict | None:
    """Why a model is no evidence for hidden features: its output remembers, or it is broken."""
    means = {side: per_forget_set(rows, f"output_{side}").mean() for side in ("retain", "forget")}
    if means["forget"][model] > FORGOTTEN:
        return "inconclusive", f"the output does not look unlearned ({100 * means['forget'][model]:.1f} %)"
    cost = means["retain"]["Original"] - means["retain"][model]
    if cost > DESTROYED:
        return "inconclusive", f"the model lost {100 * cost:.1f} points of retain accuracy"
    return None


def _no_room(room: float) -> Verdict:
    return "inconclusive", f"Retrain is read nearly as well as the Original (room {100 * room:.1f} points)"


def _nearer_to_original(read: Readout) -> Verdict:
    """Above Retrain, and nearer to the Original than to Retrain."""
    word, reason = _judge(read.gap)
    if word == "reproduced" and read.recovery < HALF:
        return "inconclusive", "above Retrain, but nearer to it than to the Original"
    return word, reason


def misalignment(rows: pd.DataFrame) -> list[Line]:
    """A1: the classifier turned away from the forget class, and the features kept it."""
    lines = []
    turned = rows.assign(turned=rows.alignment_retain - rows.alignment_forget)
    for model in _models(rows, "linear"):
        extra, read = difference(turned, "turned", model, "Original"), Readout.of(rows, "ncc", model)
        if not (verdict := _unusable(rows, model)):
            if read.room < ROOM:
                verdict = _no_room(read.room)
            elif extra.mean < MISALIGNED:
                verdict = "not reproduced", "the classifier hardly turned away"
            elif read.recovery < HALF:
                verdict = "not reproduced", f"the features moved too (NCC recovery {read.recovery:.2f})"
            else:
                verdict = _judge(read.gap)
        lines.append(_line("A1 misalignment, not forgetting", model, "misaligned, features kept",
                           f"NCC recovery {read.recovery:.2f}; forget cosine lost beyond the retain classes'", extra,
                           verdict, scale=1))
    return lines


def readable(rows: pd.DataFrame, readout: str, claim: str) -> list[Line]:
    """A2, A4: the readout finds the class in the features, better than in Retrain's."""
    lines, reference = [], paper_number("Retrain", readout)
    for model in _models(rows, "linear"):
        read, number = Readout.of(rows, readout, model), paper_number(model, readout)
        known = number == number  # not NaN
        paper = f"{100 * number:.1f}, Retrain {100 * reference:.1f}" if known else "not known for this method"
        if not (verdict := _unusable(rows, model)):
            if read.room < ROOM:
                verdict = _no_room(read.room)
            elif known and number < reference:
                verdict = _judge(read.gap, positive=False)
            else:
                verdict = _nearer_to_original(read)
        lines.append(_line(claim, model, paper, f"recovery {read.recovery:.2f}; gap to Retrain", read.gap, verdict))
    return lines


def classifier_only(rows: pd.DataFrame) -> list[Line]:
    """A3: changing only the classifier gives ~0 forget accuracy and keeps the retain accuracy.

    From a zeroed head near-0 forget accuracy is almost built in, so those lines stand apart; retain-only
    fine-tuning is the control of notebook 02 and gets no line.
    """
    lines, output = [], per_forget_set(rows, "output_forget").mean()
    claims = {"classifier": "A3 classifier only", "zeroed_classifier": "A3 from a zeroed head (0 is built in)"}
    for variant, claim in claims.items():
        for model in _models(rows[rows.method != "finetune"], variant):
            cost = difference(rows, "output_retain", "Original", model)
            if output[model] > FORGOTTEN:
                verdict = "not reproduced", "the forget accuracy stays"
            elif cost.n < 2:
                verdict = "inconclusive", "one forget set gives no interval"
            elif cost.low > PRESERVED:
                verdict = "not reproduced", "it costs retain accuracy"
            elif cost.high > PRESERVED:
                verdict = "inconclusive", f"the cost may exceed {100 * PRESERVED:.0f} points"
            else:
                verdict = "reproduced", ""
            what = f"output forget {100 * output[model]:.1f} %; retain accuracy lost"
            lines.append(_line(claim, model, "forget ~0, retain kept", what, cost, verdict))
    return lines


def retrain_is_high(rows: pd.DataFrame) -> list[Line]:
    """A5: features learnt without the class separate it, better than random features do."""
    probe = per_forget_set(rows, "probe_forget").mean()
    above = difference(rows, "probe_forget", "Retrain", "Random network")
    what = f"probe {100 * probe['Retrain']:.1f} %; above a random network by"
    paper = f"probe {100 * paper_number('Retrain', 'probe'):.1f} %"
    return [_line("A5 Retrain is the reference", "Retrain", paper, what, above, _judge(above))]


def cmf(rows: pd.DataFrame, readout: str) -> list[Line]:
    """A6: the CMF head removes more than the linear head, at its own budget, and keeps the retain accuracy."""
    lines, column = [], f"{readout}_forget"
    retain = per_forget_set(rows, "output_retain").mean()
    for model in _models(rows, "cmf"):
        base = model.removesuffix(" + CMF")
        against = f"{base} at CMF's budget"
        broken_control = retain["Original"] - retain[against] > DESTROYED
        change = difference(rows, column, model, base if broken_control else against)
        before, after = paper_number(base, readout), paper_number(model, readout)
        paper = f"{100 * before:.1f} to {100 * after:.1f}" if before == before else "not known for this method"
        cost, read = retain["Original"] - retain[model], Readout.of(rows, readout, model)
        if cost > PRESERVED:
            verdict = "not reproduced", f"it costs {100 * cost:.1f} points of retain accuracy"
        elif read.room < ROOM:
            verdict = _no_room(read.room)
        elif abs(after - before) < ROOM:
            verdict = "inconclusive", "the paper's own change is under 2 points"
        else:
            verdict = _judge(change, positive=after > before)
        what = f"retain {-100 * cost:+.1f}; change against {'the tuned linear head' if broken_control else 'the same budget'}"
        reason = "; ".join(filter(None, (
            verdict[1], "the paper's own number rises too" if verdict[0] == "reproduced" and after > before else "",
            "the control lost its retain accuracy" if broken_control else "")))
        lines.append(_line(f"A6 CMF removes more ({readout})", model, paper, what, change, (verdict[0], reason)))
    return lines


def first_steps(curves: pd.DataFrame) -> list[Line]:
    """A8: when the output has lost half of its forget accuracy, probe and NCC are still high."""
    run = curves.pivot_table(index=["seed", "forget", "step"], columns="readout", values="forget_accuracy")
    runs = [part.droplevel(["seed", "forget"]) for _, part in run.groupby(level=["seed", "forget"])]
    fallen = [part[part["Output"] <= HALF * part["Output"].loc[0]] for part in runs]
    halved = [f.iloc[0] if len(f) else part.iloc[-1] for f, part in zip(fallen, runs)]
    steps = sorted(at.name for at in halved)
    lines = []
    for readout in ("Linear probe", "NCC"):
        gap = Interval.of(pd.Series([at[readout] - at["Output"] for at in halved]))
        before = sum(part[readout].loc[0] for part in runs)
        left = sum(at[readout] for at in halved)
        verdict = _judge(gap)
        if not all(len(f) for f in fallen):
            verdict = "not reproduced", "the output did not lose half of its accuracy"
        elif left < HALF * before:
            verdict = "not reproduced", "the readout fell with it"
        what = f"output halved by step {steps[0]} to {steps[-1]} of {curves.step.max()}; readout above it by"
        lines.append(_line("A8 output falls first", f"Random Label, {readout}", "output falls, readouts stay", what,
                           gap, verdict))
    return lines


def output_is_not_enough(rows: pd.DataFrame) -> list[Line]:
    """A9: two models that agree at the output and differ in their features."""
    lines = []
    for model in [m for m in ("Random Label, classifier only", "Distilled head, classifier only") if m in set(rows.model)]:
        lines.append(_output_against_ncc(rows, model))
    return lines


def _output_against_ncc(rows: pd.DataFrame, model: str) -> Line:
    outputs = [difference(rows, f"output_{side}", model, "Retrain").mean for side in ("retain", "forget")]
    read = Readout.of(rows, "ncc", model)
    if max(map(abs, outputs)) > FORGOTTEN:
        verdict = "inconclusive", "the outputs differ"
    else:
        verdict = _judge(read.gap) if read.room >= ROOM else _no_room(read.room)
    what = "output differs by {:.1f} (retain) and {:.1f} (forget); NCC by".format(*(100 * o for o in outputs))
    return _line("A9 evaluate features", f"{model} against Retrain", "evaluate features", what, read.gap, verdict)


def relearning(rows: pd.DataFrame, readings: pd.DataFrame) -> list[Line]:
    """Extension: the fewest images bring the class back better than in Retrain (few-shot linear head)."""
    few_shot = readings[readings.attack == "few_shot"]
    fewest = few_shot[few_shot.x == few_shot.x.min()]
    words = {"reproduced": "holds", "not reproduced": "does not hold", "inconclusive": "inconclusive"}
    lines = []
    for variant in ("linear", "classifier", "cmf"):
        for model in _models(fewest, variant, roles=("method", "extension")):
            gap = difference(fewest, "forget_accuracy", model, "Retrain")
            word, reason = _unusable(rows, model) or _judge(gap)
            what = f"gap to Retrain at {fewest.x.min()} image(s) per class"
            lines.append(_line("Extension: relearns faster", model, "not in the paper", what, gap, (words[word], reason)))
    return lines


def scorecard(rows: pd.DataFrame, curves: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """All lines, in the order of the claims."""
    not_run = Line("A7 ViT-S/16", "all methods", "same picture", "–", "–", 0, "inconclusive",
                   "no ViT was run: it needs pretrained weights and a GPU")
    lines = [
        *misalignment(rows), *readable(rows, "probe", "A2 probe recovers"), *classifier_only(rows),
        *readable(rows, "ncc", "A4 NCC recovers"), *retrain_is_high(rows), *cmf(rows, "probe"), *cmf(rows, "ncc"),
        not_run, *first_steps(curves), *output_is_not_enough(rows), *relearning(rows, readings),
    ]
    return pd.DataFrame([asdict(line) for line in lines])


def reproduction(card: pd.DataFrame, reference_card: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Two lines: how far this run's means are from the reference's, and which verdicts differ."""
    off = 100 * table.difference.abs().dropna()
    verdicts = [part.set_index(["claim", "subject"]).verdict for part in (card, reference_card)]
    here, there = verdicts[0].align(verdicts[1], join="inner")
    other = [f"{claim}, {subject}: {here[claim, subject]} (reference: {there[claim, subject]})"
             for claim, subject in here.index[here != there]]
    return [
        f"reproduction: {len(off)} means compared with the reference, median difference {off.median():.2f} points, "
        f"largest {off.max():.1f} ({', '.join(off.idxmax())})",
        f"verdicts: {len(here)} compared, " + ("; ".join(other) if other else "none differs"),
    ]
