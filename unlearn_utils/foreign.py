"""Networks from elsewhere to plain arrays: one pass over the images, under hooks, which leaves no trace."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, combinations
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import data_forms, models
from .arrays import Arrays, head_of, undisturbed
from .heads import NORMALISATIONS
from .settings import BadInput

NAME_IT = (
    "name the module whose input the features are, like features='fc' (model.named_modules() lists them), give a "
    "function, features=lambda model, images: ..., or give Arrays"
)
Where = str | Callable | None  # whose input the features are: of the module of this name, or found by itself (None)
Place = tuple[nn.Module | None, str, int]  # a module, "input" or "output", and of its calls which one
Call = tuple[Place, Tensor]  # and the features (N, d) there


class NoNumbers(BadInput):
    """A model's features, logits or probe are infinite or no numbers."""


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
        self.head, self.reader, self.part = (), (None, "input", 0), 0
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
        parts, calls = self._run(images, [self.reader[0]])
        logits, features = parts[self.part], dict(calls).get(self.reader)
        if features is None:
            raise BadInput(f"the features of model '{self.name}' are no (N, d); {NAME_IT}.")
        if not features.isfinite().all() or logits.isnan().any():
            raise NoNumbers(f"model '{self.name}' gives features or logits that are infinite or no numbers; omit it.")
        return features.cpu().numpy(), logits.cpu().numpy()

    def _given(self, function: Callable, *arguments: Any) -> Any:
        """What somebody else's network or function gives for images, a copy of which is the last argument."""
        images = arguments[-1]
        keeps = self.autocast or not images.is_floating_point()
        try:
            return function(*arguments[:-1], images.to(self.device, images.dtype if keeps else self.dtype, copy=True))
        except Exception as reason:
            shown = f"images {tuple(images.shape)} of {images.dtype} ({models.in_short(reason)})"
            told = f"model '{self.name}', or its features function, cannot read {shown}"
            raise BadInput(f"{told}; give images as it was trained on them.") from None

    def _run(self, images: Tensor, watched: Iterable[nn.Module]) -> tuple[list[Tensor], list[Call]]:
        """What may be logits (N, K), float32, and what watched modules, or the user's function, were given and gave."""
        calls, times = [], Counter()

        def note(module: nn.Module | None, args: tuple, kwargs: dict, output: Any) -> None:
            given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
            for side, value in (("input", given), ("output", output)):
                if (features := _flat(value, len(images))) is not None:
                    calls.append(((module, side, times[module, side]), features))
                times[module, side] += 1  # of all calls, as another batch may have the size of what else was given

        if callable(self.where):
            note(None, (self._given(self.where, self.module, images),), {}, None)
            watched = ()
        eager = [module for module in watched if not isinstance(module, torch.jit.ScriptModule)]
        hooks = [module.register_forward_hook(note, with_kwargs=True) for module in eager]
        try:
            output = self._given(self.module, images)
        finally:
            for hook in hooks:
                hook.remove()
        if not (parts := list(_logits(output, len(images)))):
            shown = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise BadInput(f"model '{self.name}' gives {shown}, but it must give logits (N, K), or have .logits.")
        return [logits.detach().float().flatten(1) for logits in parts], calls

    def _find(self, images: Tensor) -> None:
        """Where the features are read, and the head that makes the output of them."""
        parts, calls = self._run(images, self.module.modules())
        calls.reverse()  # the last first, as an earlier layer may be nearly the features
        if isinstance(self.where, str):
            calls = self._of_named(calls)
        elif self.where is None:  # what a ReLU or a dropout was given is not yet the features
            kinds = nn.Linear, nn.Conv2d, nn.Identity
            calls = [call for call in calls if call[0][1] == "output" or isinstance(call[0][0], kinds)]
        for self.part, logits in enumerate(parts):  # later ones only where the first are the features
            same = [call for call in calls if not self.part or torch.equal(call[1], parts[0])]
            if self._made_of(same, logits):
                return
        self.part, logits = 0, parts[0]
        if self.where is None:  # then what makes K numbers is taken for the head, or else the last nn.Linear
            inputs = [at for at, _ in calls if at[1] == "input"]
            linear = [at for at in inputs if isinstance(at[0], nn.Linear)]
            maps = [at for at in inputs if isinstance(at[0], (nn.Linear, nn.Conv2d))]
            sized = [at for at in maps if len(at[0].weight) == logits.shape[1]]
            self.reader, *_ = sized + linear or self._refuse("runs no nn.Linear on features (N, d)")
            name = next(key for key, part in self.module.named_modules() if part is self.reader[0])
            self.notes.append(f"{self.name}: features are the input of '{name}'.")
        elif calls:
            self.reader = calls[0][0]

    def _made_of(self, calls: list[Call], logits: Tensor) -> bool:
        """Whether a head makes the logits of what a call was given, or gave; then they are kept."""
        heads = list(self._heads(logits.shape[1]))
        for place, features in sorted(calls, key=lambda call: call[0][1]):  # inputs come first
            for head in [] if place[1] == "output" and torch.equal(features, logits) else heads:
                if head[0].shape[1] == features.shape[1] and self._makes(head, features, logits):
                    self.head, self.reader = head, place
                    return True
        return False

    def _of_named(self, calls: list[Call]) -> list[Call]:
        """What the named module was given. Raises BadInput where it was given no features, or several have the name."""
        named, name = dict(self.module.named_modules()), self.where.replace("_orig_mod.", "").removeprefix("module.")
        found = [name] if name in named else [key for key in named if key.endswith(f".{name}")]
        if len(found) > 1:
            self._refuse(f"has several modules of the name '{name}' ({', '.join(found[:4])})")
        calls = [call for call in calls if found and call[0][0] is named[found[0]] and call[0][1] == "input"]
        return calls or self._refuse(f"runs no module '{name}' on features (N, d)")

    def _refuse(self, what: str) -> None:
        """Raises BadInput."""
        scripted = any(isinstance(module, torch.jit.ScriptModule) for module in self.module.modules())
        why = " (inside of a TorchScript module nothing can be read: give what it was made from)" if scripted else ""
        raise BadInput(f"model '{self.name}' {what}{why}; {NAME_IT}.")

    def _heads(self, classes: int) -> Iterator[tuple]:
        """Weights (K, d) of the network with what may belong to them: a bias, or the centre of a CMF head."""
        for module in self.module.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            names = sorted({"weight", "bias", *module._parameters, *module._buffers})  # and computed ones
            held = {name: getattr(module, name, None) for name in names}
            held = {name: t.detach().float() for name, t in held.items() if isinstance(t, Tensor) and t.ndim}
            centre = held.get("mu", held.get("centre"))
            for weight in [t.flatten(1) for t in held.values() if t.ndim > 1 and len(t) == classes]:
                yield from ((weight, t) for t in held.values() if t.shape == (classes,))
                yield weight, None
                if centre is not None and centre.shape == weight[0].shape:
                    yield from ((weight, None, centre, normalisation) for normalisation in NORMALISATIONS)

    def _makes(self, head: tuple, features: Tensor, output: Tensor) -> bool:
        """Whether a head makes the output, or logits whose softmax it is; cosines of a CMF head may have any scale."""
        made = head_of(*head)(features)
        if len(head) > 2:
            made = made * ((made * output).sum() / made.square().sum()).clamp_min(0)
        lowest = -torch.inf
        if bool((output >= 0).all()) and torch.allclose(output.sum(1), output.new_ones(()), atol=0.02):
            lowest, output = log(1e-6), output.log()
        best = output.argmax(1, keepdim=True)
        made, output = ((x - x.gather(1, best)).clamp_min(lowest) for x in (made, output))
        tolerance = 0.05 if self.autocast or self.dtype.itemsize < 4 else 2e-3
        scale = made.abs().amax(0)  # of each class, as one logit may be far below the others
        return bool(((made - output).abs() <= tolerance * scale.clamp_min(scale.median())).all())


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, out of torch.compile, DataParallel and their like."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while hasattr(module, "_orig_mod") or isinstance(module, wrappers):
        module = module.module if isinstance(module, wrappers) else module._orig_mod
    return module


