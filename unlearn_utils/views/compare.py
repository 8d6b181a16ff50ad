"""The one verdict language: a difference in points, its 95 % interval, and whether it is significant.

``compare`` takes rows, of our study or of ``evaluate``, and nothing else of the project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..methods import METHODS
from ..settings import BadInput

FEWEST = 5  # paired values under which there is no interval: they are shown instead
ALPHA = 0.05
UNITS = {"forget": "forget sets", "seed": "seeds", "image": "test images of the forget classes"}
NAMES = {"output": "Output", "probe": "Linear probe", "ncc": "NCC", "forget": "forget", "retain": "retain"}


@dataclass(frozen=True)
class Comparison:
    """One line per model and column in ``frame``, accuracies in per cent and differences in percentage points:

    model, reference, column, n, value, reference_value, difference, low, high, p, p_holm, significant, smallest
    (the smallest difference that these n with this spread would have shown), values (the n paired differences).
    """

    frame: pd.DataFrame
    over: str
    digits: int = 1

    @property
    def caption(self) -> str:
        """What the numbers are, in one sentence for the page."""
        counts = sorted({int(n) for n in self.frame.n})
        n = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0] if counts else 0}"
        return (
            f"Difference in points with its 95 % interval over {n} {UNITS.get(self.over, self.over)} (paired t); bold: "
            "significant after Holm's correction; otherwise, in brackets, the smallest difference that would have been."
        )

    def table(self) -> pd.DataFrame:
        """The comparison as text: a row per model, for every column its value and the difference from the reference."""
        cells: dict[tuple[str, str], dict[str, str]] = {}
        references = self.frame.reference.unique()
        against = f"minus {references[0]}" if len(references) == 1 else "minus its reference"
        for line in self.frame.itertuples():
            value, difference = (_head(line.column), "%"), (_head(line.column), against)
            cells.setdefault(value, {})[line.model] = f"{line.value:.{self.digits}f}"
            cells.setdefault(difference, {})[line.model] = self.text(line)
        return pd.DataFrame(cells, index=pd.Index(self.frame.model.unique(), name="model")).fillna("–")

    def text(self, line) -> str:
        """One cell: ``**+19.5** [13.6, 25.4]``, ``+1.2 [-0.8, 3.2] (2.6)``, or the values where they are few."""
        digits = self.digits
        if not line.n:
            return "–"
        if line.n < FEWEST:
            return ", ".join(f"{value:+.{digits}f}" for value in line.values)
        shown = f"{line.difference:+.{digits}f}"
        bounds = f"[{line.low:.{digits}f}, {line.high:.{digits}f}]"
        return f"<b>{shown}</b> {bounds}" if line.significant else f"{shown} {bounds} ({line.smallest:.{digits}f})"

    def _repr_html_(self) -> str:
        return self.table().to_html(escape=False) + f"<p>{self.caption}</p>"

    def __repr__(self) -> str:
        return self.table().replace(r"</?b>", "*", regex=True).to_string() + f"\n{self.caption}"


def compare(
    rows: pd.DataFrame,
    reference: str | Mapping[str, str] = "retrain",
    columns: Sequence[str] = ("probe_forget", "ncc_forget"),
    *,
    over: str = "forget",
    scale: float = 100,
    digits: int = 1,
) -> Comparison:
    """Every model of ``rows`` minus a reference, paired by forget set.

    ``rows`` have a line per model, ``over`` and seed, with ``columns`` as fractions; seeds are averaged first.
    ``reference`` is a method with its linear head ("retrain", "original"), the name of a model, or a mapping from
    models to their references ({"SalUn + CMF": "SalUn"}), of which only the models named are compared. Within a
    column p is corrected by Holm over the models that are methods; references and controls are not counted among
    them. Null value of a difference: 0; over ``retrain`` positive means that more is retained than in Retrain.

    Raises BadInput where the reference, or a column, is not in the rows.
    """
    missing = [name for name in ("model", over, *columns) if name not in rows]
    if missing:
        raise BadInput(f"the rows have no column {', '.join(missing)}; they have {', '.join(map(str, rows.columns))}.")
    pairs = reference if isinstance(reference, Mapping) else _pairs(rows, reference)
    known = set(rows.model)
    if absent := [name for pair in pairs.items() for name in pair if name not in known]:
        raise BadInput(f"there is no model {absent[0]!r} in the rows; they have {', '.join(map(str, sorted(known)))}.")
    lines = [line for column in columns for line in _column(rows, pairs, column, over, scale)]
    return Comparison(pd.DataFrame(lines), over, digits)


def one_per_method(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one model per method: tuned where there is one, else as published. Holm corrects over these.

    A method that changes the head alone is left out: its features are the Original's.
    """
    tuned = rows.method[rows.variant == "tuned"]
    own = rows.variant.eq("tuned") | rows.variant.eq("linear") & ~rows.method.isin(tuned)
    return rows[own & ~rows.method.map(lambda name: getattr(METHODS.get(name), "head_only", False))]


