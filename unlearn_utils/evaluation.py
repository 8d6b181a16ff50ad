"""``evaluate``: is a class gone from your model, or only hidden? For any network that gives logits.

Readings, verdict words and thresholds are those of our own models, by the same functions (``study/readouts.py``,
``views/evidence.py``); only what an interval runs over differs. There is one forget set and one model of each kind,
so values are paired by *test image of the forgotten classes*: an interval says how surely these very models differ on
images of the class, and nothing of other classes, or of another training of the same models.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from . import attacks, files, foreign, metrics
from .data import is_in
from .foreign import Foreign, Where
from .settings import READOUTS, BadInput, Probe
from .study.machine import Machine
from .study.progress import tracked
from .study.readouts import collapse, geometry, margin
from .study.rows import measured
from .training import generator
from .views import evidence, tables
from .views.claims import judge
from .views.evidence import Draft, Run
from .views.own_models import JUDGED, SHOTS, Report
from .views.own_models import compare as compare  # the other half of the door

ROLES = {"Original": "original", "Retrain": "retrain", "Untrained": "random"}  # of models that are read, not judged
LONGEST = 80  # characters of a model's name, which stands in tables and beside a figure
# Test images of the forgotten classes under which no word is given: 0 of 71 read right would not yet exclude 5 %
# (exact 95 % interval), and a t interval of fewer than 30 values of -1, 0 and 1 is none.
FEWEST = {"output": 72, "probe": 30, "ncc": 30}


def evaluate(
    models: dict[str, nn.Module], train: Any, test: Any, forget: Any, *, features: Where | dict[str, Where] = None,
    probe: Probe | None = None, seeds: int = 1, draws: int = 5, batch_size: int = 256, progress: bool = True,
) -> Report:
    """Read models, of any architecture, on their own device, and hold each against "Retrain" and "Original".

    ``models`` by name, the references under theirs, with "Untrained" for the network before any training; each maps a
    batch of images to logits (N, K). ``train`` and ``test`` are a Dataset, a DataLoader or (images, labels), as the
    models see them in testing: training images train probe, centres and few-shot heads, with true labels, the forgotten
    classes included. ``forget``: classes, by name or number. ``features``, for all or by name of the model: None for the
    input of the last nn.Linear that runs, the name of the module whose input they are, or a function of (model, images).

    ``probe``: by default the official recipe, 20 epochs for up to ten classes and 150 for more. With several ``seeds``
    of it values are their mean; from five on there is an interval over them. Words follow the scorecard's rules, with
    intervals over the test images of the forgotten classes. Nothing is written. Raises BadInput.
    """
    for name, value in {"seeds": seeds, "draws": draws, "batch_size": batch_size}.items():
        if type(value) is not int or value < 1:
            raise BadInput(f"{name} is {value!r}, but it must be a whole number from 1 on.")
    if probe is not None and not isinstance(probe, Probe):
        raise BadInput(f"probe is {probe!r}, but it must be a Probe of unlearn_utils.settings, like Probe(epochs=20).")
    forget = forget.tolist() if isinstance(forget, torch.Tensor) else forget
    if train is test:
        raise BadInput("train and test are the same images, on which a probe reads whatever it was fitted to; hold some out.")
    given, parts = _given(models, features), {"train": train, "test": test}
    batches = {part: foreign.loader(part, data, batch_size) for part, data in parts.items()}
    classes = foreign.introduced(given, batches["train"][1])
    names = _class_names(parts, classes)
    forget = _forget_set(forget, names)
    shown = tracked if progress else lambda things, *_: things
    seen, labels, data = foreign.passed(given, {part: data for part, (data, _) in batches.items()}, classes, shown)
    probe = probe or Probe(epochs=20 if classes <= 10 else 150, patience=40)
    rows, right = [], {}
    for i, model in enumerate(shown(given, "readings", len(given))):
        row, right[model.name] = _read(model, seen.pop(model.name), labels, classes, forget, probe, seeds, draws)
        role = ROLES.get(model.name, f"given {i}")
        rows.append({"model": model.name, "method": role, "variant": "linear", "seed": 0,
                     "forget": " ".join(map(str, forget)), **row})
    rows = pd.DataFrame(rows)
    verdicts, images = _verdicts(rows, right), len(right[given[0].name]["output"])
    made = {"data": data, "probe": asdict(probe), "seeds": seeds, "draws": draws}
    notes = _notes(given, verdicts, probe, seeds, images) + _rare(data["train"]["images"], names)
    return Report(rows, verdicts, notes, forget, names, made)


def _given(models: Any, features: Any) -> list[Foreign]:
    if not isinstance(models, dict) or not models or not all(isinstance(name, str) for name in models):
        raise BadInput("models must be a dictionary of at least one model by name, like {'Retrain': model, 'mine': other}.")
    where = features if isinstance(features, dict) else dict.fromkeys(models, features)
    if odd := [str(name) for name in where if name not in models]:
        raise BadInput(f"features names {', '.join(odd)}, but the models are {', '.join(models)}.")
    roles = {name.casefold(): {role.casefold(): role for role in ROLES}.get(name.casefold(), name) for name in models}
    if len(roles) < len(models):
        raise BadInput(f"two of the models {', '.join(models)} have the same name but for capitals; rename one.")
    for name in models:
        if not name.strip() or not name.isprintable() or len(name) > LONGEST:
            more = " and more" * (len(name) > LONGEST)
            raise BadInput(f"a model's name is {name[:LONGEST]!r}{more}, but it must be one line of 1 to {LONGEST} "
                           "characters.")
    return [Foreign(roles[name.casefold()], model, where.get(name)) for name, model in models.items()]


def _class_names(parts: dict[str, Any], classes: int) -> list[str]:
    """Names of the classes: the data's, or numbers. Raises BadInput where the parts, or models and data, differ."""
    found = {part: names for part, data in parts.items() if (names := foreign.class_names(part, data))}
    for part, names in found.items():
        if names != (first := next(iter(found.values()))) or len(names) != classes:
            told = f"{len(names)} classes" if len(names) != len(first) or names == first else "other classes than train"
            raise BadInput(f"{part} has {told}, but the models have {classes} outputs; all must have the same classes in "
                           "the same order.")
    return next(iter(found.values()), [str(c) for c in range(classes)])


