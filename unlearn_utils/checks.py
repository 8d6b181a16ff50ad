"""Numbered checks: what a reader has to know before a comparison of forget accuracies means anything."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

REFERENCES = ("Original", "Retrain")
FEWEST = 30  # test images of the forget classes under which a t interval of hits is none
SPENT = 0.10  # loss of retain accuracy beyond which a model is no evidence of anything
ROOM = 0.05  # smallest headroom, Original minus Retrain, with which a readout can tell anything
APART = 0.10  # retain accuracy that a reference's output, or a probe, may lack next to the class means
SHARED = 0.01  # of the test images that may be training images
FITTED = "probe ncc binary logistic ridge neighbours mlp"  # to training images, so shared ones make them too good


@dataclass(frozen=True)
class Found:
    """A check's result, None where it does not apply; where raised, ``models`` and ``readouts`` get no verdict."""

    raised: bool | None
    told: str = ""
    models: str | list[str] = "*"
    readouts: str = "*"


def checks(rows: pd.DataFrame, hits: dict[str, dict[str, np.ndarray]], arrays: dict, shared: int) -> pd.DataFrame:
    """A line per check: code, title, result ("passed", "raised", "not applicable"), told, models and readouts.

    Of ``models`` and ``readouts`` no verdict is given where a check is raised; "*" stands for all.
    """
    by = rows.set_index("model")
    n, images = next(iter(hits.values()))["output_forget"].shape[1], len(next(iter(arrays.values())).test_features)
    logits = {name: array.test_logits for name, array in arrays.items()}
    equal = [f"{a} and {b}" for a, b in combinations(logits, 2) if np.array_equal(logits[a], logits[b])]
    centred = ", ".join(by.index[by.mean_distance_forget.isna()])
    why = f"{centred}: probe and NCC can find the class as what none of the others is; see the binary probe"
    told = f"{shared} of {images} test images are training images"
    found = {
        "Retrain and Original are given": _references(by),
        "retain accuracy is kept": _retain(by),
        "enough test images": Found(n < FEWEST, f"{n} test images of the forget classes"),
        "Retrain leaves headroom": _headroom(by),
        "the probe is fitted": _fitted(by),
        "the forget class mean is distinct from the global mean": Found(bool(centred), why if centred else "", []),
        "the references classify these images": _known(by),
        "train and test share no images": Found(shared > SHARED * images, told, "*", FITTED),
        "the Original predicts the class and Retrain does not": _class_known(by),
        "outputs differ": Found(bool(equal), f"equal outputs: {', '.join(equal)}" if equal else "", []),
    }
    results = {None: "not applicable", True: "raised", False: "passed"}
    lines = [
        (f"UNL{i:03}", title, results[at.raised], at.told, "\n".join(at.models), at.readouts)
        for i, (title, at) in enumerate(found.items(), 1)
    ]
    return pd.DataFrame(lines, columns=["code", "title", "result", "told", "models", "readouts"])


def withheld(found: pd.DataFrame, model: str, column: str) -> list[str]:
    """Codes of the raised checks for which no verdict is given on a model's column, like "probe_forget"."""
    readout = column.partition("_")[0]
    return [
        line.code
        for line in found[found.result == "raised"].itertuples()
        if {"*", model} & {*line.models.split("\n")} and {"*", readout} & {*line.readouts.split()}
    ]


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _references(by: pd.DataFrame) -> Found:
    absent = [name for name in REFERENCES if name not in by.index]
    return Found(bool(absent), ", ".join(f"no {name}" for name in absent), "*" if "Retrain" in absent else [])


def _lost(lost: pd.Series, limit: float, than: str, readouts: str = "*") -> Found:
    """Raised for the models that lost more than the limit; for all where Retrain is one of them."""
    lost = lost[lost > limit]
    told = ", ".join(f"{name} {_points(cost)} points below {than}" for name, cost in lost.items())
    return Found(bool(told), told, "*" if "Retrain" in lost else list(lost.index), readouts)


def _retain(by: pd.DataFrame) -> Found:
    reference = next((name for name in ("Retrain", "Original") if name in by.index), None)
    own = by.drop(index=[*REFERENCES, "Untrained"], errors="ignore").output_retain
    if reference is None or own.empty:
        return Found(None, "no reference, or no model next to it")
    return _lost(by.output_retain[reference] - own, SPENT, reference)


def _headroom(by: pd.DataFrame) -> Found:
    """Of each readout's forget accuracy minus its false positives: what calls everything by one name knows nothing."""
    if not set(REFERENCES) <= set(by.index):
        return Found(None, "needs Original and Retrain")
    known = pd.DataFrame({r: by[f"{r}_forget"] - by[f"{r}_false_positives"] for r in ("probe", "ncc")})
    room = known.loc["Original"] - known.loc["Retrain"]
    low = room.index[room < ROOM]
    told = ", ".join(f"{readout} {_points(value)} points" for readout, value in room.items())
    return Found(len(low) > 0, told, "*", " ".join(low))


def _fitted(by: pd.DataFrame) -> Found:
    own = by.drop(index="Untrained", errors="ignore")
    lost = np.minimum(own.output_retain, own.ncc_retain) - own.probe_retain
    return _lost(lost, APART, "output and NCC", "probe")


def _known(by: pd.DataFrame) -> Found:
    """Outputs, class means and probe of a reference agree on the retain classes where images and labels are its own."""
    told, references = [], by.index.intersection(REFERENCES, sort=False)
    for name in references:
        output, ncc, probe = by.loc[name, ["output_retain", "ncc_retain", "probe_retain"]]
        guessed = max(output, ncc, probe) < 1.5 / len(by.alignment[name])
        if ncc - output > APART or output - max(ncc, probe) > 3 * APART or guessed:
            told.append(f"{name} retain output {_points(output)}, NCC {_points(ncc)}, probe {_points(probe)} %")
    advice = "; look at labels, their order and the preprocessing" if told else ""
    return Found(bool(told) if len(references) else None, "; ".join(told) + advice)


def _class_known(by: pd.DataFrame) -> Found:
    told, accuracy, positives = [], by.output_forget, by.output_false_positives
    if "Original" in by.index and accuracy["Original"] - positives["Original"] < APART:
        told.append(f"the Original's forget accuracy is {_points(accuracy['Original'])} %")
        told.append(f"its false positives {_points(positives['Original'])} %")
    if "Retrain" in by.index and accuracy["Retrain"] > APART:
        told.append(f"Retrain's forget accuracy is {_points(accuracy['Retrain'])} %")
    return Found(bool(told) if {*REFERENCES} & {*by.index} else None, ", ".join(told))
