"""What ``evaluate`` found of models from elsewhere: shown, saved, read again, set beside another."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..paths import Outputs, expanded, write
from ..settings import READOUTS, BadInput
from . import plots, tables
from .dumbbell import dumbbell
from .intervals import Interval

SHOTS = {1: "one_shot", 10: "ten_shot"}
SIDES = {"retain": "retain (%)", "forget": "forget (%)", "alarms": "false alarms (%)"}
LABELS = {  # of the table's lines; the former are shown in per cent
    **{f"{readout}_{side}": f"{label}, {text}" for readout, label in READOUTS.items() for side, text in SIDES.items()},
    "one_shot": "1 image per class, forget (%)", "ten_shot": "10 images per class, forget (%)",
    "alignment_retain": "alignment, retain", "alignment_forget": "alignment, forget",
    "centre_distance_forget": "centre distance, forget", "margin_row_forget": "margin by row, forget",
    "margin_bias_forget": "margin by bias, forget", "bias_stability": "bias stability", "nc1": "NC1", "nc2": "NC2",
    "nc3": "NC3",
}
JUDGED = ["claim", "model", "readout", "this run", "mean", "low", "high", "threshold", "n", "p", "p_holm", "level",
          "recovery", "recovery_low", "recovery_high", "shows", "reason"]
DETAILS = [key for key in LABELS if not key.endswith(("_retain", "_forget")) and key != "one_shot"] + [
    key for key in LABELS if key.startswith(("alignment", "centre", "margin"))]  # which the first table leaves out


@dataclass(frozen=True)
class Report:
    """What ``evaluate`` found: ``table`` for display, ``rows`` (fractions, a line per model), ``verdicts``, ``notes``."""

    rows: pd.DataFrame
    verdicts: pd.DataFrame
    notes: list[str]
    forget: tuple[int, ...]
    classes: list[str]
    made: dict[str, Any] = field(default_factory=dict)  # of which images, with what probe; empty in older files

    @property
    def reference(self) -> str:
        """What gaps are to: Retrain, or without one the Original."""
        return "to the Original" if "Retrain" not in set(self.rows.model) else "above Retrain"

    @property
    def table(self) -> pd.DataFrame:
        """Readings x models, as text."""
        columns = {}
        for row in self.rows.to_dict("records"):
            column = {label: f"{100 * row[key]:.1f}" if label.endswith("(%)") else f"{row[key]:.2f}"
                      for key, label in LABELS.items() if pd.notna(row.get(key))}
            if len(row["probe_seeds"]) > 1:
                column[LABELS["probe_forget"]] = Interval.of(pd.Series(row["probe_seeds"])).share().percent()
            for line in self.verdicts[self.verdicts.model == row["model"]].to_dict("records"):
                label, (gap, _, recovery) = READOUTS[line["readout"]], line["this run"].partition("; recovery ")
                if line["readout"] != "output" and gap != "–":
                    column[f"{label}, {self.reference} (points)"] = gap
                    column[f"{label}, recovery"] = recovery if pd.notna(line["recovery"]) else "–"
                column[f"{label}{' forgets' * (label == READOUTS['output'])}, verdict"] = line["shows"]
            columns[row["model"]] = column
        return pd.DataFrame(columns).fillna("–")

    @property
    def short(self) -> pd.DataFrame:
        """The lines of the table that a reader needs first."""
        return self.table.drop(index=[LABELS[key] for key in DETAILS], errors="ignore")

    def figure(self) -> Figure:
        return dumbbell(self.rows, self.forget)

    def save(self, folder: str | Path) -> None:
        """Write tables (CSV, LaTeX), figure (PNG, PDF) and all numbers (JSON) into a folder, made where there is none."""
        outputs = Folder(_named(folder))
        try:
            with redirect_stdout(io.StringIO()):  # captions, which our own notebooks show
                self._write(outputs)
        except OSError as reason:
            raise BadInput(f"no report can be written to {folder} ({reason.strerror or reason}); name a folder that can be "
                           "written to.") from None

    def _write(self, outputs: Outputs) -> None:
        forgotten = ", ".join(self.classes[c] for c in self.forget)
        tables.save(self.table, "evaluation", outputs, f"Readings, forgotten: {forgotten}")
        tables.save(self.verdicts.set_index("model"), "verdicts", outputs, "Verdicts, judged over test images")
        figure = self.figure()
        plots.save(figure, "evaluation", outputs)
        plt.close(figure)  # a notebook would show it
        named = {"classes": self.classes, "forget": list(self.forget), "notes": self.notes, "made": self.made}
        for name in ("rows", "verdicts"):
            named[name] = json.loads(getattr(self, name).to_json(orient="records", double_precision=15))
        write(outputs.file("evaluation.json"), json.dumps(named, indent=1) + "\n")

    @staticmethod
    def load(folder: str | Path) -> Report:
        """The report that ``save`` has written into a folder. Raises BadInput where there is none."""
        file = Path(_named(folder)) / "evaluation.json"
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            rows, verdicts = (pd.DataFrame(kept[name]) for name in ("rows", "verdicts"))
            made = kept.get("made", {})
            report = Report(rows, verdicts.reindex(columns=JUDGED), kept["notes"], tuple(kept["forget"]), kept["classes"], made)
            if made:
                if any(len(made["data"][part]["mean"]) != 2 for part in ("train", "test")):
                    raise ValueError("what tells the images is not two numbers")
                _check_alike([str(folder)] * 2, made, made)
            report._repr_html_(), ", ".join(report.classes), [report.classes[c] for c in report.forget]  # else it is none
            return report
        except OSError as reason:
            raise BadInput(f"{folder} holds no report ({reason.strerror or reason}); name a folder that report.save has "
                           "written.") from None
        except (ValueError, LookupError, TypeError, AttributeError) as reason:
            raise BadInput(f"{file} is no intact report ({type(reason).__name__}); save it again.") from None

    def __repr__(self) -> str:
        return "\n".join([self.table.to_string(), *self.notes])

    def _repr_html_(self) -> str:
        image, figure = io.BytesIO(), self.figure()
        figure.savefig(image, format="png")
        plt.close(figure)
        drawn = f"<img alt='' src='data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}'>"
        notes = [*self.notes, f"report.table holds {len(self.table)} readings."]
        return self.short.to_html() + drawn + "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _named(folder: Any) -> str:
    if not isinstance(folder, (str, os.PathLike)) or not str(folder).strip() or "\0" in str(folder):
        raise BadInput(f"a report's folder is {folder!r}, but it must be a path, like 'found'.")
    return str(expanded(folder))


class Folder(Outputs):
    """A folder of the user's own, whose path stands in the place of a profile."""

    path = property(lambda self: expanded(self.profile))
    caption = "models from elsewhere, read by evaluate"


