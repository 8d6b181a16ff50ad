"""Images as tensors that live on the device, batched augmentation, and the forget/retain split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import settings
from .settings import BadInput


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
    """Training and test images, class names, and how a network sees the images."""

    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: Tensor  # (C,), of pixels scaled to [0, 1]
    std: Tensor
    views: settings.Views
    fingerprint: str  # of pixels and labels
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)  # coarse classes, where there are any

    def to(self, device: str) -> Dataset:
        moved = {key: getattr(self, key).to(device) for key in ("train", "test", "mean", "std")}
        return replace(self, **moved)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Values 0 to 255, (N, C, H, W), to float32 with zero mean and unit variance per channel."""
        shape = (1, -1, 1, 1)
        return (pixels.float() / 255 - self.mean.view(shape)) / self.std.view(shape)

    def test_view(self, pixels: Tensor) -> Tensor:
        """What a network sees of uint8 (N, C, H, W) in testing: float32, without chance."""
        if self.views.crop_to:
            offset = torch.full((len(pixels), 2), (self.views.enlarge_to - self.views.crop_to) // 2)
            pixels = window(pixels, offset.to(pixels.device), self.views.enlarge_to, self.views.crop_to)
        return self.normalise(pixels)

    def training_view(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """What a network sees of uint8 (N, C, H, W) in training: float32, augmented, each image by itself."""
        views = self.views
        if views.random_resized_crop:
            pixels = resized_boxes(pixels, random_boxes(pixels, generator), views.crop_to)
        elif views.crop_to:
            offset = torch.randint(
                views.enlarge_to - views.crop_to + 1, (len(pixels), 2), generator=generator, device=pixels.device
            )
            pixels = window(pixels, offset, views.enlarge_to, views.crop_to)
        return self.normalise(augment(pixels, views.crop_padding, views.flip, generator))

    def batches(self, images: Images, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One shuffled, augmented epoch of (x, y)."""
        order = torch.randperm(len(images), generator=generator, device=generator.device)
        for index in order.split(batch_size):
            yield self.training_view(images.pixels[index], generator), images.labels[index]


def augment(pixels: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Random crop after zero padding and random horizontal flip, each image its own. (N, C, H, W).

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


def window(pixels: Tensor, offset: Tensor, enlarged: int, size: int) -> Tensor:
    """The square of ``size`` at ``offset`` (N, 2; rows, columns) of images enlarged to ``enlarged`` pixels.

    float32 (N, C, size, size), equal to torchvision's Resize(enlarged) and crop up to its rounding.
    """
    side = pixels.shape[2]
    places = (offset[..., None] + torch.arange(size, device=pixels.device) + 0.5) * side / enlarged - 0.5
    return bilinear(pixels, *places.clamp(0, side - 1).unbind(1))


def random_boxes(pixels: Tensor, generator: torch.Generator, attempts: int = 10) -> Tensor:
    """Boxes (N, 4) of (top, left, height, width), drawn as by torchvision's RandomResizedCrop on square images.

    8 % to all of the area, shape 3:4 to 4:3; the whole image where no attempt fits.
    """
    n, side = len(pixels), pixels.shape[2]
    draw = dict(generator=generator, device=pixels.device)
    area = side**2 * (0.08 + 0.92 * torch.rand(n, attempts, **draw))
    shape = ((2 * torch.rand(n, attempts, **draw) - 1) * torch.log(torch.tensor(4 / 3))).exp()
    sizes = torch.stack([(area / shape).sqrt(), (area * shape).sqrt()], 2).round().long()
    fits = ((sizes > 0) & (sizes <= side)).all(2)
    first = fits.int().argmax(1)  # of equal values the first
    chosen = sizes[torch.arange(n, device=pixels.device), first]
    chosen = torch.where(fits.any(1)[:, None], chosen, side)
    corner = (torch.rand(n, 2, **draw) * (side - chosen + 1)).long()
    return torch.cat([corner, chosen], 1)


def resized_boxes(pixels: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Boxes (N, 4) of images brought to (size, size): float32, as torchvision's resized_crop up to its rounding."""
    corner, sides = boxes[:, :2, None].float(), boxes[:, 2:, None].float()
    places = (torch.arange(size, device=pixels.device) + 0.5) * sides / size - 0.5
    return bilinear(pixels, *(corner + places.clamp_min(0).minimum(sides - 1)).unbind(1))


def bilinear(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images read at fractional ``rows`` and ``columns`` (N, S), each image at its own: float32 (N, C, S, S)."""
    image = torch.arange(len(pixels), device=pixels.device)[:, None]

    def along_height(values: Tensor, at: Tensor) -> Tensor:
        below = at.floor().long()
        above = (below + 1).clamp_max(values.shape[2] - 1)
        low, high = (values[image, :, index].float().transpose(1, 2) for index in (below, above))
        return low.lerp(high, (at - below)[:, None, :, None])

    return along_height(along_height(pixels, rows).transpose(2, 3), columns).transpose(2, 3)


def is_in(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    """Boolean mask of the labels that belong to ``classes``."""
    return torch.isin(labels, torch.tensor(classes, dtype=labels.dtype, device=labels.device))


def check_forget_set(forget: tuple[int, ...], classes: int) -> None:
    """Raise BadInput unless ``forget`` names some, but not nearly all, of the classes, each once."""
    if any(type(c) is not int or not 0 <= c < classes for c in forget) or len(set(forget)) != len(forget) or not forget:
        raise BadInput(f"forget set {list(forget)} must list different classes from 0 to {classes - 1}, at least one.")
    if len(forget) > classes - 2:
        raise BadInput(f"forget set {list(forget)} must leave at least two of the {classes} classes to retain.")
