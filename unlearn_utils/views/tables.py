"""Rows to tables: means over forget sets next to differences, the six claims as numbers, published numbers next to ours.

A table is shown as text, accuracies in per cent, and kept as CSV (numbers) and LaTeX.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from ..methods import METHODS
from ..paths import write
from .compare import Comparison, compare, one_per_method

PAPER_SETTINGS = {  # the profiles that are experiments of the paper: network and data set in its tables
    "cifar10": ("resnet18", "cifar10"),
    "cifar100": ("resnet18", "cifar100"),
    "tiny_imagenet": ("resnet50", "tiny_imagenet"),
    "cifar10_vit": ("vit_s_16", "cifar10"),
    "cifar100_vit": ("vit_s_16", "cifar100"),
    "tiny_imagenet_vit": ("vit_s_16", "tiny_imagenet"),
    "cifar10_slim": ("resnet18", "cifar10"),
    "cifar10_pretrained": ("vit_s_16", "cifar10"),
}
PLAIN = re.compile(
    r"alignment|mean_distance|margin|.*bias|nc[123]|.*auroc|.*turn|epochs|gradient_passes"
)  # no per cent
READOUTS = {
    "output": "Output",
    "probe": "Linear probe",
    "ncc": "NCC",
    "probe_in_head": "Probe, normalised features",
    "ncc_in_head": "NCC, normalised features",
    "binary": "Binary probe",
}
SIDES = {"retain": "retain", "forget": "forget", "group": "forget group", "false_positives": "false positives"}
CLAIM_HEADS = [  # what the numbers of a claim are
    "forget accuracy",
    "probe / the Original's; difference",
    "probe / Retrain's; difference",
    "output of the classifier-only model",
    "probe with a linear → CMF head; change",
    "probe of one image per class / on Retrain; difference",
]
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


def means(
    rows: pd.DataFrame, columns: Sequence[str] = COLUMNS, *comparisons: Comparison, models: Sequence[str] = ()
) -> Table:
    """Mean and standard deviation over forget sets, seeds averaged; behind them the differences of ``comparisons``.

    ``models`` chooses and orders the rows by label. Accuracies are shown in per cent, kept as fractions.
    """
    shown = [name for name in models or dict.fromkeys(rows.model) if name in set(rows.model)]
    numbers, text = pd.DataFrame(index=pd.Index(shown, name="model")), pd.DataFrame(index=pd.Index(shown, name="model"))
    for column in columns:
        values = rows.pivot_table(index="forget", columns="model", values=column, aggfunc="mean").reindex(columns=shown)
        numbers[f"{column} mean"], numbers[f"{column} std"], numbers[f"{column} n"] = (
            values.mean(),
            values.std(),
            values.count(),
        )
        scale, digits = (1, 2) if PLAIN.match(column) else (100, 1)
        text[head(column)] = [_spread(values[name] * scale, digits) for name in shown]
    for comparison in comparisons:
        lines = comparison.frame.set_index("model")
        for column in lines.column.unique():
            of = lines[lines.column == column]
            name = f"{head(column)} minus {' / '.join(of.reference.unique()[:1])}"
            text[name] = [comparison.text(next(of.loc[[m]].itertuples())) if m in of.index else "–" for m in shown]
            for key in ("difference", "low", "high", "p_holm"):
                numbers[f"{name} {key}"] = of[key].reindex(shown)
    said = f"Mean ± standard deviation, {n_of(rows)}; accuracies in %."
    return Table(text, numbers, " ".join([said, *(c.caption for c in comparisons[:1])]))


def _spread(values: pd.Series, digits: int) -> str:
    values = values.dropna()
    if not len(values):
        return "–"
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def head(column: str) -> str:
    """A column of rows as a heading."""
    for side, name in SIDES.items():
        if column.endswith(f"_{side}"):
            first = column.removesuffix(f"_{side}")
            return f"{READOUTS.get(first, first.replace('_', ' '))}, {name}"
    return column.replace("_", " ")


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
    label = {
        variant: rows.model[(rows.method == method) & (rows.variant == variant)].iloc[0]
        for variant in ("linear", "classifier", "cmf")
    }
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
    found = {
        "1. The output forgets": f"{linear.output_forget:.1f}",
        "2. A linear probe comes near the Original's": (
            f"{linear.probe_forget:.1f} / {original.probe_forget:.1f}; {near}"
        ),
        "3. It is above Retrain's (our control)": f"{linear.probe_forget:.1f} / {retrain.probe_forget:.1f}; {above}",
        "4. Changing the classifier alone is enough": (
            f"{frozen.output_forget:.1f}; retain {frozen.output_retain:.1f} (Retrain {retrain.output_retain:.1f})"
        ),
        "5. A CMF head removes more": (
            f"{linear.probe_forget:.1f} → {cmf.probe_forget:.1f}; {change}; its output {cmf.output_forget:.1f}, "
            f"retain {cmf.output_retain:.1f}"
        ),
        "6. One image per class brings it back (ours)": f"{by[label['linear']]:.1f} / {by['Retrain']:.1f}; {shot}",
    }
    text = pd.DataFrame({"what": CLAIM_HEADS, label["linear"]: found.values()}, index=pd.Index(found, name="claim"))
    return Table(text, text, f"{label['linear']}, {n_of(rows)}.")


def _only(comparison: Comparison, model: str) -> str:
    return comparison.text(next(comparison.frame[comparison.frame.model == model].itertuples()))


@lru_cache
def published(arch: str, dataset: str, n_forget: int) -> pd.DataFrame:
    """The paper's numbers as quoted in public reproductions (ViT: a table in the official code); fractions, NaN unknown.

    A row per method, variant and readout, with its source. With CMF the paper's probe and NCC see the features as the
    head normalises them, so these are ``probe_in_head`` and ``ncc_in_head``.
    """
    rows = pd.read_csv(Path(__file__).parent / "published_results.csv", dtype={"table": str})
    rows = rows[(rows.arch == arch) & (rows.dataset == dataset) & (rows.n_forget == n_forget)]
    with_cmf = rows.method.str.endswith("+CMF")
    keys = {cls.label: name for name, cls in METHODS.items()} | {"RL": "random_label"}
    in_head = (with_cmf & (rows["head"] != "output")).map({True: "_in_head", False: ""})
    return pd.DataFrame(
        {
            "method": rows.method.str.removesuffix("+CMF").map(keys),
            "variant": with_cmf.map({True: "cmf", False: "linear"}),
            "readout": rows["head"].replace({"linear_probe": "probe"}) + in_head,
            "retain": rows.retain_acc / 100,
            "forget": rows.forget_acc / 100,
            "source": rows.source,
        }
    )


def next_to_paper(rows: pd.DataFrame, profile: str) -> Table:
    """Every published number on the forget class that these rows have, too: ours, its interval, the paper's.

    Images, network or training differ unless the profile is the paper's: compare signs, not values.
    """
    arch, dataset = PAPER_SETTINGS.get(profile, ("resnet18", "cifar10"))
    known = published(arch, dataset, len(rows.forget.iloc[0].split())).dropna(subset=["forget", "method"])
    lines = []
    for line in known.itertuples():
        own = rows[(rows.method == line.method) & (rows.variant == line.variant)]
        column = f"{line.readout}_forget"
        if len(own) and column in own:
            values = own.groupby("forget")[column].mean() * 100
            lines.append(
                {
                    "model": own.model.iloc[0],
                    "measurement": head(column),
                    "here": values.mean(),
                    "std": values.std(),
                    "paper": 100 * line.forget,
                    "difference": values.mean() - 100 * line.forget,
                }
            )
    table = pd.DataFrame(lines, columns=["model", "measurement", "here", "std", "paper", "difference"])
    numbers = table.set_index(["model", "measurement"])
    numbers = numbers[~numbers.index.duplicated()]
    shown = numbers[numbers.index.get_level_values("measurement").str.contains("robe")][:12]  # all are kept
    text = shown.assign(
        here=[f"{h:.1f} ± {s:.1f}" for h, s in zip(shown.here, shown["std"], strict=True)],
        paper=shown.paper.map("{:.2f}".format),
        difference=shown.difference.map("{:+.1f}".format),
    )
    return Table(
        text.drop(columns="std"),
        numbers,
        f"Forget accuracy in %, ours (mean ± standard deviation, {n_of(rows)}) and published.",
    )


def latex(text: pd.DataFrame, name: str, caption: str) -> str:
    """A table of text for the page, no wider than it."""
    plain = text.rename(columns=str).replace({"<b>": "BOLDOPEN", "</b>": "BOLDCLOSE"}, regex=True)
    made = (
        plain.to_latex(
            caption=re.sub(r"([_%&#{}])", r"\\\1", caption),
            label=f"tab:{name}",
            escape=True,
            multicolumn_format="c",
            multirow=False,
            column_format="l" * plain.index.nlevels + "r" * plain.shape[1],
            position="htbp",
        )
        .replace("BOLDOPEN", r"\textbf{")
        .replace("BOLDCLOSE", "}")
    )
    made = made.translate(str.maketrans({"±": r"$\pm$", "–": "--", "→": r"$\to$", "−": "$-$"}))
    fitted = r"\centering\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{\begin{tabular}"
    made = made.replace(r"\begin{tabular}", fitted).replace(r"\end{tabular}", r"\end{tabular}}")
    return f"% needs \\usepackage{{booktabs,graphicx}}\n{made}"
