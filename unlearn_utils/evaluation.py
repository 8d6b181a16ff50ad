"""``evaluate``: does a model's output forget a class that its features retain? For any network, or for plain arrays.

A network is only a way to get ``Arrays`` (``foreign.py``). Readouts and rows are those of the study (``readouts.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from operator import index
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from .arrays import Arrays, own_state
from .checks import checks
from .data import is_in
from .foreign import NoNumbers, Pass, Where
from .representation import Features
from .settings import BadInput, Probe
from .study.progress import tracked
from .study.readouts import READOUTS, At, row_of
from .views.own_models import Report

METHODS = {"Original": "original", "Retrain": "retrain", "Untrained": "random"}  # the references, as the study's rows
MEASURED = ("output", "probe", "ncc", "binary", "geometry", "collapse", "margin")


def evaluate(
    models: dict[str, nn.Module | Arrays],
    train: Any,
    test: Any,
    forget: Any,
    *,
    features: Where | dict[str, Where] = None,
    probe: Probe | None = None,
    starts: int | Iterable[int] = 5,
    batch_size: int = 256,
    progress: bool = True,
) -> Report:
    """Measure models, by name, on the same images and compare them with "Original" and "Retrain", if these are given.

    ``models``: networks that map a batch of images to logits (N, K), of any architecture and on their own device, or
    ``Arrays``; "Untrained" is the network before any training. ``train`` and ``test``: a data set, a loader or (images,
    labels), as the models see images in testing, the forget classes included; labels alone where all models are Arrays.
    ``forget``: classes, by name or number. ``features``, for all models or by name: None finds the input of the head, a
    module's name is believed to be the head, a function of (model, images) gives (N, d). A CMF model of the official
    code is recognised, and measured in its head's normalisation too (what the function
    ``lambda model, x: model._preprocess_feats_for_cmf(model.extract_features(x))`` gives).

    ``probe``: the official recipe by default (``default_probe``), from several ``starts`` (a number, or seeds), whose
    scatter is part of ``report.compare()``. Nothing is written. Raises BadInput.
    """
    given = _named(models)
    where = {role(name): at for name, at in features.items()} if isinstance(features, dict) else {}
    if odd := sorted(where.keys() - given.keys()):
        raise BadInput(f"features names {', '.join(odd)}, but the models are {', '.join(given)}.")
    where = where if isinstance(features, dict) else dict.fromkeys(given, features)
    seeds = starts if isinstance(starts, Iterable) else range(whole("starts", starts))
    seeds = tuple(index(seed) if hasattr(seed, "__index__") else -1 for seed in seeds)
    if min(seeds, default=-1) < 0 or len(set(seeds)) < len(seeds):
        raise BadInput(f"starts is {starts!r}, but it must be a number of starts, or different seeds, like [0, 1, 2].")
    if probe is not None and not isinstance(probe, Probe):
        raise BadInput(f"probe is {probe!r}, but it must be a Probe of unlearn_utils.settings, like Probe(epochs=20).")
    shown = tracked if progress else lambda things, *_: things
    seen = Pass(given, {"train": train, "test": test}, where, forget, whole("batch_size", batch_size), shown)
    return _report(seen, probe or default_probe(len(seen.labels["train"]), len(seen.names)), seeds, shown)


def _report(seen: Pass, probe: Probe, seeds: tuple[int, ...], shown: Callable) -> Report:
    """A row per model, and its hits on the test images of the forget classes, checked."""
    of_cmf = next((arrays.normalisation for arrays in seen.arrays.values() if arrays.centre is not None), None)
    names = MEASURED + ("probe_in_head", "ncc_in_head") * (of_cmf is not None)
    rows, hits = [], {}
    for name in shown(seen.arrays, "measurements", len(seen.arrays)):
        row, hits[name] = measured(name, seen, probe, seeds, names, of_cmf)
        identity = {"model": name, "method": METHODS.get(name, ""), "variant": "linear", "seed": 0}
        rows.append(identity | {"forget": " ".join(map(str, seen.forget))} | row)
    rows, made = pd.DataFrame(rows), {"data": seen.seen, "probe": asdict(probe), "starts": list(seeds)}
    if headless := ", ".join(rows.model[rows.nc3.isna()]):
        told = "or it does not predict what the logits do: alignment, margins and NC3 are left out."
        seen.notes.append(f"No linear head is known of {headless}, {told}")
    found = checks(rows, hits, seen.arrays, seen.shared)
    further = lambda name, readouts: measured(name, seen, probe, seeds, readouts)[1]  # noqa: E731
    return Report(rows, hits, found, seen.notes, seen.forget, seen.names, made, seen.arrays, further)


def default_probe(images: int, classes: int) -> Probe:
    """The official recipe, 20 epochs for up to ten classes and 150 for more; of few images at least 1,000 steps."""
    steps = max(1, round(0.9 * images) // 128)
    return Probe(epochs=max(20 if classes <= 10 else 150, -(-1000 // steps)), patience=40)


def whole(name: str, value: Any) -> int:
    """A whole number from 1 on, of any type. Raises BadInput."""
    if not hasattr(value, "__index__") or index(value) < 1:
        raise BadInput(f"{name} is {value!r}, but it must be a whole number from 1 on.")
    return index(value)


def _named(models: Any) -> dict[str, nn.Module | Arrays]:
    """The models by name, references under theirs. Raises BadInput."""
    if not isinstance(models, dict) or not models:
        raise BadInput("models must be a dictionary of at least one model by name, like {'Retrain': a, 'mine': b}.")
    given = {role(name): model for name, model in models.items()}
    if len(given) < len(models):
        raise BadInput(f"two of the models {', '.join(map(str, models))} have the same name; rename one.")
    return given


def role(name: Any) -> str:
    """A model's name; that of a reference however it is written."""
    return str(name).capitalize() if str(name).capitalize() in METHODS else str(name)


