"""What each claim of the paper is judged by: one difference per forget set, a threshold, and the paper's number.

Thresholds stand here, once. Models are joined by (method, variant), never by label, and differences are paired: a
forget set that one of two models lacks is dropped, and a missing model blocks its lines alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from ..methods import METHODS
from .intervals import FEWEST, NAN, Interval

FORGOTTEN = 0.05  # largest output accuracy on the forget class that "looks unlearned"
PRESERVED = 0.05  # largest loss of retain accuracy, against Retrain, that "preserves" it
DESTROYED = 0.10  # a loss beyond which a model is no evidence of anything
ROOM = 0.05  # smallest Original - Retrain with which a readout can tell hidden from removed
HALF = 0.5  # a recovery above it is nearer to the Original than to Retrain: hidden
REMOVED = 1 / 3  # a recovery below it is near Retrain; in between the words "partly hidden" or "cannot tell" stand
TURNED = 0.5  # share of the distilled head's own turn: that head is misaligned and nothing else
SMALL = 0.03  # a published difference below it has no sign: about one standard error over ten classes
HONEST = 0.05  # largest distance of output and NCC; in the paper's Table 3 it is at most 3.7 points

BEYOND, RAW = "CMF removes more, beyond its geometry", "CMF removes more, raw features"
Key = tuple[str, str]  # (method, variant)
ORIGINAL, RETRAIN, RANDOM = ("original", "linear"), ("retrain", "linear"), ("random", "linear")
DISTILLED, EXAMPLE = ("distilled_head", "classifier"), ("random_label", "linear")
OWN_HEAD = ("linear", "searched")  # variants of the whole network with its own head: at the paper's rate, at a searched one
FROZEN = ("svd", "prune", "distilled_head", "bias_shift")  # their features are the Original's


@dataclass(frozen=True)
class Claim:
    name: str
    sentence: str
    place: str  # in the paper
    measure: str


CLAIMS = {claim.name: claim for claim in (
    Claim("Output forgets", "After unlearning the output hardly ever names the forget class.", "Table 1",
          "output on the forget class, %"),
    Claim("Probe still reads it", "A linear probe reads the class in the features, better than in Retrain's.",
          "Table 1, held against Retrain by us",
          "probe, gap to Retrain, points"),
    Claim("NCC still reads it", "So does the nearest class centre, which trains nothing.", "Table 1, held against Retrain by us",
          "NCC, gap to Retrain, points"),
    Claim("Head misaligned", "Where the output forgets, the classifier's forget row and the class mean turn apart.",
          "abstract", "cosine lost beyond the retain classes'"),
    Claim("Classifier alone is enough", "Changing only the classifier forgets at the output and costs little.",
          "theorem, Table 2", "retain accuracy lost against Retrain, points"),
    Claim("Retrain reads it too", "Features that never saw the class separate it, so Retrain is the reference.",
          "Sec. 4.1, Table 1", "Retrain's probe above an untrained network's, points"),
    Claim("CMF removes more", "With a class-mean head less of the class is left, as that head sees the features.",
          "Table 3, as we read it", "change against the linear head at its own rate, head's geometry against raw features, points"),
    Claim(BEYOND, "More is gone than that head's geometry alone takes from what is read in Retrain.", "our control",
          "the same change beyond Retrain's own by the geometry, points"),
    Claim(RAW, "Less is left in the raw features, too, at the same budget.",
          "our control", "change against the same budget, raw features, points"),
    Claim("With CMF the output is honest", "With a class-mean head the output reads what NCC reads.",
          "Table 3, as we read it",
          "output and NCC apart, head's geometry, points"),
    Claim("Output falls first", "The output loses the class while probe and NCC still read it.", "learning curve",
          "readout above the output once that has halved, points"),
    Claim("Output is not enough", "Classifier-only Random Label has Retrain's output and, as built, the Original's features.",
          "ours",
          "NCC, gap to Retrain at an equal output, points"),
    Claim("Pretrained backbone", "A pretrained backbone gives the same picture.",
          "ViT table", "Random Label's NCC; signs of probe and NCC as in the paper"),
    Claim("One image brings it back", "One image per class teaches it better than on Retrain's features.",
          "ours", "few-shot head, gap to Retrain, points"),
)}


@dataclass
class Draft:
    """A line before it is judged: one value per forget set, to be held against ``threshold``."""

    claim: str
    key: Key
    values: pd.Series
    readout: str
    threshold: float = 0.0
    direction: int = 1  # +1: the claim holds above the threshold; -1: below it
    room: pd.Series | None = None  # Original - Retrain per forget set, where a recovery is judged
    published: float = NAN  # the same quantity in the paper
    paper: str = ""
    refuted: str = ""  # why the claim fails whatever the values are
    blocked: str = ""  # why nothing can be told
    counted: bool = True  # False: the same measurement stands in another line, or is built in
    prefix: str = ""


@dataclass(frozen=True)
class Run:
    """The rows of a run, and the paper's numbers beside which they stand."""

    rows: pd.DataFrame
    paper: pd.DataFrame

    def of(self, key: Key) -> pd.DataFrame:
        return self.rows[(self.rows.method == key[0]) & (self.rows.variant == key[1])]

    def values(self, key: Key, column: str) -> pd.Series:
        """One value per forget set (seeds averaged); empty where the model or the column is missing."""
        chosen = self.of(key)
        if column not in chosen:
            return pd.Series(dtype=float)
        return chosen.groupby("forget", sort=False)[column].mean().dropna()

    def gap(self, key: Key, reference: Key, column: str, other: str = "") -> pd.Series:
        """model - reference, over the forget sets that both have."""
        return (self.values(key, column) - self.values(reference, other or column)).dropna()

    def number(self, key: Key, readout: str) -> float:
        """The paper's forget accuracy; NaN where it is not known to us."""
        at = (self.paper.method == key[0]) & (self.paper.variant == key[1]) & (self.paper.readout == readout)
        return float(self.paper.forget[at].iloc[0]) if at.any() else NAN

    def keys(self, variant: str, roles: tuple[str, ...] = ("method",)) -> list[Key]:
        """The models of a variant; with their own head also those at a searched rate, each a model like any other."""
        wanted = self.rows[self.rows.variant.isin(OWN_HEAD if variant == "linear" else (variant,))]
        keys = dict.fromkeys(zip(wanted.method, wanted.variant))
        return [key for key in keys if getattr(METHODS.get(key[0]), "role", "extension") in roles]

    def label(self, key: Key) -> str:
        known = self.of(key).model
        return known.iloc[0] if len(known) else f"{getattr(METHODS.get(key[0]), 'label', key[0])} ({key[1]})"

    def missing(self, *wanted: tuple[Key, str]) -> str:
        absent = [self.label(key) for key, column in wanted if not len(self.values(key, column))]
        return f"missing: {', '.join(dict.fromkeys(absent))}" if absent else ""

    def unusable(self, key: Key) -> str:
        """Why a model is no evidence for hidden features: its output remembers, or it is broken."""
        kept = self.values(key, "output_forget").mean()
        return f"the output still reads it ({100 * kept:.1f} %)" if kept > FORGOTTEN else self.destroyed(key)

    def destroyed(self, key: Key) -> str:
        cost = self.gap(RETRAIN, key, "output_retain").mean()
        return f"{self.label(key)} lost {100 * cost:.1f} points of retain accuracy" if cost > DESTROYED else ""

    def weaker(self, key: Key) -> str:
        """Why a model is no control: it has not surely preserved the retain accuracy that is asked of what it is held against."""
        given = Interval.of(self.gap(RETRAIN, key, "output_retain"))
        return "" if given.below(PRESERVED) else f"{self.label(key)} gave up {given.percent()} points of retain accuracy"

    def no_room(self, readout: str) -> str:
        room = self.gap(ORIGINAL, RETRAIN, f"{readout}_forget").mean()
        return "" if not room < ROOM else f"Retrain reads nearly as well as the Original (room {100 * room:.1f} points)"


