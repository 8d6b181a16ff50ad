"""What can be measured on a trained model: each readout is a function of the cell as ``At`` shows it.

Its key holds its own code and what that reaches in the thin module, so a new readout computes itself and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..geometry import alignment, bias_numbers, centred_means, margin_parts, mean_distance, nc1, nc2, nc3, turned
from ..heads import ClassMeanHead
from ..methods import METHODS, check_free
from ..metrics import (
    FEWEST_LOSSES,
    auroc,
    binary_probes,
    false_positives,
    fitted,
    group_accuracy,
    membership_inference,
    nearest,
    pooled_accuracy,
    probe_scores,
    probed,
    tested,
)
from ..representation import Features
from ..settings import BadInput
from .cells import Cell, dataset_of, load_features, load_model, trained


class At:
    """A trained cell as its readouts see it; what one of them has loaded the others share.

    ``evaluate`` fills in the same of arrays: features, labels, classes, head, logits, and how a probe is fitted.
    """

    def __init__(self, cell: Cell, device: str):
        self.cell, self.device = cell, device
        self.dataset = dataset_of(cell.profile).to(device)
        self.train_labels, self.test_labels = self.dataset.train.labels, self.dataset.test.labels
        self.classes, self.recipe, self.seed = len(self.dataset.classes), cell.profile.probe, cell.seed
        self.normalisation = cell.profile.cmf_normalisation

    @cached_property
    def features(self) -> Features:
        return load_features(self.cell, self.device)

    @cached_property
    def model(self):
        return load_model(self.cell, self.device)

    @cached_property
    def head(self):
        return self.model.head

    @cached_property
    def logits(self) -> Tensor:
        """What the model's own head gives for the test images, (N, K)."""
        return self.head(self.features.test).detach()

    @cached_property
    def in_head(self) -> Features:
        """Features as a CMF head normalises them, as which the official code probes such models.

        Of a model with a linear head as the CMF head that its features would get.
        """
        head = self.head
        if not isinstance(head, ClassMeanHead):
            head = ClassMeanHead(self.features.train.shape[1], self.classes, self.normalisation).to(self.device)
            head.refit(self.features.train, self.train_labels)
        return Features(head.embed(self.features.train), head.embed(self.features.test))

    @property
    def compared(self) -> Tensor:
        """What the class weight vectors are compared with: training features (N, d) as the head sees them."""
        return self.head.transform(self.features.train)

    @property
    def weight(self) -> Tensor:
        return self.head.weight.detach()

    def finite(self) -> bool:
        return bool(torch.isfinite(self.features.train).all() and torch.isfinite(self.features.test).all())


_last: dict[tuple, At] = {}


def look(cell: Cell, device: str) -> At:
    """The cell, loaded; kept until another is looked at."""
    place = trained(cell).key, device, cell.profile.probe, cell.profile.cmf_normalisation  # all that ``At`` reads of it
    if place not in _last:
        _last.clear()
        _last[place] = At(cell, device)
    return _last[place]


@dataclass(frozen=True)
class Readout:
    function: Callable[[At], dict[str, Any]]
    uses: tuple[str, ...]  # the parts of the profile that it depends on
    of_features: bool  # the same for all models that share an encoder
    where: Callable[[Cell], bool]  # the cells that have it


READOUTS: dict[str, Readout] = {}


def readout(uses: tuple[str, ...] = (), of_features: bool = False, where: Callable[[Cell], bool] = lambda cell: True):
    """Register a readout under the function's name. Raises BadInput where the name is taken."""
    if callable(uses):  # written without brackets
        return readout()(uses)

    def register(function: Callable[[At], dict[str, Any]]) -> Callable[[At], dict[str, Any]]:
        known = READOUTS.get(function.__name__)
        check_free("readout", function.__name__, known and known.function, function)
        READOUTS[function.__name__] = Readout(function, uses, of_features, where)
        return function

    return register


