"""Networks from elsewhere to plain arrays: one pass over the images, under hooks, which leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
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


class Foreign:
    """A network from elsewhere: where its features are read, and which head makes its output of them.

    ``head`` is a weight (K, d) and a bias (K,) or None, or None where no head is known; ``cmf`` a centre (d,) and a
    normalisation. ``notes`` say what a reader has to know. Found on the ``images`` of a first batch; raises BadInput.
    """

    def __init__(self, name: str, module: nn.Module, where: Where, images: Tensor):
        self.name, self.module, self.where, self.notes = name, unwrapped(module), where, []
        tensors = [t for t in chain(self.module.parameters(), self.module.buffers()) if t.is_floating_point()]
        self.device = str(tensors[0].device if tensors else "cpu")
        self.dtype = tensors[0].dtype if tensors else torch.float32
        if self.device == "meta":
            raise BadInput(f"model '{name}' is on the device 'meta', which holds no weights; load them first.")
        if not (where is None or isinstance(where, str) or callable(where)):
            raise BadInput(
                f"features of model '{name}' is {where!r}, which is neither a name nor a function; {NAME_IT}."
            )
        self.head, self.cmf, self.reader, self.calls = None, None, None, []
        with undisturbed(self.module):
            self._find(images[:8])
            self._steady(images[:8])

    def look(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Features (N, d) and logits (N, K) of a batch. Raises BadInput where the model gives no such."""
        watched = [self.reader[0]] if self.reader else []
        logits = self._run(images, watched)
        features = self._given(images) if self.reader is None else self._last()
        if features is None or features.shape[1] == 0 or len(features) != len(images):
            shown = "of no such shape" if features is None else f"of shape {tuple(features.shape)}"
            raise BadInput(f"the features of model '{self.name}' are {shown}, but they must be (N, d); {NAME_IT}.")
        if not features.isfinite().all() or logits.isnan().any():
            raise BadInput(
                f"model '{self.name}' gives features or logits that are infinite or no numbers; leave it out."
            )
        return features.cpu().numpy(), logits.cpu().numpy()

    def arrays(self, train: list[np.ndarray], test: list[np.ndarray], logits: list[np.ndarray]) -> Arrays:
        weight, bias = self.head or (None, None)
        centre, normalisation = self.cmf or (None, "unit_length")
        return Arrays(*map(np.concatenate, (train, test, logits)), weight, bias, centre, normalisation)

    def _run(self, images: Tensor, watched: Iterable[nn.Module]) -> Tensor:
        """Logits (N, K), float32; what the watched modules were given and gave is in ``calls``."""
        self.calls = []
        hooks = [module.register_forward_hook(self._note, with_kwargs=True) for module in watched]
        low = torch.is_autocast_enabled(torch.device(self.device).type)
        dtype = self.dtype if images.is_floating_point() and not low else images.dtype
        try:
            output = self.module(images.to(self.device, dtype, copy=True))  # a model may change its images
        except Exception as reason:  # what a model makes of images that are not its own has no base class
            raise BadInput(
                f"model '{self.name}' cannot read images {tuple(images.shape)} of {images.dtype} "
                f"({models.in_short(reason)}); give images as it was trained on them."
            ) from None
        finally:
            for hook in hooks:
                hook.remove()
        logits = _logits(output, len(images))
        if logits is None:
            shown = f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise BadInput(
                f"model '{self.name}' gives {shown}, but it must give logits (N, K), or have them as .logits."
            )
        return logits.detach().float().flatten(1)

    def _note(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Keep what a module was given and gave, as features (N, d): a copy, as either may be changed in place."""
        given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
        self.calls += [
            (module, side, flat) for side, x in (("input", given), ("output", output)) if (flat := _flat(x)) is not None
        ]

    def _last(self) -> Tensor | None:
        return next((flat for module, side, flat in reversed(self.calls) if (module, side) == self.reader), None)

    def _given(self, images: Tensor) -> Tensor | None:
        """What the user's function says the features are."""
        try:
            return _flat(self.where(self.module, images.to(self.device, copy=True)))
        except Exception as reason:  # of somebody else's function
            raise BadInput(
                f"the features function of model '{self.name}' fails on images {tuple(images.shape)} "
                f"({models.in_short(reason)}); it is given the model and the images."
            ) from None

    def _find(self, images: Tensor) -> None:
        """Where the features are read, and the head that makes the output of them."""
        scripted = isinstance(self.module, torch.jit.ScriptModule)
        if scripted and not callable(self.where):
            raise BadInput(
                f"model '{self.name}' is a TorchScript module, inside of which nothing can be read; give the module "
                "that it was made from, a function, features=lambda model, images: ..., or Arrays."
            )
        logits = self._run(images, () if scripted else self.module.modules())
        calls = self._candidates(images)
        for module, side, features in calls:
            self.reader = None if module is None else (module, side)
            if self._is_cmf(features, logits):
                return
        calls = [call for call in reversed(calls) if call[1] == "input"]
        for module, side, features in calls:
            self.reader = None if module is None else (module, side)
            if self._is_linear(features, logits):
                return
        if self.where is None:
            linears = [call for call in calls if isinstance(call[0], nn.Linear)]
            heads = [
                call for call in linears or calls if getattr(call[0], "weight", logits).shape[0] == logits.shape[1]
            ]
            if not linears and not heads:
                raise BadInput(f"model '{self.name}' runs no nn.Linear on features (N, d); {NAME_IT}.")
            self.reader = (heads or linears)[0][:2]
            name = next(key for key, part in self.module.named_modules() if part is self.reader[0])
            self.notes.append(f"{self.name}: features are the input of '{name}'.")

    def _candidates(self, images: Tensor) -> list[tuple[nn.Module | None, str, Tensor]]:
        """Where features may be read, as the run came by them: all modules, the named one, or the function."""
        if callable(self.where):
            return [(None, "input", features)] if (features := self._given(images)) is not None else []
        if self.where is None:
            return [
                call
                for call in self.calls
                if call[1] == "output" or isinstance(call[0], (nn.Linear, nn.Conv2d, nn.Identity))
            ]
        named = dict(self.module.named_modules())
        module = named.get(self.where.replace("_orig_mod.", "").removeprefix("module."), named.get(self.where))
        calls = [call for call in self.calls if call[0] is module and call[1] == "input"]
        if not self.where or module is None or not calls:
            what = (
                f"has no module '{self.where}'"
                if module is None or not self.where
                else f"runs no '{self.where}' on features"
            )
            raise BadInput(f"model '{self.name}' {what}; {NAME_IT}.")
        self.reader = (module, "input")
        return calls[-1:]

    def _is_linear(self, features: Tensor, logits: Tensor) -> bool:
        """Whether some weights (K, d) of the network make its output of these features, up to a constant per image."""
        for module in self.module.modules():
            weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
            if not isinstance(weight, Tensor) or weight.ndim < 2:
                continue
            if weight.flatten(1).shape == (logits.shape[1], features.shape[1]):
                weight, bias = (
                    weight.detach().float().flatten(1),
                    bias.detach().float() if isinstance(bias, Tensor) else None,
                )
                if _same(linear(features, weight, bias), logits, self._tolerance(logits)):
                    self.head = weight, bias
                    return True
        return False

    def _is_cmf(self, features: Tensor, logits: Tensor) -> bool:
        """Whether a class-mean head of the network makes its output of these features, up to a temperature."""
        for module in self.module.modules():
            weight = getattr(module, "weight", None)
            centre = next(
                (t for name in ("mu", "centre") if isinstance(t := getattr(module, name, None), Tensor)), None
            )
            if centre is None or not isinstance(weight, Tensor) or weight.shape != (logits.shape[1], features.shape[1]):
                continue
            for normalisation, transform in NORMALISATIONS.items():
                cosines = normalize(transform(features) - centre.float(), dim=1) @ weight.float().T
                scale = (cosines * logits).sum() / cosines.square().sum()
                if scale > 0 and _same(scale * cosines, logits, self._tolerance(logits)):
                    self.head, self.cmf = (weight.detach().float(), None), (centre.detach().float(), normalisation)
                    return True
        return False

    def _tolerance(self, logits: Tensor) -> float:
        low = self.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled(torch.device(self.device).type)
        return 0.05 if low else 2e-3

    def _steady(self, images: Tensor) -> None:
        """Note where the model answers the same images differently."""
        (first, logits), (again, _), (alone, _) = self.look(images), self.look(images), self.look(images[:2])
        scale = np.abs(first).max()
        if np.abs(again - first).max() > 1e-3 * scale:
            self.notes.append(
                f"{self.name} answers the same images differently in eval mode, as with a dropout that is always on."
            )
        elif np.abs(alone - first[:2]).max() > 0.05 * scale:
            self.notes.append(
                f"{self.name} answers an image differently next to others of its batch, like a batch norm without "
                "running statistics."
            )
        self.outputs = logits.shape[1]


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, out of torch.compile, DataParallel and their like."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while hasattr(module, "_orig_mod") or isinstance(module, wrappers):
        module = module.module if isinstance(module, wrappers) else module._orig_mod
    return module


def _flat(x: Any) -> Tensor | None:
    """Features (N, d) of what a module was given or gave: maps are averaged, of tokens the first is taken."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or not 2 <= x.ndim <= 4:
        return None
    x = x.detach().float()
    return x.clone() if x.ndim == 2 else x[:, 0].clone() if x.ndim == 3 else x.mean((2, 3))


def _logits(output: Any, n: int) -> Tensor | None:
    """The tensor (N, K) of a model's output, or of what holds it."""
    if hasattr(output, "logits"):
        output = output.logits
    if isinstance(output, dict):
        output = output.get("logits", list(output.values()))
    parts = output if isinstance(output, (tuple, list)) else [output]
    fits = (
        x for x in parts if isinstance(x, Tensor) and x.ndim >= 2 and len(x) == n and x[0].numel() == x.shape[1] > 1
    )
    return next(fits, None)


def _same(made: Tensor, output: Tensor, tolerance: float) -> bool:
    """Whether logits are an output, up to a constant per image; an output may also be their softmax."""
    known = output.isfinite()
    if bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones_like(output[:, 0]), atol=1e-3):
        known, output = output > 1e-6, output.clamp_min(1e-30).log()
    elif not known.all():
        return False
    best = output.argmax(1, keepdim=True)
    made, output = made - made.gather(1, best), output - output.gather(1, best)
    return bool((made - output)[known].abs().max() <= tolerance * made.abs().max())


