"""Rows to tables: means over forget sets, intervals, gaps to Retrain, and the paper's own numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..metrics import recovery
from ..paths import Outputs, home, write
from ..settings import READOUTS

SIDES = ("retain", "forget")
ACCURACIES = [f"{readout}_{side}" for readout in READOUTS for side in SIDES]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % Student-t interval over ``n`` forget sets (seeds are averaged first)."""

    mean: float
    low: float
    high: float
    n: int

    @staticmethod
    def of(values: pd.Series) -> Interval:
        values = values.dropna()
        n, mean = len(values), float(values.mean())
        if n < 2:
            return Interval(mean, float("nan"), float("nan"), n)
        half = stats.t.ppf(0.975, n - 1) * float(values.std(ddof=1)) / np.sqrt(n)
        return Interval(mean, mean - half, mean + half, n)

    def percent(self) -> str:
        bounds = f" [{100 * self.low:.1f}, {100 * self.high:.1f}]" if self.n > 1 else ""
        return f"{100 * self.mean:.1f}{bounds}"


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
def _published() -> pd.DataFrame:
    """The paper's ResNet-18 numbers on CIFAR-10, one class: fractions, one line per model and readout.

    The source of every number stands in ``published_results.csv``.
    """
    rows = pd.read_csv(Path(__file__).parent / "published_results.csv", dtype={"table": str})
    rows = rows[rows.table.isin(("1", "3")) & (rows.dataset == "cifar10") & (rows.n_forget == 1)]
    base = rows.method.str.removesuffix("+CMF")
    label = base.replace({"RL": "Random Label"}) + np.where(rows.method.str.endswith("+CMF"), " + CMF", "")
    readout = rows["head"].replace({"linear_probe": "probe"})
    return pd.DataFrame({"table": rows.table, "model": label, "readout": readout,
                         "retain": rows.retain_acc / 100, "forget": rows.forget_acc / 100})


def published(table: str) -> pd.DataFrame:
    """The paper's Table 1 or 3 (%) in the layout of ``formatted``; – where a number is not known to us."""
    chosen = _published().query("table == @table")
    lines = {model: {} for model in chosen.model}
    for row in chosen.itertuples():
        for side in SIDES:
            value = getattr(row, side)
            lines[row.model][f"{READOUTS[row.readout]} {side}"] = "–" if np.isnan(value) else f"{100 * value:.2f}"
    wanted = [f"{label} {side}" for label in READOUTS.values() for side in SIDES]
    return pd.DataFrame.from_dict(lines, orient="index").reindex(columns=wanted).fillna("–")


def paper_number(model: str, readout: str) -> float:
    """The paper's forget accuracy (fraction) for a model and readout; NaN where it is not known to us."""
    chosen = _published().query("model == @model and readout == @readout")
    return float(chosen.forget.iloc[0]) if len(chosen) else float("nan")


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
