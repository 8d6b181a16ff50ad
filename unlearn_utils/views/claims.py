"""Verdicts, computed from rows. Two questions, two columns, never mixed.

*Does it agree with the paper?* The sign of a difference against the published sign; only where we hold the number.
*What does this run show?* The interval of the same difference against a threshold, and for a readout also that of
its recovery; Holm's correction within a claim and readout sets the level of both. What is printed is what is judged.
``controls`` holds the rules against models whose answer is known.
"""

from __future__ import annotations

from typing import Callable

import pandas as pd

from ..settings import READOUTS
from . import evidence
from .evidence import CLAIMS, HALF, REMOVED, SMALL, Draft, Run
from .intervals import ALPHA, FEWEST, FEWEST_SIGNS, NAN, Interval, holm, p_value, ratio
from .tables import published, setting

CONTROLS = {"distilled_head": "hidden, misaligned", "prune": "hidden, misaligned",
            "bias_shift": "hidden, not misaligned", "retrain_again": "not hidden"}
SYMBOLS = {"agrees": "●", "sign agrees": "◐", "sign differs": "◌", "does not agree": "○"}
WORDS = ("hidden", "partly hidden", "removed", "holds", "does not hold", "cannot tell")
FOR = ("hidden", "partly hidden", "holds", "agrees", "sign agrees")
AGAINST = ("removed", "does not hold", "sign differs", "does not agree")
CAPTION = (
    "● surely on the paper's side, ◐ on its side, ◌ on the other side, ○ surely on the other; not surely: too few sets or too "
    "wide an interval; – no number is known to us, or the paper's own difference is under 3 points. The side is the sign of "
    "the paper's own difference, whichever it is (where CMF leaves more in the paper and less here, that is the other side); for "
    "the output's 5-point bounds, the side of the bound. The paper: ResNet-18 on CIFAR-10, one class, second hand (for a "
    "pretrained backbone its ViT, from the official code); its probe and NCC were fitted to augmented views of the training images. "
    "One symbol per model and readout, sorted; which is whose stands in `scorecard.csv`. Intervals run over forget sets (Student's t; Fieller's "
    "for the recovery), at the level of Holm's correction within a claim and readout; under five sets the values stand there, and "
    "all must agree, which by chance alone three signs do in one of four cases."
)


def agreement(interval: Interval, published: float, threshold: float = 0.0) -> tuple[str, str]:
    """(word, reason): are we on the paper's side of the threshold?"""
    apart = published - threshold
    if apart != apart or not interval.n:
        return "not known", ""
    if not threshold and abs(apart) < SMALL:
        return "not known", f"the paper's own difference is under {100 * SMALL:.0f} points"
    same = (interval.mean - threshold) * apart > 0
    sure = interval.n >= FEWEST and (interval.above(threshold) or interval.below(threshold))
    return {(True, True): "agrees", (True, False): "sign agrees", (False, False): "sign differs",
            (False, True): "does not agree"}[same, sure], ""


def shown(draft: Draft, interval: Interval, recovery: Interval | None) -> tuple[str, str]:
    """(word, reason): what this run shows, by its intervals alone."""
    if draft.blocked or interval.n < FEWEST_SIGNS:
        return "cannot tell", draft.blocked or f"under {FEWEST_SIGNS} forget sets"
    if draft.refuted:
        return "does not hold", draft.refuted
    apart = "the forget sets do not agree" if interval.n < FEWEST else ""  # where there is no interval
    if recovery:
        if interval.above():
            return ("hidden", "") if recovery.above(HALF) else ("partly hidden", "above Retrain, by half not shown")
        if recovery.below(REMOVED):
            return "removed", "less of the class is read than in Retrain" if interval.below() else ""
        return "cannot tell", apart or "the gap may be 0, or the recovery high"
    holds, fails = (interval.above(draft.threshold), interval.below(draft.threshold))[:: draft.direction]
    if holds or fails:
        return ("holds" if holds else "does not hold"), ""
    return "cannot tell", apart or "the interval holds the threshold"