@dataclass(frozen=True)
class Pass:
    """What one pass over the images gave: arrays by model, labels by part, and what the report says of the data."""

    arrays: dict[str, Arrays]
    labels: dict[str, Tensor]
    names: list[str]
    seen: dict[str, dict]  # per part: images per class, two means that tell images apart, and a hash per image
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
                for name, net in nets.items():
                    if name not in found:
                        found[name] = Foreign(name, net, features.get(name), images)
                        known(found[name].outputs)
                    for what, value in zip(("features", "logits"), found[name].look(images)):
                        kept.setdefault((name, part, what), []).append(value)
    arrays = {
        name: net
        if isinstance(net, Arrays)
        else found[name].arrays(
            kept.pop((name, "train", "features")), kept.pop((name, "test", "features")), kept[name, "test", "logits"]
        )
        for name, net in given.items()
    }
    classes = _classes(arrays)
    labels, notes = data_forms.labels_of(read, classes)
    _check_lengths(arrays, labels)
    names, more = data_forms.class_names(parts, classes)
    notes += [note for net in found.values() for note in net.notes] + more
    device = next((net.device for net in found.values() if net.device.startswith("cuda")), "cpu")
    seen = {part: reading.seen(labels[part]) for part, reading in read.items()}
    return Pass(arrays, labels, names, seen, _shared(read, next(iter(arrays.values()))), notes, device)


