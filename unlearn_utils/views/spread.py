"""Where a ± comes from: classes, seeds, and what neither explains; and what it explains of a difference to the paper."""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from ..settings import READOUTS
from .claims import scorecard, unstable, were_run
from .evidence import frozen
from .intervals import ALPHA, NAN, Interval
from .tables import ACCURACIES, SIDES, comparable, published, setting

PAPER = {"cifar10": (10, 10), "cifar100": (5, 100), "tiny_imagenet": (5, 200)}  # its forget sets of one class; all classes
ROUNDED = 5e-5  # what rounding a published number to a hundredth of a per cent may take


def split(rows: pd.DataFrame, columns: list[str] = ACCURACIES) -> pd.DataFrame:
    """Standard deviations over classes, over seeds, and of the rest, of every model with all its sets and seeds.

    x[class, seed] = mean + class + seed + rest, by the method of moments (two-way analysis of variance without
    repetition): var(class) = (MS_class - MS_rest) / seeds, var(seed) = (MS_seed - MS_rest) / classes, neither below 0.
    One line per model and column, fractions; NaN where there are fewer than two classes or seeds. Null value: 0.
    """
    lines = []
    for model, part in rows.groupby("model", sort=False):
        for column in columns:
            table = part.pivot_table(index="forget", columns="seed", values=column, aggfunc="mean").dropna()
            lines.append({"model": model, "measure": column, **components(table), "classes": len(table),
                          "seeds": table.shape[1]})
    return pd.DataFrame(lines).set_index(["model", "measure"])


def components(table: pd.DataFrame) -> dict[str, float]:
    """The three standard deviations of a table, classes by seeds."""
    classes, seeds = table.shape
    if min(classes, seeds) < 2:
        return dict.fromkeys(("over_classes", "over_seeds", "rest"), NAN)
    of_class, of_seed = table.mean(axis=1), table.mean(axis=0)
    left = table.sub(of_class, axis=0).sub(of_seed, axis=1) + table.to_numpy().mean()
    rest = float((left**2).to_numpy().sum()) / ((classes - 1) * (seeds - 1))
    over = (seeds * of_class.var(ddof=1) - rest) / seeds, (classes * of_seed.var(ddof=1) - rest) / classes
    names = ("over_classes", "over_seeds", "rest")
    return {name: math.sqrt(max(variance, 0.0)) for name, variance in zip(names, (*over, rest))}


def explained(rows: pd.DataFrame, profile: str, pretrained: bool = False) -> pd.DataFrame:
    """Every published number that this run has too: the difference, and whether the choice of classes explains it.

    Of C classes the paper forgot m, one at a time, and this run n. Where m = C the paper's mean over our n classes, which we
    do not know, would lie between ``low`` and ``high``: within t * s * sqrt((1 - n/C)/n + (1 - m/C)/m) of the published mean p,
    with s the standard deviation here over the sets (seeds averaged first) and t Student's 97.5 % quantile for n - 1; and
    between 1 - C (1 - p)/n and C p/n, since no accuracy is below 0 or above 1. What lies beyond is another thing: images,
    network, epochs. ``within`` is empty where n is under 3, and where the sets do not differ here, unless the second bound
    is passed: that says nothing of how others would; and all three are where only signs compare (``comparable``). Fractions.
    """
    arch, dataset, _ = setting(profile, pretrained)
    lines, (sets, classes) = [], PAPER[dataset]
    for known in published(arch, dataset, len(rows.forget.iloc[0].split())).itertuples():
        part = rows[(rows.method == known.method) & (rows.variant == known.variant)]
        for side in SIDES:
            paper, column = getattr(known, side), f"{known.readout}_{side}"
            if column not in part or part[column].isna().all() or paper != paper:
                continue
            values = part.groupby("forget")[column].mean()
            n, here, spread = len(values), values.mean(), values.std(ddof=1)
            (low, high), within = _possible(paper, n, sets, classes), ""
            possible = low - ROUNDED * classes / n <= here <= high + ROUNDED * classes / n
            if n > 2 and not possible:
                within = "no"
            if n > 2 and spread > 1e-9:
                parts = max(0.0, 1 - n / classes) / n + (1 - sets / classes) / sets
                chance = stats.t.ppf(1 - ALPHA / 2, n - 1) * spread * math.sqrt(parts)
                low, high = max(low, paper - chance), min(high, paper + chance)
                within = "yes" if possible and low - ROUNDED <= here <= high + ROUNDED else "no"
            lines.append({"model": part.model.iloc[0], "measure": column, "here": here, "paper": paper,
                          "difference": here - paper, "low": low, "high": high, "n": n, "within": within})
    table = pd.DataFrame(lines, columns=["model", "measure", "here", "paper", "difference", "low", "high", "n", "within"])
    return table if comparable(profile) else table.assign(low=NAN, high=NAN, within="")


