"""``evaluate``: does a model's output forget a class that its features retain? For any network, or for plain arrays.

A network is only a way to get ``Arrays`` (``foreign.py``); all that is shown is computed from arrays and labels here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
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

ROLES = {"original": "Original", "retrain": "Retrain", "untrained": "Untrained"}  # models that others are compared with
METHODS = {"Original": "original", "Retrain": "retrain", "Untrained": "random"}  # what the study calls them
SHOTS = {1: "one_shot", 10: "ten_shot"}


def evaluate(
    models: dict[str, nn.Module | Arrays],
    train: Any,
    test: Any,
    forget: Any,
    *,
    features: Where | dict[str, Where] = None,
    probe: Probe | None = None,
    starts: int | tuple[int, ...] = 5,
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

    ``probe``: the official recipe by default (``default_probe``), from several ``starts``
    (a number, or seeds), whose scatter is part of ``report.compare()``. Nothing is written. Raises BadInput.
    """
    given, where = _named(models), features if isinstance(features, dict) else dict.fromkeys(models, features)
    if odd := [str(name) for name in where if name not in models]:
        raise BadInput(f"features names {', '.join(odd)}, but the models are {', '.join(models)}.")
    where = {role(name): value for name, value in where.items()}
    seeds = _seeds(starts)
    _check(probe, {"draws": draws, "batch_size": batch_size})
    shown = tracked if progress else lambda things, *_: things
    parts = {"train": train, "test": test}
    known = lambda classes: forget_set(forget, class_names(parts, classes)[0])  # noqa: E731
    seen = foreign.pass_over(given, parts, where, batch_size, shown, known)
    chosen = forget_set(forget, seen.names)
    probe = probe or default_probe(len(seen.labels["train"]), len(seen.names))
    rows, hits = _measured(seen, chosen, probe, seeds, draws, shown)
    made = {"data": seen.seen, "probe": asdict(probe), "starts": list(seeds), "draws": draws}
    found = checks(rows, hits, seen.arrays, seen.shared)
    notes = seen.notes + _headless(seen.arrays)
    return Report(rows, hits, found, notes, chosen, seen.names, made, seen.arrays, seen.labels)


def _measured(
    seen: foreign.Pass, forget: tuple[int, ...], probe: Probe, seeds: tuple[int, ...], draws: int, shown: Callable
) -> tuple[pd.DataFrame, dict[str, dict[str, np.ndarray]]]:
    """A row per model, and its hits on the forget-class test images."""
    of_cmf = next((arrays.normalisation for arrays in seen.arrays.values() if arrays.centre is not None), None)
    rows, hits = [], {}
    with own_state():
        for name, arrays in shown(seen.arrays.items(), "measurements", len(seen.arrays)):
            model = Measured(name, arrays, seen.labels, forget, of_cmf, seen.device)
            row, hits[name] = model.row(probe, seeds, draws)
            identity = {"model": name, "method": METHODS.get(name, ""), "variant": "linear", "seed": 0}
            rows.append(identity | {"forget": " ".join(map(str, forget))} | row)
    return pd.DataFrame(rows), hits