def _classes(arrays: dict[str, Arrays]) -> int:
    """The number of outputs. Raises BadInput where models have different ones."""
    outputs = {name: array.test_logits.shape[1] for name, array in arrays.items()}
    if len(set(outputs.values())) > 1:
        told = ", ".join(f"'{name}' {number}" for name, number in outputs.items())
        raise BadInput(f"the models have different numbers of outputs ({told}); all must have one for each class.")
    return next(iter(outputs.values()))


def _check_lengths(arrays: dict[str, Arrays], labels: dict[str, Tensor]) -> None:
    """Raises BadInput where arrays are not of as many images as there are labels."""
    for name, array in arrays.items():
        for part, value in (("train", array.train_features), ("test", array.test_features)):
            if len(value) != len(labels[part]):
                raise BadInput(
                    f"model '{name}' has {len(value)} {part} features, but {part} has {len(labels[part])} labels."
                )


def _shared(read: dict[str, data_forms.Reading], arrays: Arrays) -> int:
    """How many test images are training images; of labels alone, how many test features are training features."""
    train, test = read["train"].hashes, read["test"].hashes
    if not train or not test:
        train, test = ([line.tobytes() for line in part] for part in (arrays.train_features, arrays.test_features))
    known = set(train)
    return sum(image in known for image in test)
