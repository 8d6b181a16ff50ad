"""Rows to tables: means over forget sets, differences, the six claims as numbers, published numbers next to ours.

A table is shown as text, accuracies in per cent, and kept as CSV (numbers) and LaTeX.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..methods import METHODS
from ..paths import write
from ..settings import BadInput
from .compare import Comparison, as_html, as_plain, compare, head, one_per_method

PLAIN = re.compile("alignment|mean_distance|margin|.*bias|nc[123]|.*auroc|.*turn|epochs|gradient_passes")  # no per cent
CLAIMS = {  # and what their numbers are
    "1. The output forgets": "forget accuracy (Original, Retrain, untrained)",
    "2. A linear probe comes near the Original's accuracy": "probe / the Original's; difference",
    "3. The probe is above Retrain's (our control)": "probe / Retrain's; difference",
    "4. Changing the classifier alone is enough": "forget accuracy, classifier only; retain / Retrain's; difference",
    "5. A CMF head removes more": "probe with linear → CMF head; change; change at a matched budget",
    "6. One image per class brings the class back (ours)": "1-shot probe / the same on Retrain; difference",
}
COLUMNS = ("output_retain", "output_forget", "probe_forget", "ncc_forget")


@dataclass(frozen=True)
class Table:
    """What is shown (text, a little HTML), what is kept (numbers), and one sentence on both."""

    text: pd.DataFrame
    numbers: pd.DataFrame
    caption: str = ""

    def _repr_html_(self) -> str:
        return as_html(self.text)

    def __repr__(self) -> str:
        return as_plain(self.text)

    def write(self, target: Path, caption: str = "") -> None:
        """Keep it beside ``target`` as .csv and .tex."""
        write(target.with_suffix(".csv"), self.numbers.to_csv(float_format="%.6g"))
        write(target.with_suffix(".tex"), latex(self.text, target.name, caption or self.caption))


def n_of(rows: pd.DataFrame) -> str:
    """What means run over: "n = 10 forget sets, 1 seed"; "1 to 3 seeds" where some forget sets have fewer."""
    seeds = rows.groupby("forget").seed.nunique().tolist()
    each = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    return f"n = {len(seeds)} forget set{'s' * (len(seeds) > 1)}, {each} seed{'s' * (max(seeds) > 1)}"


def means(rows: pd.DataFrame, columns: Sequence[str] = COLUMNS, *comparisons: Comparison, **named: Comparison) -> Table:
    """Mean and standard deviation over forget sets, seeds averaged; behind them the differences of ``comparisons``.

    ``named`` ones have their name in the heading: ``change_from_linear_head=compare(...)``. Accuracies are shown in per
    cent, kept as fractions.
    """
    text = pd.DataFrame(index=pd.Index(rows.model.unique(), name="model"))
    numbers = text.copy()
    for column in columns:
        values = rows.pivot_table(column, "forget", "model").reindex(columns=text.index)
        numbers[[f"{column} mean", f"{column} std", f"{column} n"]] = values.agg(["mean", "std", "count"]).T
        scale, digits = (1, 2) if PLAIN.match(column) else (100, 1)
        scaled = (scale * values).agg(["mean", "std", "count"]).T
        text[head(column)] = [_spread(*of, digits) for of in scaled.to_numpy()]
    titled = [("", one) for one in comparisons] + [(name.replace("_", " "), one) for name, one in named.items()]
    for title, comparison in titled:
        for column, of in comparison.frame.groupby("column", sort=False):
            name = f"{head(column)} {title or 'minus ' + of.reference.iloc[0]}"
            text[name] = comparison.texts(column).reindex(text.index).fillna("–")
            kept = ["difference", "low", "high", "p_holm"]
            numbers[[f"{name} {key}" for key in kept]] = of.set_index("model")[kept].reindex(text.index)
    unit = "" if all(map(PLAIN.match, columns)) else "; accuracies in %"
    said = f"Mean ± standard deviation, {n_of(rows)}{unit}."
    return Table(text, numbers, " ".join([said, *(one.caption for _, one in titled[:1])]))


def _spread(mean: float, std: float, n: float, digits: int = 1) -> str:
    shown = f"{mean:.{digits}f}" if n > 0 else "–"
    return f"{shown} ± {std:.{digits}f}" if n > 1 else shown


def by_profile(comparisons: dict[str, Comparison]) -> Table:
    """The differences of several studies, a row per study and model, below the accuracies of their one reference."""
    shown = {}
    for name, one in comparisons.items():
        differences, of = one.table().filter(like="minus"), one.frame.drop_duplicates("column")
        levels = [[f"{value:.1f} %" for value in of.reference_value]]
        reference = pd.DataFrame(levels, [of.reference.iloc[0]], differences.columns)
        shown[name] = pd.concat([reference, differences]).rename_axis("model")
    numbers = pd.concat({name: one.frame.set_index("model") for name, one in comparisons.items()}, names=["profile"])
    whole = replace(one, frame=pd.concat([each.frame for each in comparisons.values()]))
    return Table(pd.concat(shown, names=["profile"]), numbers, whole.caption)


def measurements(rows: pd.DataFrame) -> Table:
    """Every row, accuracies as fractions; the first few are shown."""
    numbers = rows.drop(columns="alignment", errors="ignore").set_index("model")
    shown = numbers[["seed", "forget", *(column for column in COLUMNS if column in numbers)]].head(4)
    return Table(shown.round(3), numbers, f"The first of {len(rows)} rows, accuracies as fractions.")


def claims(rows: pd.DataFrame, readings: pd.DataFrame, method: str = "random_label") -> Table:
    """The paper's claims as numbers of one method, accuracies on the forget class in %.

    ``rows`` hold the method with variants linear, classifier and cmf; ``readings`` the few-shot attack. Holm corrects
    each claim over the methods that these hold. Raises BadInput without one of the variants.
    """
    label = rows[rows.method == method].drop_duplicates("variant").set_index("variant").model
    if absent := {"linear", "classifier", "cmf"} - set(label.index):
        raise BadInput(f"'{method}' has no {', '.join(sorted(absent))} here, which the claims compare; choose another.")
    of = rows.groupby("model").mean(numeric_only=True) * 100
    linear, frozen, cmf = (of.loc[label[v]] for v in ("linear", "classifier", "cmf"))
    family = pd.concat([one_per_method(rows[rows.method != method]), rows[rows.model == label["linear"]]])
    one = readings[readings.attack.eq("few_shot") & readings.variant.eq("linear")]
    one = one[one.x == one.x.min()]
    by_method = [of.drop_duplicates("variant").set_index("variant").model for _, of in rows.groupby("method")]
    changes = []
    for start in ("linear", "cmf_budget"):
        if pairs := {own["cmf"]: own[start] for own in by_method if "cmf" in own and start in own}:
            changes.append(compare(rows, pairs, ["probe_forget"]).texts("probe_forget").get(label["cmf"]))
    known = [f"{of.output_forget[name]:.1f}" for name in ("Original", "Retrain", METHODS["random"].label)]
    alone = rows[rows.variant.eq("classifier") | rows.model.isin(["Retrain", "SVD"])]  # SVD's encoder is frozen, too
    found = [
        f"{linear.output_forget:.1f} ({', '.join(known)})",
        _minus(family, "original", "probe_forget", label["linear"]),
        _minus(family, "retrain", "probe_forget", label["linear"]),
        f"{frozen.output_forget:.1f}; retain {_minus(alone, 'retrain', 'output_retain', label['classifier'])}",
        f"{linear.probe_forget:.1f} → {cmf.probe_forget:.1f}; {'; '.join(filter(None, changes))}; "
        f"output {cmf.output_forget:.1f}, retain {cmf.output_retain:.1f}",
        _minus(one, "retrain", "forget_accuracy", label["linear"]),
    ]
    text = pd.DataFrame({"measured": CLAIMS.values(), label["linear"]: found}, index=pd.Index(CLAIMS, name="claim"))
    return Table(text, text, f"{label['linear']}, {n_of(rows)}.")


def _minus(rows: pd.DataFrame, reference: str, column: str, model: str) -> str:
    found = compare(rows, reference, [column])
    line = found.frame.set_index("model").loc[model]
    return f"{line.value:.1f} / {line.reference_value:.1f}; {found.texts(column)[model]}"


def next_to_paper(rows: pd.DataFrame, profile: str) -> Table:
    """Every published number on the forget class that these rows have, too: ours, its spread, the paper's.

    Published are those quoted in public reproductions (ViT: a table in the official code); the file names the source of
    each. With CMF the paper's probe and NCC see the features as the head normalises them. Images, network or training
    differ unless the profile is the paper's: compare orderings, not values.
    """
    dataset = next((name for name in ("cifar100", "tiny_imagenet") if profile.startswith(name)), "cifar10")
    arch = "vit_s_16" if profile.endswith(("_vit", "_pretrained")) else "resnet18"
    known = pd.read_csv(Path(__file__).parent / "published_results.csv", dtype={"table": str})
    known = known[(known.arch == arch) & (known.dataset == dataset)].dropna(subset="forget_acc")
    known = known[known.n_forget == len(rows.forget.iloc[0].split())].assign(column=known.readout + "_forget")
    columns = [name for name in known.column.unique() if name in rows]
    ours = 100 * rows.pivot_table(columns, "forget", ["model", "method", "variant"])
    ours = ours.agg(["mean", "std", "count"]).T.rename_axis(["column", "model", "method", "variant"]).reset_index()
    numbers = known.merge(ours, on=["method", "variant", "column"])  # in the order of the paper
    numbers = numbers.rename(columns={"mean": "here", "forget_acc": "paper"})
    numbers = numbers.assign(measurement=numbers.column.map(head), difference=numbers.here - numbers.paper)
    numbers = numbers.drop_duplicates(["model", "measurement"]).set_index(["model", "measurement"])
    shown = numbers[numbers.index.get_level_values("measurement").str.contains("robe")][:12]  # all are kept
    text = {
        "here": [_spread(*line) for line in shown[["here", "std", "count"]].to_numpy()],
        "paper": shown.paper.map("{:.2f}".format),
        "difference": shown.difference.map("{:+.1f}".format),
    }
    caption = f"Forget accuracy in %, ours (mean ± standard deviation, {n_of(rows)}) and published."
    return Table(pd.DataFrame(text, shown.index), numbers[["here", "std", "paper", "difference"]], caption)


def latex(text: pd.DataFrame, name: str, caption: str) -> str:
    """A table of text for the page, no wider than it."""
    columns = "l" * text.index.nlevels + "r" * text.shape[1]
    caption = re.sub(r"([_%&#{}])", r"\\\1", caption)
    form = {"escape": True, "multirow": False, "multicolumn_format": "c", "position": "htbp"}
    made = text.rename(columns=str).to_latex(caption=caption, label=f"tab:{name}", column_format=columns, **form)
    fitted = r"\centering\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\begin{tabular}"
    special = {"<b>": r"\textbf{", "</b>": "}", "±": r"$\pm$", "–": "--", "→": r"$\to$", "−": "$-$"}
    special |= {r"\begin{tabular}": fitted, r"\end{tabular}": r"\end{tabular}}"}
    for written, meant in special.items():
        made = made.replace(written, meant)
    return f"% needs \\usepackage{{booktabs,graphicx}}\n{made}"
