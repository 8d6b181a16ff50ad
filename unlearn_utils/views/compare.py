"""The one verdict language: a difference in points, its 95 % interval, and whether it is significant.

``compare`` takes rows, of our study or of ``evaluate``, and nothing else of the project.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ..methods import METHODS
from ..settings import READOUTS, BadInput

FEWEST = 5  # paired values under which there is no interval: they are shown instead
ALPHA = 0.05
UNITS = {"forget": "forget sets", "seed": "seeds", "image": "test images of the forget classes"}
NAMES = {"probe_in_head": "Probe, normalised features", "ncc_in_head": "NCC, normalised features"}
NAMES |= READOUTS | {"binary": "Binary probe", "logistic": "Logistic regression", "ridge": "Ridge regression"}
NAMES |= {"neighbours": "5 nearest neighbours", "mlp": "MLP, 64 hidden units"}
SIDES = {"retain": "retain", "forget": "forget", "group": "forget group", "false_positives": "false positives"}


@dataclass(frozen=True)
class Comparison:
    """One line per model and column in ``frame``, accuracies in per cent and differences in percentage points:

    model, reference, column, n, value, reference_value (means over the pairs), difference, low, high, freedom, p,
    p_holm, significant, smallest (the smallest difference that these n with this spread would have shown), values (the
    n paired differences) and, where a check makes a verdict meaningless, ``withheld`` (the check).
    """

    frame: pd.DataFrame
    over: str

    @property
    def caption(self) -> str:
        """What the numbers are, in one sentence for the page."""
        if self.frame.empty:
            return "Nothing to compare."
        n = " to ".join(map(str, sorted({self.frame.n.min(), self.frame.n.max()})))
        few = " Fewer than five pairs: the paired differences are listed." * bool((self.frame.n < FEWEST).any())
        if self.frame.get("withheld", pd.Series()).any():
            few += " A check in place of a difference: no verdict is given."
        return (
            f"Differences are in percentage points with 95 % intervals over {n} {UNITS.get(self.over, self.over)} "
            "(paired t). Bold marks significance after Holm's correction; otherwise the smallest difference that would "
            f"have been significant is in parentheses.{few}"
        )

    def table(self) -> pd.DataFrame:
        """The comparison as text: a row per model, for every column its value and the difference from the reference."""
        references = self.frame.reference.unique()
        against = f"minus {references[0]}" if len(references) == 1 else "minus its reference"
        parts = {}
        for column, lines in self.frame.groupby("column", sort=False):
            parts[head(column), "%"] = lines.set_index("model").value.map("{:.1f}".format)
            parts[head(column), against] = self.texts(column)
        return pd.DataFrame(parts, pd.Index(self.frame.model.unique(), name="model")).fillna("–")

    def texts(self, column: str) -> pd.Series:
        """The differences of one column as text, by model."""
        lines = self.frame[self.frame.column == column].itertuples()
        return pd.Series({line.model: self.text(line) for line in lines}, dtype=object)

    def text(self, line) -> str:
        """One cell: ``**+19.5** [13.6, 25.4]``, ``+1.2 [-0.8, 3.2] (2.6)``, or the values where they are few."""
        if getattr(line, "withheld", ""):
            return f"– ({line.withheld})"
        if line.n < FEWEST:
            return ", ".join(f"{value:+.1f}" for value in line.values) or "–"
        shown, bounds = f"{line.difference:+.1f}", f"[{line.low:.1f}, {line.high:.1f}]"
        return f"<b>{shown}</b> {bounds}" if line.significant else f"{shown} {bounds} ({line.smallest:.1f})"

    def _repr_html_(self) -> str:
        return as_html(self.table()) + f"<p>{self.caption}</p>"

    def __repr__(self) -> str:
        return as_plain(self.table()) + f"\n{self.caption}"


def as_html(text: pd.DataFrame, **options) -> str:
    """A table of text as HTML: bold stays, and all else is escaped, since models have any name."""
    return re.sub("&lt;(/?b)&gt;", r"<\1>", text.to_html(**options))


def as_plain(text: pd.DataFrame) -> str:
    """A table of text for a terminal, *bold* between asterisks."""
    return text.replace("</?b>", "*", regex=True).to_string()


def compare(
    rows: pd.DataFrame,
    reference: str | Mapping[str, str] = "retrain",
    columns: Sequence[str] = ("probe_forget", "ncc_forget"),
    *,
    over: str = "forget",
) -> Comparison:
    """Every model of ``rows`` minus a reference, paired by forget set.

    ``rows`` have a line per model, ``over`` and seed, with ``columns`` as fractions; seeds are averaged first. Over
    test images the seeds are starts of a probe, whose scatter is part of the interval.
    ``reference`` is a method with its linear head ("retrain", "original"), the name of a model, or a mapping from
    models to their references ({"SalUn + CMF": "SalUn"}), of which only the models named are compared. Within a
    column p is corrected by Holm over the models that are methods; references and controls are not counted among
    them. Null value of a difference: 0; over ``retrain`` positive means that more is retained than in Retrain.

    Raises BadInput where the reference, or a column, is not in the rows.
    """
    columns = [columns] if isinstance(columns, str) else list(columns)
    missing = [name for name in ("model", over, *columns) if name not in rows]
    if missing:
        raise BadInput(f"the rows have no column {', '.join(missing)}; they have {', '.join(map(str, rows.columns))}.")
    pairs = reference if isinstance(reference, Mapping) else _pairs(rows, reference)
    known = set(rows.model)
    if absent := [name for pair in pairs.items() for name in pair if name not in known]:
        raise BadInput(f"there is no model {absent[0]!r} in the rows; they have {', '.join(map(str, sorted(known)))}.")
    lines = [line for column in columns for line in _column(rows, pairs, column, over)] if pairs else []
    return Comparison(pd.DataFrame(lines, columns=None if lines else ["model", "reference", "column", "n"]), over)


def one_per_method(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one model per method: tuned where there is one, else as published. Holm corrects over these.

    A method that changes the head alone is left out: its features are the Original's.
    """
    tuned = rows.method[rows.variant == "tuned"]
    own = rows.variant.eq("tuned") | rows.variant.eq("linear") & ~rows.method.isin(tuned)
    return rows[own & ~rows.method.map(lambda name: getattr(METHODS.get(name), "head_only", False))]


