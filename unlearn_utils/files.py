"""Checkpoints that ``evaluate`` reads from a shell: the weights in a file, and the network that they fit."""

from __future__ import annotations

import codecs
import importlib.util
import inspect
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
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
_MULTIARRAY = [f"numpy.{core}.multiarray." for core in ("core", "_core")]
PLAIN = [  # what makes NumPy's scalars and arrays, which are data, by the names that versions give it
    *(
        (getattr(np._core.multiarray, name), place + name)
        for place in _MULTIARRAY
        for name in ("scalar", "_reconstruct")
    ),
    (codecs.encode, "_codecs.encode"),
    np.dtype,
    np.ndarray,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    (lambda *parts: "/".join(map(str, parts)), "pathlib.PosixPath"),
    (lambda *parts: "/".join(map(str, parts)), "pathlib.WindowsPath"),
]
CLASSES, CHANNELS = (
    ("num_classes", "n_classes", "classes", "num_class"),
    ("in_channels", "in_chans", "channels", "num_channels"),
)

CMF_NAMES = {  # of the official code, and ours
    "CMFweights.weight": "weight", "CMFweights.mu": "centre", "head.weight": "weight", "head.centre": "centre",
}  # fmt: skip


class Inert:
    """Stands for a class that is not loaded: its objects become dictionaries, none of its code runs."""

    def __new__(cls, *_, **__):
        return OrderedDict()