def compare(before: str | Path | Report, after: str | Path | Report) -> pd.DataFrame:
    """Two reports side by side, by model: as text, and what has changed (per cent in points). Raises BadInput.

    Each is a folder that ``report.save`` has written, or a report. Models are found by name; a model that only one of
    them has stands there alone.
    """
    reports = [given if isinstance(given, Report) else Report.load(given) for given in (before, after)]
    names = ["before", "after"]
    if not any(isinstance(given, Report) for given in (before, after)):  # folders go by their names where these differ
        names = [Path(given).name for given in (before, after)]
        names = names if len(set(names)) == 2 else [str(before), str(after)]
    if names[0] == names[1]:
        raise BadInput(f"both reports are {names[0]}; name two folders.")
    told = [", ".join(report.classes[c] for c in report.forget) + f" of {len(report.classes)} classes" for report in reports]
    if reports[0].classes != reports[1].classes or set(reports[0].forget) != set(reports[1].forget):
        raise BadInput(f"{names[0]} forgets {told[0]} and {names[1]} {told[1]}; compare reports on the same forgotten "
                       "classes.")
    _check_alike(names, *(report.made for report in reports))
    shown = {name: report.table for name, report in zip(names, reports)}
    numbers = [report.rows.set_index("model") for report in reports]
    columns = {}
    for model in dict.fromkeys(model for table in shown.values() for model in table):
        columns |= {(model, name): table[model] for name, table in shown.items() if model in table}
        if all(model in of.index for of in numbers):
            columns[model, "change"] = _change(*(of.loc[model] for of in numbers))
    lines = dict.fromkeys(label for table in shown.values() for label in table.index)
    return pd.DataFrame(columns).reindex(lines).fillna("–")


def _check_alike(names: list[str], one: dict[str, Any], other: dict[str, Any]) -> None:
    """Raise BadInput for reports of other images or with another probe; print what else keeps them apart."""
    both = " and ".join(names)
    if not one or not other:
        print(f"{both}: an older version saved one, so whether both are of the same images and probe is not known.")
        return
    for part, images in one["data"].items():
        found = other["data"][part]
        near = np.allclose(images["mean"], found["mean"], rtol=1e-4, atol=1e-4)  # another machine rounds otherwise
        if images["images"] != found["images"] or not near:
            raise BadInput(f"{both} were read on other {part} images; evaluate both on the same.")
    probes = [report["probe"] for report in (one, other)]
    if differ := [f"{key} {probes[0].get(key, 'not told')} and {probes[1].get(key, 'not told')}"
                  for key in dict.fromkeys([*probes[0], *probes[1]]) if probes[0].get(key) != probes[1].get(key)]:
        raise BadInput(f"{both} have probes of other settings ({', '.join(differ)}); evaluate both with the same.")
    for key, what in {"seeds": "starts of the probe", "draws": "draws of few images"}.items():
        if one[key] != other[key]:
            print(f"{both} have {one[key]} and {other[key]} {what}: a part of what has changed may be chance.")


def _change(before: pd.Series, after: pd.Series) -> pd.Series:
    """Signed differences of the numbers that both have, by the table's labels."""
    found = {}
    for key, label in LABELS.items():
        if pd.notna(before.get(key)) and pd.notna(after.get(key)):
            difference = after[key] - before[key]
            found[label] = f"{100 * difference:+.1f}" if label.endswith("(%)") else f"{difference:+.2f}"
    return pd.Series(found, dtype=object)