def output_forgets(run: Run) -> list[Draft]:
    lines, column = [], "output_forget"
    for key in run.keys("linear"):
        number = run.number(key, "output")
        blocked = run.missing((RETRAIN, "output_retain"), (key, column)) or run.destroyed(key)
        lines.append(Draft("Output forgets", key, run.values(key, column), "output", FORGOTTEN, -1, published=number,
                           paper=f"{100 * number:.2f}", blocked=blocked, counted=key[1] != "searched"))  # chosen for it
    return lines


def readable(run: Run, readout: str, key: Key) -> Draft:
    """Is the class still in the features, as ``readout`` sees them? Gap to Retrain, and recovery."""
    column, number, retrain = f"{readout}_forget", run.number(key, readout), run.number(RETRAIN, readout)
    claim = {"probe": "Probe still reads it", "ncc": "NCC still reads it"}[readout]
    blocked = run.missing(*((model, column) for model in (ORIGINAL, RETRAIN, key)))
    return Draft(claim, key, run.gap(key, RETRAIN, column), readout, room=run.gap(ORIGINAL, RETRAIN, column),
                 published=number - retrain, paper=f"{100 * number:.2f}, Retrain {100 * retrain:.2f}",
                 blocked=blocked or run.unusable(key) or run.no_room(readout), counted=not frozen(key))