# Lists of K numbers in a result, and the columns that they fill: results keep the names under which they were stored.
PER_CLASS = {name: name for name in ("auroc", "alignment", "mean_turn", "margin_bias", "membership")}
PER_CLASS |= {"row_turn": "weight_turn", "margin_row": "margin_weight", "centre_distance": "mean_distance"}
PER_CLASS |= {"binary_recall": "binary"} | {f"binary_{name}": f"binary_{name}" for name in ("false_positives", "auroc")}


def read(name: str, at: At) -> dict[str, Any]:
    """What is kept of a readout's result: all but the hits. Raises BadInput where rows cannot be made of it."""
    result = READOUTS[name].function(at)
    if not isinstance(result, dict):
        raise BadInput(
            f"readout '{name}' must return a dictionary, like {{'counts': ...}}, but returns {result!r:.80}."
        )
    result = {key: value for key, value in result.items() if key != "hits"}
    for key in result.keys() & {"counts", *PER_CLASS}:
        shape = (at.classes, at.classes) if key == "counts" else (at.classes,)
        try:
            fits = isinstance(result[key], list) and np.array(result[key], dtype=float).shape == shape
        except (TypeError, ValueError):  # of uneven lists, or of something else than numbers
            fits = False
        if not fits:
            raise BadInput(f"readout '{name}' must return '{key}' as a list of numbers of shape {shape}.")
    return result


def beside_cmf(cell: Cell) -> bool:
    """Models with a CMF head, and those that they are compared with: Original, Retrain, untrained network."""
    return cell.head == "cmf" or METHODS[cell.method].start == "initialisation"


# "counts" are confusion counts of test images (K, K), rows the true class: every accuracy is a view of them.
# "hits" says of each test image whether it is right, (N,); ``evaluate`` pairs models by it.


@readout()
def output(at: At) -> dict:
    return tested(at.logits.argmax(1), at.test_labels, at.classes)


@readout(uses=("probe",), of_features=True)
def probe(at: At) -> dict:
    logits = probed(at.features.train, at.train_labels, at.features.test, at.classes, at.recipe, at.seed)
    ranked = {"auroc": auroc(probe_scores(logits), at.test_labels).tolist()}
    return tested(logits.argmax(1), at.test_labels, at.classes) | ranked


# Does the answer depend on the probe? These are read where they are asked for by name.


@readout(of_features=True)
def logistic(at: At) -> dict:
    return _by_another_probe("logistic regression", at)


@readout(of_features=True)
def ridge(at: At) -> dict:
    return _by_another_probe("ridge", at)


@readout(of_features=True)
def neighbours(at: At) -> dict:
    return _by_another_probe("5 nearest neighbours", at)


@readout(of_features=True)
def mlp(at: At) -> dict:
    return _by_another_probe("MLP, 64 hidden units", at)


def _by_another_probe(kind: str, at: At) -> dict:
    predicted = fitted(kind, at.features.train, at.train_labels, at.features.test, at.seed)
    return tested(predicted, at.test_labels, at.classes)


@readout(of_features=True)
def binary(at: At) -> dict:
    found = binary_probes(at.features.train, at.train_labels, at.features.test, at.test_labels, at.classes)
    return {"hits": found.pop("hits")} | {f"binary_{name}": values.tolist() for name, values in found.items()}


@readout(of_features=True)
def ncc(at: At) -> dict:
    predicted, scores = nearest(at.features.train, at.train_labels, at.features.test, at.classes)
    return tested(predicted, at.test_labels, at.classes) | {"auroc": auroc(scores, at.test_labels).tolist()}


@readout(uses=("probe",), where=beside_cmf)
def probe_in_head(at: At) -> dict:
    logits = probed(at.in_head.train, at.train_labels, at.in_head.test, at.classes, at.recipe, at.seed)
    return tested(logits.argmax(1), at.test_labels, at.classes)


