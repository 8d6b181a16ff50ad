"""Rows to tables: means over forget sets, differences, the six claims as numbers, published numbers next to ours.

A table is shown as text, accuracies in per cent, and kept as CSV (numbers) and LaTeX.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..methods import METHODS
from ..paths import write
from .compare import Comparison, compare, head, one_per_method

PLAIN = re.compile("alignment|mean_distance|margin|.*bias|nc[123]|.*auroc|.*turn|epochs|gradient_passes")  # no per cent
CLAIMS = {  # and what their numbers are
    "1. The output forgets": "forget accuracy",
    "2. A linear probe comes near the Original's": "probe / the Original's; difference",
    "3. It is above Retrain's (our control)": "probe / Retrain's; difference",
    "4. Changing the classifier alone is enough": "output of the classifier-only model",
    "5. A CMF head removes more": "probe with a linear → CMF head; change",
    "6. One image per class brings it back (ours)": "probe of one image per class / on Retrain; difference",
}
COLUMNS = ("output_retain", "output_forget", "probe_forget", "ncc_forget")


@dataclass(frozen=True)
class Table:
    """What is shown (text, a little HTML), what is kept (numbers), and one sentence on both."""

    text: pd.DataFrame
    numbers: pd.DataFrame
    caption: str = ""

    def _repr_html_(self) -> str:
        return self.text.to_html(escape=False)

    def __repr__(self) -> str:
        return self.text.replace(r"</?b>", "*", regex=True).to_string()

    def write(self, target: Path, caption: str = "") -> None:
        """Keep it beside ``target`` as .csv and .tex."""
        write(target.with_suffix(".csv"), self.numbers.to_csv(float_format="%.6g"))
        write(target.with_suffix(".tex"), latex(self.text, target.name, caption or self.caption))


def n_of(rows: pd.DataFrame) -> str:
    """What means run over: "n = 10 forget sets, 1 seed"; "1 to 3 seeds" where some forget sets have fewer."""
    seeds = rows.groupby("forget").seed.nunique().tolist()
    each = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    return f"n = {len(seeds)} forget set{'s' * (len(seeds) > 1)}, {each} seed{'s' * (max(seeds) > 1)}"


def means(rows: pd.DataFrame, columns: Sequence[str] = COLUMNS, *comparisons: Comparison) -> Table:
    """Mean and standard deviation over forget sets, seeds averaged; behind them the differences of ``comparisons``.

    Accuracies are shown in per cent, kept as fractions.
    """
    shown = pd.Index(rows.model.unique(), name="model")
    numbers, text = pd.DataFrame(index=shown), pd.DataFrame(index=shown)
    for column in columns:
        values = rows.pivot_table(index="forget", columns="model", values=column, aggfunc="mean").reindex(columns=shown)
        numbers[[f"{column} mean", f"{column} std", f"{column} n"]] = values.agg(["mean", "std", "count"]).T
        scale, digits = (1, 2) if PLAIN.match(column) else (100, 1)
        scaled = (scale * values).agg(["mean", "std", "count"])
        text[head(column)] = [_spread(*scaled[model], digits) for model in shown]
    for comparison in comparisons:
        for column, of in comparison.frame.groupby("column", sort=False):
            name = f"{head(column)} minus {of.reference.iloc[0]}"
            told = {line.model: comparison.text(line) for line in of.itertuples()}
            text[name] = [told.get(model, "–") for model in shown]
            kept = ["difference", "low", "high", "p_holm"]
            numbers[[f"{name} {key}" for key in kept]] = of.set_index("model")[kept].reindex(shown)
    said = f"Mean ± standard deviation, {n_of(rows)}; accuracies in %."
    return Table(text, numbers, " ".join([said, *(c.caption for c in comparisons[:1])]))


def _spread(mean: float, std: float, n: float, digits: int) -> str:
    shown = f"{mean:.{digits}f}" if n > 0 else "–"
    return f"{shown} ± {std:.{digits}f}" if n > 1 else shown


def by_profile(comparisons: dict[str, Comparison]) -> Table:
    """The differences of several studies, a row per study and model; all numbers are kept."""
    shown = {name: one.table().filter(like="minus") for name, one in comparisons.items()}
    numbers = pd.concat({name: one.frame.set_index("model") for name, one in comparisons.items()}, names=["profile"])
    caption = " ".join(dict.fromkeys(one.caption for one in comparisons.values()))
    return Table(pd.concat(shown, names=["profile"]), numbers, caption)


def measurements(rows: pd.DataFrame) -> Table:
    """Every row, accuracies as fractions; the first few are shown."""
    numbers = rows.drop(columns="alignment", errors="ignore").set_index("model")
    shown = numbers[["seed", "forget", *(column for column in COLUMNS if column in numbers)]].head(4)
    return Table(shown.round(3), numbers, f"The first of {len(rows)} rows, accuracies as fractions.")


def claims(rows: pd.DataFrame, readings: pd.DataFrame, method: str = "random_label") -> Table:
    """The paper's claims as numbers of one method, accuracies on the forget class in %.

    ``rows`` hold the method with variants linear, classifier and cmf; ``readings`` the few-shot attack.
    """
    label = rows[rows.method == method].drop_duplicates("variant").set_index("variant").model
    of = rows.groupby("model").mean(numeric_only=True) * 100
    linear, frozen, cmf = (of.loc[label[v]] for v in ("linear", "classifier", "cmf"))
    original, retrain = of.loc["Original"], of.loc["Retrain"]
    family = pd.concat([one_per_method(rows[rows.method != method]), rows[rows.model == label["linear"]]])
    near, above = (_only(compare(family, name, ["probe_forget"]), label["linear"]) for name in ("original", "retrain"))
    change = _only(compare(rows, {label["cmf"]: label["linear"]}, ["probe_forget"]), label["cmf"])
    few = readings[readings.attack == "few_shot"]
    one = few[few.x == few.x.min()]
    shot = _only(compare(one, "retrain", ["forget_accuracy"]), label["linear"])
    by = one.groupby("model").forget_accuracy.mean() * 100
    found = [
        f"{linear.output_forget:.1f}",
        f"{linear.probe_forget:.1f} / {original.probe_forget:.1f}; {near}",
        f"{linear.probe_forget:.1f} / {retrain.probe_forget:.1f}; {above}",
        f"{frozen.output_forget:.1f}; retain {frozen.output_retain:.1f} (Retrain {retrain.output_retain:.1f})",
        f"{linear.probe_forget:.1f} → {cmf.probe_forget:.1f}; {change}; its output {cmf.output_forget:.1f}, "
        f"retain {cmf.output_retain:.1f}",
        f"{by[label['linear']]:.1f} / {by['Retrain']:.1f}; {shot}",
    ]
    text = pd.DataFrame({"what": CLAIMS.values(), label["linear"]: found}, index=pd.Index(CLAIMS, name="claim"))
    return Table(text, text, f"{label['linear']}, {n_of(rows)}.")


def _only(comparison: Comparison, model: str) -> str:
    return comparison.text(next(comparison.frame[comparison.frame.model == model].itertuples()))


def published(arch: str, dataset: str, n_forget: int) -> pd.DataFrame:
    """The paper's forget accuracies (%) as quoted in public reproductions (ViT: a table in the official code).

    A row per method, variant and readout. With CMF the paper's probe and NCC see the features as the head normalises
    them, so these are ``probe_in_head`` and ``ncc_in_head``. The file holds the source of every number.
    """
    rows = pd.read_csv(Path(__file__).parent / "published_results.csv", dtype={"table": str})
    rows = rows[(rows.arch == arch) & (rows.dataset == dataset) & (rows.n_forget == n_forget)]
    with_cmf = rows.method.str.endswith("+CMF")
    keys = {cls.label: name for name, cls in METHODS.items()} | {"RL": "random_label"}
    in_head = np.where(with_cmf & (rows["head"] != "output"), "_in_head", "")
    found = {
        "method": rows.method.str.removesuffix("+CMF").map(keys),
        "variant": np.where(with_cmf, "cmf", "linear"),
        "column": rows["head"].replace({"linear_probe": "probe"}) + in_head + "_forget",
        "paper": rows.forget_acc,
    }
    return pd.DataFrame(found).dropna()


def next_to_paper(rows: pd.DataFrame, profile: str) -> Table:
    """Every published number on the forget class that these rows have, too: ours, its interval, the paper's.

    Images, network or training differ unless the profile is the paper's: compare signs, not values.
    """
    dataset = next((name for name in ("cifar100", "tiny_imagenet") if profile.startswith(name)), "cifar10")
    vit = profile.endswith(("_vit", "_pretrained"))
    known = published("vit_s_16" if vit else "resnet18", dataset, len(rows.forget.iloc[0].split()))
    by = ["method", "variant", "column"]
    columns = [name for name in known.column.unique() if name in rows]
    ours = rows.melt(["model", "forget", "method", "variant"], columns, "column")
    ours = 100 * ours.groupby(["model", "forget", *by]).value.mean()
    ours = ours.groupby(["model", *by]).agg(here="mean", std="std", n="count").reset_index()
    numbers = known.merge(ours, on=by)  # in the order of the paper
    numbers = numbers.assign(measurement=numbers.column.map(head), difference=numbers.here - numbers.paper)
    numbers = numbers.drop_duplicates(["model", "measurement"]).set_index(["model", "measurement"])
    shown = numbers[numbers.index.get_level_values("measurement").str.contains("robe")][:12]  # all are kept
    text = {
        "here": [_spread(*line, 1) for line in shown[["here", "std", "n"]].to_numpy()],
        "paper": shown.paper.map("{:.2f}".format),
        "difference": shown.difference.map("{:+.1f}".format),
    }
    caption = f"Forget accuracy in %, ours (mean ± standard deviation, {n_of(rows)}) and published."
    return Table(pd.DataFrame(text, shown.index), numbers[["here", "std", "paper", "difference"]], caption)


def latex(text: pd.DataFrame, name: str, caption: str) -> str:
    """A table of text for the page, no wider than it."""
    plain = text.rename(columns=str).replace({"<b>": "BOLDOPEN", "</b>": "BOLDCLOSE"}, regex=True)
    columns = "l" * plain.index.nlevels + "r" * plain.shape[1]
    caption = re.sub(r"([_%&#{}])", r"\\\1", caption)
    form = {"escape": True, "multirow": False, "multicolumn_format": "c", "position": "htbp"}
    made = plain.to_latex(caption=caption, label=f"tab:{name}", column_format=columns, **form)
    fitted = r"\centering\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\begin{tabular}"
    special = {"BOLDOPEN": r"\textbf{", "BOLDCLOSE": "}", "±": r"$\pm$", "–": "--", "→": r"$\to$", "−": "$-$"}
    special |= {r"\begin{tabular}": fitted, r"\end{tabular}": r"\end{tabular}}"}
    for written, meant in special.items():
        made = made.replace(written, meant)
    return f"% needs \\usepackage{{booktabs,graphicx}}\n{made}"