def judge(drafts: list[Draft], run: Run, comparison: str = "") -> pd.DataFrame:
    """One line per draft; Holm runs over the counted lines of a claim and readout that can be told at all."""
    judged, second_hand = [], run.paper.source.str.startswith("second-hand").any()
    for draft in drafts:
        family = [d for d in drafts if (d.claim, d.readout, d.counted) == (draft.claim, draft.readout, True)
                  and not d.blocked and not d.refuted and len(d.values.dropna()) >= FEWEST]
        interval, corrected = _interval(draft, family)
        recovery, of_recovery = _interval(draft, family, ratio) if draft.room is not None else (None, {})
        agrees, note = agreement(interval, draft.published, draft.threshold)
        if agrees != "not known" and (draft.blocked or draft.refuted):
            agrees, note = "not known", "no evidence for or against the paper's number"
        shows, reason = shown(draft, interval, recovery)
        known, back = draft.published == draft.published, recovery or Interval(NAN, NAN, NAN, 0)
        judged.append({
            "claim": draft.claim, "model": run.label(draft.key), "method": draft.key[0], "variant": draft.key[1],
            "readout": draft.readout, "counted": draft.counted,
            "paper": "not known" if "nan" in draft.paper or not draft.paper else draft.paper + ", second hand" * bool(second_hand),
            "published": draft.published, "comparison": comparison if known else "",
            "this run": _text(draft, interval, recovery) + _diverged(run, draft),
            "mean": interval.mean, "low": interval.low, "high": interval.high, "threshold": draft.threshold,
            "n": interval.n, **corrected, "recovery": back.mean, "recovery_low": back.low, "recovery_high": back.high,
            "recovery_level": of_recovery.get("level", NAN),
            "agrees": agrees, "shows": shows, "reason": "; ".join(filter(None, (reason, note)))})
    return pd.DataFrame(judged)


def _interval(draft: Draft, family: list[Draft], of: Callable | None = None) -> tuple[Interval, dict[str, float]]:
    """The interval at the level of Holm's correction, of the values or (``of``) of their ratio to the room."""
    def p(d: Draft) -> float:
        return p_value(d.values - HALF * d.room) if of else p_value(d.values, d.threshold)

    adjusted, level = NAN, 1 - ALPHA
    if any(d is draft for d in family):
        adjusted, level = holm([p(d) for d in family])[next(i for i, d in enumerate(family) if d is draft)]
    interval = of(draft.values, draft.room, level) if of else Interval.of(draft.values, level)
    return interval, {"p": p(draft), "p_holm": adjusted, "level": level}


def _diverged(run: Run, draft: Draft) -> str:
    """Forget sets of a model without numbers."""
    sets = run.of(draft.key).groupby("forget").output_forget.mean()
    return f" (diverged on {sets.isna().sum()} of {len(sets)} sets)" if sets.isna().any() else ""


def _text(draft: Draft, interval: Interval, recovery: Interval | None) -> str:
    if not interval.n:
        return "–"
    text = draft.prefix + (interval.text() if draft.readout == "alignment" else interval.percent())
    if interval.n < FEWEST and draft.threshold == draft.threshold:  # else nothing is there to be above or below
        above = sum(value > draft.threshold for value in interval.values)
        most, side = max((above, "above"), (interval.n - above, "below"))
        text += f", {most} of {interval.n} {side} {draft.threshold * (1 if draft.readout == 'alignment' else 100):.2g}"
    return text + (f"; recovery {recovery.text()}" if recovery else "")