@readout(where=beside_cmf)
def ncc_in_head(at: At) -> dict:
    predicted, _ = nearest(at.in_head.train, at.train_labels, at.in_head.test, at.classes)
    return tested(predicted, at.test_labels, at.classes)


@readout()
def geometry(at: At) -> dict:
    means = centred_means(at.compared, at.train_labels, at.classes)
    return {"alignment": alignment(at.weight, means).tolist(), "centre_distance": mean_distance(means).tolist()}


@readout(where=lambda cell: cell.head == "linear" and cell.start is not None)
def turn(at: At) -> dict:
    """By how many degrees each class weight vector and each class mean turned from the Original's."""
    before = At(at.cell.start, at.device)
    means = [centred_means(model.features.train, model.train_labels, model.classes) for model in (before, at)]
    return {"row_turn": turned(before.weight, at.weight).tolist(), "mean_turn": turned(*means).tolist()}


@readout()
def collapse(at: At) -> dict:
    means = centred_means(at.compared, at.train_labels, at.classes)
    return {"nc1": nc1(at.features.train, at.train_labels, at.classes), "nc2": nc2(means), "nc3": nc3(at.weight, means)}


@readout()
def margin(at: At) -> dict:
    """The forget logit's margin in two parts, and the head's bias where it has one."""
    bias = getattr(at.head, "bias", None)
    row, of_bias = margin_parts(at.head.embed(at.features.test), at.test_labels, at.weight, bias)
    return {
        "margin_row": row.tolist(),
        "margin_bias": of_bias.tolist(),
        "bias": None if bias is None else bias.tolist(),
    }


@readout()
def members(at: At) -> dict:
    """Per class, where it has images enough; only of the forgotten classes where some are."""
    losses = [
        cross_entropy(at.head(features).detach(), labels, reduction="none")
        for features, labels in ((at.features.train, at.train_labels), (at.features.test, at.test_labels))
    ]
    found = [None] * at.classes
    for c in at.cell.forget or range(at.classes):
        groups = losses[0][at.train_labels == c], losses[1][at.test_labels == c]
        if min(map(len, groups)) >= FEWEST_LOSSES:
            found[c] = membership_inference(*groups)[0]
    return {"membership": found}


def row_of(classes: int, found: dict[str, dict], forget: tuple[int, ...]) -> dict[str, Any]:
    """A row's numbers of the results ``found`` by readout, for one forget set: fractions and means over classes.

    <readout>_retain, _forget (accuracy), _group and _false_positives for every readout with confusion counts;
    <column>_retain and _forget for what is measured per class; nc1 to nc3 and the list alignment as they are.
    """
    row, of_forget = {}, np.isin(np.arange(classes), forget)
    retain = tuple(np.flatnonzero(~of_forget).tolist())
    for name, result in found.items():
        if "counts" in result:
            counts = torch.tensor(result["counts"])
            row |= {
                f"{name}_retain": pooled_accuracy(counts, retain),
                f"{name}_forget": pooled_accuracy(counts, forget),
                f"{name}_group": group_accuracy(counts, forget),
                f"{name}_false_positives": false_positives(counts, forget),
            }
        for key in [key for key in PER_CLASS if key in result]:
            values, column = np.array(result[key], dtype=float), PER_CLASS[key]
            if key == "auroc":
                column = f"{name}_auroc"
            if key == "mean_turn" and "geometry" in found:  # a class mean at the global mean has no direction
                values[np.isnan(np.array(found["geometry"]["alignment"], dtype=float))] = np.nan
            row |= {f"{column}_retain": _mean(values[~of_forget]), f"{column}_forget": _mean(values[of_forget])}
        row |= {key: result[key] for key in ("nc1", "nc2", "nc3", "alignment") if key in result}
        if result.get("bias"):
            row |= bias_numbers(torch.tensor(result["bias"]), forget)
    return row


def _mean(values: np.ndarray) -> float:
    """NaN where there is no number."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