def _forget_set(forget: Any, names: list[str]) -> tuple[int, ...]:
    """Class numbers of classes by name or number. Raises BadInput, also where samples are listed."""
    listed = [forget] if isinstance(forget, str) or not hasattr(forget, "__iter__") else list(forget)
    listed = [c.item() if hasattr(c, "item") else c for c in listed]
    numbers = [names.index(c) if isinstance(c, str) and c in names else c for c in listed]
    sound = all(type(c) is int and 0 <= c < len(names) for c in numbers)
    if not sound or len(set(numbers)) < len(numbers) or not 0 < len(numbers) <= len(names) - 2:
        shown = ", ".join(map(str, listed[:8])) + ", ..." * (len(listed) > 8)
        raise BadInput(f"forget is [{shown}], but it must list classes, not samples: different ones of "
                       f"{', '.join(names[:12])}{', ...' * (len(names) > 12)}, or their numbers, and leave two to retain.")
    return tuple(numbers)


def _read(
    model: Foreign, seen: foreign.Seen, labels: dict[str, Tensor], classes: int, forget: tuple[int, ...], probe: Probe,
    seeds: int, draws: int,
) -> tuple[dict[str, Any], dict[str, pd.Series]]:
    """A row of readings as our own models' rows have it; and per readout which forget-class test images it reads right."""
    device, head = model.device if model.device.startswith("cuda") else "cpu", model.head  # others lack float64
    features, logits, y, y_test = (part.to(device) for part in (*seen, labels["train"], labels["test"]))
    common = (features.train, y, features.test, classes)
    probed = [metrics.probed(*common, probe, seed) for seed in range(seeds)]
    if not all(found.isfinite().all() for found in probed):
        raise BadInput(f"no probe can be fitted to the features of model '{model.name}', as large as "
                       f"{features.train.abs().max().item():.0e}, at lr {probe.lr:g}; scale them, or take a smaller lr.")
    predicted = {"output": [logits.argmax(1)], "ncc": [metrics.nearest(*common)[0]], "probe": [p.argmax(1) for p in probed]}
    counts = {name: [metrics.confusion(p, y_test, classes) for p in listed] for name, listed in predicted.items()}
    weight = features.train.new_full((classes, features.train.shape[1]), float("nan"))  # what needs it becomes NaN
    weight, bias = (weight, None) if head is None else (head.weight.detach().float(), head.bias)
    bias = None if bias is None else bias.detach().float().to(device)
    at = SimpleNamespace(
        features=features, in_head=features, compared=features.train, train_labels=y, test_labels=y_test, classes=classes,
        weight=weight.to(device), model=SimpleNamespace(head=SimpleNamespace(bias=bias)))
    found = {name: {"counts": sum(listed).tolist()} for name, listed in counts.items()}
    found |= {"geometry": geometry(at), "collapse": collapse(at)} | ({} if head is None else {"margin": margin(at)})
    row = measured(classes, found, forget)
    row["probe_seeds"] = [metrics.pooled_accuracy(c, forget) for c in counts["probe"]]
    row |= {f"{name}_by_class": metrics.class_accuracies(sum(listed)).tolist() for name, listed in counts.items()}
    random, y, y_test = generator("cpu", 0, "few_shot"), y.cpu(), y_test.cpu()  # the images that our own seed 0 draws
    possible = [k for k in SHOTS if k <= y.bincount().min()]
    shot = pd.DataFrame(attacks.few_shot(seen[0], y, y_test, possible, draws, random))
    sizes = torch.bincount(y_test)[list(forget)]
    for k, accuracies in shot.groupby("x").accuracy:
        row[SHOTS[k]] = float(np.mean([np.average(np.array(a)[list(forget)], weights=sizes) for a in accuracies]))
    chosen = is_in(y_test, forget)
    return row, {name: pd.Series(torch.stack([p.cpu() == y_test for p in listed]).double().mean(0)[chosen].numpy())
                 for name, listed in predicted.items()}


