"""Images as tensors that live on the device, batched augmentation, and the forget/retain split."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import profiles
from .profiles import BadInput

REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Images:
    """``pixels`` uint8 (N, C, H, W) and ``labels`` int64 (N,), on one device."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))

    def select(self, chosen: Tensor) -> Images:
        """The images at a boolean mask or at indices."""
        return Images(self.pixels[chosen], self.labels[chosen])

    def first_per_class(self, count: int) -> Images:
        """The first ``count`` images of each class, in class order."""
        keep = [torch.where(self.labels == c)[0][:count] for c in self.labels.unique(sorted=True)]
        return self.select(torch.cat(keep))


@dataclass(frozen=True)
class Dataset:
    """Training and test images, class names, and the augmentation and normalisation that go with them."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: Tensor  # (C,), of the training pixels scaled to [0, 1]
    std: Tensor
    crop_padding: int
    flip: bool
    fingerprint: str  # of pixels and labels

    def to(self, device: str) -> Dataset:
        moved = {key: getattr(self, key).to(device) for key in ("train", "test", "mean", "std")}
        return replace(self, **moved)

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 with zero mean and unit variance per channel."""
        shape = (1, -1, 1, 1)
        return (pixels.float() / 255 - self.mean.view(shape)) / self.std.view(shape)

    def batches(
        self, images: Images, batch_size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented epoch of (x, y)."""
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        for index in order.split(batch_size):
            pixels = augment(images.pixels[index], self.crop_padding, self.flip, generator)
            yield self.normalise(pixels), images.labels[index]


def augment(pixels: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding and random horizontal flip, each image its own. (N, C, H, W) uint8.

    The same distribution as torchvision's RandomCrop(size, padding) and RandomHorizontalFlip.
    """
    n, _, height, width = pixels.shape
    draw = dict(generator=generator, device=pixels.device)
    if padding:
        padded = torch.nn.functional.pad(pixels, (padding,) * 4)
        top, left = torch.randint(2 * padding + 1, (2, n, 1), **draw)
        rows = top + torch.arange(height, device=pixels.device)
        columns = left + torch.arange(width, device=pixels.device)
        image = torch.arange(n, device=pixels.device)[:, None, None]
        # Advanced indices around the channel slice put the channels last.
        pixels = padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(n, **draw) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
    return pixels


def is_in(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Boolean mask of the labels that belong to ``classes``."""
    return torch.isin(labels, torch.tensor(classes, dtype=labels.dtype, device=labels.device))


def check_forget_set(forget: tuple[int, ...], classes: int) -> None:
    """Raise BadInput unless ``forget`` names some, but not nearly all, of the classes, each once."""
    if any(type(c) is not int or not 0 <= c < classes for c in forget) or len(set(forget)) != len(forget):
        raise BadInput(f"forget set {list(forget)} must list different classes from 0 to {classes - 1}.")
    if not forget:
        raise BadInput("an empty forget set leaves nothing to forget; name at least one class.")
    if len(forget) > classes - 2:
        raise BadInput(f"forget set {list(forget)} must leave at least two of the {classes} classes to retain.")


@lru_cache(maxsize=4)
def load(data: profiles.Data, cache: Path) -> Dataset:
    """Load the data set of a profile; decoded images of a folder are kept in the folder ``cache``.

    Raises BadInput when a folder or an image cannot be used.
    """
    sources = {"digits": _digits, "folder": _folder}
    if data.source not in sources:
        raise BadInput(f"data source '{data.source}' is not known; choose one of {', '.join(sources)}.")
    train, test, classes = sources[data.source](data, cache)
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
    scaled = train.pixels.double() / 255
    return Dataset(
        train, test, classes, scaled.mean((0, 2, 3)).float(), scaled.std((0, 2, 3)).clamp_min(1 / 255).float(),
        data.crop_padding, data.flip, digest.hexdigest()[:16],
    )


def _hold_out(train: Images, every: int = 5) -> tuple[Images, Images]:
    """Every fifth image of each class becomes validation data."""
    rank = torch.zeros_like(train.labels)
    for c in train.labels.unique():
        of_class = train.labels == c
        rank[of_class] = torch.arange(int(of_class.sum()))
    held_out = rank % every == 0
    return train.select(~held_out), train.select(held_out)


def _digits(data: profiles.Data, cache: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """scikit-learn's 1,797 handwritten digits, 8x8, grey values 0 to 16; two fifths are the test set."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = torch.tensor(bunch.images / 16 * 255).round().to(torch.uint8)[:, None]
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    fit, held_out = train_test_split(range(len(labels)), test_size=0.4, random_state=0, stratify=labels)
    parts = [Images(pixels[index], labels[index]) for index in (sorted(fit), sorted(held_out))]
    return parts[0], parts[1], tuple(str(name) for name in bunch.target_names)


def _folder(data: profiles.Data, cache: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """Any folder of the form train/<class>/<image>, test/<class>/<image>.

    Only the images that the profile asks for are decoded: the first of each class in name order.
    """
    root = REPOSITORY / Path(data.folder).expanduser()  # an absolute folder stays what it is
    files = {part: _listing(root, part) for part in ("train", "test")}
    if list(files["train"]) != list(files["test"]):
        odd = sorted(set(files["train"]) ^ set(files["test"]))
        raise BadInput(
            f"{root}: train/ and test/ must hold the same classes, but {', '.join(odd)} is in only one of them."
        )
    if len(files["train"]) < 3:
        raise BadInput(f"{root}/train holds {len(files['train'])} class folders, but at least 3 are needed.")
    # A validation split takes its images from train/, so the test limit must not cut there.
    limit = {"train": data.train_per_class, "test": data.test_per_class}
    if data.evaluate_on == "validation":
        limit["train"] = 0 if not data.train_per_class else -(-data.train_per_class * 5 // 4)
    chosen = {part: {c: fs[: limit[part] or None] for c, fs in files[part].items()} for part in files}
    stamp = [(part, str(f.relative_to(root)), f.stat().st_size, f.stat().st_mtime_ns)
             for part in chosen for fs in chosen[part].values() for f in fs]
    key = hashlib.sha256(repr((stamp, data.image_size, data.channels)).encode()).hexdigest()[:16]
    packed = _packed(cache / f"{key}.safetensors", chosen, data)
    train, test = (Images(packed[f"{part}_pixels"], packed[f"{part}_labels"]) for part in ("train", "test"))
    return train, test, tuple(files["train"])


def _listing(root: Path, part: str) -> dict[str, list[Path]]:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    folder = root / part
    if not folder.is_dir():
        raise BadInput(
            f"there is no folder {folder}; --data-dir must name a folder with train/<class>/ and test/<class>/."
        )
    listing = {}
    for entry in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        listing[entry.name] = sorted(f for f in entry.iterdir() if f.suffix.lower() in IMG_EXTENSIONS)
        if not listing[entry.name]:
            raise BadInput(f"{entry} holds no images; allowed endings are {', '.join(IMG_EXTENSIONS)}.")
    return listing


def _packed(path: Path, chosen: dict, data: profiles.Data) -> dict[str, Tensor]:
    """The decoded images of every part, from the cache where an intact copy lies there."""
    if path.exists():
        try:
            return load_file(path)
        except Exception:  # safetensors has no public base class for a damaged file
            path.unlink()
    packed = {}
    for part, classes in chosen.items():
        images = [_decode(f, data) for files in classes.values() for f in files]
        packed[f"{part}_pixels"] = torch.stack(images)
        sizes = torch.tensor([len(files) for files in classes.values()])
        packed[f"{part}_labels"] = torch.arange(len(sizes)).repeat_interleave(sizes)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(packed, partial)
    partial.replace(path)
    return packed


def _decode(file: Path, data: profiles.Data) -> Tensor:
    """One image as uint8 (C, H, W), its shorter side brought to ``image_size``, the centre cut out."""
    from PIL import Image
    from torchvision.transforms import v2

    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels have mode {image.mode}, but 8 bits per channel are needed")
            image = image.convert("L" if data.channels == 1 else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as reason:
        raise BadInput(f"{file} cannot be read as an image ({reason}); replace it or take it out.") from None
    image = v2.functional.center_crop(v2.functional.resize(image, data.image_size, antialias=True), data.image_size)
    return v2.functional.pil_to_tensor(image)
