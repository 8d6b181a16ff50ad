"""Models from elsewhere: the one pass to their features and logits, from images in any form."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from operator import length_hint
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from . import models
from .representation import Features
from .settings import BadInput

NAME_IT = ("name the module whose input the features are, like features='fc' (model.named_modules() lists them), or give a "
           "function, features=lambda model, images: ...")
Where = str | Callable | None  # whose input the features are: of the module of this name, or of the last nn.Linear (None)
Seen = tuple[Features, Tensor]  # features, and logits (N, K) of the test images


class Foreign:
    """A model from elsewhere, seen through hooks; no weight of it changes.

    ``head`` is the nn.Linear that reads the features, None where none is known; ``normalised``: the output is the
    log-softmax of what it gives.
    """

    def __init__(self, name: str, module: nn.Module, where: Where = None):
        if not isinstance(module, nn.Module):
            raise BadInput(f"model '{name}' is a {type(module).__name__}, but it must be a torch.nn.Module.")
        if not (where is None or isinstance(where, str) or callable(where)):
            raise BadInput(f"features of model '{name}' is {where!r}, which is neither a name nor a function; "
                           f"{NAME_IT}.")
        named = dict(module.named_modules())
        if isinstance(where, str) and (not where or where not in named):
            raise BadInput(f"model '{name}' has no module '{where}'; {NAME_IT}.")
        self.name, self.module, self.where = name, module, where
        self.device = str(next((t.device for t in (*module.parameters(), *module.buffers())), "cpu"))
        if self.device == "meta":
            raise BadInput(f"model '{name}' is on the device 'meta', which holds no weights; load them first.")
        linear = [m for m in named.values() if isinstance(m, nn.Linear)]
        self.readers = [] if callable(where) else linear if where is None else [named[where]]
        self.head, self.normalised, self.last = None, False, (None, None, None)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """In eval mode and under hooks; afterwards every module has its own mode again."""
        modes = {module: module.training for module in self.module.modules()}
        hooks = [reader.register_forward_hook(self._note) for reader in self.readers]
        self.module.eval()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for module, mode in modes.items():
                module.training = mode

    def _note(self, reader: nn.Module, inputs: tuple, output: Any) -> None:
        """Keep what the last reader that ran has read and given, the latter as it was before any change in place."""
        self.last = reader, inputs[0] if inputs else None, output.clone() if isinstance(output, Tensor) else output

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, d), float32, and logits (N, K) of a batch, on the CPU. Raises BadInput where it gives no such."""
        self.last, images = (None, None, None), images.to(self.device, copy=True)  # a model may change them
        try:
            output = self.module(images)
        except Exception as reason:  # what a model makes of images that are not its own has no base class
            raise BadInput(f"model '{self.name}' cannot read {_shown(images)} of {images.dtype} "
                           f"({models.in_short(reason)}); give images as it was trained on them.") from None
        try:
            features = self.where(self.module, images) if callable(self.where) else self.last[1]
        except Exception as reason:  # of somebody else's function
            raise BadInput(f"the features function of model '{self.name}' fails on {_shown(images)} "
                           f"({models.in_short(reason)}); it is given the model and the images.") from None
        logits = output.get("logits", output) if isinstance(output, dict) else getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            raise BadInput(f"model '{self.name}' gives {_shown(logits)}, but it must give logits (N, K), or have them as "
                           ".logits.")
        flat = isinstance(features, Tensor) and features.ndim > 1 and features[0].numel() == features.shape[1] > 0
        if not flat or len(features) != len(images):
            what = "no nn.Linear was run" if features is None else f"its features are {_shown(features)}, not (N, d)"
            raise BadInput(f"model '{self.name}': {what}; {NAME_IT}.")
        seen = features.detach().flatten(1).float().cpu(), logits.detach().float().cpu()
        if not all(part.isfinite().all() for part in seen):
            raise BadInput(f"model '{self.name}' gives features or logits that are infinite or no numbers; leave it out.")
        return seen

    def introduce(self, images: Tensor) -> int:
        """Find the head on a first batch; the number of outputs.

        Raises BadInput where the head does not make the output, or chance is at work.
        """
        with self.watched():
            seen, (reader, _, given), again = self.look(images), self.last, self.look(images)
            alone = self.look(images[:2])
        logits = seen[1]
        if isinstance(reader, nn.Linear):
            given = given.detach().float().cpu()
            self.head, same_shape = reader, given.shape == logits.shape
            self.normalised = same_shape and not _close(given, logits)
            if not same_shape or self.normalised and not _close(log_softmax(given, 1), logits):
                raise BadInput(f"model '{self.name}': the nn.Linear that reads the features gives neither the output nor, "
                               f"after log-softmax, the output; {NAME_IT}.")
        if not all(map(_close, again, seen)):
            raise BadInput(f"model '{self.name}' answers the same images differently in eval mode; switch off the dropout "
                           "or the noise that is always on.")
        if not all(_close(few, whole[:2], 0.05) for few, whole in zip(alone, seen)):  # rounding stays far below
            raise BadInput(f"model '{self.name}' answers two images differently beside others of their batch, like a "
                           "batch norm without running statistics; train it with track_running_stats=True.")
        return logits.shape[1]


