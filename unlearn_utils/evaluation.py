"""``evaluate``: does a model's output forget a class that its features retain? For any network, or for plain arrays.

A network is only a way to get ``Arrays`` (``foreign.py``); all that is shown is computed from arrays and labels here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from operator import index
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from . import attacks, foreign, geometry, metrics
from .arrays import Arrays, own_state
from .checks import checks
from .data import is_in
from .data_forms import class_names
from .foreign import Where
from .heads import NORMALISATIONS, class_means
from .representation import Features
from .settings import BadInput, Probe
from .study.progress import tracked
from .training import generator
from .views.own_models import Report

METHODS = {"Original": "original", "Retrain": "retrain", "Untrained": "random"}  # the references, as the study's rows
SHOTS = {1: "one_shot", 10: "ten_shot"}


def evaluate(
    models: dict[str, nn.Module | Arrays],
    train: Any,
    test: Any,
    forget: Any,
    *,
    features: Where | dict[str, Where] = None,
    probe: Probe | None = None,
    starts: int | Iterable[int] = 5,
    draws: int = 5,
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
    seeds = tuple(map(index, starts)) if isinstance(starts, Iterable) else tuple(range(whole("starts", starts)))
    if probe is not None and not isinstance(probe, Probe):
        raise BadInput(f"probe is {probe!r}, but it must be a Probe of unlearn_utils.settings, like Probe(epochs=20).")
    draws, batch_size = whole("draws", draws), whole("batch_size", batch_size)
    forget, parts = listed(forget), {"train": train, "test": test}
    shown = tracked if progress else lambda things, *_: things
    known = lambda classes: forget_set(forget, class_names(parts, classes)[0])  # noqa: E731
    seen = foreign.pass_over(given, parts, where, batch_size, shown, known)
    chosen, tested = forget_set(forget, seen.names), set(seen.labels["test"].tolist())
    if absent := [seen.names[c] for c in chosen if c not in tested]:
        raise BadInput(f"test holds no image of the forget class {absent[0]}; give the whole test part.")
    if tested <= set(chosen):
        raise BadInput("test holds images of the forget classes only; give the whole test part.")
    return _report(seen, chosen, probe, seeds, draws, shown)


def _report(
    seen: foreign.Pass, forget: tuple[int, ...], probe: Probe | None, seeds: tuple, draws: int, shown: Callable
) -> Report:
    """A row per model, and its hits on the forget-class test images, checked."""
    probe = probe or default_probe(len(seen.labels["train"]), len(seen.names))
    of_cmf = next((arrays.normalisation for arrays in seen.arrays.values() if arrays.centre is not None), None)
    rows, hits = [], {}
    with own_state():
        for name, arrays in shown(seen.arrays.items(), "measurements", len(seen.arrays)):
            row, hits[name] = Measured(name, arrays, seen, forget, of_cmf).row(probe, seeds, draws)
            identity = {"model": name, "method": METHODS.get(name, ""), "variant": "linear", "seed": 0}
            rows.append(identity | {"forget": " ".join(map(str, forget))} | row)
    rows, made = pd.DataFrame(rows), {"data": seen.seen, "probe": asdict(probe), "starts": list(seeds), "draws": draws}
    found = checks(rows, hits, seen.arrays, seen.shared)
    if headless := ", ".join(name for name, arrays in seen.arrays.items() if arrays.weight is None):
        seen.notes.append(f"No linear head is known of {headless}: alignment, margins and NC3 are left out.")
    return Report(rows, hits, found, seen.notes, forget, seen.names, made, seen.arrays, seen.labels)


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
    for name, model in given.items():
        if not isinstance(model, (nn.Module, Arrays)):
            raise BadInput(f"model '{name}' is a {type(model).__name__}, but it must be a torch.nn.Module or Arrays.")
    return given


def role(name: Any) -> str:
    """A model's name; that of a reference however it is written."""
    return str(name).capitalize() if str(name).capitalize() in METHODS else str(name)