def _verdicts(rows: pd.DataFrame, right: dict[str, dict[str, pd.Series]]) -> pd.DataFrame:
    """The scorecard's lines of output, probe and NCC, with one value per test image of the forgotten classes."""
    run, drafts = Run(rows, tables.published("", "", 0)), []
    original, retrain = right.get("Original"), right.get("Retrain")
    reference = retrain or original
    for name, method in zip(rows.model, rows.method):
        key, own, n = (method, "linear"), right[name], len(right[name]["output"])
        if not method.startswith("given"):
            continue
        blocked = run.missing((evidence.RETRAIN, "output_retain")) or run.destroyed(key)
        lines = [Draft("Output forgets", key, own["output"], "output", evidence.FORGOTTEN, -1, blocked=blocked)]
        lines += [replace(
            evidence.readable(run, readout, key),
            values=own[readout] - reference[readout] if reference else pd.Series(dtype=float),
            room=original[readout] - retrain[readout] if original and retrain else None,
        ) for readout in ("probe", "ncc")]
        for line in lines:
            few = f"only {n} test images, under {FEWEST[line.readout]}" if n < FEWEST[line.readout] else ""
            drafts.append(replace(line, blocked=(line.blocked or few).replace(" (linear)", "")))
    return judge(drafts, run).reindex(columns=JUDGED)


def _notes(given: list[Foreign], verdicts: pd.DataFrame, probe: Probe, seeds: int, images: int) -> list[str]:
    """What a reader has to know: what intervals run over, which conclusions cannot be drawn, what was left out."""
    names = [model.name for model in given]
    headless, logs = ([m.name for m in given if wanted(m)] for wanted in (lambda m: m.head is None, lambda m: m.normalised))
    notes = [
        f"Verdicts follow the scorecard. Their intervals (95 %, Holm's correction over the models) run over the {images} "
        "test images of the forgotten classes, paired: they hold for these models alone. One forget set gives no interval "
        "over classes, and one model of each kind none over trainings.",
        f"Probe: at most {probe.epochs} epochs, {seeds} start{'s' * (seeds > 1)}"
        + ("; the mean, and from five on the interval over starts." if seeds > 1 else "."),
    ]
    for absent, other, lost in (
        ("Retrain", "Original", "hidden cannot be told from removed, as good features read even a class never seen"),
        ("Original", "Retrain", "there is no recovery, so neither hidden nor removed can be said"),
    ):
        if absent not in names:
            instead = f"is the distance to {other}" if other in names else "are readings"
            notes.append(f"Without {absent} {lost}; shown {instead}.")
    if "Untrained" not in names:
        notes.append("Without Untrained nothing says what the architecture alone gives away of the class.")
    if headless:
        notes.append(f"No linear head is known of {', '.join(headless)}: alignment, margins, bias and NC3 are left out.")
    if logs:
        notes.append(f"The output of {', '.join(logs)} is a log-softmax; it is read as logits are.")
    return notes + [f"{line.model}, {READOUTS[line.readout]}: {line.shows}, as {line.reason}."
                    for line in verdicts.itertuples() if line.reason and not line.reason.startswith("missing")]


