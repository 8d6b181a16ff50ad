"""Networks from elsewhere to plain arrays: one pass over the images, under hooks, which leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, combinations
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from . import data_forms, models
from .arrays import Arrays, undisturbed
from .heads import NORMALISATIONS
from .settings import BadInput

NAME_IT = (
    "name the module whose input the features are, like features='fc' (model.named_modules() lists them), give a "
    "function, features=lambda model, images: ..., or give Arrays"
)
Where = str | Callable | None  # whose input the features are: of the module of this name, or found by itself (None)
Call = tuple[nn.Module | None, str, Tensor]  # a module, "input" or "output", and features (N, d)


class Foreign:
    """A network from elsewhere: where its features are read, and which head makes its output of them.

    ``head`` is weight (K, d) and bias (K,) and, of a CMF head, centre (d,) and normalisation; empty where none is
    known. ``notes`` say what a reader has to know. Found on the ``images`` of a first batch; raises BadInput.
    """

    def __init__(self, name: str, module: nn.Module, where: Where, images: Tensor):
        self.name, self.module, self.where, self.notes = name, unwrapped(module), where, []
        tensors = [t for t in chain(self.module.parameters(), self.module.buffers()) if t.is_floating_point()]
        self.itself = {id(t) for t in tensors} or {id(self.module)}
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.dtype = tensors[0].dtype if tensors else torch.float32
        if self.device.type == "meta":
            raise BadInput(f"model '{name}' is on the device 'meta', which holds no weights; load them first.")
        self.autocast = torch.is_autocast_enabled(self.device.type)
        self.head, self.reader, self.calls = (), None, []
        with undisturbed(self.module):
            self._find(images[:8])
            first, self.logits = self.look(images[:8])
            again, _ = self.look(images[:2])
        if np.abs(again - first[:2]).max() > 0.05 * np.abs(first).max():
            self.notes.append(
                f"{name} answers an image differently the next time or next to others of its batch, as with a dropout "
                "that is always on or a batch norm without running statistics."
            )

    def look(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, d) and logits (N, K) of a batch. Raises BadInput where the model gives no such."""
        logits = self._run(images, [self.reader[0]] if self.reader else [])
        calls = self.calls if self.reader else [(None, "input", _flat(self._given(self.where, self.module, images)))]
        features = next((call[2] for call in reversed(calls) if call[:2] == (self.reader or (None, "input"))), None)
        if features is None or len(features) != len(images):
            raise BadInput(f"the features of model '{self.name}' are no (N, d); {NAME_IT}.")
        if not features.isfinite().all() or logits.isnan().any():
            raise BadInput(f"model '{self.name}' gives features or logits that are infinite or no numbers; omit it.")
        return features.cpu().numpy(), logits.cpu().numpy()

    def _given(self, function: Callable, *arguments: Any) -> Any:
        """What somebody else's network or function gives for images, a copy of which is the last argument."""
        images = arguments[-1]
        keeps = self.autocast or not images.is_floating_point()
        try:
            return function(*arguments[:-1], images.to(self.device, images.dtype if keeps else self.dtype, copy=True))
        except Exception as reason:
            raise BadInput(
                f"model '{self.name}', or its features function, cannot read images {tuple(images.shape)} of "
                f"{images.dtype} ({models.in_short(reason)}); give images as it was trained on them."
            ) from None

    def _run(self, images: Tensor, watched: Iterable[nn.Module]) -> Tensor:
        """Logits (N, K), float32; what the watched modules were given and gave is in ``calls``."""
        self.calls = []
        watched = [module for module in watched if not isinstance(module, torch.jit.ScriptModule)]
        hooks = [module.register_forward_hook(self._note, with_kwargs=True) for module in watched]
        try:
            output = self._given(self.module, images)
        finally:
            for hook in hooks:
                hook.remove()
        if (logits := next(_logits(output, len(images)), None)) is None:
            shown = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise BadInput(f"model '{self.name}' gives {shown}, but it must give logits (N, K), or have .logits.")
        return logits.detach().float().flatten(1)

    def _note(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Keep what a module was given and gave, as features (N, d): a copy, as either may be changed in place."""
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        flat = {"input": _flat(given), "output": _flat(output)}
        self.calls += [(module, side, features) for side, features in flat.items() if features is not None]

    def _find(self, images: Tensor) -> None:
        """Where the features are read, and the head that makes the output of them."""
        logits = self._run(images, () if callable(self.where) else self.module.modules())
        calls = [call for call in self._candidates(images) if len(call[2]) == len(logits)]
        heads = list(self._heads(logits.shape[1]))
        for module, side, features in sorted(calls, key=lambda call: call[1]):  # inputs come first
            self.reader = module and (module, side)
            for head in [] if side == "output" and torch.equal(features, logits) else heads:
                if head[0].shape[1] == features.shape[1] and self._makes(head, features, logits):
                    self.head = head
                    return
        if self.where is None:
            calls = [call for call in reversed(calls) if isinstance(call[0], (nn.Linear, nn.Conv2d))]
            calls = [call for call in calls if call[1] == "input"]
            heads = [call for call in calls if len(call[0].weight) == logits.shape[1]]
            calls = heads + [call for call in calls if isinstance(call[0], nn.Linear)]
            if not calls:
                self._refuse("runs no nn.Linear on features (N, d)")
            self.reader = calls[0][:2]
            name = next(key for key, part in self.module.named_modules() if part is self.reader[0])
            self.notes.append(f"{self.name}: features are the input of '{name}'.")

    def _candidates(self, images: Tensor) -> list[Call]:
        """Where features may be read, as the run came by them: everywhere, in the named module, or by the function."""
        if callable(self.where):
            features = _flat(self._given(self.where, self.module, images))
            return [] if features is None else [(None, "input", features)]
        if self.where is None:
            kinds = nn.Linear, nn.Conv2d, nn.Identity
            return [call for call in self.calls if call[1] == "output" or isinstance(call[0], kinds)]
        named, name = dict(self.module.named_modules()), str(self.where)
        name = name.replace("_orig_mod.", "").removeprefix("module.")
        module = named.get(name) or next((m for key, m in named.items() if key.endswith(f".{name}")), None)
        calls = [call for call in self.calls if call[0] is module and call[1] == "input"]
        return calls[-1:] or self._refuse(f"runs no module '{name}' on features (N, d)")

    def _refuse(self, what: str) -> None:
        """Raises BadInput."""
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in self.module.modules())
        why = " (inside of a TorchScript module nothing can be read: give what it was made from)" if scripted else ""
        raise BadInput(f"model '{self.name}' {what}{why}; {NAME_IT}.")

    def _heads(self, classes: int) -> Iterator[tuple]:
        """Weights (K, d) of the network with what may belong to them: a bias, or the centre of a CMF head."""
        for module in self.module.modules():
            if not isinstance(module, torch.jit.ScriptModule):
                names = sorted({"weight", "bias", *module._parameters, *module._buffers})  # and computed ones
                held = {name: getattr(module, name, None) for name in names}
                held = {name: t.detach().float() for name, t in held.items() if isinstance(t, Tensor) and t.ndim}
                for weight in [t.flatten(1) for t in held.values() if t.ndim > 1 and len(t) == classes]:
                    yield from ((weight, t) for t in held.values() if t.shape == (classes,))
                    yield weight, None
                    centre = held.get("mu", held.get("centre"))
                    if centre is not None and centre.shape == weight[0].shape:
                        yield from ((weight, None, centre, normalisation) for normalisation in NORMALISATIONS)

    def _makes(self, head: tuple, features: Tensor, output: Tensor) -> bool:
        """Whether a head makes the output, or logits whose softmax it is; cosines of a CMF head may have any scale."""
        if len(head) == 2:
            made = linear(features, *head)
        else:
            made = normalize(NORMALISATIONS[head[3]](features) - head[2], dim=1) @ head[0].T
            made = made * ((made * output).sum() / made.square().sum()).clamp_min(0)
        lowest = -torch.inf
        if bool((output >= 0).all()) and torch.allclose(output.sum(1), output.new_ones(()), atol=0.02):
            lowest, output = log(1e-6), output.log()
        best = output.argmax(1, keepdim=True)
        made, output = ((x - x.gather(1, best)).clamp_min(lowest) for x in (made, output))
        tolerance = 0.05 if self.autocast or self.dtype.itemsize < 4 else 2e-3
        return bool((made - output).abs().max() <= tolerance * made.abs().max())


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, out of torch.compile, DataParallel and their like."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while hasattr(module, "_orig_mod") or isinstance(module, wrappers):
        module = module.module if isinstance(module, wrappers) else module._orig_mod
    return module


def _flat(x: Any) -> Tensor | None:
    """Features (N, d) of what a module was given or gave: maps are averaged, of tokens the first is taken."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not 2 <= x.ndim <= 4 or not x.numel():
        return None
    x = x.detach().float()
    return x.clone() if x.ndim == 2 else x[:, 0].clone() if x.ndim == 3 else x.mean((2, 3))


def _logits(output: Any, n: int) -> Iterator[Tensor]:
    """Tensors (N, K) of a model's output, what is called logits first."""
    if isinstance(output, Tensor):
        if output.ndim >= 2 and len(output) == n and output[0].numel() == output.shape[1] > 1:
            yield output
    elif hasattr(output, "logits"):
        yield from _logits(output.logits, n)
    elif isinstance(output, (dict, tuple, list)):
        parts = {"logits": None, **output}.values() if isinstance(output, dict) else output
        for part in parts:
            yield from _logits(part, n)


@dataclass(frozen=True)
class Pass:
    """What one pass over the images gave: arrays by model, labels by part, and what the report says of the data."""

    arrays: dict[str, Arrays]
    labels: dict[str, Tensor]
    names: list[str]
    seen: dict[str, dict]  # per part: images per class, two means that tell images apart
    shared: int  # test images that are training images, too
    notes: list[str]
    device: str


def pass_over(
    given: dict[str, nn.Module | Arrays],
    parts: dict[str, Any],
    features: dict[str, Where],
    batch_size: int,
    tracked: Callable[[Iterable, str, int], Iterable],
    known: Callable[[int], Any] = lambda classes: None,
) -> Pass:
    """One pass of all models over all images. Raises BadInput where models and data do not belong together.

    ``known`` is told the number of classes after the first batch, to refuse early what does not fit it.
    """
    nets = {name: net for name, net in given.items() if not isinstance(net, Arrays)}
    found, kept = {}, {}
    with undisturbed(*(unwrapped(net) for net in nets.values())):
        read = {part: data_forms.Reading(part, data, batch_size) for part, data in parts.items()}
        for part, reading in read.items():
            for images in tracked(reading, f"features, {part}", reading.batches):
                if images is None and nets:
                    raise BadInput(f"{part} holds labels alone, which serve Arrays; {next(iter(nets))} needs images.")
                if nets and not found:
                    found = {name: Foreign(name, net, features.get(name), images) for name, net in nets.items()}
                    _check_different(list(found.values()))
                    known(next(iter(found.values())).logits.shape[1])
                for name, net in found.items():
                    for what, value in zip(("features", "logits"), net.look(images)):
                        kept.setdefault((name, part, what), []).append(value)
    arrays = dict(given)
    for name, net in found.items():
        places = ("train", "features"), ("test", "features"), ("test", "logits")
        arrays[name] = Arrays(*(np.concatenate(kept.pop((name, *place))) for place in places), *net.head)
    outputs = {name: array.test_logits.shape[1] for name, array in arrays.items()}
    if len(classes := set(outputs.values())) > 1:
        told = ", ".join(f"'{name}' {number}" for name, number in outputs.items())
        raise BadInput(f"the models have different numbers of outputs ({told}); all must have one for each class.")
    labels, notes = data_forms.labels_of(read, *classes)
    _check_lengths(arrays, labels)
    names, more = data_forms.class_names(parts, *classes)
    notes += [note for net in found.values() for note in net.notes] + more
    device = next((str(net.device) for net in found.values() if net.device.type == "cuda"), "cpu")
    seen = {part: reading.seen(labels[part]) for part, reading in read.items()}
    return Pass(arrays, labels, names, seen, _shared(read, next(iter(arrays.values()))), notes, device)


def _check_different(nets: list[Foreign]) -> None:
    """Raises BadInput where two names stand for one network: the same weights, and the same output."""
    for one, other in combinations(nets, 2):
        if one.itself == other.itself and np.array_equal(one.logits, other.logits):
            raise BadInput(f"'{one.name}' and '{other.name}' are one and the same network; build one for each.")


def _check_lengths(arrays: dict[str, Arrays], labels: dict[str, Tensor]) -> None:
    """Raises BadInput where arrays are not of as many images as there are labels."""
    for name, array in arrays.items():
        for part, n in (("train", len(array.train_features)), ("test", len(array.test_features))):
            if n != len(labels[part]):
                raise BadInput(f"model '{name}' has {n} {part} features, but {part} has {len(labels[part])} labels.")


def _shared(read: dict[str, data_forms.Reading], arrays: Arrays) -> int:
    """How many test images are training images; of labels alone, how many test features are training features."""
    train, test = read["train"].hashes, read["test"].hashes
    if not train or not test:
        train, test = ([line.tobytes() for line in part] for part in (arrays.train_features, arrays.test_features))
    known = set(train)
    return sum(image in known for image in test)