def listed(forget: Any) -> list:
    """Classes as a list of plain numbers and names."""
    forget = forget.tolist() if hasattr(forget, "tolist") else forget
    found = list(forget) if isinstance(forget, Iterable) and not isinstance(forget, str) else [forget]
    return [c.item() if hasattr(c, "item") else c for c in found]


def forget_set(forget: Any, names: list[str]) -> tuple[int, ...]:
    """Class numbers of classes by name or number. Raises BadInput, also where samples are listed."""
    given, known = listed(forget), {name: c for c, name in enumerate(names)}
    numbers = [known.get(c, int(c) if c.isdecimal() else c) if isinstance(c, str) else c for c in given]
    sound = all(not isinstance(c, (str, bool)) and c in range(len(names)) for c in numbers)
    if not sound or not 0 < len(set(numbers)) <= len(names) - 2:
        shown = ", ".join(map(str, given[:8])) + ", ..." * (len(given) > 8)
        raise BadInput(
            f"forget is [{shown}], but it must list classes, not samples: some of {', '.join(names[:12])}"
            f"{', ...' * (len(names) > 12)}, or their numbers, and leave two to retain."
        )
    return tuple(dict.fromkeys(map(int, numbers)))


class Measured:
    """A model's arrays as tensors, and what is computed of them; ``normalisation`` is that of a CMF head next to it."""

    def __init__(
        self, name: str, arrays: Arrays, seen: foreign.Pass, forget: tuple[int, ...], normalisation: str | None = None
    ):
        tensor = lambda value: None if value is None else torch.as_tensor(value).to(seen.device)  # noqa: E731
        self.name, self.forget = name, forget
        self.normalisation = normalisation if arrays.centre is None else arrays.normalisation
        self.train, self.test = tensor(arrays.train_features), tensor(arrays.test_features)
        self.logits, self.weight = tensor(arrays.test_logits), tensor(arrays.weight)
        self.bias, self.centre = tensor(arrays.bias), tensor(arrays.centre)
        self.y, self.y_test = tensor(seen.labels["train"]), tensor(seen.labels["test"])
        self.classes = self.logits.shape[1]

    def row(self, probe: Probe, seeds: tuple[int, ...], draws: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Fractions by column, as the study's rows have them; and hits (starts, N) on forget-class images."""
        from .probes import binary_hits  # scikit-learn takes a second

        names = ["output", "probe", "ncc"] + ["probe_in_head", "ncc_in_head"] * (self.normalisation is not None)
        row, hits = self.accuracies(probe, seeds, names)
        for name, values in metrics.binary_probes(self.train, self.y, self.test, self.y_test, self.classes).items():
            row |= _sides(f"binary_{name}", values, self.forget)
        hits["binary_forget"] = binary_hits(self.train, self.y, self.test, self.y_test, self.forget)
        row["binary_forget"] = hits["binary_forget"].mean()
        row["probe_starts"] = hits["probe_forget"].mean(1).tolist()
        return row | self.head_and_means() | self.few_shot(draws), hits

    def accuracies(
        self, probe: Probe, seeds: tuple[int, ...], names: Iterable[str]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Accuracies by readout, of several starts their mean; and hits (starts, N) on the forget-class test images."""
        row, hits, chosen = {}, {}, is_in(self.y_test, self.forget)
        for name in names:
            scores = self.scores(name, probe, seeds)
            predicted = [found.argmax(1) for found in scores]
            counts = sum(metrics.confusion(found, self.y_test, self.classes) for found in predicted)
            row |= {
                f"{name}_retain": metrics.pooled_accuracy(counts, tuple(set(range(self.classes)) - {*self.forget})),
                f"{name}_forget": metrics.pooled_accuracy(counts, self.forget),
                f"{name}_group": metrics.group_accuracy(counts, self.forget),
                f"{name}_false_positives": metrics.false_positives(counts, self.forget),
            }
            hits[f"{name}_forget"] = torch.stack([(found == self.y_test)[chosen] for found in predicted]).cpu().numpy()
            if name != "output":
                ranked = scores[0] if "ncc" in name else metrics.probe_scores(scores[0])
                row |= _sides(f"{name}_auroc", metrics.auroc(ranked, self.y_test), self.forget)
        return row, hits

    def scores(self, name: str, probe: Probe, seeds: tuple[int, ...]) -> list[Tensor]:
        """Scores (N, K) of the test images, one for each start of a readout that has a start. Raises BadInput."""
        if name == "output":
            return [self.logits]
        train, test = self.in_head() if name.endswith("_in_head") else (self.train, self.test)
        if name.startswith("ncc"):
            return [metrics.nearest(train, self.y, test, self.classes)[1]]
        found = [metrics.probed(train, self.y, test, self.classes, probe, seed) for seed in seeds]
        if not all(scores.isfinite().all() for scores in found):
            raise BadInput(
                f"no probe can be fitted to the features of model '{self.name}', as large as "
                f"{train.abs().max().item():.0e}, at lr {probe.lr:g}; scale them, or take a smaller lr."
            )
        return found

    def in_head(self) -> tuple[Tensor, Tensor]:
        """Features in the normalisation of a CMF head; of another model, of the head that its features would get."""
        train, test = map(NORMALISATIONS[self.normalisation], (self.train, self.test))
        centre = class_means(train, self.y, self.classes).mean(0) if self.centre is None else self.centre
        return normalize(train - centre, dim=1), normalize(test - centre, dim=1)

    def head_and_means(self) -> dict[str, Any]:
        """Alignment, margins, neural collapse; what needs the head is NaN where none is known."""
        compared = self.train if self.centre is None else NORMALISATIONS[self.normalisation](self.train)
        means = geometry.centred_means(compared, self.y, self.classes)
        distance = geometry.mean_distance(means)
        row = _sides("mean_distance", distance, self.forget)
        row |= {"nc1": geometry.nc1(self.train, self.y, self.classes), "nc2": geometry.nc2(means), "nc3": float("nan")}
        aligned = distance * float("nan")
        if self.weight is not None:
            aligned, row["nc3"] = geometry.alignment(self.weight, means), geometry.nc3(self.weight, means)
            inputs = self.test if self.centre is None else self.in_head()[1]
            margins = geometry.margin_parts(inputs, self.y_test, self.weight, self.bias)
            for part, values in zip(("weight", "bias"), margins):
                row |= _sides(f"margin_{part}", values, self.forget)
        if self.bias is not None:
            row |= geometry.bias_numbers(self.bias, self.forget)
        return row | _sides("alignment", aligned, self.forget) | {"alignment": aligned.tolist()}

    def few_shot(self, draws: int) -> dict[str, float]:
        """k-shot linear probes, from the images that the study's own seed 0 draws; none where a class has fewer."""
        possible = [k for k in SHOTS if k <= self.y.bincount().min()]
        features, y, y_test = Features(self.train.cpu(), self.test.cpu()), self.y.cpu(), self.y_test.cpu()
        found = pd.DataFrame(attacks.few_shot(features, y, y_test, possible, draws, generator("cpu", 0, "few_shot")))
        sizes, classes = y_test.bincount(minlength=self.classes)[list(self.forget)], list(self.forget)
        return {
            SHOTS[k]: float(np.mean([np.average(np.array(a)[classes], weights=sizes) for a in accuracies]))
            for k, accuracies in (found.groupby("x").accuracy if len(found) else ())
        }


def _sides(name: str, values: Tensor, forget: tuple[int, ...]) -> dict[str, float]:
    """Means over the retain and the forget classes, of the numbers that are any."""
    inside = is_in(torch.arange(len(values), device=values.device), forget)
    return {
        f"{name}_{side}": values[of].double().nanmean().item() for side, of in (("retain", ~inside), ("forget", inside))
    }
