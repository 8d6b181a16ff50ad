"""Images and labels in the forms that people have them in: data sets, loaders, dictionaries, arrays, streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from operator import length_hint
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as of_torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from . import models
from .settings import BadInput

SLOW = 20  # estimated seconds from which on the loader's own worker processes pay


class Reading:
    """One reading of a part, in its own order: iterating gives images (N, ...) or, of labels alone, None.

    What may be labels is collected on the way, as several entries of a batch can be; ``labels_of`` chooses.
    """

    def __init__(self, part: str, data: Any, batch_size: int):
        self.part, self.size = part, batch_size
        self.notes: list[str] = []
        self.entries: dict[str, list[Tensor]] = {}
        self.hashes: list[int] = []
        self.means: list[float] = []  # of each image
        self.source = self._batches(data)
        self.batches = length_hint(self.source)

    def __iter__(self) -> Iterator[Tensor | None]:
        for batch in self._guarded(self.source):
            images, entries = split(self.part, batch)
            for name, labels in entries.items():
                self.entries.setdefault(name, []).append(labels)
            if images is not None:  # keep what tells them apart
                flat = images.detach().cpu().float().flatten(1).numpy()
                self.hashes += [hash(image.tobytes()) for image in flat]
                self.means += flat.mean(1).tolist()
            yield images
        if not self.entries:
            raise BadInput(f"{self.part} holds no image; every class needs some.")

    def _guarded(self, batches: Iterable) -> Iterator:
        """What somebody else's data give. Raises BadInput, which repeats their cause and advises only what fits it."""
        try:
            yield from map(lambda batch: batch, batches)  # alone it would close a stream that is read on
        except BadInput:
            raise
        except Exception as reason:
            lines = [line for line in str(reason).splitlines() if line.strip()] or [""]
            told = lines[-1].strip() if "DataLoader worker" in lines[0] else models.in_short(reason)
            advice = "; give it num_workers=0, or more shared memory" if "shared memory" in str(reason) else ""
            raise BadInput(f"{self.part} fails after {len(self.means)} images ({told}){advice}.") from None

    def seen(self, labels: Tensor) -> dict[str, Any]:
        """Images per class, and two means by which other images, or another order, are noticed."""
        means = np.array(self.means or [0.0])
        weighted = means * np.linspace(-1, 1, len(means))
        return {"images": labels.bincount().tolist(), "mean": [float(means.mean()), float(weighted.mean())]}

    def _batches(self, data: Any) -> Iterable:
        """An iterable of batches."""
        if whole := _whole(data):
            n = len(next(iter(whole.values())))
            return [{name: t[i : i + self.size] for name, t in whole.items()} for i in range(0, n, self.size)]
        if isinstance(data, (str, bytes)) or not (hasattr(data, "__getitem__") or isinstance(data, Iterable)):
            allowed = "a data set, a DataLoader, (images, labels), or labels alone where all models are Arrays"
            raise BadInput(f"{self.part} is a {type(data).__name__}, but it must be {allowed}.")
        is_stream = isinstance(getattr(data, "dataset", data), IterableDataset)
        if isinstance(data, DataLoader) and data.batch_sampler is not None and not is_stream:
            return self._in_order(data)
        by_index = hasattr(data, "__getitem__") and hasattr(data, "__len__") and not is_stream
        if by_index and isinstance(data, Dataset):
            return self._loader(data, self.size, _collated)
        items = (data[i] for i in range(len(data))) if by_index else iter(data)
        first = list(islice(self._guarded(items), 1))
        items = chain(first, items)
        if not first or not _is_sample(first[0]):
            return items
        if by_index:
            return self._loader(data, self.size, _collated)
        return map(_collated, iter(lambda: list(islice(items, self.size)), []))

    def _in_order(self, data: DataLoader) -> DataLoader:
        """The loader's images, each once and in the order of its data set: a pass needs no chance."""
        sampler, batches, dataset = data.sampler, data.batch_sampler, data.dataset
        if not data.batch_size and hasattr(batches, "__len__"):  # somebody's own batches, which may be endless
            sampler = getattr(batches, "sampler", None) or [*chain.from_iterable(islice(batches, len(batches)))]
        by_chance = isinstance(sampler, (of_torch.RandomSampler, of_torch.WeightedRandomSampler))
        if not by_chance and len(sampler) != len(dataset):
            taken = {*map(int, getattr(sampler, "indices", sampler))}
            self.notes.append(f"{self.part} takes {len(taken)} of the {len(dataset)} images of its data set.")
            dataset = Subset(dataset, sorted(taken))
        if by_chance or data.drop_last:
            self.notes.append(f"{self.part} shuffles or drops images; all are taken, in the order of its data set.")
        collate = _collated if data.collate_fn is default_collate else data.collate_fn
        return self._loader(dataset, data.batch_size or self.size, collate, data.num_workers)

    def _loader(self, dataset: Any, size: int, collate: Callable, workers: int = 0) -> DataLoader:
        """A loader without worker processes, unless they pay; its first batch is read twice."""
        loader, started = DataLoader(dataset, size, collate_fn=collate), time.time()
        first, again = ([split(self.part, b)[0] for b in islice(self._guarded(loader), 1)] for _ in range(2))
        if not all(one is None or torch.equal(one, other) for one, other in zip(first, again)):
            self.notes.append(f"{self.part} is augmented: its images are measured as they were drawn once.")
        pays = (time.time() - started) / 2 * len(loader) > SLOW
        return DataLoader(dataset, size, collate_fn=collate, num_workers=workers) if workers and pays else loader


