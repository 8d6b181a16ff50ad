"""What ``evaluate`` found: tables, comparisons, figure and checks; saved, and read again."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from ..checks import withheld
from ..paths import expanded, write
from ..settings import BadInput
from . import compare as comparing
from .compare import ALPHA, Comparison

READOUTS = {
    "output": "Output",
    "probe": "Linear probe",
    "ncc": "NCC",
    "probe_in_head": "Linear probe, head's normalisation",
    "ncc_in_head": "NCC, head's normalisation",
}
SIDES = {"retain": "retain (%)", "forget": "forget (%)", "false_positives": "false positives (%)", "group": "group (%)"}
LABELS = {  # of the table's lines
    **{f"{readout}_{side}": f"{label}, {text}" for readout, label in READOUTS.items() for side, text in SIDES.items()},
    "binary_forget": "Binary probe, forget (%)",
    "binary_false_positives_forget": "Binary probe, false positives (%)",
    "binary_auroc_forget": "Binary probe, AUROC",
    "one_shot": "1-shot linear probe, forget (%)",
    "ten_shot": "10-shot linear probe, forget (%)",
    "alignment_retain": "alignment, retain",
    "alignment_forget": "alignment, forget",
    "mean_distance_forget": "class mean distance, forget",
    "margin_weight_forget": "margin by weight vector, forget",
    "margin_bias_forget": "margin by bias, forget",
    "bias_stability": "bias stability",
    "nc1": "NC1",
    "nc2": "NC2",
    "nc3": "NC3",
}
FIRST = [
    key
    for key in LABELS
    if key.endswith(("_retain", "_forget")) and not key.startswith(("margin", "mean", "binary_auroc"))
]
COLUMNS = ("output_forget", "probe_forget", "ncc_forget", "binary_forget")


@dataclass(frozen=True, repr=False)
class Verdicts(Comparison):
    """A comparison in which the verdict is withheld where a raised check makes it meaningless."""

    withheld: dict[tuple[str, str], list[str]] = field(default_factory=dict)  # codes by model and column

    def text(self, line) -> str:
        codes = self.withheld.get((line.model, line.column))
        return f"– ({', '.join(codes)})" if codes else super().text(line)

    @property
    def caption(self) -> str:
        return super().caption + (" A check in place of a difference: no verdict is given." if self.withheld else "")


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What ``evaluate`` found.

    ``rows`` (fractions, a line per model), ``hits`` (by model and readout, (starts, forget-class test images)),
    ``checks`` (see ``unlearn_utils.checks``), ``notes``; ``arrays`` and ``labels`` only where it has just run.
    """

    rows: pd.DataFrame
    hits: dict[str, dict[str, np.ndarray]]
    checks: pd.DataFrame
    notes: list[str]
    forget: tuple[int, ...]
    classes: list[str]
    made: dict[str, Any]
    arrays: dict[str, Any] | None = None
    labels: dict[str, Any] | None = None

    @property
    def images(self) -> pd.DataFrame:
        """A row per model, start of the probe and forget-class test image, 1 where a readout is right."""
        roles = self.rows.set_index("model").method
        return _images(self.hits, roles, self.made["starts"])

    @property
    def table(self) -> pd.DataFrame:
        """Readings x models, as text: accuracies in per cent."""
        columns = {}
        for row in self.rows.to_dict("records"):
            columns[row["model"]] = {
                label: f"{100 * row[key]:.1f}" if label.endswith("(%)") else f"{row[key]:.2f}"
                for key, label in LABELS.items()
                if pd.notna(row.get(key))
            }
        lines = [label for label in LABELS.values() if any(label in column for column in columns.values())]
        return pd.DataFrame(columns).reindex(lines).fillna("–")

    @property
    def short(self) -> pd.DataFrame:
        """The lines of the table that a reader needs first."""
        return self.table.reindex([label for key in FIRST if (label := LABELS[key]) in self.table.index])

    def compare(self, reference: str | Report = "Retrain", columns: tuple[str, ...] = COLUMNS) -> Comparison:
        """Every model minus a reference of the same report, or minus the model of its name in an earlier report.

        Paired over the test images of the forget classes; the scatter over starts of the probe is part of the interval.
        Against a model of the report a verdict is withheld where a raised check makes it meaningless. Raises BadInput.
        """
        if not isinstance(reference, str):
            return self._since(reference, columns)
        shown = {"original": "Original", "retrain": "Retrain", "untrained": "Untrained", "random": "Untrained"}
        name = shown.get(reference.casefold(), reference)
        if name not in self.hits:
            raise BadInput(f"there is no {name} in this report; it has {', '.join(self.hits)}.")
        found = with_starts(comparing.compare(self.images, name, columns, over="image"), self.hits)
        if name != "Retrain":
            return found
        codes = {
            (line.model, line.column): withheld(self.checks, line.model, line.column)
            for line in found.frame.itertuples()
            if line.model not in ("Original", "Untrained")
        }
        codes = {place: listed for place, listed in codes.items() if listed}
        frame = found.frame.copy()
        blocked = [(line.model, line.column) in codes for line in frame.itertuples()]
        frame.loc[blocked, "significant"] = False
        frame["withheld"] = [", ".join(codes.get((line.model, line.column), [])) for line in frame.itertuples()]
        return Verdicts(frame, found.over, found.digits, codes)

    def _since(self, earlier: Report, columns: tuple[str, ...]) -> Comparison:
        """The models of this report minus those of the same name in an earlier one, on the same images."""
        same = self.classes == earlier.classes and set(self.forget) == set(earlier.forget)
        told = [", ".join(r.classes[c] for c in r.forget) + f" of {len(r.classes)} classes" for r in (self, earlier)]
        if not same:
            raise BadInput(
                f"this report forgets {told[0]} and the other {told[1]}; compare reports on the same forget classes."
            )
        for part, seen in self.made["data"].items():
            other = earlier.made["data"][part]
            if seen["images"] != other["images"] or not np.allclose(seen["mean"], other["mean"], rtol=1e-4, atol=1e-4):
                raise BadInput(f"the two reports are of other {part} images; evaluate both on the same.")
        if differ := [
            f"{key} {value} and {earlier.made['probe'].get(key)}"
            for key, value in self.made["probe"].items()
            if value != earlier.made["probe"].get(key)
        ]:
            raise BadInput(
                f"the two reports have probes of other settings ({', '.join(differ)}); evaluate both with the same."
            )
        pairs = {name: f"{name}, before" for name in self.hits if name in earlier.hits}
        if not pairs:
            raise BadInput("the two reports have no model of the same name.")
        hits = self.hits | {pairs[name]: earlier.hits[name] for name in pairs}
        images = pd.concat(
            [
                self.images[self.images.model.isin(pairs)],
                earlier.images[earlier.images.model.isin(pairs)].assign(model=lambda f: f.model.map(pairs)),
            ]
        )
        return with_starts(comparing.compare(images, pairs, columns, over="image"), hits)

    def probes(self) -> Comparison:
        """Does the answer depend on the probe? Forget accuracy by six probes, each minus Retrain's. Raises BadInput."""
        if self.arrays is None:
            raise BadInput("a saved report holds no features; call evaluate again for report.probes().")
        from ..probes import fitted_hits  # scikit-learn takes a second

        hits = {
            name: {
                "official probe": self.hits[name]["probe_forget"],
                **found,
                "binary": self.hits[name]["binary_forget"],
            }
            for name, found in fitted_hits(self.arrays, self.labels, self.forget, self.made["starts"]).items()
        }
        images = _images(hits, self.rows.set_index("model").method, self.made["starts"])
        reference = "Retrain" if "Retrain" in hits else next(iter(hits))
        columns = tuple(next(iter(hits.values())))
        return with_starts(comparing.compare(images, reference, columns, over="image"), hits)

    def figure(self) -> Figure:
        """Forget accuracy of every model by output, probe and NCC."""
        from .plots import dumbbell

        return dumbbell(self.rows, models=list(self.rows.model), columns=("output", "probe", "ncc"))

    def save(self, folder: str | Path) -> None:
        """Write the table (CSV), the figure (PNG) and all numbers (JSON) into a folder, made where there is none."""
        folder = Path(_folder(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.table.to_csv(folder / "evaluation.csv")
            figure = self.figure()
            figure.savefig(folder / "evaluation.png", dpi=200, bbox_inches="tight")
            plt.close(figure)  # a notebook would show it
            kept = self._kept()
            write(folder / "evaluation.json", json.dumps(kept | {"digest": _digest(kept)}, indent=1) + "\n")
        except OSError as reason:
            raise BadInput(
                f"no report can be written to {folder} ({reason.strerror or reason}); name a folder that can be "
                "written to."
            ) from None

    def _kept(self) -> dict[str, Any]:
        frames = {
            name: json.loads(getattr(self, name).to_json(orient="records", double_precision=15))
            for name in ("rows", "checks")
        }
        hits = {
            model: {name: ["".join(map(str, map(int, start))) for start in found] for name, found in readouts.items()}
            for model, readouts in self.hits.items()
        }
        return frames | {
            "hits": hits,
            "notes": self.notes,
            "forget": list(self.forget),
            "classes": self.classes,
            "made": self.made,
        }

    @staticmethod
    def load(folder: str | Path) -> Report:
        """The report that ``save`` has written. Raises BadInput where there is none, or where a number was edited."""
        file = Path(_folder(folder)) / "evaluation.json"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept.pop("digest") != _digest(kept):
                raise BadInput(f"{file} was edited after it was saved; save the report again.")
            hits = {
                model: {
                    name: np.array([list(map(int, start)) for start in found], dtype=bool)
                    for name, found in readouts.items()
                }
                for model, readouts in kept["hits"].items()
            }
            rows, found = (pd.DataFrame(kept[name]) for name in ("rows", "checks"))
            return Report(rows, hits, found, kept["notes"], tuple(kept["forget"]), kept["classes"], kept["made"])
        except OSError as reason:
            raise BadInput(
                f"{folder} holds no report ({reason.strerror or reason}); name a folder that report.save has written."
            ) from None
        except (LookupError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as reason:
            raise BadInput(f"{file} is no report of evaluate ({type(reason).__name__}); save it again.") from None

    def told(self) -> list[str]:
        """The checks, a line each, and the notes."""
        lines = [
            f"{line.code} {line.title}: {line.result}" + (f" ({line.told})" if line.told else "")
            for line in self.checks.itertuples()
        ]
        probe = self.made["probe"]
        return [*lines, *self.notes, f"Probe: at most {probe['epochs']} epochs, {len(self.made['starts'])} starts."]

    def __repr__(self) -> str:
        compared = [repr(self.compare())] if "Retrain" in self.hits and len(self.hits) > 1 else []
        return "\n".join([self.table.to_string(), *compared, *self.told()])

    def _repr_html_(self) -> str:
        image, figure = io.BytesIO(), self.figure()
        figure.savefig(image, format="png", bbox_inches="tight")
        plt.close(figure)
        drawn = f"<img alt='' src='data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}'>"
        compared = self.compare()._repr_html_() if "Retrain" in self.hits and len(self.hits) > 1 else ""
        return self.short.to_html() + compared + drawn + "".join(f"<p>{html.escape(line)}</p>" for line in self.told())


def _images(hits: dict[str, dict[str, np.ndarray]], roles: pd.Series, starts: list[int]) -> pd.DataFrame:
    """Hits as rows for ``compare``; what has no start, like NCC, is the same for all."""
    frames = []
    for model, readouts in hits.items():
        n = next(iter(readouts.values())).shape[1]
        spread = {
            name: np.broadcast_to(found, (len(starts), n)).ravel().astype(float) for name, found in readouts.items()
        }
        identity = {
            "model": model,
            "method": roles[model],
            "seed": np.repeat(starts, n),
            "image": np.tile(np.arange(n), len(starts)),
        }
        frames.append(pd.DataFrame(identity | spread))
    return pd.concat(frames, ignore_index=True)


def with_starts(found: Comparison, hits: dict[str, dict[str, np.ndarray]]) -> Comparison:
    """The comparison with the scatter over starts in its intervals.

    The variance of a mean difference over images and over S starts is s_images^2 / n + s_starts^2 / S, its degrees of
    freedom are Satterthwaite's.
    """
    lines = found.frame.to_dict("records")
    for line in lines:
        means = [hits[line[which]][line["column"]].mean(1) for which in ("model", "reference")]
        starts = min(map(len, means))
        if starts < 2 or not line["n"] or np.isnan(line["smallest"]):
            continue
        n, of_starts = line["n"], 100**2 * np.var(means[0][:starts] - means[1][:starts], ddof=1) / starts
        of_images = np.var(line["values"], ddof=1) / n
        variance = of_images + of_starts
        if variance < 1e-18:
            continue
        freedom = variance**2 / (of_images**2 / (n - 1) + of_starts**2 / (starts - 1))
        error, difference = np.sqrt(variance), line["difference"]
        line["p"] = line["p_holm"] = 2 * stats.t.sf(abs(difference) / error, freedom)
        line["low"], line["high"] = stats.t.interval(1 - ALPHA, freedom, difference, error)
        line["smallest"], line["significant"] = error * stats.t.ppf(1 - ALPHA / 2, n - 1), line["p"] < ALPHA
    return replace(found, frame=pd.DataFrame(_holm(lines)))


def _holm(lines: list[dict]) -> list[dict]:
    """Holm's correction anew, within each column, of the lines that ``compare`` corrects: one's own models."""
    for column in dict.fromkeys(line["column"] for line in lines):
        comparing._correct(
            [
                line
                for line in lines
                if line["column"] == column
                and not np.isnan(line["p"])
                and line["model"] not in ("Original", "Retrain", "Untrained")
            ]
        )
    return lines


def _digest(kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _folder(folder: Any) -> str:
    if not isinstance(folder, (str, os.PathLike)) or not str(folder).strip() or "\0" in str(folder):
        raise BadInput(f"a report's folder is {folder!r}, but it must be a path, like 'found'.")
    return str(expanded(folder))
