"""Images and labels in the forms that people have them in: data sets, loaders, dictionaries, arrays, streams."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from operator import length_hint
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from . import models
from .settings import BadInput

SLOW = 20  # estimated seconds from which on the loader's own worker processes pay


class Reading:
    """One reading of a part, in its own order: iterating gives images (N, ...) or, of labels alone, None.

    What may be labels is collected on the way, as several entries of a batch can be; ``labels_of`` chooses.
    """

    def __init__(self, part: str, data: Any, batch_size: int):
        self.part, self.size, self.notes, self.done = part, batch_size, [], 0
        self.entries: dict[str, list[Tensor]] = {}
        self.hashes: list[int] = []
        self.sums = np.zeros(2)
        self.source = self._source(data)
        self.batches = length_hint(self.source)

    def __iter__(self) -> Iterator[Tensor | None]:
        batches = iter(self.source)
        while (batch := self._next(batches)) is not None:
            images, entries = split(self.part, batch)
            n = len(next(iter(entries.values()))) if images is None else len(images)
            for name, labels in entries.items():
                self.entries.setdefault(name, []).append(labels)
            if images is not None:
                self._look(images)
            self.done += n
            yield images
        if not self.done:
            raise BadInput(f"{self.part} holds no image; every class needs some.")

    def _next(self, batches: Iterator) -> Any:
        try:
            return next(batches, None)
        except BadInput:
            raise
        except Exception as reason:  # of somebody else's data set
            raise _fault(reason, self.part, self.done) from None

    def _look(self, images: Tensor) -> None:
        """Keep what tells images apart. Raises BadInput where one holds no numbers."""
        if images.is_floating_point() and not (sound := images.flatten(1).isfinite().all(1)).all():
            raise BadInput(
                f"{self.part} has {int((~sound).sum())} images in a batch with values that are infinite or no "
                "numbers; mend them or leave them out."
            )
        flat = images.detach().cpu().float().flatten(1).numpy()
        self.hashes += [hash(image.tobytes()) for image in flat]
        self.sums += flat.mean(1).sum(), (flat * np.linspace(-1, 1, flat.shape[1], dtype=np.float32)).mean(1).sum()

    def seen(self, labels: Tensor) -> dict[str, Any]:
        """Images per class, and two means by which other images, or pixels in another order, are noticed."""
        return {"images": labels.bincount().tolist(), "mean": (self.sums / max(1, len(self.hashes))).tolist()}

    def _source(self, data: Any) -> Iterable:
        """An iterable of batches."""
        if (whole := _whole(data)) is not None:
            return _Slices(whole, self.size)
        is_stream = isinstance(getattr(data, "dataset", data), IterableDataset)
        if isinstance(data, DataLoader) and data.batch_sampler is not None and not is_stream:
            return self._in_order(data)
        if isinstance(data, (str, bytes)) or not (
            isinstance(data, Dataset) or hasattr(data, "__getitem__") or isinstance(data, Iterable)
        ):
            raise BadInput(
                f"{self.part} is a {type(data).__name__}, but it must be a data set, a DataLoader, (images, labels), "
                "or labels alone where all models are Arrays."
            )
        if isinstance(data, Dataset) and not is_stream:
            return self._loader(data, self.size)
        if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not is_stream and len(data):
            return self._loader(data, self.size) if _is_sample(data, data[0]) else data
        data = iter(data)
        first = list(islice(data, 1))
        rest = chain(first, data)
        return _chunks(rest, self.size) if first and _is_sample(None, first[0]) else rest

    def _in_order(self, data: DataLoader) -> DataLoader:
        """The loader's images, each once and in the order of its data set: a pass needs no chance."""
        sampler, dataset = data.sampler, data.dataset
        if isinstance(sampler, SubsetRandomSampler):
            dataset = Subset(dataset, sorted(sampler.indices))
        elif not isinstance(sampler, (RandomSampler, WeightedRandomSampler)) and len(sampler) != len(dataset):
            dataset = Subset(dataset, sorted(set(sampler)))
        if isinstance(sampler, RandomSampler) or getattr(data, "drop_last", False):
            self.notes.append(
                f"{self.part} shuffles or drops its last images; all are taken, in the order of its data set."
            )
        return self._loader(dataset, data.batch_size or self.size, data.collate_fn, data.num_workers)

    def _loader(self, dataset: Any, size: int, collate=default_collate, workers: int = 0) -> DataLoader:
        collate = _collated if collate is default_collate else collate
        loader = DataLoader(dataset, size, collate_fn=collate)
        started = time.time()
        first, again = (self._next(iter(loader)) for _ in range(2))
        seconds = (time.time() - started) / 2 * len(loader)
        if first is not None and not all(
            map(torch.equal, *(split(self.part, batch)[1].values() for batch in (first, again)))
        ):
            self.notes.append(f"{self.part} gives its first images other labels when it is read again.")
        elif first is not None and not torch.equal(*(split(self.part, batch)[0] for batch in (first, again))):
            self.notes.append(f"{self.part} is augmented: its images are measured as they were drawn once.")
        return (
            DataLoader(dataset, size, collate_fn=loader.collate_fn, num_workers=workers)
            if seconds > SLOW and workers
            else loader
        )


