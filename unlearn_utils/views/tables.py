"""Rows to tables: means over forget sets, intervals, gaps to Retrain, and the paper's own numbers."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..methods import METHODS
from ..metrics import recovery
from ..paths import Outputs, home, write
from ..settings import READOUTS
from .intervals import Interval

SIDES = ("retain", "forget")
# The profiles that are experiments of the paper, with their column in its tables.
PAPER_SETTINGS = {
    "cifar10": ("resnet18", "cifar10"), "cifar100": ("resnet18", "cifar100"),
    "tiny_imagenet": ("resnet50", "tiny_imagenet"), "cifar10_vit": ("vit_s_16", "cifar10"),
    "cifar100_vit": ("vit_s_16", "cifar100"), "tiny_imagenet_vit": ("vit_s_16", "tiny_imagenet"),
}
ACCURACIES = [f"{readout}_{side}" for readout in READOUTS for side in SIDES]


def per_forget_set(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean over seeds: one line per forget set, one column per model."""
    return rows.pivot_table(index="forget", columns="model", values=column, aggfunc="mean", sort=False)


def difference(rows: pd.DataFrame, column: str, model: str, reference: str) -> Interval:
    """Paired difference model - reference, with its interval over forget sets."""
    values = per_forget_set(rows, column)
    return Interval.of(values[model] - values[reference])


def summary(rows: pd.DataFrame, columns: list[str] = ACCURACIES) -> pd.DataFrame:
    """Mean and standard deviation (ddof 1) over forget sets per model, and their number n."""
    averaged = rows.groupby(["model", "forget"], sort=False)[columns].mean()
    grouped = averaged.groupby("model", sort=False)
    table = pd.concat({"mean": grouped.mean(), "std": grouped.std(ddof=1)}, axis=1).swaplevel(axis=1)[columns]
    table[("n", "")] = grouped.size()
    return table


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """``summary`` as text, in per cent: 92.5 ± 1.2."""
    columns = [c for c in table.columns.get_level_values(0).unique() if c != "n"]
    text = pd.DataFrame(index=table.index)
    for column in columns:
        readout, _, side = column.rpartition("_")
        label = f"{READOUTS.get(readout, readout.replace('_', ' '))} {side}"
        text[label] = [
            "–" if np.isnan(m) else f"{100 * m:.1f}" if np.isnan(s) else f"{100 * m:.1f} ± {100 * s:.1f}"
            for m, s in zip(table[(column, "mean")], table[(column, "std")])
        ]
    text["n"] = table[("n", "")]
    return text


def against_retrain(rows: pd.DataFrame, readouts: tuple[str, ...] = ("probe", "ncc")) -> pd.DataFrame:
    """Forget accuracy beside Retrain's: gap with its interval, the room between Original and Retrain, recovery.

    Recovery is 0 at Retrain and 1 at the Original; it is refused (–) where the room is under 2 points.
    """
    lines = []
    for readout in readouts:
        values = per_forget_set(rows, f"{readout}_forget").mean()
        room = values["Original"] - values["Retrain"]
        for model in values.index:
            gap = difference(rows, f"{readout}_forget", model, "Retrain")
            part = recovery(values[model], values["Retrain"], values["Original"])
            lines.append({
                "readout": READOUTS[readout], "model": model, "forget accuracy": f"{100 * values[model]:.1f}",
                "gap to Retrain [95 %]": gap.percent(), "Original - Retrain": f"{100 * room:.1f}",
                "recovery": "–" if np.isnan(part) else f"{part:.2f}", "n": gap.n,
            })
    return pd.DataFrame(lines).set_index(["readout", "model"])


@lru_cache
def published(arch: str, dataset: str, n_forget: int) -> pd.DataFrame:
    """The paper's numbers for one network, data set and number of classes: fractions, NaN where not known to us.

    One line per table, method, variant and readout, with its source. With CMF the paper reads probe and NCC in
    the head's geometry, so these lines belong to ``probe_in_head`` and ``ncc_in_head``.
    """
    rows = pd.read_csv(Path(__file__).parent / "published_results.csv", dtype={"table": str})
    rows = rows[(rows.arch == arch) & (rows.dataset == dataset) & (rows.n_forget == n_forget)]
    with_cmf = rows.method.str.endswith("+CMF")
    keys = {cls.label: name for name, cls in METHODS.items()} | {"RL": "random_label"}
    in_head = np.where(with_cmf & (rows["head"] != "output"), "_in_head", "")
    return pd.DataFrame({
        "table": rows.table, "method": rows.method.str.removesuffix("+CMF").map(keys),
        "variant": np.where(with_cmf, "cmf", "linear"),
        "readout": rows["head"].replace({"linear_probe": "probe"}) + in_head,
        "retain": rows.retain_acc / 100, "forget": rows.forget_acc / 100, "source": rows.source,
    })