def _close(a: Tensor, b: Tensor, share: float = 1e-4) -> bool:
    return bool((a - b).abs().max() <= share * b.abs().max())


def _shown(thing: Any) -> str:
    return f"a tensor {tuple(thing.shape)}" if isinstance(thing, Tensor) else f"a {type(thing).__name__}"


def loader(part: str, data: Any, batch_size: int) -> tuple[DataLoader, Tensor]:
    """Batches of a DataLoader, a Dataset or a pair of tensors, in their order; and the images of the first.

    Raises BadInput where there are none, or where two passes over the first batch differ.
    """
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(t, Tensor) for t in data):
        if len(data[0]) != len(data[1]):
            raise BadInput(f"{part} holds {len(data[0])} images and {len(data[1])} labels; give one label for each image.")
        data = TensorDataset(*data)
    data = DataLoader(data, batch_size) if isinstance(data, Dataset) else data
    if isinstance(data, DataLoader) and (data.drop_last or getattr(data.batch_sampler, "drop_last", False)):
        raise BadInput(f"{part} leaves out its last images, as it has drop_last=True; give it drop_last=False.")
    if not isinstance(data, DataLoader):
        raise BadInput(f"{part} is {_shown(data)}, but it must be a Dataset, a DataLoader or (images, labels).")
    try:
        first, again = (next(iter(data), None) for _ in range(2))
    except Exception as reason:  # of somebody else's data set
        advice = "its images must be tensors, so give it the test transform"
        raise _fault(reason, f"{part} gives no batch", advice) from None
    if first is None:
        raise BadInput(f"{part} holds no image; every class needs some.")
    (images, labels), (images_again, labels_again) = pair(part, first), pair(part, again)
    if isinstance(data.sampler, RandomSampler) or not torch.equal(labels, labels_again):
        raise BadInput(f"two passes over {part} differ, as it shuffles; give it shuffle=False.")
    if not torch.equal(images, images_again):
        raise BadInput(f"two passes over the first batch of {part} differ, as its images are augmented; give it the test "
                       "transform.")
    return data, images


