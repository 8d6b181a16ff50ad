"""Rows to tables: means over forget sets, gaps to Retrain, the paper's own numbers; as CSV, as LaTeX, on the screen.

In a CSV every cell is a number, and accuracies are fractions, as in ``measurements.csv``. LaTeX and the screen show
the same numbers as text, accuracies and their differences in per cent.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from ..attacks import ON_FEATURES
from ..methods import METHODS
from ..paths import Outputs, home, write
from ..settings import READOUTS
from . import evidence
from .intervals import NAN, Interval, number, ratio

pd.set_option("display.max_colwidth", None)  # no verdict is cut off
SIDES = ("retain", "forget")
# The profiles that are experiments of the paper, with their column in its tables.
PAPER_SETTINGS = {
    "cifar10": ("resnet18", "cifar10"), "cifar100": ("resnet18", "cifar100"),
    "tiny_imagenet": ("resnet50", "tiny_imagenet"), "cifar10_vit": ("vit_s_16", "cifar10"),
    "cifar100_vit": ("vit_s_16", "cifar100"), "tiny_imagenet_vit": ("vit_s_16", "tiny_imagenet"),
}
ACCURACIES = [f"{readout}_{side}" for readout in READOUTS for side in SIDES]
LABELS = READOUTS | {
    "probe_in_head": "Probe, head's geometry", "ncc_in_head": "NCC, head's geometry", "alignment": "cosine",
    "any": "any forget class", "alarms": "false alarms", "auroc": "AUROC", "difference": "gap to Retrain",
    "ncc_auroc": "NCC's AUROC", "nc1": "NC1", "nc2": "NC2", "nc3": "NC3", "membership": "membership inference",
    "row_turn": "row turned, °", "mean_turn": "class mean turned, °",
}
INTERVALS = ("_difference", "_recovery")  # shown with their bounds, other means with their spread
PARTS = (*SIDES, "paper", "any", "alarms", "auroc", "difference", "recovery")  # the second line of a table's head
COSTS = ["epochs", "image_passes"]  # seconds are no result: they differ from run to run
PLAIN = re.compile("alignment|centre|margin|.*bias|nc[123]|.*recovery|.*auroc|.*turn")  # neither costs nor per cent
NONE = Interval(NAN, NAN, NAN, 0)
PAGE, SENTENCE = 45, 40  # rows that fit on a page; characters from which a cell is wrapped
FITTED = r"""\centering\scriptsize\setlength{\tabcolsep}{3pt}
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
"""
CARD = {"claim", "counted", "agrees", "shows"}  # columns that a card of today has


def per_forget_set(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean over seeds: one line per forget set, one column per model."""
    return rows.pivot_table(index="forget", columns="model", values=column, aggfunc="mean", sort=False)


def over(rows: pd.DataFrame) -> str:
    """What a table's means run over: n = 10 forget sets, 1 training seed; 1 to 3 where not every set has all."""
    sets, seeds = rows.forget.nunique(), rows.groupby("forget").seed.nunique().tolist() or [0]
    each = " to ".join(map(str, sorted({min(seeds), max(seeds)})))
    return f"n = {sets} forget set{'s' * (sets > 1)}, {each} training seed{'s' * (max(seeds) > 1)}"


def summary(rows: pd.DataFrame, columns: list[str] = ACCURACIES) -> pd.DataFrame:
    """Every column of every model, over its forget sets; bounds of accuracies are accuracies."""
    values = {column: per_forget_set(rows, column).reindex(columns=rows.model.unique()) for column in columns}
    accuracies = [column for column in columns if not PLAIN.match(column) and column not in COSTS]
    table = {column: {model: Interval.of(of[model]) for model in of} for column, of in values.items()}
    table |= {column: {model: cell.share() for model, cell in table[column].items()} for column in accuracies}
    return pd.DataFrame(table).rename_axis("model")


def beside_paper(table: pd.DataFrame, rows: pd.DataFrame, profile: str, pretrained: bool = False) -> pd.DataFrame:
    """A ``summary`` with the paper's forget accuracy after each readout; NaN where it is not known to us."""
    arch, dataset, _ = setting(profile, pretrained)
    known = published(arch, dataset, len(rows.forget.iloc[0].split())).set_index(["method", "variant", "readout"]).forget
    of = rows.drop_duplicates("model").set_index("model")
    for readout in known.index.unique("readout"):
        if f"{readout}_forget" in table:
            numbers = [known.get((of.method[m], of.variant[m], readout), NAN) for m in table.index]
            table.insert(table.columns.get_loc(f"{readout}_forget") + 1, f"{readout}_paper", numbers)
    return table


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """What is left in the features: gap to Retrain and recovery; and false alarms and AUROC, which recall hides.

    Recovery is 0 at Retrain and 1 at the Original; where the two read alike there is none.
    """
    table = pd.DataFrame(index=pd.Index(rows.model.unique(), name="model"))
    for readout in ("probe", "ncc"):
        values = per_forget_set(rows, f"{readout}_forget").reindex(columns=table.index.union(["Original", "Retrain"]))
        room = values["Original"] - values["Retrain"]
        room = room if room.mean() >= evidence.ROOM else room * NAN
        table[f"{readout}_difference"] = [Interval.of(values[m] - values["Retrain"]) for m in table.index]
        table[f"{readout}_recovery"] = [ratio(values[m] - values["Retrain"], room) for m in table.index]
    means = rows.groupby("model").mean(numeric_only=True)
    return table.join(means[["ncc_alarms", "ncc_auroc_forget", "membership_forget"]])