def _possible(paper: float, n: int, sets: int, classes: int) -> tuple[float, float]:
    """Between what a mean over n of the classes can lie when that over all is ``paper``; nothing is known where it is not."""
    if sets < classes:
        return 0.0, 1.0
    return max(0.0, 1 - classes * (1 - paper) / n), min(1.0, classes * paper / n)


def said(rows: pd.DataFrame, columns: tuple[str, ...] = ("probe_forget", "ncc_forget")) -> str:
    """What a ± is made of (classes, seeds, the rest: the median over models, in points), and what another seed judges.

    A model whose encoder is the Original's has the Original's readings; they count once.
    """
    if rows.seed.nunique() < 2:
        return f"One training seed: a ± is over forget sets alone, and what another seed changes {_again(rows, columns)}."
    own = rows[[not frozen(key) for key in zip(rows.method, rows.variant)]]
    table = split(own, list(columns)).dropna()
    parts = 100 * table.groupby("measure")[["over_classes", "over_seeds", "rest"]].median()
    parted = "; ".join(f"{READOUTS[name.removesuffix('_forget')]} {row.over_classes:.1f}, {row.over_seeds:.1f}, {row.rest:.1f}"
                     for name, row in parts.iterrows())
    word = "more" if (parts.over_classes > parts.over_seeds).all() else "not always more"
    return (f"Accuracies on the forget class differ {word} between classes than between seeds (standard deviation over classes, over "
            f"seeds, and of class by seed, in points, median of {table.index.get_level_values('model').nunique()} models with own features: "
            f"{parted}). {by_seed(rows)}")


def _again(rows: pd.DataFrame, columns: tuple[str, ...]) -> str:
    """How far apart two networks are that never saw the class: the null of every gap to Retrain."""
    first, second = (rows[rows.method == method].groupby("forget")[list(columns)].mean() for method in ("retrain", "retrain_again"))
    gaps = (second - first).dropna()
    told = ", ".join(f"{READOUTS[name.removesuffix('_forget')]} {Interval.of(gaps[name]).percent()}" for name in columns)
    return f"is known of Retrain alone; its second seed less its first, in points: {told}" if len(gaps) else "is not known"


def by_seed(rows: pd.DataFrame) -> str:
    """How many verdicts on measurements hang on the training seed, each judged alone over the forget sets that all have."""
    rows = rows[rows.groupby("forget").seed.transform("nunique") == rows.seed.nunique()]
    cards = {str(seed): were_run(scorecard(part))[lambda card: card.counted.astype(bool)] for seed, part in rows.groupby("seed")}
    differing = unstable(cards)[lambda lines: lines.question == "shows"]
    opposite, open_ = differing[differing.opposite], (differing[list(cards)] == "cannot tell").any(axis=1) & ~differing.opposite
    which = "; ".join(f"{line.claim}, {line.model}" for line in opposite.itertuples())
    return (f"Each of the {len(cards)} seeds judged alone, over {rows.forget.nunique()} forget sets: of "
            f"{max(map(len, cards.values()))} verdicts (without curves and attacks) {len(opposite)} turn into their opposite"
            f"{f' ({which})' * bool(which)}, and {open_.sum()} are told by some seeds only.")