def setting(profile: str, architecture: str = "resnet") -> tuple[str, str, bool]:
    """(network, data set) of the paper that a profile is held against, and whether they are the profile's own.

    Another data set, or a smaller network, has no number of its own in the paper: only signs compare.
    """
    if profile in PAPER_SETTINGS:
        return *PAPER_SETTINGS[profile], True
    return ("vit_s_16" if architecture.startswith("vit") else "resnet18"), "cifar10", False


def published_table(table: str, arch: str = "resnet18", dataset: str = "cifar10", n_forget: int = 1) -> pd.DataFrame:
    """The paper's table "1", "3" or "ViT" (%) in the layout of ``formatted``; – where a number is not known to us."""
    lines: dict[str, dict[str, str]] = {}
    for row in published(arch, dataset, n_forget).query("table == @table").itertuples():
        label = METHODS[row.method].label + (" + CMF" if row.variant == "cmf" else "")
        for side in SIDES:
            value = getattr(row, side)
            shown = "–" if np.isnan(value) else f"{100 * value:.2f}"
            lines.setdefault(label, {})[f"{READOUTS[row.readout.removesuffix('_in_head')]} {side}"] = shown
    wanted = [f"{label} {side}" for label in READOUTS.values() for side in SIDES]
    return pd.DataFrame.from_dict(lines, orient="index").reindex(columns=wanted).fillna("–")


def attack_scores(readings: pd.DataFrame) -> pd.DataFrame:
    """One number per model and attack: forget accuracy, mean over the curve's points and draws (%).

    Averaged within each forget set first, then over the sets. The point before the first step is left out.
    """
    after = readings[readings.x > 0].groupby(["model", "attack", "forget"], sort=False).forget_accuracy.mean()
    return 100 * after.groupby(["model", "attack"], sort=False).mean().unstack()


def attack_gaps(scores: pd.DataFrame) -> pd.DataFrame:
    """``attack_scores`` relative to Retrain (points): above 0 the class comes back more easily."""
    return scores - scores.loc["Retrain"]


def disagreements(gaps: pd.DataFrame, points: float = 2.0) -> dict[str, str]:
    """Models that one attack puts more than ``points`` above Retrain and another as much below it."""
    listed = {}
    for model, row in gaps.iterrows():
        above, below = row.index[row > points], row.index[row < -points]
        if len(above) and len(below):
            listed[model] = f"above Retrain by {', '.join(above)}; below by {', '.join(below)}"
    return listed


def save(table: pd.DataFrame, name: str, outputs: Outputs) -> pd.DataFrame:
    """Write a table as CSV and LaTeX beside the figures, its parameters in the caption; returns it for display."""
    write(outputs.file(f"{name}.csv"), table.to_csv())
    latex = table.to_latex(escape=True, caption=_escaped(f"{name.replace('_', ' ')}; {outputs.caption}"), label=f"tab:{name}")
    write(outputs.file(f"{name}.tex"), re.sub("±", r"$\\pm$", latex).replace("–", "--"))
    return table


def _escaped(text: str) -> str:
    return re.sub(r"([_%&#{}])", r"\\\1", text)


def _other(profile: str, file: str) -> dict[str, Path]:
    """A file in the folders of the other profiles; runs with other parameters (name+hash) are left out."""
    paths = sorted((home() / "figures").glob(f"*/{file}"))
    return {p.parent.name: p for p in paths if p.parent.name != profile and "+" not in p.parent.name}


def other_profiles(profile: str, models: list[str]) -> dict[str, pd.DataFrame]:
    """``formatted`` tables of the other profiles whose measurements lie in ``figures``, by profile."""
    found = {name: pd.read_csv(path, dtype={"forget": str}) for name, path in _other(profile, "measurements.csv").items()}
    return {name: formatted(summary(rows[rows.model.isin(models)])) for name, rows in found.items()}


def other_attacks(profile: str) -> dict[str, pd.DataFrame]:
    """Attack scores relative to Retrain of the other profiles whose results lie in ``figures``."""
    return {name: pd.read_csv(path, index_col=0) for name, path in _other(profile, "attack_gaps.csv").items()}


def verdicts_beside(card: pd.DataFrame, profile: str) -> pd.DataFrame:
    """The verdict of every claim and subject, one column per profile with a scorecard in ``figures``."""
    columns = {profile: card.set_index(["claim", "subject"]).verdict}
    for name, path in _other(profile, "scorecard.csv").items():
        columns[name] = pd.read_csv(path).set_index(["claim", "subject"]).verdict
    return pd.DataFrame(columns).reindex(columns[profile].index)


def reproduction(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds and forget sets of this run beside those of the committed pack (fractions)."""
    means = {
        name: part.groupby(["method", "variant"], sort=False)[ACCURACIES].mean().stack()
        for name, part in {"here": rows, "reference": reference}.items()
    }
    table = pd.DataFrame(means).rename_axis(["method", "variant", "measure"])
    return table.assign(difference=table.here - table.reference)