def attack_gaps(readings: pd.DataFrame) -> pd.DataFrame:
    """Forget accuracy less Retrain's: at the fewest images, or after the last step where one fine-tunes."""
    after, table = readings[readings.x > 0], {}
    for attack, part in after.groupby("attack", sort=False):
        values = per_forget_set(part[part.x == (part.x.min() if attack in ON_FEATURES else part.x.max())], "forget_accuracy")
        table[f"{attack}_difference"] = {model: Interval.of(values[model] - values["Retrain"]) for model in values}
    return pd.DataFrame(table).rename_axis("model")


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


def setting(profile: str, pretrained: bool = False) -> tuple[str, str, bool]:
    """(network, data set) of the paper that a profile is held against, and whether they are the profile's own.

    Another data set, or a smaller network, has no number of its own in the paper: only signs compare, a pretrained
    backbone's with those of the paper's ViT.
    """
    if profile in PAPER_SETTINGS:
        return *PAPER_SETTINGS[profile], True
    return ("vit_s_16" if pretrained else "resnet18"), "cifar10", False


def comparable(profile: str) -> bool:
    """Whether a profile's values, and not only its signs, are held against the paper's: its data at its size."""
    return profile in PAPER_SETTINGS or profile == "cifar10_slim"


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text: 92.5 ± 1.2 or 13.6 [6.4, 20.7], in per cent; – where there is no number."""
    text = {_head(name): [_text(name, cell) for cell in table[name]] for name in table}
    flat = not any(part for _, part in text)
    return pd.DataFrame({head[0] if flat else head: cells for head, cells in text.items()}, index=table.index)


def _head(name: str) -> tuple[str, str]:
    first, _, part = name.rpartition("_")
    first, part = (first, LABELS.get(part, part)) if first and part in PARTS else (name, "")
    return LABELS.get(first, first.replace("_", " ")), part


def _text(name: str, cell) -> str:
    scale, digits = (1, 0 if "turn" in name else 2) if PLAIN.match(name) else (1 if name in COSTS else 100, 1)
    if isinstance(cell, Interval):
        return cell.text(scale, digits) if name.endswith(INTERVALS) else cell.spread(scale, digits)
    if isinstance(cell, (str, int)):
        return str(cell)
    digits = 2 if name.endswith("paper") else digits  # as published
    return "–" if cell != cell else number(scale * cell, digits)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """A table as numbers: means with their spread and bounds in columns of their own."""
    flat = {}
    for name in table:
        cells = [cell if isinstance(cell, Interval) else NONE for cell in table[name]]
        stats = ("mean", "std", "low", "high", "n") if any(cell is not NONE for cell in cells) else ()
        flat |= {f"{name} {stat}": [getattr(cell, stat) for cell in cells] for stat in stats} or {name: list(table[name])}
    return pd.DataFrame(flat, index=table.index)


def save(table: pd.DataFrame, name: str, outputs: Outputs, caption: str) -> pd.DataFrame:
    """Write a table as CSV and LaTeX beside the figures, its parameters in the caption; returns it for display."""
    write(outputs.file(f"{name}.csv"), numbers(table).to_csv(float_format="%.6g"))
    shown = formatted(table)
    write(outputs.file(f"{name}.tex"), latex(shown, name, f"{caption.rstrip('.')}; {outputs.caption}."))
    print(f"{name}: {caption}")
    return shown


def latex(shown: pd.DataFrame, name: str, caption: str) -> str:
    """A table of text for the page: at most as wide as the text, over several pages where it is long, sentences wrapped."""
    long = len(shown) > PAGE
    wraps = [shown[head].astype(str).str.len().max() > SENTENCE for head in shown]
    text = shown.to_latex(
        caption=re.sub(r"([_%&#{}])", r"\\\1", caption), label=f"tab:{name}", escape=True, multicolumn_format="c",
        multirow=False, longtable=long, position=None if long else "htbp",
        column_format="l" * shown.index.nlevels + "".join("p{4cm}" if wrap else "r" for wrap in wraps))
    symbols = {"±": r"$\pm$", "–": "--", "●": r"$\bullet$", "◐": r"$\odot$", "◌": r"$\diamond$", "○": r"$\circ$",
               "°": r"$^\circ$", "−": "$-$"}
    text = re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(str.maketrans(symbols)))
    if long:
        return f"% needs \\usepackage{{booktabs,longtable}}\n{{\\scriptsize\n{text}}}\n"
    text = text.replace(r"\begin{tabular}", FITTED + r"\begin{tabular}").replace(r"\end{tabular}", r"\end{tabular}}")
    return f"% needs \\usepackage{{booktabs,graphicx}}\n{text}"


def other_cards(own: str) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Cards of the other profiles in ``figures``, not of runs with other parameters (name+hash); and whose are too old."""
    cards = {path.parent.name: pd.read_csv(path) for path in sorted((home() / "figures").glob("*/scorecard.csv"))
             if path.parent.name != own and "+" not in path.parent.name}
    older = [name for name, card in cards.items() if not CARD <= set(card)]
    return {name: card for name, card in cards.items() if name not in older}, older


def reproduction(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds and forget sets of this run beside those of the committed pack (fractions)."""
    means = {
        name: part.groupby(["method", "variant"], sort=False)[ACCURACIES].mean().stack()
        for name, part in {"here": rows, "reference": reference}.items()
    }
    table = pd.DataFrame(means).rename_axis(["method", "variant", "measure"])
    return table.assign(difference=table.here - table.reference)