class Normalised(nn.Module):
    """A network that is given pixels from 0 to 1, and what it was trained to be given of them."""

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean.reshape(-1, 1, 1))
        self.register_buffer("std", std.reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Any:
        return self.network((x - self.mean) / self.std)


def weights_of(file: Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors or PyTorch file by their place in it; no code of it runs. Raises BadInput."""
    from safetensors.torch import load_file

    try:
        found = load_file(file) if Path(file).suffix == ".safetensors" else _unpickled(file)
        tensors = dict(_tensors(found))
    except Exception as reason:  # what files that hold something else lead to has no base class
        raise BadInput(
            f"{file} cannot be read as weights ({models.in_short(reason)}); save model.state_dict()."
        ) from None
    if not tensors:
        raise BadInput(f"{file} cannot be read as weights, as it holds no tensors; save model.state_dict().")
    return tensors


def _unpickled(file: Path) -> Any:
    """What a file of torch.save holds, with dictionaries for objects of classes that are not plain data."""
    stubs: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([*PLAIN, *((stub, name) for name, stub in stubs.items())]):
                return torch.load(file, "cpu", weights_only=True)
        except Exception as reason:
            unknown = re.search(r"Unsupported global: GLOBAL (\S+)", str(reason))
            name = unknown and (unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}")
            if not name or name in stubs:
                raise ValueError(str(reason).rpartition("WeightsUnpickler error: ")[2]) from None
            stubs[name] = type("Inert", (Inert,), {})


def _tensors(thing: Any, place: str = ""):
    """Every tensor in nested dictionaries and objects, with its place; of a pickled module as in its state_dict."""
    if isinstance(thing, Tensor):
        yield place, thing
    elif isinstance(thing, np.ndarray) and thing.dtype.kind in "fiu":
        yield place, torch.from_numpy(thing)
    elif isinstance(thing, dict):
        own = getattr(thing, "__dict__", {})
        parts = [part for name in ("_parameters", "_buffers", "_modules") if isinstance(part := own.get(name), dict)]
        held = {key: value for part in parts or [own] for key, value in part.items()} | dict(thing)
        for key, value in held.items():
            yield from _tensors(value, f"{place}.{key}" if place else str(key))


def built(architecture: str, file: Path, classes: int, normalisation: str = "") -> tuple[nn.Module, list[str]]:
    """The network of that name with the weights of the file, and notes on what was taken. Raises BadInput.

    ``timm/<name>``, ``torchvision/<name>``, ``cifar_resnet18`` (34, 50); ``resnet18`` alone is the latter where the
    file's first convolution is 3x3, else torchvision's; ``file.py:function`` is called with the number of classes where
    it takes one. A CMF head (``CMFweights.weight`` and ``.mu``, or ours) is recognised by its names; its features are
    transformed as in the official code unless ``normalisation`` says how. Mean and standard deviation that the file
    holds for its own normalisation are used.
    """
    held = weights_of(file)
    stem = first_convolution(held.values())
    if f"cifar_{architecture}" in CIFAR_RESNETS:
        architecture = f"cifar_{architecture}" if stem.shape[-1] == 3 else f"torchvision/{architecture}"
    cmf = {ours: t for key, t in held.items() for theirs, ours in CMF_NAMES.items() if key.endswith(theirs)}
    is_cmf = "centre" in cmf
    try:
        network = _network(architecture, classes, stem, 0 if is_cmf else classes)
        weights, notes = _fitting(network, held, architecture, file)
        network.load_state_dict(weights)
        if is_cmf:
            normalisation = normalisation or ("log_softmax" if architecture in CIFAR_RESNETS else "unit_length")
            head = ClassMeanHead(cmf["weight"].shape[1], classes, normalisation)
            head.load_state_dict(cmf)
            network = nn.Sequential(OrderedDict(encoder=network, head=head))
            notes.append(f"{file}: CMF head, with the feature normalisation '{normalisation}'.")
    except BadInput:
        raise
    except Exception as reason:
        raise BadInput(
            f"{file} does not hold the weights of {architecture} with {classes} classes ({models.in_short(reason)}); "
            f"{_keys(held)}."
        ) from None
    inside = [
        next((t for key, t in held.items() if re.search(rf"normali[sz]e\w*\.{name}$", key)), None)
        for name in ("mean", "std")
    ]
    if all(t is not None for t in inside) and not _normalises(network):
        return Normalised(network, *inside), [*notes, f"{file}: images are normalised as the file says."]
    return network, notes


def first_convolution(tensors: Iterable[Tensor]) -> Tensor:
    """The weight that reads the image: that of three channels or, where there is none, of the fewest."""
    kernels = [t for t in tensors if t.ndim == 4] or [torch.empty(64, 3, 3, 3)]
    return min(kernels, key=lambda t: (t.shape[1] != 3, t.shape[1]))


def with_normalisation(network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> nn.Module:
    """The network, given pixels from 0 to 1; one that normalises inside is left as it is."""
    return network if _normalises(network) else Normalised(network, torch.tensor(mean), torch.tensor(std))


def _normalises(network: nn.Module) -> bool:
    return any(hasattr(module, "mean") and hasattr(module, "std") for module in network.modules())


def _keys(held: dict[str, Tensor]) -> str:
    return f"the file holds {', '.join(list(held)[:4])}{', ...' if len(held) > 4 else ''} ({len(held)} tensors)"


def _fitting(
    network: nn.Module, held: dict[str, Tensor], architecture: str, file: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Of all groups of tensors, under any prefix and of any usual naming, that which fits most of the network."""
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    blocks = CIFAR_RESNETS[architecture][1] if architecture in CIFAR_RESNETS else None
    groups: dict[str, dict[str, Tensor]] = {}
    for prefix in dict.fromkeys(["", *(key[: m.end()] for key in held for m in re.finditer(r"\.", key))]):
        under = {key.removeprefix(prefix): value for key, value in held.items() if key.startswith(prefix)}
        renamed = {_renamed(key, blocks): value for key, value in under.items()} if blocks else {}
        groups[prefix] = {
            key: t for names in (renamed, under) for key, t in names.items() if t.shape == wanted.get(key)
        }
    best = max(groups, key=lambda prefix: len(groups[prefix]))
    taken = groups[best]
    lacking = [key for key in wanted if key not in taken and not key.endswith(("num_batches_tracked", "mean", "std"))]
    if lacking:
        raise BadInput(
            f"{file} does not hold the weights of {architecture}: of {len(wanted)} tensors {len(taken)} are there with "
            f"their shape, and {lacking[0]} is not; {_keys(held)}."
        )
    used = {id(t) for t in taken.values()}
    others = [key for key, t in held.items() if id(t) not in used and "CMFweights" not in key and "normali" not in key]
    fit = [
        f"'{prefix}'"
        for prefix, group in groups.items()
        if len(group) == len(taken) and not used & {id(t) for t in group.values()}
    ]
    notes = []
    if fit or best and others:
        more = f"; {' and '.join(fit)} would fit as well" if fit else ""
        notes.append(f"{file}: weights are those of '{best}', {len(others)} other tensors are left out{more}.")
    elif others:
        notes.append(f"{file}: left out are {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}.")
    return network.state_dict() | taken, notes


def _renamed(key: str, blocks: list[int]) -> str:
    """The name that a tensor of the usual CIFAR ResNets has in ours."""
    weiaicunzai = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
    key = re.sub(r"^conv1\.([01])\.", r"encoder.stem.\1.", key)
    key = re.sub(r"^conv(\d)_x\.", lambda m: f"layer{int(m[1]) - 1}.", key)
    key = re.sub(r"\.residual_function\.(\d)\.", lambda m: f".{weiaicunzai.get(m[1], m[1])}.", key)
    for pattern, ours in {
        r"^(linear|fc|classifier)\.": "head.",
        r"^conv1\.": "encoder.stem.0.",
        r"^bn1\.": "encoder.stem.1.",
        r"\.downsample\.": ".shortcut.",
    }.items():
        key = re.sub(pattern, ours, key)
    return re.sub(r"^layer(\d+)\.(\d+)\.", lambda m: f"encoder.stages.{sum(blocks[: int(m[1]) - 1]) + int(m[2])}.", key)


def _network(architecture: str, classes: int, stem: Tensor, outputs: int) -> nn.Module:
    """A network by name; with 0 outputs it ends in its features."""
    import timm
    import torchvision.models as of_torchvision

    if architecture in CIFAR_RESNETS:
        kind, blocks = CIFAR_RESNETS[architecture]
        model = models.build(Network(architecture=kind, width=len(stem), blocks=blocks), stem.shape[1], classes, seed=0)
        if not outputs:
            model.head = nn.Identity()
        return model
    source, _, name = architecture.rpartition("/")
    if source in ("timm", "") and timm.is_model(name):
        return timm.create_model(name, num_classes=outputs, in_chans=stem.shape[1])
    if source == "torchvision" and name in of_torchvision.list_models(of_torchvision):
        return of_torchvision.get_model(name, weights=None, num_classes=classes)
    if ".py:" in architecture:
        file, _, function = architecture.rpartition(":")
        return _called(Path(file), function, classes, stem.shape[1])
    raise BadInput(
        f"there is no architecture '{architecture}'; take timm/<name>, torchvision/<name>, "
        f"{', '.join(CIFAR_RESNETS)}, or file.py:function."
    )


def _called(file: Path, function: str, classes: int, channels: int) -> nn.Module:
    """What a function of somebody's file returns. Raises BadInput where it is not there, fails or returns no module."""
    if not file.is_file():
        raise BadInput(f"there is no file {file}; name one that is there, as file.py:function.")
    name = file.stem if file.stem not in sys.modules else f"{file.stem}_of_{abs(hash(file.resolve()))}"
    sys.path.insert(0, str(file.resolve().parent))  # its siblings are imported from there
    try:
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(found := getattr(module, function, None)):
            raise BadInput(f"{file} defines no function '{function}'; name one that returns the network.")
        known = dict.fromkeys(CLASSES, classes) | dict.fromkeys(CHANNELS, channels)
        model = found(**{key: known[key] for key in inspect.signature(found).parameters if key in known})
    except BadInput:
        raise
    except (Exception, SystemExit) as reason:  # of somebody else's code
        raise BadInput(f"{file}:{function} fails ({type(reason).__name__}: {reason}); mend it.") from None
    if not isinstance(model, nn.Module):
        raise BadInput(f"{file}:{function} returns a {type(model).__name__}, but it must return a torch.nn.Module.")
    return model