def misaligned(run: Run, key: Key) -> Draft:
    """Cosine that the forget class lost beyond the retain classes', against half of what the distilled head's lost, in a model
    whose output forgets."""
    def turned(model: Key) -> pd.Series:
        return (run.gap(model, ORIGINAL, "alignment_retain") - run.gap(model, ORIGINAL, "alignment_forget")).dropna()

    blocked = run.missing(*((model, "alignment_forget") for model in (ORIGINAL, DISTILLED, key)))
    return Draft("Head misaligned", key, turned(key), "alignment", TURNED * turned(DISTILLED).mean(),
                 blocked=blocked or run.unusable(key))


def classifier_alone(run: Run) -> list[Draft]:
    """Near-0 output at a preserved retain accuracy. From a zeroed head the 0 is built in: those lines do not count."""
    lines = []
    for key in [key for v in ("classifier", "zeroed_classifier") for key in run.keys(v) if key[0] != "finetune"]:
        kept = Interval.of(run.values(key, "output_forget"))
        sure = kept.above(FORGOTTEN)
        still = f"the output {'still reads' if sure else 'may still read'} it: {kept.percent()} %"
        still = "" if kept.below(FORGOTTEN) else still
        lines.append(Draft(
            "Classifier alone is enough", key, run.gap(RETRAIN, key, "output_retain"), key[1], PRESERVED, -1,
            refuted=still if sure else "", counted=key[1] == "classifier",
            blocked=run.missing((RETRAIN, "output_retain"), (key, "output_retain"))
            or ("" if sure else still), prefix=f"output {100 * kept.mean:.1f} %; "))
    return lines


def retrain_reads(run: Run, pretrained: bool) -> Draft:
    """Against an untrained network; the paper has none, so it has no side."""
    column, number = "probe_forget", run.number(RETRAIN, "probe")
    seen = "what its start was trained on may hold the class" if pretrained else ""
    return Draft("Retrain reads it too", RETRAIN, run.gap(RETRAIN, RANDOM, column), "probe",
                 paper=f"{100 * number:.2f}, no untrained network" if number == number else "",
                 blocked=run.missing((RETRAIN, column), (RANDOM, column)) or seen,
                 prefix=f"{100 * run.values(RETRAIN, column).mean():.1f} %, above by ")


def cmf_removes(run: Run, readout: str, claim: str) -> list[Draft]:
    """A fall, at a retain accuracy that both preserve: in the head's geometry against the linear head at its own rate in raw features,
    as in the paper; the same beyond what the geometry alone does to Retrain; in raw features against the linear head at CMF's budget.
    """
    lines, column = [], f"{readout}_forget"
    own = column if claim == RAW else f"{readout}_in_head_forget"
    for key in run.keys("cmf"):
        control = (key[0], "cmf_budget" if claim == RAW else "linear")
        numbers = run.number((key[0], "linear"), readout), run.number(key, f"{readout}_in_head")
        before, after = (NAN, NAN) if claim in (BEYOND, RAW) else numbers
        cost = Interval.of(run.gap(RETRAIN, key, "output_retain"))
        dear = f"it {'costs' if cost.above(PRESERVED) else 'may cost'} over 5 points of retain accuracy: {cost.percent()}"
        change, by_geometry = run.gap(key, control, own, column), run.gap(RETRAIN, RETRAIN, own, column)
        lines.append(Draft(
            claim, key, (change - by_geometry).dropna() if claim == BEYOND else change, readout, direction=-1,
            published=after - before, paper=f"{100 * before:.2f} to {100 * after:.2f}",
            blocked=run.missing((RETRAIN, "output_retain"), (RETRAIN, own), (key, own), (control, column))
            or run.destroyed(control) or run.no_room(readout) or ("" if cost.below(PRESERVED) else dear) or run.weaker(control),
            prefix=f"Retrain's own {100 * by_geometry.mean():.1f}; beyond it " if claim == BEYOND else ""))
    return lines


