"""Checkpoints that ``evaluate`` reads from a shell: the weights in a file, and the network that they fit."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import models
from .heads import ClassMeanHead
from .settings import BadInput, Network

CIFAR_RESNETS = {
    "cifar_resnet18": ("resnet", [2, 2, 2, 2]),
    "cifar_resnet34": ("resnet", [3, 4, 6, 3]),
    "cifar_resnet50": ("bottleneck_resnet", [3, 4, 6, 3]),
}
CMF = {  # of the official code, and ours
    "CMFweights.weight": "weight", "CMFweights.mu": "centre", "head.weight": "weight", "head.centre": "centre",
}  # fmt: skip
CONSTANTS = (("mean", "std"), ("mu", "sigma"))  # of a normalisation inside a network
SECOND = re.compile(r"ema|swa|averag|teacher|init|model_t\b", re.IGNORECASE)  # of two that fit, taken if alone
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
WRAPPERS = re.compile(r"\b(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PLAIN = {  # all that a pickle may call: what makes containers of data, NumPy's arrays and scalars, and tensors
    "builtins": "set frozenset list dict tuple bytearray complex int float bool str",
    "collections": "OrderedDict",
    "_codecs": "encode",
    "numpy": "ndarray dtype",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "torch": "Tensor Size",
    "torch._utils": "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter _rebuild_parameter_with_state",
    "torch._tensor": "_rebuild_from_type_v2",
    "torch.storage": "UntypedStorage TypedStorage",
}


class Inert(dict):
    """Stands for whatever else a pickle names: keeps what it is given, and none of its code runs."""

    dump_patches = False  # which torch asks of a module in a file of its old format
    __hash__ = object.__hash__

    def __init__(self, *_, **__):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {"state": state})

    def __call__(self, *_, **__) -> Inert:
        return Inert()

    def append(self, *_) -> None:
        pass

    extend = add = append


class Unpickler(pickle.Unpickler):
    """Finds nothing but ``PLAIN`` data."""

    def find_class(self, module: str, name: str) -> Any:
        return super().find_class(module, name) if name in PLAIN.get(module, "").split() else Inert


def weights_of(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or PyTorch file by their place in it; no code of it runs. Raises BadInput."""
    from safetensors.torch import load_file

    load = lambda f, **options: Unpickler(f, **options).load()  # noqa: E731
    plain, tensors, why = SimpleNamespace(__name__="plain", Unpickler=Unpickler, load=load), {}, "it holds no tensors"
    try:
        with open(file, "rb") as opened:
            is_safe = opened.read(9)[8:] == b"{"
        with warnings.catch_warnings(action="ignore"):  # torch compares the code of classes, which are not loaded
            found = load_file(file) if is_safe else torch.load(file, "cpu", weights_only=False, pickle_module=plain)
        tensors = dict(_tensors(found, "", set()))
        why = "it is TorchScript" if isinstance(found, torch.jit.ScriptModule) else why
    except Exception as reason:  # what files that hold something else lead to has no base class
        why = models.in_short(reason)
    if not tensors:
        raise BadInput(f"{file} cannot be read as weights ({why}); save model.state_dict().")
    return tensors