def _rare(images: list[int], names: list[str]) -> list[str]:
    """Why there is no head from few images per class, where the smallest class has fewer."""
    few, smallest = [str(k) for k in SHOTS if k > min(images)], names[images.index(min(images))]
    return [f"Class {smallest} has {min(images)} training images, so there is no head from {', '.join(few)} per class."] * bool(few)


class Parser(argparse.ArgumentParser):
    """Refuses with one sentence that lists the options."""

    def error(self, message: str) -> None:
        options = ", ".join(option for action in self._actions for option in action.option_strings)
        sys.exit(f"evaluate: {message}; the options are {options}.")


def parser() -> Parser:
    made = Parser(prog="python -m unlearn_utils evaluate", allow_abbrev=False,
                  description="Is a class gone from your models, or only hidden? Table, verdicts and figure.")
    add, network = made.add_argument, made.add_mutually_exclusive_group(required=True)
    add("models", nargs="+", metavar="FILE", help="weights of a model: .safetensors, or a state_dict of PyTorch")
    add("--original", metavar="FILE", help="weights of the model that was trained on all classes")
    add("--retrain", metavar="FILE", help="weights of the model that never saw the forgotten ones")
    add("--untrained", metavar="FILE", help="weights of the network before any training")
    network.add_argument("--architecture", metavar="NAME", help="timm/<name>, torchvision/<name>, cifar_resnet18 (34, 50)")
    network.add_argument("--model", metavar="FILE.py:FUNCTION", help="what builds the network; this file is executed")
    add("--data", required=True, metavar="DIR", help="a folder with train/<class>/ and test/<class>/ (or val/<class>/)")
    add("--forget", required=True, nargs="+", metavar="CLASS", help="names of the forgotten classes, or their numbers")
    add("--size", type=int, default=0, metavar="PIXELS", help="of the images (default: their own, at most 224)")
    add("--normalise", choices=["none", *files.CONSTANTS], help="default: cifar10 up to 64 pixels, else imagenet")
    add("--features", metavar="MODULE", help="the module whose input the features are (default: last nn.Linear)")
    add("--seeds", type=int, default=1, metavar="N", help="starts of the probe (default 1)")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--save", metavar="DIR", help="write tables, figure and JSON there; without it nothing is written")
    return made


def _device(named: str) -> str:
    """Raises BadInput for a device that is not there."""
    try:
        return str(torch.empty(0, device=named).device)
    except (RuntimeError, AssertionError):  # of torch, which knows no "auto" either
        return Machine.choose(named).devices[0]


def _by_name(options: argparse.Namespace) -> dict[str, str]:
    """Files of weights by their model's name. Raises BadInput where one is given twice."""
    places = [Path(file).resolve() for file in options.models]
    if twice := [file for file, place in zip(options.models, places) if places.count(place) > 1]:
        raise BadInput(f"{twice[0]} is given twice; name every file once.")
    stems = [Path(file).stem for file in options.models]
    roles = {"Original": options.original, "Retrain": options.retrain, "Untrained": options.untrained}
    own = dict(zip(stems if len({*stems, *roles}) == len(stems) + len(roles) else options.models, options.models))
    return {name: file for name, file in (roles | own).items() if file}


def command(argv: list[str]) -> int:
    """``python -m unlearn_utils evaluate``: ends with one sentence where something cannot be used."""
    options = parser().parse_args(argv)
    try:
        if empty := [name for name, value in vars(options).items() if value == ""]:
            raise BadInput(f"--{empty[0]} names nothing; give it a value, or leave it out.")
        device, named = _device(options.device), _by_name(options)
        parts, seen = files.image_folder(Path(options.data), options.size, options.normalise)
        classes, network = parts["train"].dataset.classes, options.architecture or options.model
        nets = {name: files.built(network, Path(file), len(classes)).to(device) for name, file in named.items()}
        numbered = not any(name.isdecimal() for name in classes)  # else a number is a name
        forget = [int(c) if numbered and c.isdecimal() else c for c in options.forget]
        report = evaluate(nets, **parts, forget=forget, features=options.features, seeds=options.seeds)
        report.notes.append(seen)
        print(report)
        if options.save is not None:
            report.save(options.save)
    except (BadInput, OSError) as problem:  # the latter of several lines where a process reads the images
        sys.exit(f"evaluate: {str(problem).strip().splitlines()[-1]}")
    return 0