def _pairs(rows: pd.DataFrame, reference: str) -> dict[str, str]:
    """Every other model with the one reference, named by its method or by its label."""
    published = rows[rows.variant == "linear"] if "variant" in rows else rows
    of_method = published.model[published.method == reference] if "method" in rows else published.model[:0]
    label = next(iter(of_method), reference)
    return {model: label for model in rows.model.unique() if model != label} or {label: label}


def _column(rows: pd.DataFrame, pairs: Mapping[str, str], column: str, over: str) -> list[dict]:
    """A line of ``Comparison.frame`` for every model; Holm's correction is over those that are methods."""
    models, lines = dict.fromkeys([*pairs, *pairs.values()]), []

    def means(by: str) -> pd.DataFrame:
        table = 100 * rows.pivot_table(index=by, columns="model", values=column, aggfunc="mean", sort=False)
        return table.reindex(columns=models)

    values = means(over)
    starts = means("seed") if over == "image" and "seed" in rows else values[:0]
    for model, reference in pairs.items():
        difference, scatter = ((part[model] - part[reference]).dropna().to_numpy() for part in (values, starts))
        line = {"model": model, "reference": reference, "column": column, "n": len(difference)}
        paired = values[(values[model] - values[reference]).notna()] if len(difference) else values
        line |= {"value": paired[model].mean(), "reference_value": paired[reference].mean()}
        line |= {"difference": difference.mean() if len(difference) else np.nan}
        lines.append(line | {"values": difference.round(10).tolist()} | _interval(difference, scatter))
    roles = rows.drop_duplicates("model").set_index("model").get("method", pd.Series(dtype=str)).map(METHODS)
    controls = [model for model, cls in roles.items() if getattr(cls, "role", "method") not in ("method", "extension")]
    holm([line for line in lines if line["model"] not in controls and not np.isnan(line["p"])])
    return lines


def _interval(difference: np.ndarray, starts: Sequence[float] = ()) -> dict[str, float]:
    """Student's t over the paired differences: bounds, p, and what Holm may change of it.

    The variance of the mean of n differences, each a mean over S starts, is s_n^2 / n + s_S^2 / S with s_S that of the
    mean differences by start; its degrees of freedom are Satterthwaite's. Chance of a single image and start is in both
    terms, so the interval is rather too wide.
    """
    n, s = len(difference), len(starts)
    if n < FEWEST:
        return dict.fromkeys(("low", "high", "p", "p_holm", "smallest", "freedom"), np.nan) | {"significant": False}
    mean, own, of_starts = difference.mean(), difference.var(ddof=1) / n, np.var(starts, ddof=1) / s if s > 1 else 0.0
    error, freedom = np.sqrt(own + of_starts), n - 1
    if of_starts > 1e-18:
        freedom = (own + of_starts) ** 2 / (own**2 / (n - 1) + of_starts**2 / (s - 1))
    p = 2 * stats.t.sf(abs(mean) / error, freedom) if error > 1e-9 else float(abs(mean) < 1e-9)  # all alike: certain
    bound = error * stats.t.ppf(1 - ALPHA / 2, freedom)
    bounds = {"low": mean - bound, "high": mean + bound, "freedom": freedom}
    return bounds | {"p": p, "p_holm": p, "smallest": bound, "significant": p < ALPHA}


def holm(lines: list[dict]) -> None:
    """Holm's step-down over the lines, in place: adjusted p, and the smallest difference at each line's own level."""
    corrected = 0.0
    for rank, line in enumerate(sorted(lines, key=lambda line: line["p"])):
        left, freedom = len(lines) - rank, line["freedom"]
        corrected = max(corrected, min(1.0, left * line["p"]))
        error = line["smallest"] / stats.t.ppf(1 - ALPHA / 2, freedom)
        line["p_holm"], line["significant"] = corrected, corrected < ALPHA
        line["smallest"] = error * stats.t.ppf(1 - ALPHA / 2 / left, freedom)


def head(column: str) -> str:
    """A column of rows as a heading: ``probe_forget`` is "Linear probe, forget"."""
    for side, name in SIDES.items():
        if column.endswith(f"_{side}"):
            first = column.removesuffix(f"_{side}")
            return f"{NAMES.get(first, first.replace('_', ' '))}, {name}"
    return column.upper() if re.fullmatch("nc[123]", column) else column.replace("_", " ")