def scorecard(
    rows: pd.DataFrame, curves: pd.DataFrame | None = None, readings: pd.DataFrame | None = None, profile: str = "",
    pretrained: bool = False,
) -> pd.DataFrame:
    """All lines, in the order of the claims; numbers are fractions, and ``this run`` is text for display.

    ``profile`` names the column of the paper; another data set or network is compared by signs only. A line about
    a pretrained backbone needs one (``pretrained``, or a ViT).
    """
    arch, dataset, same = setting(profile, pretrained)
    sizes = {len(forget.split()) for forget in rows.forget}
    run = Run(rows, published(arch, dataset, sizes.pop() if len(sizes) == 1 else 0))
    whole, nothing = run.keys("linear"), pd.DataFrame()
    curves, readings = (nothing if frame is None else frame for frame in (curves, readings))
    drafts = [
        *evidence.output_forgets(run),
        *(evidence.readable(run, readout, key) for readout in ("probe", "ncc") for key in whole),
        *(evidence.misaligned(run, key) for key in whole), *evidence.classifier_alone(run),
        evidence.retrain_reads(run, pretrained or arch.startswith("vit")),
        *(d for claim in CLAIMS if claim.startswith("CMF removes more") for readout in ("probe", "ncc")
          for d in evidence.cmf_removes(run, readout, claim)),
        *evidence.honest_output(run), *(evidence.falls_first(curves) if len(curves) else ()),
        evidence.output_is_not_enough(run), *(evidence.one_image(run, readings) if len(readings) else ()),
    ]
    card = judge(drafts, run, "same setting" if same else "another setting: signs only")
    if not (pretrained or arch.startswith("vit")):
        return card
    return pd.concat([card, _backbone(card)], ignore_index=True)


def _backbone(card: pd.DataFrame) -> pd.DataFrame:
    """How many signs of probe and NCC are the paper's, with a pretrained backbone; it repeats lines that stand above.

    It holds where Random Label hides the class and every sign is surely the paper's.
    """
    read = card[card.claim.isin(("Probe still reads it", "NCC still reads it")) & card.agrees.isin(SYMBOLS)]
    words = [word for word in reversed(SYMBOLS) if (read.agrees == word).any()]  # the weakest first
    example = card[(card.claim == "NCC still reads it") & (card.method == "random_label")].shows.max()
    hides = {"hidden": "holds", "partly hidden": "holds", "removed": "does not hold"}.get(example, "cannot tell")
    same = read.agrees == "agrees"
    return pd.DataFrame([{
        "claim": "Pretrained backbone", "model": "all methods", "method": "", "variant": "linear",
        "readout": "probe, ncc", "counted": False, "paper": "ViT table",
        "comparison": read.comparison.max() if len(read) else "", "n": card.n.max(),
        "this run": f"{same.sum()} of {len(read)} signs surely; Random Label, NCC: {example}",
        "agrees": words[0] if words else "not known", "shows": "cannot tell" if hides == "holds" and not same.all() else hides,
        "reason": "" if same.all() else "not every sign is surely the paper's",
    }])


def one_screen(card: pd.DataFrame, flips: pd.DataFrame | None = None) -> pd.DataFrame:
    """One line per claim: at most 13.

    ``this run`` is Random Label's, by a readout that can tell where one can; ``agrees`` has a symbol and ``shows`` counts
    for every line whose measurement is its own. Claims of ``flips`` (from ``unstable``) that turn into their opposite are marked.
    """
    turned = set(flips.claim[flips.opposite]) if flips is not None else set()
    lines = []
    for name, part in _counted(card):
        example = part[part.method == "random_label"]
        first = pd.concat([example[example.shows != "cannot tell"], example, part]).iloc[0]
        of = first.model + (f", {READOUTS[first.readout]}" if {"probe", "ncc"} <= set(part.readout) else "")
        lines.append({
            "claim": name, "measure": CLAIMS[name].measure, "paper": first.paper,
            "this run": first["this run"] if len(part) == 1 else f"{of}: {first['this run']}",
            "agrees": _symbols(part), "shows": _counts(part) + " (unstable)" * (name in turned)})
    return pd.DataFrame(lines).set_index("claim")