def _whole(data: Any) -> dict[str, Tensor]:
    """Data that come as arrays: images with labels, in a pair or a dictionary, or labels alone; else nothing."""
    if (labels := _stacked(data)) is not None and labels.ndim:
        return {"labels": labels}
    if not isinstance(data, Mapping) and not (isinstance(data, (tuple, list)) and 2 <= len(data) <= 3):
        return {}
    parts = data if isinstance(data, Mapping) else {f"entry {i}": value for i, value in enumerate(data, 1)}
    found = {name: t for name, v in parts.items() if (t := _stacked(v)) is not None and t.ndim and t.numel()}
    if len(found) < 2 or max(t.ndim for t in found.values()) < 2:
        return {}
    if len({len(t) for t in found.values()}) > 1:
        told = ", ".join(f"{len(t)} in {name}" for name, t in found.items())
        raise BadInput(f"there are {told}; give one label for each image.")
    return found


def _stacked(value: Any) -> Tensor | None:
    """One tensor of an array, or of a list of numbers or of arrays of one shape."""
    if not isinstance(value, (list, tuple)):
        return _tensor(value)
    if not value or not isinstance(value[0], (Tensor, np.ndarray)) or not value[0].ndim:
        return _tensor(list(value))
    tensors = [_tensor(v) for v in value]
    return torch.stack(tensors) if all(t is not None and t.shape == tensors[0].shape for t in tensors) else None


def _tensor(value: Any) -> Tensor | None:
    """A tensor of what holds numbers; None of anything else, and of a list of arrays, which are entries of a batch."""
    if isinstance(value, Tensor):
        return value
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    if not (hasattr(value, "__array__") or isinstance(first, (int, float)) or getattr(first, "ndim", 1) == 0):
        return None
    try:
        value = np.asarray(value)
        return torch.from_numpy(value.copy()) if value.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        return None


