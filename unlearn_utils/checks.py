"""Numbered checks: what a reader has to know before a comparison of forget accuracies means anything."""

from __future__ import annotations

import numpy as np
import pandas as pd

REFERENCES = ("Original", "Retrain")
READOUTS = ("output", "probe", "ncc")
FEWEST = 30  # test images of the forget classes under which a t interval of hits is none
SPENT = 0.10  # loss of retain accuracy beyond which a model is no evidence of anything
ROOM = 0.05  # smallest headroom, Original minus Retrain, with which a readout can tell anything
APART = 0.10  # retain accuracy that a reference's output, or a probe, may lack next to the class means
SHARED = 0.01  # of the test images that may be training images
TITLES = {
    "UNL001": "Retrain and Original are given",
    "UNL002": "retain accuracy is kept",
    "UNL003": "enough test images",
    "UNL004": "Retrain leaves headroom",
    "UNL005": "the probe is fitted",
    "UNL006": "class means have a direction",
    "UNL007": "the references know these images",
    "UNL008": "train and test share no images",
    "UNL009": "the Original knows the class and Retrain does not",
    "UNL010": "outputs differ",
}


def checks(rows: pd.DataFrame, hits: dict[str, dict[str, np.ndarray]], arrays: dict, shared: int) -> pd.DataFrame:
    """A line per check: code, title, result ("passed", "raised", "not applicable"), told, models and readouts.

    Of ``models`` and ``readouts`` no verdict is given where a check is raised; "*" stands for all.
    """
    by = rows.set_index("model")
    n = next(iter(hits.values()))["output_forget"].shape[1]
    found = [
        _references(by),
        _retain(by),
        _result("UNL003", n < FEWEST, f"{n} test images of the forget classes", "*", "*"),
        _headroom(by),
        _fitted(by),
        _centred(by),
        _known(by),
        _shared(shared, by, arrays),
        _class_known(by),
        _equal(arrays),
    ]
    return pd.DataFrame(found)


def withheld(found: pd.DataFrame, model: str, column: str) -> list[str]:
    """Codes of the raised checks for which no verdict is given on a model's column, like "probe_forget"."""
    readout = column.partition("_")[0]
    return [
        line.code
        for line in found.itertuples()
        if line.result == "raised"
        and (line.models == "*" or model in line.models.split("\n"))
        and (line.readouts == "*" or readout in line.readouts.split())
    ]


def _result(
    code: str, raised: bool | None, told: str, models: str | list[str] = "", readouts: str = ""
) -> dict[str, str]:
    result = "not applicable" if raised is None else "raised" if raised else "passed"
    models = models if isinstance(models, str) else "\n".join(models)
    return {
        "code": code,
        "title": TITLES[code],
        "result": result,
        "told": told,
        "models": models if raised else "",
        "readouts": readouts if raised else "",
    }


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def _references(by: pd.DataFrame) -> dict[str, str]:
    absent = [name for name in REFERENCES if name not in by.index]
    return _result(
        "UNL001",
        bool(absent),
        f"no {' and no '.join(absent)}" if absent else "",
        "*" if "Retrain" in absent else "",
        "*",
    )


def _retain(by: pd.DataFrame) -> dict[str, str]:
    reference = next((name for name in ("Retrain", "Original") if name in by.index), None)
    own = by.drop(index=[*REFERENCES, "Untrained"], errors="ignore").output_retain
    if reference is None or own.empty:
        return _result("UNL002", None, "no reference, or no model next to it")
    lost = by.output_retain[reference] - own
    told = ", ".join(f"{name} {_points(cost)} points below {reference}" for name, cost in lost[lost > SPENT].items())
    return _result("UNL002", bool(told), told, list(lost[lost > SPENT].index), "*")


def _headroom(by: pd.DataFrame) -> dict[str, str]:
    """Of each readout's forget accuracy minus its false positives: what calls everything by one name knows nothing."""
    if not set(REFERENCES) <= set(by.index):
        return _result("UNL004", None, "needs Original and Retrain")
    room = {r: (by[f"{r}_forget"] - by[f"{r}_false_positives"])[list(REFERENCES)] for r in ("probe", "ncc")}
    room = {readout: value["Original"] - value["Retrain"] for readout, value in room.items()}
    low = [readout for readout, value in room.items() if value < ROOM]
    return _result(
        "UNL004", bool(low), ", ".join(f"{r} {_points(value)} points" for r, value in room.items()), "*", " ".join(low)
    )


def _fitted(by: pd.DataFrame) -> dict[str, str]:
    own = by.drop(index="Untrained", errors="ignore")
    lost = np.minimum(own.output_retain, own.ncc_retain) - own.probe_retain
    told = ", ".join(f"{name} {_points(cost)} points below output and NCC" for name, cost in lost[lost > APART].items())
    names = list(lost[lost > APART].index)
    return _result("UNL005", bool(told), told, "*" if "Retrain" in names else names, "probe")


def _centred(by: pd.DataFrame) -> dict[str, str]:
    names = list(by.index[by.mean_distance_forget.isna()])
    told = f"{', '.join(names)}: probe and NCC can find the class as what none of the others is; see the binary probe"
    return _result("UNL006", bool(names), told if names else "")


def _known(by: pd.DataFrame) -> dict[str, str]:
    """Outputs, class means and probe of a reference agree on the retain classes where images and labels are its own."""
    given = [name for name in REFERENCES if name in by.index]
    if not given:
        return _result("UNL007", None, "needs a reference")
    told = []
    for name in given:
        output, ncc, probe = by.loc[name, ["output_retain", "ncc_retain", "probe_retain"]]
        if (
            ncc - output > APART
            or output - max(ncc, probe) > 3 * APART
            or max(output, ncc, probe) < 1.5 / len(by.alignment[name])
        ):
            told.append(f"{name} retain output {_points(output)}, NCC {_points(ncc)}, probe {_points(probe)} %")
    advice = "; look at labels, their order and the preprocessing" if told else ""
    return _result("UNL007", bool(told), "; ".join(told) + advice, "*", "*")


def _shared(shared: int, by: pd.DataFrame, arrays: dict) -> dict[str, str]:
    n = len(next(iter(arrays.values())).test_features)
    return _result(
        "UNL008", shared > SHARED * n, f"{shared} of {n} test images are training images", "*", "probe ncc binary"
    )


def _class_known(by: pd.DataFrame) -> dict[str, str]:
    told = []
    if "Original" in by.index and by.output_forget["Original"] - by.output_false_positives["Original"] < APART:
        told.append(
            f"the Original's forget accuracy is {_points(by.output_forget['Original'])} %, its false positives "
            f"{_points(by.output_false_positives['Original'])} %"
        )
    if "Retrain" in by.index and by.output_forget["Retrain"] > APART:
        told.append(f"Retrain's forget accuracy is {_points(by.output_forget['Retrain'])} %")
    applies = set(REFERENCES) & set(by.index)
    return _result("UNL009", bool(told) if applies else None, "; ".join(told), "*", "*")


def _equal(arrays: dict) -> dict[str, str]:
    names, told = list(arrays), []
    for i, name in enumerate(names):
        told += [
            f"{other} and {name}"
            for other in names[:i]
            if np.array_equal(arrays[other].test_logits, arrays[name].test_logits)
        ]
    return _result("UNL010", bool(told), f"equal outputs: {', '.join(told)}" if told else "")