def claims_by_profile(cards: dict[str, pd.DataFrame], question: str = "agrees") -> pd.DataFrame:
    """Claims x profiles: a symbol of ``SYMBOLS`` per line, or ("shows") what the runs show."""
    cell = {"agrees": _symbols, "shows": _counts}[question]
    columns = {profile: {name: cell(part) for name, part in _counted(card)} for profile, card in cards.items()}
    names = [name for name in CLAIMS if any(name in column for column in columns.values())]
    return pd.DataFrame(columns).reindex(names).fillna("not run")


def _counted(card: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(claim, its lines) for each claim on a card; lines that repeat a measurement only where all do."""
    card = were_run(card)
    parts = [(name, card[card.claim == name]) for name in CLAIMS]
    return [(name, part[part.counted.astype(bool)] if part.counted.any() else part) for name, part in parts if len(part)]


def were_run(card: pd.DataFrame) -> pd.DataFrame:
    """The lines of a card whose models were all run; the others say what is missing, and count for nothing."""
    return card[~card.reason.astype(str).str.startswith("missing")]


def _symbols(part: pd.DataFrame) -> str:
    return "".join(symbol * (part.agrees == word).sum() for word, symbol in SYMBOLS.items()) or "–"


def _counts(part: pd.DataFrame) -> str:
    counts = {word: n for word in WORDS if (n := (part.shows == word).sum())}
    return ", ".join(f"{word} {n}" for word, n in counts.items()) if len(part) > 1 else part.shows.iloc[0]


def unstable(cards: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Verdicts that differ between cards of the same models (two processors, two seeds), one column per card.

    ``opposite`` marks those that turn into their contrary; in the others one card cannot tell.
    """
    lines = []
    for question in ("agrees", "shows"):
        table = pd.DataFrame({n: card.set_index(["claim", "model", "readout"])[question] for n, card in cards.items()})
        table = table[table.nunique(axis=1) > 1]
        opposite = table.isin(FOR).any(axis=1) & table.isin(AGAINST).any(axis=1)
        lines.append(table.assign(question=question, opposite=opposite).reset_index())
    return pd.concat(lines, ignore_index=True)


def controls(rows: pd.DataFrame) -> pd.DataFrame:
    """What each rule says of models whose answer is known: beside ``expected``; each is judged alone, uncorrected."""
    run, lines = Run(rows, published("", "", 0)), []
    for method, expected in CONTROLS.items():
        found = rows[rows.method == method]
        if not len(found):
            continue
        key = (method, found.variant.iloc[0])
        judged = {"probe": evidence.readable(run, "probe", key), "NCC": evidence.readable(run, "ncc", key),
                  "head misaligned": evidence.misaligned(run, key)}
        said = {name: judge([draft], run).iloc[0] for name, draft in judged.items()}
        lines.append({"control": run.label(key), "expected": expected,
                      **{name: line.shows for name, line in said.items()},
                      "reason": "; ".join(f"{name}: {line.reason}" for name, line in said.items() if line.reason)})
    return pd.DataFrame(lines, columns=["control", "expected", "probe", "NCC", "head misaligned", "reason"])


def reproduction(card: pd.DataFrame, reference: pd.DataFrame, beside: pd.DataFrame) -> list[str]:
    """Two lines: how far this run's means (``tables.reproduction``) are from the reference's, and which verdicts differ."""
    off = 100 * beside.difference.abs().dropna()
    differing = unstable({"here": card, "reference": reference})
    told = [f"{line.claim}, {line.model}: {line.here} ({line.reference})" for line in differing.itertuples()]
    listed = f"{len(told)} differ from the reference's (in brackets): " + "; ".join(told[:5]) if told else "none differs"
    return [
        f"Reproduction: {len(off)} means beside the reference's, median difference {off.median():.2f} points, largest "
        f"{off.max():.2f} ({', '.join(off.idxmax())}).",
        f"Verdicts: {len(card)} lines, two questions each: {listed}" + (" and more." if len(told) > 5 else "."),
    ]
