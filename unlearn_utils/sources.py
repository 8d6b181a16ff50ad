"""Where images come from: bundled, downloaded by torchvision, or any folder of class folders.

What is loaded counts by the fingerprint of its pixels and labels, wherever it came from.
"""

from __future__ import annotations

import hashlib
import pickle
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from . import settings
from .data import Dataset, Images
from .image_files import class_folders, decoded, state
from .paths import ROOT, expanded
from .settings import BadInput

TORCHVISION = {"fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
CONSTANTS = {  # mean and standard deviation per channel; the official code takes CIFAR-10's for CIFAR-100 too
    "cifar10": ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

Groups = dict[str, tuple[int, ...]]  # coarse classes
Classes = tuple[str, ...]


@lru_cache(maxsize=4)
def load(data: settings.Data, cache: Path) -> Dataset:
    """Load the data set of a profile; decoded image files are kept in the folder ``cache``.

    Raises BadInput when the data cannot be downloaded, read or kept.
    """
    root, groups = folder_of(data), {}
    if data.source == "digits":
        train, test, classes = _digits()
    elif data.source in TORCHVISION and not (data.folder and (root / "test").is_dir()):
        train, test, classes, groups = _torchvision(data)
    elif not data.folder:
        raise BadInput("this profile has no images of its own: name your folder with --data-dir.")
    else:
        files, classes = class_folders(root)
        train, test = decoded(root, files, data, cache)
    if data.evaluate_on == "validation":
        train, test = _hold_out(train)
    if data.train_per_class:
        train = train.first_per_class(data.train_per_class)
    if data.test_per_class:
        test = test.first_per_class(data.test_per_class)
    digest = hashlib.sha256()
    for part in (train.pixels, train.labels, test.pixels, test.labels):
        digest.update(str(tuple(part.shape)).encode())
        digest.update(part.contiguous().numpy().tobytes())
    mean, std = _normalisation(train.pixels, data.views.normalisation)
    return Dataset(train, test, classes, mean, std, data.views, digest.hexdigest()[:16], groups)


def stamp(data: settings.Data) -> str:
    """Changes when a file in the data folder does: a hash of the names, sizes and times of its files."""
    if not data.folder:
        return ""
    listed = [(str(path), state(path)) for path in sorted(folder_of(data).rglob("*")) if path.exists()]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def folder_of(data: settings.Data) -> Path:
    """The data folder; a relative one counts from the repository."""
    return ROOT / expanded(data.folder)


def _normalisation(pixels: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel of pixels scaled to [0, 1]: named constants, or those of the images."""
    if kind != "own":
        if pixels.shape[1] != 3:
            raise BadInput(f"the normalisation '{kind}' is for 3 channels, but these images have {pixels.shape[1]}.")
        return tuple(torch.tensor(values) for values in CONSTANTS[kind])
    parts = [(part.double() / 255) for part in pixels.unbind(1)]  # by channel: a copy in float64 is large
    mean, std = (torch.stack([getattr(part, name)() for part in parts]) for name in ("mean", "std"))
    return mean.float(), std.float().clamp_min(1 / 255)


def _hold_out(train: Images) -> tuple[Images, Images]:
    """Every fifth image of each class becomes validation data."""
    own = train.labels[:, None]
    rank = torch.nn.functional.one_hot(train.labels).cumsum(0).gather(1, own)[:, 0] - 1  # within its class
    held_out = rank % 5 == 0
    return train.select(~held_out), train.select(held_out)


def _digits() -> tuple[Images, Images, Classes]:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey values 0 to 16; two fifths are the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = torch.tensor(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    fit, held_out = train_test_split(range(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    parts = [Images(pixels[index], labels[index]) for index in (sorted(fit), sorted(held_out))]
    return parts[0], parts[1], tuple(str(name) for name in bunch.target_names)


def _torchvision(data: settings.Data) -> tuple[Images, Images, Classes, Groups]:
    """A data set of torchvision, downloaded on first use and checked by torchvision's checksums."""
    from torchvision import datasets
    from torchvision.transforms import v2

    kind, root, pictures = getattr(datasets, TORCHVISION[data.source]), folder_of(data), []
    try:
        root.mkdir(parents=True, exist_ok=True)
        parts = [kind(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError, pickle.UnpicklingError) as reason:
        raise BadInput(
            f"{data.source} is not complete and intact in {root}, and could not be downloaded there "
            f"({' '.join(str(reason).split())[:300] or type(reason).__name__}); run again with a network, "
            "or name a folder that holds it with --data-dir."
        ) from None
    for part in parts:
        pixels = torch.as_tensor(part.data)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(part.targets, dtype=torch.int64)
        if len(labels) != len(pixels) or not 0 <= int(labels.min()) <= int(labels.max()) < len(part.classes):
            raise BadInput(f"the files of {data.source} in {root} do not belong together; delete them and run again.")
        pictures.append(Images(v2.functional.resize(pixels, data.image_size, antialias=True).contiguous(), labels))
    groups = _coarse_classes(root / datasets.CIFAR100.base_folder) if data.source == "cifar100" else {}
    return pictures[0], pictures[1], tuple(parts[0].classes), groups


def _coarse_classes(folder: Path) -> Groups:
    """CIFAR-100's twenty coarse classes: the fine classes of each. torchvision has checked the files."""
    meta, train = (pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in ("meta", "train"))
    pairs = sorted(set(zip(train["coarse_labels"], train["fine_labels"])))
    return {
        name: tuple(fine for c, fine in pairs if c == coarse) for coarse, name in enumerate(meta["coarse_label_names"])
    }
