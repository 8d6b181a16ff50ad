"""Files that ``evaluate`` reads from a shell: weights, what builds the network, a folder of images."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from . import models
from .settings import BadInput, Network
from .sources import CONSTANTS

CIFAR_RESNETS = {"cifar_resnet18": ("resnet", [2, 2, 2, 2]), "cifar_resnet34": ("resnet", [3, 4, 6, 3]),
                 "cifar_resnet50": ("bottleneck_resnet", [3, 4, 6, 3])}


def built(architecture: str, file: Path, classes: int) -> nn.Module:
    """The network of that name with the weights of the file. Raises BadInput where they do not belong together.

    ``timm/<name>``, ``torchvision/<name>``, ``cifar_resnet18`` (34, 50); ``resnet18`` alone is the latter where the
    file's first convolution is 3x3, else torchvision's; ``file.py:function`` is called without arguments.
    """
    weights = weights_of(file)
    plain = _unwrapped(weights)
    stem = next((plain[key] for key in ("conv1.weight", "encoder.stem.0.weight") if key in plain), torch.empty(64, 3, 3, 3))
    if f"cifar_{architecture}" in CIFAR_RESNETS:
        architecture = f"cifar_{architecture}" if stem.shape[-1] == 3 else f"torchvision/{architecture}"
    try:
        if architecture in CIFAR_RESNETS:
            kind, blocks = CIFAR_RESNETS[architecture]
            model = models.build(Network(architecture=kind, width=len(stem), blocks=blocks), stem.shape[1], classes, seed=0)
            plain = {_renamed(key, blocks): value for key, value in plain.items()}
        else:
            model = _network(architecture, classes)
        model.load_state_dict(weights if weights.keys() & model.state_dict().keys() else plain)
    except BadInput:
        raise
    except Exception as reason:
        raise BadInput(f"{file} does not hold the weights of {architecture} with {classes} classes "
                       f"({models.in_short(reason)}).") from None
    return model


def weights_of(file: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or PyTorch file, by name; no code in it is executed. Raises BadInput."""
    from safetensors.torch import load_file

    try:
        found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        for wrapper in ("state_dict", "model_state_dict", "model", "net"):
            found = found[wrapper] if isinstance(found[wrapper] if wrapper in found else None, dict) else found
        found = {key: value for key, value in found.items() if isinstance(value, Tensor)}
        if not found:
            raise ValueError("it holds no tensors by name")
    except Exception as reason:  # what files that hold something else lead to has no base class
        if isinstance(reason, UnpicklingError) and "GLOBAL" in str(reason).upper():  # a class, by its name
            raise BadInput(f"{file} cannot be read as weights, as it holds more than tensors, like a whole pickled model, "
                           "whose code is not executed here; save model.state_dict().") from None
        raise BadInput(f"{file} cannot be read as weights ({models.in_short(reason)}); save model.state_dict().") from None
    return found


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("module.", "_orig_mod.", "model.", "net."):
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _renamed(key: str, blocks: list[int]) -> str:
    """The name that a tensor of the usual CIFAR ResNet has in ours."""
    for pattern, ours in {r"^(linear|fc)\.": "head.", r"^conv1\.": "encoder.stem.0.", r"^bn1\.": "encoder.stem.1.",
                          r"\.downsample\.": ".shortcut."}.items():
        key = re.sub(pattern, ours, key)
    return re.sub(r"^layer(\d+)\.(\d+)\.", lambda m: f"encoder.stages.{sum(blocks[:int(m[1]) - 1]) + int(m[2])}.", key)


def _network(architecture: str, classes: int) -> nn.Module:
    import timm
    import torchvision.models as of_torchvision

    source, _, name = architecture.partition("/")
    if source == "timm" and timm.is_model(name):
        return timm.create_model(name, num_classes=classes)
    if source == "torchvision" and name in of_torchvision.list_models(of_torchvision):
        return of_torchvision.get_model(name, weights=None, num_classes=classes)
    if ".py:" in architecture:
        file, _, function = architecture.rpartition(":")
        return _called(Path(file), function)
    raise BadInput(f"there is no architecture '{architecture}'; take timm/<name>, torchvision/<name>, "
                   f"{', '.join(CIFAR_RESNETS)}, or --model file.py:function.")


def _called(file: Path, function: str) -> nn.Module:
    """What a function of somebody's file returns. Raises BadInput where it is not there, fails or returns no module."""
    if not file.is_file():
        raise BadInput(f"there is no file {file}; --model needs one that is there, as file.py:function.")
    try:
        spec = importlib.util.spec_from_file_location("given", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(found := getattr(module, function, None)):
            raise BadInput(f"{file} defines no function '{function}'; --model needs one that returns the network.")
        model = found()
    except BadInput:
        raise
    except Exception as reason:  # of somebody else's code
        raise BadInput(f"{file}:{function} fails ({type(reason).__name__}: {reason}); mend it.") from None
    if not isinstance(model, nn.Module):
        raise BadInput(f"{file}:{function} returns a {type(model).__name__}, but it must return a torch.nn.Module.")
    return model


def _image(path: str) -> Any:
    """In RGB. Raises BadInput, which names the file, for one that cannot be read."""
    from torchvision.datasets.folder import default_loader

    try:
        return default_loader(path)
    except Exception as reason:  # what PIL raises has no base class
        raise BadInput(f"{path} cannot be read as an image ({models.in_short(reason)}); mend it or take it "
                       "away.") from None


def image_folder(root: Path, size: int, normalise: str | None) -> tuple[dict[str, DataLoader], str]:
    """Batches of train/<class>/ and test/<class>/ (or val/<class>/), and a sentence on how the images are seen."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    try:
        second = "test" if (root / "test").is_dir() else "val"
        names = {"train": "train", "test": second}
        parts = {part: ImageFolder(str(root / name), loader=_image) for part, name in names.items()}
        size = size or min(224, *parts["train"][0][0].size)
    except (OSError, RuntimeError) as reason:
        reason = models.in_short(reason)
        raise BadInput(f"{root} must hold images in train/<class>/ and test/<class>/ ({reason}).") from None
    normalise = normalise or ("cifar10" if size <= 64 else "imagenet")
    mean, std = CONSTANTS.get(normalise, ((0.0,) * 3, (1.0,) * 3))
    for data in parts.values():
        data.transform = Compose([Resize(size), CenterCrop(size), ToTensor(), Normalize(mean, std)])
    batches = {part: DataLoader(data, 256, num_workers=min(4, os.cpu_count() or 1)) for part, data in parts.items()}
    return batches, (f"Images: {size} pixels, normalised as '{normalise}'; --size and --normalise say otherwise where the "
                     "models were trained otherwise.")