def _tensors(thing: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested containers and objects, with its place; of a pickled module as in its state_dict."""
    if isinstance(thing, Tensor):
        yield place, thing.detach()
    elif isinstance(thing, np.ndarray) and thing.dtype.kind in "fiu":
        yield place, torch.from_numpy(thing)
    elif isinstance(thing, (dict, list, tuple)) and id(thing) not in seen:
        seen.add(id(thing))
        for key, value in thing.items() if isinstance(thing, dict) else enumerate(thing):
            parts = [place, "" if key in ("_parameters", "_buffers", "_modules") else str(key)]
            yield from _tensors(value, ".".join(filter(None, parts)), seen)


def built(architecture: str, file: Path, classes: int) -> tuple[nn.Module, list[str]]:
    """The network of that name with the weights of the file, and notes on what was taken. Raises BadInput.

    ``timm/<name>``, ``torchvision/<name>``, ``cifar_resnet18`` (34, 50); ``resnet18`` alone is the latter where the
    file's first convolution is 3x3, else torchvision's; ``file.py:function`` is called with the number of classes where
    it takes one. A CMF head (``CMFweights.weight`` and ``.mu``, or ours) is recognised by its names. Mean and standard
    deviation that the file holds for its own normalisation are used.
    """
    held = weights_of(file)
    stem = first_convolution(held.values())
    if f"cifar_{architecture}" in CIFAR_RESNETS:
        architecture = f"cifar_{architecture}" if stem.shape[-1] == 3 else f"torchvision/{architecture}"
    cmf = {ours: t for key, t in held.items() for theirs, ours in CMF.items() if key.endswith(theirs)}
    try:
        network = _network(architecture, classes, stem, 0 if "centre" in cmf else classes)
        weights, notes = _fitting(network, held, f"{architecture} with {classes} classes", file)
        network.load_state_dict(weights)
        if "centre" in cmf:
            normalisation = _normalisation(held, cmf["centre"], architecture)
            head = ClassMeanHead(cmf["weight"].shape[1], classes, normalisation)
            head.load_state_dict(cmf)
            network = nn.Sequential(OrderedDict(encoder=network, head=head))
            notes.append(f"{file}: CMF head, with the feature normalisation '{normalisation}'.")
    except BadInput:
        raise
    except Exception as reason:
        raise BadInput(f"{file} does not fit {architecture}: {models.in_short(reason)}; {_keys(held)}.") from None
    ends = [(key, key.removesuffix(mean) + std) for mean, std in CONSTANTS for key in held if key.endswith(mean)]
    for mean, std in ends:
        if std in held and held[mean].numel() == held[std].numel() == stem.shape[1] and not _normalises(network):
            notes.append(f"{file}: images are normalised by its own {mean} and {std}.")
            network = with_normalisation(network, held[mean].flatten().tolist(), held[std].flatten().tolist())
    return network, notes


def _normalisation(held: dict[str, Tensor], centre: Tensor, architecture: str) -> str:
    """The feature normalisation of a CMF head: the official code's, or what its centre, a mean of features, shows."""
    if any("CMFweights" in key for key in held):
        return "log_softmax" if architecture in CIFAR_RESNETS else "unit_length"
    return "log_softmax" if centre.max() < 0 else "unit_length" if centre.norm() <= 1 else "none"


def first_convolution(tensors: Iterable[Tensor]) -> Tensor:
    """The weight that reads the image: that of three channels or, where there is none, of the fewest."""
    kernels = [t for t in tensors if t.ndim == 4] or [torch.empty(64, 3, 3, 3)]
    return min(kernels, key=lambda t: (t.shape[1] != 3, t.shape[1]))


def with_normalisation(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """The network, given pixels from 0 to 1; one that normalises inside is left as it is."""
    from torchvision.transforms import Normalize

    parts = OrderedDict(normalise=Normalize(mean, std), network=network)
    return network if _normalises(network) else nn.Sequential(parts)


def _normalises(network: nn.Module) -> bool:
    return any(hasattr(part, mean) and hasattr(part, std) for part in network.modules() for mean, std in CONSTANTS)


def _keys(held: dict[str, Tensor]) -> str:
    return f"the file has {_first(f'{key} {tuple(t.shape)}' for key, t in held.items())}"


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join([*names[:4], *["..."] * (len(names) > 4)])


def _fitting(
    network: nn.Module, held: dict[str, Tensor], architecture: str, file: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Of all groups of tensors, under any prefix and of any usual naming, that which fits most of the network."""
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    blocks = next((blocks for name, (_, blocks) in CIFAR_RESNETS.items() if architecture.startswith(name)), None)
    groups = {}
    for prefix in dict.fromkeys(["", *(key[: dot.end()] for key in held for dot in re.finditer(r"\.", key))]):
        under = {key.removeprefix(prefix): key for key in held if key.startswith(prefix)}
        renamed = {_renamed(key, blocks): place for key, place in under.items()}
        fits = {key: place for key, place in {**renamed, **under}.items() if held[place].shape == wanted.get(key)}
        groups[prefix] = fits
    best = max(groups, key=lambda prefix: (len(groups[prefix]), not SECOND.search(prefix)))
    taken = groups[best]
    unused = {key: t for key, t in held.items() if key not in taken.values()}
    for key in wanted.keys() - taken.keys():  # a head beside the encoder
        places = [k for k, t in unused.items() if t.shape == wanted[key] and k.split(".")[-1] == key.split(".")[-1]]
        if len(places) == 1 and not key.endswith("running_mean"):
            taken[key] = places[0]
            del unused[places[0]]
    free = "num_batches_tracked", "mean", "std"
    if lacking := [k for k in wanted if k not in taken and (not k.endswith(free) or "running" in k)]:
        raise BadInput(
            f"{file} does not fit {architecture}: {len(taken)} of {len(wanted)} tensors have their place and shape, "
            f"{lacking[0]} {tuple(wanted[lacking[0]])} is not among them; {_keys(unused or held)}."
        )
    others = [key for key in unused if "CMFweights" not in key]
    also = [f"'{name}'" for name, g in groups.items() if len(g) >= len(taken) and not {*g.values()} & {*taken.values()}]
    more = f"; {' and '.join(also)} would fit as well" if also else ""
    told = f"{file}: weights are those of '{best}', {len(others)} other tensors are left out ({_first(others)}){more}."
    places = {key: held[place] for key, place in taken.items()}
    return network.state_dict() | places, [told] if also or others else []


def _renamed(key: str, blocks: list[int] | None) -> str:
    """A tensor's name without wrappers; of the usual CIFAR ResNets the name that it has in ours."""
    key = WRAPPERS.sub("", key)
    inner = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
    for pattern, ours in {
        r"^conv1\.([01])\.": r"encoder.stem.\1.",
        r"^conv(\d)_x\.": lambda m: f"layer{int(m[1]) - 1}.",
        r"\.residual_function\.(\d)\.": lambda m: f".{inner.get(m[1], m[1])}.",
        r"^(linear|fc|classifier)\.": "head.",
        r"^conv1\.": "encoder.stem.0.",
        r"^bn1\.": "encoder.stem.1.",
        r"\.downsample\.": ".shortcut.",
        r"^layer(\d+)\.(\d+)\.": lambda m: f"encoder.stages.{sum(blocks[: int(m[1]) - 1]) + int(m[2])}.",
    }.items():
        key = re.sub(pattern, ours, key) if blocks else key
    return key


def _network(architecture: str, classes: int, stem: Tensor, outputs: int) -> nn.Module:
    """A network by name; with 0 outputs it ends in its features."""
    import timm
    import torchvision.models as of_torchvision

    channels = stem.shape[1]
    source, _, name = architecture.rpartition("/")
    if architecture in CIFAR_RESNETS:
        kind, blocks = CIFAR_RESNETS[architecture]
        model = models.build(Network(architecture=kind, width=len(stem), blocks=blocks), channels, classes, seed=0)
        model.head = model.head if outputs else nn.Identity()
        return model
    if source in ("timm", "") and timm.is_model(name):
        return timm.create_model(name, num_classes=outputs, in_chans=channels)
    if source == "torchvision" and name in of_torchvision.list_models(of_torchvision):
        return of_torchvision.get_model(name, weights=None, num_classes=classes)
    if ".py:" in architecture:
        return _called(*architecture.rsplit(":", 1), classes, channels)
    known = f"timm/<name>, torchvision/<name>, {', '.join(CIFAR_RESNETS)}, or file.py:function"
    raise BadInput(f"there is no architecture '{architecture}'; take {known}.")


def _called(place: str, function: str, classes: int, channels: int) -> nn.Module:
    """What a function of somebody's file returns. Raises BadInput where it is not there, fails or returns no module."""
    file = Path(place)
    name = file.stem if file.stem not in sys.modules else f"{file.stem}_of_{abs(hash(file.resolve()))}"
    sys.path.insert(0, str(file.resolve().parent))  # its siblings are imported from there
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = getattr(module, function)
        if not isinstance(model, nn.Module):
            model = model(**_arguments(model, classes, channels))
        if not isinstance(model, nn.Module):
            raise TypeError(f"it returns a {type(model).__name__} and no torch.nn.Module")
        return model
    except (Exception, SystemExit) as reason:  # of somebody else's code
        raise BadInput(f"{file}:{function} gives no network ({type(reason).__name__}: {reason}); mend it.") from None


def _arguments(function: Any, classes: int, channels: int) -> dict[str, int]:
    """The numbers of classes and channels for parameters that are called so; else that of classes for the first."""
    named = [p for p in inspect.signature(function).parameters.values() if p.kind in NAMED]
    named = [p for p in named if p.default is p.empty or type(p.default) is int]
    found = {p.name: classes for p in named if re.search(r"class|label|^n?_?out", p.name)}
    found |= {p.name: channels for p in named if re.search(r"chan|^in_", p.name)}
    needed = [p.name for p in named if p.default is p.empty and p.name not in found]
    return found | dict.fromkeys(needed[:1], classes)