def pair(part: str, batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels (N,) of a batch. Raises BadInput where it is no such pair, or an image holds no number."""
    images, labels = batch[:2] if isinstance(batch, (tuple, list)) and len(batch) > 1 else (batch, None)
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
        raise BadInput(f"a batch of {part} must be images and whole-number labels (N,), as tensors, but it is "
                       f"{_shown(images)} and {_shown(labels)}.")
    if len(images) != len(labels):
        raise BadInput(f"a batch of {part} holds {len(images)} images and {len(labels)} labels; give one label for each "
                       "image.")
    if images.is_floating_point() and not images.isfinite().all():
        bad = int((~images.flatten(1).isfinite().all(1)).sum())
        raise BadInput(f"a batch of {part} has {bad} images with values that are infinite or no numbers; mend them or leave "
                       "them out.")
    return images, labels.long()


def batches_of(part: str, data: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels, batch by batch. Raises BadInput where the data fail on the way."""
    batches, done = iter(data), 0
    while True:
        try:
            batch = next(batches, None)
        except Exception as reason:  # of somebody else's data set
            raise _fault(reason, f"{part} fails after {done} images", "mend or leave out what comes next") from None
        if batch is None:
            return
        images, labels = pair(part, batch)
        done += len(labels)
        yield images, labels


def _fault(reason: Exception, what: str, advice: str) -> BadInput:
    """What data have raised, in one sentence: their own where it is one, also out of a worker process's traceback."""
    last = (str(reason).strip().splitlines() or [""])[-1]
    if isinstance(reason, BadInput):
        return BadInput(last.partition("BadInput: ")[2] or last)
    told = last if "DataLoader worker" in str(reason) else models.in_short(reason)
    return BadInput(f"{what} ({told}); {advice}.")


def class_names(part: str, data: Any) -> list[str] | None:
    """The names that the data, or what it wraps, has as ``classes``. Raises BadInput where these are no names."""
    while data is not None and not hasattr(data, "classes"):
        data = getattr(data, "dataset", None)
    if data is None:
        return None
    if isinstance(data.classes, str) or not isinstance(data.classes, Iterable):
        raise BadInput(f"the classes of {part} are {data.classes!r}, but they must be a list of names, or be left out.")
    names = [str(name) for name in data.classes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"{part} has more than one class '{twice[0]}'; give every class a name of its own.")
    return names


@torch.no_grad()
def introduced(given: list[Foreign], images: Tensor) -> int:
    """Find every model's head on a first batch; the number K of classes, on which all must agree."""
    outputs = {model.name: model.introduce(images) for model in given}
    if len(set(outputs.values())) > 1:
        told = ", ".join(f"'{name}' {number}" for name, number in outputs.items())
        raise BadInput(f"the models have different numbers of outputs ({told}); all must have one for each class.")
    return next(iter(outputs.values()))


@torch.no_grad()
def passed(
    given: list[Foreign], loaders: dict[str, DataLoader], classes: int, tracked: Callable[[Iterable, str, int], Iterable]
) -> tuple[dict[str, Seen], dict[str, Tensor], dict[str, dict]]:
    """One pass over all images for all models: what each gives, on the CPU; the labels by part; what tells the images.

    ``tracked`` shows how far it is.

    Raises BadInput where labels are not those of all classes, or most test images are training images.
    """
    kept: dict[tuple, list[Tensor]] = {}
    with ExitStack() as stack:
        for model in given:
            stack.enter_context(model.watched())
        for part, batches in loaders.items():
            for images, labels in tracked(batches_of(part, batches), f"features, {part}", length_hint(batches)):
                kept.setdefault((part, "labels"), []).append(labels.cpu())
                flat = images.float().reshape(len(images), -1)
                ramp = torch.linspace(-1, 1, flat.shape[1], device=flat.device)  # so that pixels in another order differ
                kept.setdefault((part, "mean"), []).append(torch.stack([flat.mean(1), (flat * ramp).mean(1)], 1).cpu())
                for model in given:
                    for what, seen in zip(("features", "logits"), model.look(images)):
                        kept.setdefault((part, what, model.name), []).append(seen)
    whole = {place: torch.cat(kept.pop(place)) for place in list(kept)}
    labels = {part: whole[part, "labels"] for part in loaders}
    for part, found in labels.items():
        present = found.unique().tolist()
        if odd := [c for c in present if not 0 <= c < classes]:
            raise BadInput(f"{part} has the label {odd[0]}, but the models have {classes} outputs, for labels from 0 to "
                           f"{classes - 1}.")
        if absent := sorted(set(range(classes)) - set(present)):
            raise BadInput(f"{part} holds no image of class {absent[0]}, but the models have {classes} outputs; every "
                           "class needs images, a forgotten one too.")
    known = set(map(tuple, whole["train", "mean"].tolist()))
    if (again := sum(tuple(image) in known for image in whole["test", "mean"].tolist())) > len(labels["test"]) / 2:
        raise BadInput(f"{again} of {len(labels['test'])} test images are training images, of which a probe reads whatever it "
                       "was fitted to; hold some out.")
    features = {m.name: Features(*(whole[part, "features", m.name] for part in ("train", "test"))) for m in given}
    data = {part: {"images": found.bincount().tolist(), "mean": whole[part, "mean"].mean(0).tolist()}
            for part, found in labels.items()}
    return {name: (found, whole["test", "logits", name]) for name, found in features.items()}, labels, data