class Given(At):
    """Arrays in the place of a trained cell; ``normalisation`` is that of a CMF head next to them."""

    def __init__(self, arrays: Arrays, seen: Pass, probe: Probe, normalisation: str | None):
        moved = lambda values: torch.as_tensor(values, device=seen.device)  # noqa: E731
        self.features = Features(moved(arrays.train_features), moved(arrays.test_features))
        self.train_labels, self.test_labels = moved(seen.labels["train"]), moved(seen.labels["test"])
        self.logits, self.head = moved(arrays.test_logits), arrays.head().to(seen.device)
        self.classes, self.recipe, self.device = self.logits.shape[1], probe, seen.device
        self.normalisation = normalisation


def measured(
    name: str, seen: Pass, probe: Probe, seeds: Iterable[int], names: Iterable[str], normalisation: str | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A model's row, as the study has it, and by column hits (starts, N) on the test images of the forget classes.

    What has a start is averaged over the ``seeds``. Raises NoNumbers where no probe can be fitted.
    """
    row, hits = {}, {}
    with own_state():
        at = Given(seen.arrays[name], seen, probe, normalisation)
        chosen = is_in(at.test_labels, seen.forget)
        for readout in names:
            results = []
            for seed in seeds if readout.startswith(("probe", "mlp")) else (0,):
                at.seed = seed
                results.append(READOUTS[readout].function(at))
            rows = pd.DataFrame([row_of(at.classes, {readout: result}, seen.forget) for result in results])
            row |= rows.iloc[0].to_dict() | rows.mean(numeric_only=True).to_dict()
            if "hits" in results[0]:
                right = torch.stack([result["hits"][chosen] for result in results])
                hits[f"{readout}_forget"] = right.cpu().numpy()
                row[f"{readout}_forget"] = hits[f"{readout}_forget"].mean()
    if np.isnan(row.get("probe_auroc_forget", 0)):
        raise NoNumbers(
            f"no probe can be fitted to the features of model '{name}', as large as "
            f"{at.features.train.abs().max().item():.0e}, at lr {probe.lr:g}; scale them, or take a smaller lr."
        )
    return row, hits