def _leaves(thing: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What a sample or batch holds, however nested, by its place; numbers and arrays as tensors."""
    tensor = _tensor(thing) if place or not isinstance(thing, list) else None
    if tensor is None and isinstance(thing, (Mapping, tuple, list)):
        parts = thing.items() if isinstance(thing, Mapping) else ((f"entry {i}", v) for i, v in enumerate(thing, 1))
        for name, value in parts:
            yield from _leaves(value, f"{place}, {name}" if place else str(name))
    else:
        yield place or "it", thing if tensor is None else tensor


def _collated(samples: list) -> dict[str, Any]:
    """A batch of samples: their tensors stacked; what cannot be is described."""
    rows, batch = [dict(_leaves(sample)) for sample in samples], {}
    for name in rows[0]:
        values = [row.get(name) for row in rows]
        kinds = sorted(set(map(_shown, values)))
        stacks = isinstance(values[0], Tensor) and len(kinds) == 1
        batch[name] = torch.stack(values) if stacks else " or ".join(kinds[:2])
    return batch


def split(part: str, batch: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Images (N, ...) of a batch, and by name what can be its labels (N,). Raises BadInput where there are none."""
    leaves = dict(_leaves(batch))
    tensors = {name: t for name, t in leaves.items() if isinstance(t, Tensor) and t.ndim and t.numel()}
    images = max((t for t in tensors.values() if t[0].numel() > 1), key=lambda t: t[0].numel(), default=None)
    n = max(map(len, tensors.values()), default=0) if images is None else len(images)
    entries = {name: found for name, t in tensors.items() if t is not images and (found := _labels(t, n)) is not None}
    if not entries or images is None and len(leaves) > 1:
        shown = ", ".join(f"{name}: {_shown(value)}" for name, value in [*leaves.items()][:6]) or "nothing"
        advice = "; its images must be tensors, so give it a transform" if "Image" in shown else ""
        must = "must hold images (N, ...) and whole-number labels (N,)"
        raise BadInput(f"a batch of {part} {must}, but it holds {shown}{advice}.")
    return images, entries


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of the size {tuple(value.shape)}"
    return value if isinstance(value, str) else type(value).__name__


def _labels(t: Tensor, n: int) -> Tensor | None:
    """Labels (N,) of (N,), (N, 1) or one-hot (N, K), of whole numbers in any type; None where it is none of these."""
    t = t.detach().cpu()
    if len(t) == n and t.ndim == 2 and t.shape[1] > 1 and bool(((t == 0) | (t == 1)).all() & (t.sum(1) == 1).all()):
        return t.argmax(1)
    fits = len(t) == t.numel() == n and not (t.is_floating_point() and bool((t != t.round()).any()))
    return t.reshape(n).long() if fits else None


def _is_sample(item: Any) -> bool:
    """Whether an item is one image (C, H, W) with its label, and no batch."""
    tensors = [value for _, value in _leaves(item) if isinstance(value, Tensor)]
    largest = max(tensors, key=Tensor.numel, default=None)
    return any(t.ndim == 0 or t.numel() == 1 and largest.ndim == 3 for t in tensors)


def labels_of(
    read: dict[str, Reading], names: list[str], forget: tuple[int, ...]
) -> tuple[dict[str, Tensor], list[str]]:
    """Labels by part, and notes: of what may be labels the first that fits the number of classes in all parts.

    Raises BadInput where a class has no training image, or the test part no image of a forget or of a retain class.
    """
    classes = len(names)
    entries = {part: {k: torch.cat(v) for k, v in reading.entries.items()} for part, reading in read.items()}
    notes = [note for reading in read.values() for note in reading.notes]
    shared = [name for name in entries["train"] if name in entries["test"]]
    inside = [n for n in shared if all(0 <= found[n].min() and found[n].max() < classes for found in entries.values())]
    whole = [name for name in inside if len(entries["train"][name].unique()) == classes]
    name = next(iter(whole or inside or shared), None)  # None where the parts name theirs differently
    if len(shared) > 1:
        notes.append(f"Labels are {name} of each batch, the first of {', '.join(shared)} that fits {classes} classes.")
    labels = {part: found[name] if name else next(iter(found.values())) for part, found in entries.items()}
    of_train, of_test = (set(found.tolist()) for found in labels.values())
    for part, held in (("train", of_train), ("test", of_test)):
        if odd := held - set(range(classes)):
            raise BadInput(f"{part} has the label {min(odd)}, but the models have {classes} outputs, from 0 on.")
    if absent := set(range(classes)) - of_train:
        raise BadInput(f"train holds no image of class {min(absent)} of {classes}; a forgotten class needs some, too.")
    if absent := set(forget) - of_test:
        raise BadInput(f"test holds no image of the forget class {names[min(absent)]}; give the whole test part.")
    if of_test <= set(forget):
        raise BadInput("test holds images of the forget classes only; give the whole test part.")
    return labels, notes


def listed(forget: Any) -> list:
    """Classes as a list of plain numbers and names."""
    forget = forget.tolist() if hasattr(forget, "tolist") else forget
    found = list(forget) if isinstance(forget, Iterable) and not isinstance(forget, str) else [forget]
    return [c.item() if hasattr(c, "item") else c for c in found]


def forget_set(forget: Any, names: list[str]) -> tuple[int, ...]:
    """Class numbers of classes by name, in any case where that is unique, or by number.

    Raises BadInput, also where samples are listed.
    """
    given, folded = listed(forget), [name.casefold() for name in names]
    known = {name: c for c, name in enumerate(folded) if folded.count(name) == 1}
    known = {str(c): c for c in range(len(names))} | known | {name: c for c, name in enumerate(names)}
    numbers = [known.get(c, known.get(c.casefold())) if isinstance(c, str) else c for c in given]
    sound = all(not isinstance(c, bool) and c in range(len(names)) for c in numbers)
    if not sound or not 0 < len(set(numbers)) <= len(names) - 2:
        shown = ", ".join(map(str, given[:8])) + ", ..." * (len(given) > 8)
        raise BadInput(
            f"forget is [{shown}], but it must list classes, not samples: some of {', '.join(names[:12])}"
            f"{', ...' * (len(names) > 12)}, or their numbers, and leave two to retain."
        )
    return tuple(dict.fromkeys(map(int, numbers)))


def class_names(parts: dict[str, Any], classes: int) -> tuple[list[str], list[str]]:
    """Names of the classes, of the data or else numbers, and notes. Raises BadInput for two orders of them."""
    found = [names for data in parts.values() if (names := _names(data))]
    if len(found) == 2 and found[0] != found[1] and sorted(found[0]) == sorted(found[1]):
        raise BadInput("train and test have the same classes in another order; give both the same.")
    names = found[0] if found else []
    if len(names) != classes or any(other != names for other in found):
        told = f"The data name {len(names)} classes and the models have {classes} outputs; classes go by number."
        return [str(c) for c in range(classes)], [told] if names else []
    told = "Classes are numbers in the order of text, 0, 1, 10, 11, 2; a model may know them in numeric order."
    by_text = all(name.isdecimal() for name in names) and names != sorted(names, key=int) and names == sorted(names)
    return [f"{name} ({c})" if names.count(name) > 1 else name for c, name in enumerate(names)], [told] * by_text


def _names(data: Any) -> list[str]:
    """The names that the data, or what it wraps, has: ``classes``, a label's ``names``, or MedMNIST's ``info``."""
    while data is not None:
        columns, info = getattr(data, "features", None), getattr(data, "info", None)
        of_label = [f.names for f in columns.values() if hasattr(f, "names")] if isinstance(columns, Mapping) else []
        of_info = [info.get("label")] if isinstance(info, Mapping) else []
        for listed in (getattr(data, "classes", None), getattr(data, "class_to_idx", None), *of_label, *of_info):
            if isinstance(listed, Mapping):  # from numbers to names, or from names to numbers
                pairs = [(int(k), v) if str(k).isdecimal() else (v, k) for k, v in listed.items()]
                listed = [name for _, name in sorted(pairs)]
            if isinstance(listed, (list, tuple, np.ndarray)) and len(listed):
                return [str(name[0] if isinstance(name, (list, tuple)) and name else name) for name in listed]
        joined = getattr(data, "datasets", None)
        data = joined[0] if isinstance(joined, (list, tuple)) else getattr(data, "dataset", None)
    return []