def honest_output(run: Run) -> list[Draft]:
    """Output against NCC, both as the head sees the features; the bound on the side of the mean decides."""
    lines = []
    for key in run.keys("cmf"):
        apart = run.gap(key, key, "output_forget", "ncc_in_head_forget")
        number, sign = run.number(key, "output") - run.number(key, "ncc_in_head"), -1 if apart.mean() < 0 else 1
        far = apart.abs() if len(apart) < FEWEST else sign * apart  # without an interval every set is judged by itself
        lines.append(Draft(
            "With CMF the output is honest", key, far, "output", HONEST, -1, published=abs(number),
            paper=f"{100 * number:+.2f}",
            blocked=run.missing((RETRAIN, "output_retain"), (key, "ncc_in_head_forget")) or run.destroyed(key),
            prefix=f"output {'apart from' if len(apart) < FEWEST else 'below' if sign < 0 else 'above'} NCC by "))
    return lines


def falls_first(curves: pd.DataFrame) -> list[Draft]:
    """Probe and NCC at the step at which the output has lost half of its forget accuracy."""
    runs = []
    for (forget, _), run in curves.groupby(["forget", "seed"], sort=False):
        table = run.pivot_table(index="step", columns="readout", values="forget_accuracy")
        low = table[table["Output"] <= HALF * table["Output"].iloc[0]]
        at = low.iloc[0] if len(low) else table.iloc[-1]
        before = table.iloc[0].add_suffix(" before")
        runs.append({"forget": forget, "step": at.name, "halved": len(low) > 0, **at, **before})
    runs, lines = pd.DataFrame(runs), []
    for readout in ("Linear probe", "NCC"):
        fell = runs[readout].mean() < HALF * runs[f"{readout} before"].mean()
        lines.append(Draft(
            "Output falls first", EXAMPLE, (runs[readout] - runs["Output"]).groupby(runs.forget).mean(), readout,
            refuted="the readout fell with it" if fell else "" if runs.halved.all() else "the output did not halve",
            prefix=f"step {' to '.join(map(str, sorted({runs.step.min(), runs.step.max()})))} of {curves.step.max()}, above by "))
    return lines


def output_is_not_enough(run: Run) -> Draft:
    """Classifier-only Random Label beside Retrain: the same output, the Original's features."""
    line = readable(run, "ncc", ("random_label", "classifier"))
    apart = max(abs(run.gap(line.key, RETRAIN, f"output_{side}").mean()) for side in ("retain", "forget"))
    return replace(line, claim="Output is not enough", published=NAN, prefix=f"outputs within {100 * apart:.1f}; ",
                   blocked=line.blocked or ("the outputs differ" if apart > FORGOTTEN else ""))


def one_image(run: Run, readings: pd.DataFrame) -> list[Draft]:
    few = readings[readings.attack == "few_shot"]
    shots, column = Run(few[few.x == few.x.min()], run.paper), "forget_accuracy"
    keys = [key for variant in ("linear", "classifier", "cmf") for key in shots.keys(variant, ("method", "extension"))]
    return [Draft(
        "One image brings it back", key, shots.gap(key, RETRAIN, column), "few-shot head",
        blocked=shots.missing((RETRAIN, column)) or run.missing((key, "output_forget")) or run.unusable(key), counted=not frozen(key))
        for key in keys]


def frozen(key: Key) -> bool:
    """Whether a model's features are the Original's: then their readout is no measurement of its own."""
    return key[0] in FROZEN or key[1] in ("classifier", "zeroed_classifier")