def _pairs(rows: pd.DataFrame, reference: str) -> dict[str, str]:
    """Every other model with the one reference, named by its method or by its label."""
    linear = (
        rows[(rows.get("method") == reference) & (rows.get("variant", "linear") == "linear")]
        if "method" in rows
        else rows[:0]
    )
    label = linear.model.iloc[0] if len(linear) else reference
    return {model: label for model in dict.fromkeys(rows.model) if model != label} or {label: label}


def _column(rows: pd.DataFrame, pairs: Mapping[str, str], column: str, over: str, scale: float) -> list[dict]:
    values = rows.pivot_table(index=over, columns="model", values=column, aggfunc="mean", sort=False) * scale
    values = values.reindex(columns=dict.fromkeys([*pairs, *pairs.values()]))
    lines = []
    for model, reference in pairs.items():
        both = values[[model]].assign(reference=values[reference]).dropna().to_numpy()
        difference = both[:, 0] - both[:, 1]
        lines.append(
            {
                "model": model,
                "reference": reference,
                "column": column,
                "n": len(both),
                "value": values[model].mean(),
                "reference_value": values[reference].mean(),
                "difference": difference.mean() if len(both) else np.nan,
                "values": difference.round(10).tolist(),
                **_interval(difference),
            }
        )
    roles = rows.drop_duplicates("model").set_index("model").get("method", pd.Series(dtype=str))
    tested = [line for line in lines if _is_method(roles.get(line["model"])) and not np.isnan(line["p"])]
    _correct(tested)
    return lines


def _is_method(name: str | None) -> bool:
    """A control is not a method; a model of one's own is one."""
    return getattr(METHODS.get(name or ""), "role", "method") in ("method", "extension")


def _interval(difference: np.ndarray) -> dict[str, float]:
    """Student's t over the paired differences: bounds, p, and what Holm may change of it."""
    n = len(difference)
    if n < FEWEST:
        return dict.fromkeys(("low", "high", "p", "p_holm", "smallest"), np.nan) | {"significant": False}
    error, mean = difference.std(ddof=1) / np.sqrt(n), difference.mean()
    if error < 1e-9:  # all alike: a difference is certain, and none is none
        p = float(abs(mean) < 1e-9)
        low = high = mean
    else:
        p = 2 * stats.t.sf(abs(mean) / error, n - 1)
        low, high = stats.t.interval(1 - ALPHA, n - 1, mean, error)
    smallest = error * stats.t.ppf(1 - ALPHA / 2, n - 1)
    return {"low": low, "high": high, "p": p, "p_holm": p, "smallest": smallest, "significant": p < ALPHA}


def _correct(lines: list[dict]) -> None:
    """Holm's step-down over the lines, in place: adjusted p, and the smallest difference at each line's own level."""
    corrected = 0.0
    for rank, line in enumerate(sorted(lines, key=lambda line: line["p"])):
        left, n = len(lines) - rank, line["n"]
        corrected = max(corrected, min(1.0, left * line["p"]))
        error = line["smallest"] / stats.t.ppf(1 - ALPHA / 2, n - 1)
        line["p_holm"], line["significant"] = corrected, corrected < ALPHA
        line["smallest"] = error * stats.t.ppf(1 - ALPHA / 2 / left, n - 1)


def _head(column: str) -> str:
    """A column as a heading: ``probe_forget`` is "Linear probe, forget"."""
    first, _, side = column.rpartition("_")
    return f"{NAMES.get(first, first)}, {side}" if side in ("forget", "retain") else column.replace("_", " ")