def _flat(x: Any, n: int) -> Tensor | None:
    """Features (N, d) of what a module was given or gave: maps are averaged, of tokens the first is taken."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not 2 <= x.ndim <= 4 or not x.numel() or len(x) != n:
        return None
    x = x.detach().float()  # and a copy, as it may be changed in place
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


class Pass:
    """One pass of all models over all images. Raises BadInput where models, data and forget set do not fit.

    ``arrays`` by model, ``labels`` by part, ``names`` of the classes, numbers of the ``forget`` classes, ``notes``;
    ``seen`` (by part images per class, and two means that tell images apart), ``shared`` (how many test images are
    training images), and the ``device`` of the networks.
    """

    def __init__(
        self,
        given: dict[str, nn.Module | Arrays],
        parts: dict[str, Any],
        features: dict[str, Where],
        forget: Any,
        batch_size: int,
        tracked: Callable = lambda things, *_: things,
    ):
        for name, net in given.items():
            if not isinstance(net, (nn.Module, Arrays)):
                raise BadInput(f"model '{name}' is a {type(net).__name__}, but it must be a torch.nn.Module or Arrays.")
        nets = {name: net for name, net in given.items() if isinstance(net, nn.Module)}
        self.arrays, self.parts, self.asked, self.notes, self.device = dict(given), parts, forget, [], "cpu"
        with undisturbed(*map(unwrapped, nets.values())):
            read = {part: data_forms.Reading(part, data, batch_size) for part, data in parts.items()}
            self._read(nets, read, features, tracked)
        if not nets:
            self._settle({})
        self.labels, notes = data_forms.labels_of(read, self.names, self.forget)
        self.notes = notes + self.notes
        for name, array in self.arrays.items():
            for part, n in (("train", len(array.train_features)), ("test", len(array.test_features))):
                if n != (labels := len(self.labels[part])):
                    raise BadInput(f"model '{name}' has {n} {part} features, but {part} has {labels} labels.")
        self.seen = {part: reading.seen(self.labels[part]) for part, reading in read.items()}
        images = [(read["train"].hashes, read["test"].hashes)]
        if not all(images[0]):  # labels alone: features take their place; a shared image is shared in every model
            images = [(map(bytes, a.train_features), [*map(bytes, a.test_features)]) for a in self.arrays.values()]
        self.shared = min(sum(map(set(train).__contains__, test)) for train, test in images)

    def _read(self, nets: dict, read: dict[str, data_forms.Reading], features: dict, tracked: Callable) -> None:
        """The networks' arrays, batch by batch."""
        found, kept = {}, defaultdict(list)
        for part, reading in read.items():
            for images in tracked(reading, f"features, {part}", reading.batches):
                if images is None and nets:
                    raise BadInput(f"{part} holds labels alone, which serve Arrays; {next(iter(nets))} needs images.")
                if nets and not found:
                    found = {name: Foreign(name, net, features.get(name), images) for name, net in nets.items()}
                    self._settle(found)
                for name, net in found.items():
                    for what, value in zip(("features", "logits"), net.look(images)):
                        kept[name, part, what].append(value)
        for name, net in found.items():
            places = ("train", "features"), ("test", "features"), ("test", "logits")
            self.arrays[name] = Arrays(*(np.concatenate(kept.pop((name, *place))) for place in places), *net.head)

    def _settle(self, found: dict[str, Foreign]) -> None:
        """Classes and forget set, before the pass goes on. Raises BadInput, also for one network under two names."""
        for one, other in combinations(found.values(), 2):
            if one.itself == other.itself and np.array_equal(one.logits, other.logits):
                raise BadInput(f"'{one.name}' and '{other.name}' are one and the same network; build one for each.")
        logits = {name: found[name].logits if name in found else net.test_logits for name, net in self.arrays.items()}
        if len(classes := {x.shape[1] for x in logits.values()}) > 1:
            told = ", ".join(f"'{name}' {x.shape[1]}" for name, x in logits.items())
            raise BadInput(f"the models have different numbers of outputs ({told}); all must have one for each class.")
        self.names, notes = data_forms.class_names(self.parts, *classes)
        self.forget = data_forms.forget_set(self.asked, self.names)
        self.notes += [note for net in found.values() for note in net.notes] + notes
        self.device = next((str(net.device) for net in found.values() if net.device.type == "cuda"), "cpu")