class _Slices:
    """Batches of whole arrays."""

    def __init__(self, whole: dict[str, Any], size: int):
        self.whole, self.size, self.n = whole, size, len(next(iter(whole.values())))

    def __len__(self) -> int:
        return -(-self.n // self.size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, self.n, self.size):
            yield {name: value[start : start + self.size] for name, value in self.whole.items()}


def _whole(data: Any) -> dict[str, Any] | None:
    """The arrays of data that come as arrays: a pair, a dictionary, or labels alone; None where they do not."""
    if (
        isinstance(data, (Tensor, np.ndarray))
        or isinstance(data, list)
        and data
        and isinstance(data[0], (int, np.integer))
    ):
        return {"labels": torch.as_tensor(np.asarray(data)) if not isinstance(data, Tensor) else data}
    parts = _named(data) if isinstance(data, (tuple, list, Mapping)) else {}
    tensors = {
        name: t for name, value in parts.items() if not _is_pair(value) and (t := _tensor(value)) is not None and t.ndim
    }
    if (
        len(tensors) < 2
        or not any(t.ndim > 1 for t in tensors.values())
        or not isinstance(data, Mapping)
        and len(parts) > 3
    ):
        return None
    sizes = {name: len(t) for name, t in tensors.items() if len(t)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{n} in {name}" for name, n in sizes.items())
        raise BadInput(f"there are {told}; give one label for each image.")
    return {name: tensors[name] for name in sizes} or tensors


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (tuple, Mapping))
        or isinstance(value, list)
        and bool(value)
        and isinstance(value[0], (tuple, Tensor))
    )


def _named(batch: Any) -> dict[str, Any]:
    return dict(batch) if isinstance(batch, Mapping) else {f"entry {i}": value for i, value in enumerate(batch, 1)}


def _tensor(value: Any) -> Tensor | None:
    """A tensor of what holds numbers; None of anything else."""
    if isinstance(value, Tensor):
        return value
    try:
        value = np.asarray(value)
        return torch.from_numpy(value.copy()) if value.dtype.kind in "biuf" else None
    except (TypeError, ValueError):
        return None


