"""Where a ± comes from: classes, seeds, and what neither explains; and what it explains of a difference to the paper."""

from __future__ import annotations

import math

import pandas as pd
from scipy import stats

from .intervals import ALPHA, NAN
from .tables import ACCURACIES, SIDES, published, setting

PAPER_SETS = {"cifar10": 10, "cifar100": 5, "tiny_imagenet": 5}  # forget sets of one class behind a number of the paper


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
    """Every published number that this run has too: the difference, and whether classes and seeds explain it.

    Both means are over forget sets, n here and m in the paper. They differ by chance by t * s * sqrt(1/n + 1/m), with s
    the standard deviation here over the sets (seeds averaged first) and t Student's 97.5 % quantile for n - 1. What lies
    beyond is another thing: images, network, epochs. ``within`` is empty where n is under 3, and ``by_chance`` also where
    the sets do not differ here: that says nothing of how others would. Fractions.
    """
    arch, dataset, _ = setting(profile, pretrained)
    lines, sets = [], PAPER_SETS[dataset]
    for known in published(arch, dataset, len(rows.forget.iloc[0].split())).itertuples():
        part = rows[(rows.method == known.method) & (rows.variant == known.variant)]
        for side in SIDES:
            paper, column = getattr(known, side), f"{known.readout}_{side}"
            if column not in part or part[column].isna().all() or paper != paper:
                continue
            values = part.groupby("forget")[column].mean()
            n, apart = len(values), values.mean() - paper
            chance = NAN
            if n > 2:
                chance = stats.t.ppf(1 - ALPHA / 2, n - 1) * values.std(ddof=1) * math.sqrt(1 / n + 1 / sets)
            lines.append({"model": part.model.iloc[0], "measure": column, "here": values.mean(), "paper": paper,
                          "difference": apart, "by_chance": chance if chance > 1e-9 else NAN, "n": n,
                          "within": "" if n < 3 else "yes" if abs(apart) <= chance else "no"})
    return pd.DataFrame(lines, columns=["model", "measure", "here", "paper", "difference", "by_chance", "n", "within"])
