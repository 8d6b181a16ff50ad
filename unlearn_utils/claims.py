"""The scorecard: a verdict for each claim of the paper, computed from rows.

Thresholds stand here, once, and were fixed before the runs. A claim about several methods gets a line for each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import pandas as pd

from .tables import Interval, difference, per_forget_set

FORGOTTEN = 0.05  # largest output accuracy on the forget class that "looks unlearned"
PRESERVED = 0.03  # largest loss of retain accuracy that "preserves" it
ROOM = 0.02  # smallest distance between Original and Retrain at which a readout can tell anything
DESTROYED = 0.10  # loss of retain accuracy beyond which a model is no control for another


@dataclass(frozen=True)
class Line:
    claim: str
    subject: str
    paper: str
    measured: str
    interval: str  # 95 % over forget sets
    n: int
    verdict: str  # reproduced, not reproduced, inconclusive
    reason: str


def _judge(interval: Interval, positive: bool = True) -> tuple[str, str]:
    low, high = (interval.low, interval.high) if positive else (-interval.high, -interval.low)
    if interval.n < 2:
        return "inconclusive", "one forget set gives no interval"
    if low > 0:
        return "reproduced", ""
    if high < 0:
        return "not reproduced", "the difference has the other sign"
    return "inconclusive", "the interval contains 0"


def _line(
    claim: str, subject: str, paper: str, what: str, interval: Interval, verdict: tuple[str, str], scale: int = 100
) -> Line:
    mean, low, high = (scale * value for value in (interval.mean, interval.low, interval.high))
    digits = 1 if scale == 100 else 2
    return Line(claim, subject, paper, f"{what}: {mean:.{digits}f}", f"[{low:.{digits}f}, {high:.{digits}f}]",
                interval.n, *verdict)


def _models(rows: pd.DataFrame, variant: str) -> list[str]:
    chosen = rows[(rows.variant == variant) & ~rows.method.isin(("original", "retrain", "random"))]
    return list(chosen.model.unique())


def misalignment(rows: pd.DataFrame) -> list[Line]:
    """A1: output near 0 on the forget class together with a classifier that no longer points at its mean."""
    lines, output = [], per_forget_set(rows, "output_forget").mean()
    for model in _models(rows, "linear"):
        drop = difference(rows, "alignment_forget", "Original", model)
        verdict = _judge(drop)
        if output[model] > FORGOTTEN:
            verdict = "inconclusive", f"the output does not look unlearned ({100 * output[model]:.1f} %)"
        lines.append(_line("A1 misalignment", model, "output 0, classifier misaligned",
                           "fall of the forget class's alignment (cosine)", drop, verdict, scale=1))
    return lines


def readable(rows: pd.DataFrame, readout: str, claim: str, paper: str) -> list[Line]:
    """A2, A4: the readout finds the class better than in Retrain."""
    lines, column = [], f"{readout}_forget"
    values, output = per_forget_set(rows, column).mean(), per_forget_set(rows, "output_forget").mean()
    room = values["Original"] - values["Retrain"]
    for model in _models(rows, "linear"):
        gap = difference(rows, column, model, "Retrain")
        verdict = _judge(gap)
        if output[model] > FORGOTTEN:
            verdict = "inconclusive", f"the output does not look unlearned ({100 * output[model]:.1f} %)"
        elif room < ROOM:
            verdict = "inconclusive", f"Retrain is read as well as the Original (room {100 * room:.1f} points)"
        lines.append(_line(claim, model, paper, "gap to Retrain", gap, verdict))
    return lines


def classifier_only(rows: pd.DataFrame) -> list[Line]:
    """A3: changing only the classifier gives ~0 forget accuracy and keeps the retain accuracy."""
    lines, output = [], per_forget_set(rows, "output_forget").mean()
    for model in _models(rows, "classifier") + _models(rows, "zeroed_classifier"):
        cost = difference(rows, "output_retain", "Original", model)
        if output[model] > FORGOTTEN:
            verdict = "not reproduced", f"forget accuracy stays at {100 * output[model]:.1f} %"
        elif cost.n < 2:
            verdict = "inconclusive", "one forget set gives no interval"
        elif cost.high <= PRESERVED:
            verdict = "reproduced", f"forget accuracy {100 * output[model]:.1f} %"
        elif cost.low > PRESERVED:
            verdict = "not reproduced", "it costs retain accuracy"
        else:
            verdict = "inconclusive", f"the cost may exceed {100 * PRESERVED:.0f} points"
        lines.append(_line("A3 classifier only", model, "forget ~0, retain kept", "retain accuracy lost", cost, verdict))
    return lines


def retrain_is_high(rows: pd.DataFrame) -> list[Line]:
    """A5: features learnt without the class separate it, better than random features do."""
    probe = per_forget_set(rows, "probe_forget").mean()
    above = difference(rows, "probe_forget", "Retrain", "Random network")
    measured = _line("A5 Retrain is the reference", "Retrain", "probe 77.4 (CIFAR-10, ResNet-18)",
                     f"probe {100 * probe['Retrain']:.1f}; above a random network", above, _judge(above))
    return [measured]


def cmf(rows: pd.DataFrame, readout: str) -> list[Line]:
    """A6: the CMF head removes more than the linear head does at the same budget."""
    lines, original = [], per_forget_set(rows, "output_retain").mean()["Original"]
    for model in _models(rows, "cmf"):
        base = model.removesuffix(" + CMF")
        change = difference(rows, f"{readout}_forget", model, f"{base} at CMF's budget")
        tuned = difference(rows, f"{readout}_forget", model, base)
        retain = difference(rows, "output_retain", model, f"{base} at CMF's budget")
        verdict, reason = _judge(change, positive=False)
        control = per_forget_set(rows, "output_retain").mean()[f"{base} at CMF's budget"]
        if original - control > DESTROYED:
            verdict, reason = "inconclusive", f"the control is destroyed (retain {100 * control:.1f} %)"
        reason = "; ".join(filter(None, (
            reason, f"{100 * tuned.mean:+.1f} against {base} as tuned", f"retain {100 * retain.mean:+.1f}")))
        lines.append(_line(f"A6 CMF removes more ({readout})", model, "lower for SCRUB and UNSIR, mixed for others",
                           "change against the same budget", change, (verdict, reason)))
    return lines


def first_steps(curves: pd.DataFrame) -> list[Line]:
    """A8: after the first epoch of unlearning the output has fallen far below probe and NCC."""
    ends = curves[curves.epoch_end].groupby(["seed", "forget"]).step.transform("min")
    first = curves[curves.epoch_end][curves[curves.epoch_end].step == ends]
    table = first.pivot_table(index="forget", columns="readout", values="forget_accuracy")
    lines = []
    for readout in ("Linear probe", "NCC"):
        gap = Interval.of(table[readout] - table["Output"])
        lines.append(_line("A8 output falls first", f"Random Label, {readout}", "output collapses, probe stays high",
                           "readout minus output after one epoch", gap, _judge(gap)))
    return lines


def output_is_not_enough(rows: pd.DataFrame) -> list[Line]:
    """A9: two models that agree at the output and differ in their features."""
    model = "Random Label, classifier only"
    output = difference(rows, "output_forget", model, "Retrain")
    gap = difference(rows, "ncc_forget", model, "Retrain")
    verdict = _judge(gap)
    if abs(output.mean) > FORGOTTEN:
        verdict = "inconclusive", "the outputs differ"
    return [_line("A9 evaluate features", f"{model} against Retrain", "evaluate at representation level",
                  f"output differs by {100 * output.mean:.1f}; NCC by", gap, verdict)]


def relearning(readings: pd.DataFrame) -> list[Line]:
    """Extension: one image per class brings the class back better than in Retrain (few-shot linear head)."""
    few_shot = readings[readings.attack == "few_shot"]
    one = few_shot[few_shot.x == few_shot.x.min()]
    lines = []
    for model in _models(one, "linear") + _models(one, "classifier") + _models(one, "cmf"):
        gap = difference(one, "forget_accuracy", model, "Retrain")
        lines.append(_line("Extension: relearning", model, "not in the paper", f"gap to Retrain at {one.x.min()} image(s) per class", gap, _judge(gap)))
    return lines


def scorecard(rows: pd.DataFrame, curves: pd.DataFrame, readings: pd.DataFrame) -> pd.DataFrame:
    """All lines, in the order of the claims."""
    not_run = Line("A7 ViT-S/16", "all methods", "same picture", "–", "–", 0, "inconclusive",
                   "no ViT was run: it needs pretrained weights and a GPU")
    lines = [
        *misalignment(rows),
        *readable(rows, "probe", "A2 probe recovers", "Random Label 92.5, Retrain 77.4"),
        *classifier_only(rows),
        *readable(rows, "ncc", "A4 NCC recovers", "Random Label 80.3, Retrain 47.1"),
        *retrain_is_high(rows), *cmf(rows, "probe"), *cmf(rows, "ncc"), not_run,
        *first_steps(curves), *output_is_not_enough(rows), *relearning(readings),
    ]
    return pd.DataFrame([asdict(line) for line in lines])
