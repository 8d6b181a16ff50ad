"""What ``evaluate`` found: tables, comparisons, figure and checks; saved, and read again."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..arrays import Arrays
from ..checks import withheld
from ..paths import expanded, write
from ..settings import BadInput
from . import compare as comparing
from .compare import Comparison

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
REFERENCES = ("Original", "Retrain", "Untrained")
KEPT = ("rows", "hits", "checks", "notes", "forget", "classes", "made")  # of a saved report
COLUMNS = ("output_forget", "probe_forget", "ncc_forget", "binary_forget")
PROBES = ("probe", "logistic", "ridge", "neighbours", "mlp", "binary")


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What ``evaluate`` found.

    ``rows`` (fractions, a line per model), ``hits`` (by model and readout, (starts, forget-class test images)),
    ``checks`` (see ``unlearn_utils.checks``), ``notes``; only where it has just run ``arrays``, by model, and
    ``further``, which gives a model's hits by more readouts.
    """

    rows: pd.DataFrame
    hits: dict[str, dict[str, np.ndarray]]
    checks: pd.DataFrame
    notes: list[str]
    forget: tuple[int, ...]
    classes: list[str]
    made: dict[str, Any]
    arrays: dict[str, Arrays] | None = None
    further: Callable[[str, Sequence[str]], dict[str, np.ndarray]] | None = None

    @property
    def images(self) -> pd.DataFrame:
        """A row per model, start of the probe and forget-class test image, 1 where a readout is right."""
        return self._images(self.hits)

    def _images(self, hits: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
        """Hits as rows for ``compare``; what has no start, like NCC, is the same for all."""
        roles, starts, frames = self.rows.set_index("model").method, self.made["starts"], []
        for model, readouts in hits.items():
            n, s = next(iter(readouts.values())).shape[1], len(starts)
            columns = {name: np.broadcast_to(found, (s, n)).ravel().astype(float) for name, found in readouts.items()}
            places = {"seed": np.repeat(starts, n), "image": np.tile(np.arange(n), s)}
            frames.append(pd.DataFrame({"model": model, "method": roles[model], **places, **columns}))
        return pd.concat(frames, ignore_index=True)

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
        Against Retrain a verdict is withheld where a raised check makes it meaningless. Raises BadInput.
        """
        if isinstance(reference, Report):
            return self._since(reference, columns)
        names = {name.casefold(): name for name in self.hits} | {"random": "Untrained"}
        if (name := reference if reference in self.hits else names.get(str(reference).casefold())) not in self.hits:
            raise BadInput(f"there is no {reference} in this report; it has {', '.join(self.hits)}.")
        return self._with_checks(comparing.compare(self.images, name, columns, over="image"), name)

    def _with_checks(self, found: Comparison, reference: str) -> Comparison:
        if reference != "Retrain":
            return found
        codes = [
            "" if line.model in REFERENCES else ", ".join(withheld(self.checks, line.model, line.column))
            for line in found.frame.itertuples()
        ]
        sure = found.frame.significant & (pd.Series(codes) == "")
        return replace(found, frame=found.frame.assign(withheld=codes, significant=sure))

    def _since(self, earlier: Report, columns: tuple[str, ...]) -> Comparison:
        """The models of this report minus those of the same name in an earlier one, on the same images."""
        pairs = {name: f"{name}, before" for name in self.hits if name in earlier.hits}
        if self._asked() != earlier._asked() or not pairs:
            raise BadInput("the two reports share no model, or differ in forget classes, images, probe or its starts.")
        before = earlier.images.replace({"model": pairs})
        images = pd.concat([self.images, before[before.model.isin(pairs.values())]])
        return comparing.compare(images, pairs, columns, over="image")

    def _asked(self) -> tuple:
        data = [(part["images"], np.round(part["mean"], 4).tolist()) for part in self.made["data"].values()]
        return self.classes, set(self.forget), data, self.made["probe"], list(self.made["starts"])

    def probes(self) -> Comparison:
        """Does the answer depend on the probe? Forget accuracy by six probes, each minus Retrain's. Raises BadInput."""
        if self.further is None:
            raise BadInput("a saved report holds no features; call evaluate again for its probes.")
        further = {name: self.hits[name] | self.further(name, PROBES[1:-1]) for name in self.hits}
        reference = "Retrain" if "Retrain" in self.hits else next(iter(self.hits))
        columns = [f"{name}_forget" for name in PROBES]
        found = comparing.compare(self._images(further), reference, columns, over="image")
        return self._with_checks(found, reference)

    def figure(self) -> Figure:
        """Forget accuracy of every model by output, probe and NCC."""
        from .plots import dumbbell

        return dumbbell(self.rows, columns=("output", "probe", "ncc"))

    def save(self, folder: str | Path) -> None:
        """Write the table (CSV), the figure (PNG) and all numbers (JSON) into a folder, made where there is none."""
        folder = expanded(folder)
        plain = lambda x: x.to_dict("records") if isinstance(x, pd.DataFrame) else x.tolist()  # noqa: E731
        text = json.dumps({name: getattr(self, name) for name in KEPT}, default=plain)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.table.to_csv(folder / "evaluation.csv")
            (folder / "evaluation.png").write_bytes(self._png(dpi=200))
            write(folder / "evaluation.json", json.dumps({"digest": _digest(text), "report": json.loads(text)}) + "\n")
        except OSError as reason:
            raise BadInput(f"no report can be written to {folder} ({reason.strerror or reason}).") from None

    @staticmethod
    def load(folder: str | Path) -> Report:
        """The report that ``save`` has written. Raises BadInput where there is none, or where it was edited."""
        try:
            file = json.loads((expanded(folder) / "evaluation.json").read_text(encoding="utf-8"))
            if file["digest"] != _digest(json.dumps(file["report"])):
                raise ValueError("it was edited after it was saved")
            rows, hits, found, *others = (file["report"][name] for name in KEPT)
            hits = {model: {k: np.array(found) for k, found in by.items()} for model, by in hits.items()}
            return Report(pd.DataFrame(rows), hits, pd.DataFrame(found), *others)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as reason:
            raise BadInput(f"{folder} holds no report ({reason}); name one that report.save has written.") from None

    def _png(self, dpi: int = 100) -> bytes:
        image, figure = io.BytesIO(), self.figure()
        figure.savefig(image, format="png", dpi=dpi, bbox_inches="tight")
        plt.close(figure)  # a notebook would show it
        return image.getvalue()

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
        drawn = f"<img alt='' src='data:image/png;base64,{base64.b64encode(self._png()).decode()}'>"
        compared = self.compare()._repr_html_() if "Retrain" in self.hits and len(self.hits) > 1 else ""
        return self.short.to_html() + compared + drawn + "".join(f"<p>{html.escape(line)}</p>" for line in self.told())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