def default_probe(images: int, classes: int) -> Probe:
    """The official recipe, 20 epochs for up to ten classes and 150 for more; of few images at least 1,000 steps."""
    steps = max(1, round(0.9 * images) // 128)
    return Probe(epochs=max(20 if classes <= 10 else 150, -(-1000 // steps)), patience=40)


def _check(probe: Any, counts: dict[str, Any]) -> None:
    """Raises BadInput for counts that are no whole numbers, and for a probe that is none."""
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise BadInput(f"{name} is {value!r}, but it must be a whole number from 1 on.")
    if probe is not None and not isinstance(probe, Probe):
        raise BadInput(f"probe is {probe!r}, but it must be a Probe of unlearn_utils.settings, like Probe(epochs=20).")


def _named(models: Any) -> dict[str, nn.Module | Arrays]:
    """The models by name, references under theirs. Raises BadInput."""
    if not isinstance(models, dict) or not models or not all(isinstance(name, str) and name.strip() for name in models):
        raise BadInput(
            "models must be a dictionary of at least one model by name, like {'Retrain': model, 'mine': other}."
        )
    given = {role(name): model for name, model in models.items()}
    if len(given) < len(models):
        raise BadInput(f"two of the models {', '.join(models)} have the same name but for capitals; rename one.")
    owners: dict[int, str] = {}
    for name, model in given.items():
        if not isinstance(model, (nn.Module, Arrays)):
            raise BadInput(f"model '{name}' is a {type(model).__name__}, but it must be a torch.nn.Module or Arrays.")
        itself = id(foreign.unwrapped(model)) if isinstance(model, nn.Module) else id(model)
        if itself in owners:
            raise BadInput(
                f"'{owners[itself]}' and '{name}' are one and the same object, so one of them is not the model that "
                "it should be; build a network for each, or use copy.deepcopy."
            )
        owners[itself] = name
    return given


def role(name: str) -> str:
    return ROLES.get(name.casefold(), name)


def _seeds(starts: Any) -> tuple[int, ...]:
    seeds = (
        tuple(range(starts))
        if type(starts) is int
        else tuple(starts)
        if isinstance(starts, (tuple, list, range))
        else ()
    )
    if not seeds or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise BadInput(f"starts is {starts!r}, but it must be a whole number from 1 on, or different seeds.")
    return seeds


def forget_set(forget: Any, names: list[str]) -> tuple[int, ...]:
    """Class numbers of classes by name or number. Raises BadInput, also where samples are listed."""
    forget = forget.tolist() if hasattr(forget, "tolist") else forget
    listed = [forget] if isinstance(forget, str) or not hasattr(forget, "__iter__") else list(forget)
    listed = [c.item() if hasattr(c, "item") else c for c in listed]
    known = {name: c for c, name in enumerate(names)}
    numbers = [known.get(c, int(c) if c.isdecimal() else c) if isinstance(c, str) else c for c in listed]
    sound = all(type(c) is int and 0 <= c < len(names) for c in numbers)
    if not sound or len(set(numbers)) < len(numbers) or not 0 < len(numbers) <= len(names) - 2:
        shown = ", ".join(map(str, listed[:8])) + ", ..." * (len(listed) > 8)
        raise BadInput(
            f"forget is [{shown}], but it must list classes, not samples: different ones of "
            f"{', '.join(names[:12])}{', ...' * (len(names) > 12)}, or their numbers, and leave two to retain."
        )
    return tuple(numbers)


class Measured:
    """A model's arrays as tensors, and what is computed of them."""

    def __init__(
        self,
        name: str,
        arrays: Arrays,
        labels: dict[str, Tensor],
        forget: tuple[int, ...],
        normalisation: str | None,
        device: str = "cpu",
    ):
        tensor = lambda value: None if value is None else torch.from_numpy(value).to(device)  # noqa: E731
        self.name, self.forget = name, forget
        self.normalisation = normalisation if arrays.centre is None else arrays.normalisation
        self.train, self.test, self.logits = map(
            tensor, (arrays.train_features, arrays.test_features, arrays.test_logits)
        )
        self.weight, self.bias, self.centre = map(tensor, (arrays.weight, arrays.bias, arrays.centre))
        self.y, self.y_test = labels["train"].to(device), labels["test"].to(device)
        self.classes = self.logits.shape[1]

    def row(self, probe: Probe, seeds: tuple[int, ...], draws: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Fractions by column, as the study's rows have them; and hits (starts, N) on forget-class images."""
        names = ["output", "probe", "ncc"] + ["probe_in_head", "ncc_in_head"] * (self.normalisation is not None)
        row, hits = self.accuracies(probe, seeds, names)
        hits["binary_forget"] = self.binary_hits()
        found = metrics.binary_probes(self.train, self.y, self.test, self.y_test, self.classes)
        for name, values in found.items():
            row |= _sides(f"binary_{name}", values, self.forget)
        row["binary_forget"] = hits["binary_forget"].mean()
        row["probe_starts"] = hits["probe_forget"].mean(1).tolist()
        return row | self.head_and_means() | self.few_shot(draws), hits

    def accuracies(
        self, probe: Probe, seeds: tuple[int, ...], names: list[str]
    ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Accuracies by readout, of several starts their mean; and hits (starts, N) on the forget-class test images."""
        row, hits, chosen = {}, {}, is_in(self.y_test, self.forget)
        for name in names:
            scores = self.scores(name, probe, seeds)
            predicted = [found.argmax(1) for found in scores]
            counts = sum(metrics.confusion(found, self.y_test, self.classes) for found in predicted)
            row |= _accuracies(name, counts, self.forget)
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

    def binary_hits(self) -> np.ndarray:
        """Whether each forget-class test image is called one of its class by that class's binary probe, (1, N).

        The probes of ``metrics.binary_probes``, image by image.
        """
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        y, y_test = self.y.cpu().numpy(), self.y_test.cpu().numpy()
        hits = np.zeros(len(y_test), dtype=bool)
        for c in self.forget:
            probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
            probe.fit(self.train.cpu().numpy(), y == c)
            hits[y_test == c] = probe.predict(self.test.cpu().numpy()[y_test == c])
        return hits[is_in(self.y_test, self.forget).cpu().numpy()][None]

    def in_head(self) -> tuple[Tensor, Tensor]:
        """Features in the normalisation of a CMF head; of another model, of the head that its features would get."""
        transform = NORMALISATIONS[self.normalisation]
        centre = (
            class_means(transform(self.train), self.y, self.classes).mean(0) if self.centre is None else self.centre
        )
        return tuple(normalize(transform(features) - centre, dim=1) for features in (self.train, self.test))

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
            for part, values in zip(
                ("weight", "bias"), geometry.margin_parts(inputs, self.y_test, self.weight, self.bias)
            ):
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


def _accuracies(name: str, counts: Tensor, forget: tuple[int, ...]) -> dict[str, Any]:
    """Retain, forget and group accuracy and the rate of false positives, of confusion counts (rows the true class)."""
    retain = tuple(c for c in range(len(counts)) if c not in forget)
    return {
        f"{name}_retain": metrics.pooled_accuracy(counts, retain),
        f"{name}_forget": metrics.pooled_accuracy(counts, forget),
        f"{name}_group": metrics.group_accuracy(counts, forget),
        f"{name}_false_positives": metrics.false_positives(counts, forget),
    }


def _sides(name: str, values: Tensor, forget: tuple[int, ...]) -> dict[str, float]:
    """Means over the retain and the forget classes, of the numbers that are any."""
    inside = is_in(torch.arange(len(values), device=values.device), forget)
    return {
        f"{name}_{side}": values[of].double().nanmean().item() for side, of in (("retain", ~inside), ("forget", inside))
    }


def _headless(arrays: dict[str, Arrays]) -> list[str]:
    names = [name for name, found in arrays.items() if found.weight is None]
    return [f"No linear head is known of {', '.join(names)}: alignment, margins and NC3 are left out."] if names else []


def command(argv: list[str]) -> int:
    """``python -m unlearn_utils evaluate``."""
    from .shell import command

    return command(argv)