def split(part: str, batch: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Images (N, ...) of a batch, and by name what can be its labels (N,). Raises BadInput where there are none."""
    named = _named(batch) if isinstance(batch, (tuple, list, Mapping)) else {}
    tensors = {name: t for name, value in named.items() if (t := _tensor(value)) is not None and t.ndim}
    images = max(
        (t for t in tensors.values() if t.ndim > 1 and t.numel() > len(t)), key=lambda t: t[0].numel(), default=None
    )
    n = max(map(len, tensors.values()), default=0) if images is None else len(images)
    entries = {name: found for name, t in tensors.items() if t is not images and (found := _labels(t, n)) is not None}
    if not entries or images is None and len(tensors) > 1:
        shown = ", ".join(f"{name}: {_shown(value)}" for name, value in named.items()) or _shown(batch)
        raise BadInput(
            f"a batch of {part} must hold images (N, ...) and whole-number labels (N,), but it holds {shown}."
        )
    return images, entries


def _shown(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} of length {len(value)}" if hasattr(value, "__len__") else type(value).__name__


def _labels(t: Tensor, n: int) -> Tensor | None:
    """Labels (N,) of (N,), (N, 1) or one-hot (N, K), of whole numbers in any type; None where it is none of these."""
    if len(t) != n or not t.numel():
        return None
    t = t.detach().cpu()
    if t.ndim == 2 and t.shape[1] > 1 and bool(((t == 0) | (t == 1)).all() & (t.sum(1) == 1).all()):
        return t.argmax(1)
    if t.numel() != n or t.is_floating_point() and not bool((t == t.round()).all()):
        return None
    return t.reshape(n).long()


def _collated(samples: list) -> Any:
    """``default_collate``, after lists of numbers in a sample were made tensors."""

    def arrays(sample: Any) -> Any:
        if isinstance(sample, Mapping):
            return {key: _tensor(value) if isinstance(value, list) else value for key, value in sample.items()}
        return sample

    return default_collate([arrays(sample) for sample in samples])


def _is_sample(data: Any, item: Any) -> bool:
    """Whether an item is one image with its label, and no batch; of data that is no list it is."""
    if data is not None and not isinstance(data, (list, tuple)):
        return True
    values = list(item.values()) if isinstance(item, Mapping) else item
    return isinstance(values, (list, tuple)) and any(
        np.ndim(value) == 0 for value in values if not isinstance(value, str)
    )


def _chunks(samples: Iterator, size: int) -> Iterator:
    while chunk := list(islice(samples, size)):
        yield _collated(chunk)


def _fault(reason: Exception, part: str, done: int) -> BadInput:
    """What data have raised, in one sentence that repeats the cause and advises only what fits it."""
    lines = [line for line in str(reason).strip().splitlines() if line.strip()] or [type(reason).__name__]
    told = lines[-1] if "DataLoader worker" in lines[0] else models.in_short(reason)
    advice = ""
    if "shared memory" in str(reason) or "Bus error" in str(reason):
        advice = "; give it num_workers=0, or more shared memory"
    elif "PIL" in str(reason):
        advice = "; its images must be tensors, so give it a transform"
    return BadInput(f"{part} fails after {done} images ({told}){advice}.")


def labels_of(read: dict[str, Reading], classes: int) -> tuple[dict[str, Tensor], list[str]]:
    """Labels by part, and notes: of what may be labels the first that fits the number of classes in all parts."""
    entries = {
        part: {name: torch.cat(found) for name, found in reading.entries.items()} for part, reading in read.items()
    }
    notes = [note for reading in read.values() for note in reading.notes]
    shared = [name for name in entries["train"] if name in entries["test"]]
    if not shared:  # parts that name theirs otherwise
        return {part: _checked(part, next(iter(found.values())), classes) for part, found in entries.items()}, notes
    inside = [n for n in shared if all(0 <= found[n].min() and found[n].max() < classes for found in entries.values())]
    whole = [name for name in inside if len(entries["train"][name].unique()) == classes]
    name = (whole or inside or shared)[0]
    if len(shared) > 1:
        notes.append(f"Labels are {name} of each batch, the first of {', '.join(shared)} that fits {classes} classes.")
    return {part: _checked(part, found[name], classes) for part, found in entries.items()}, notes


def _checked(part: str, labels: Tensor, classes: int) -> Tensor:
    present = labels.unique().tolist()
    if odd := [c for c in present if not 0 <= c < classes]:
        raise BadInput(
            f"{part} has the label {odd[0]}, but the models have {classes} outputs, for labels from 0 to {classes - 1}."
        )
    if part == "train" and (absent := sorted(set(range(classes)) - set(present))):
        raise BadInput(
            f"train holds no image of class {absent[0]}, but the models have {classes} outputs; every class needs "
            "images, a forgotten one too."
        )
    return labels


def class_names(parts: dict[str, Any], classes: int) -> tuple[list[str], list[str]]:
    """Names of the classes, of the data or else numbers, and notes. Raises BadInput for two orders of them."""
    found = {part: names for part, data in parts.items() if (names := _names(data))}
    orders = {tuple(names) for names in found.values()}
    if len(orders) > 1 and len({frozenset(names) for names in orders}) == 1:
        raise BadInput("train and test have the same classes in another order; give both the same.")
    names = next(iter(found.values()), None)
    if names is None or len(names) != classes or len(orders) > 1:
        told = (
            [f"The data name {len(names)} classes and the models have {classes} outputs; classes go by number."]
            if names
            else []
        )
        return [str(c) for c in range(classes)], told
    twice = {name for name in names if names.count(name) > 1}
    return [f"{name} ({c})" if name in twice else name for c, name in enumerate(names)], []


def _names(data: Any) -> list[str] | None:
    """The names that the data, or what it wraps, has: ``classes``, a label's ``names``, or MedMNIST's ``info``."""
    while data is not None:
        listed = getattr(data, "classes", None)
        if listed is None and isinstance(features := getattr(data, "features", None), Mapping):
            listed = next((f.names for f in features.values() if hasattr(f, "names")), None)
        if listed is None and isinstance(info := getattr(data, "info", None), Mapping):
            listed = info.get("label")
        if isinstance(listed, Mapping):
            listed = list(listed.values())
        if isinstance(listed, (list, tuple)) and listed:
            return [str(name[0] if isinstance(name, (list, tuple)) and name else name) for name in listed]
        data = getattr(data, "dataset", None)
    return None
