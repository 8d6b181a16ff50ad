"""The one pass that turns a model into cached features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .data import Dataset, Images
from .models import Model


@dataclass(frozen=True)
class Features:
    """Penultimate features (N, d) of the training and the test images, float32."""

    train: Tensor
    test: Tensor

    def to(self, device: str) -> Features:
        return Features(self.train.to(device), self.test.to(device))


@torch.no_grad()
def features_of(
    model: Model, dataset: Dataset, images: Images, batch_size: int = 500, augmented: torch.Generator | None = None
) -> Tensor:
    """Features (N, d) of images under the test view, in eval mode; the model is left in eval mode.

    With a generator under one training view of each image, drawn from it: the official code fits its probe, its
    class centres and its CMF heads to such features.
    """
    model.eval()
    batch_size = min(batch_size, model.images_per_pass or batch_size)
    view = dataset.test_view if augmented is None else lambda pixels: dataset.training_view(pixels, augmented)
    return torch.cat([model.features(view(pixels)) for pixels in images.pixels.split(batch_size)])


def extract(model: Model, dataset: Dataset, augmented: torch.Generator | None = None) -> Features:
    """One forward pass over all images; the features lie on the CPU.

    ``augmented`` draws the view of the training images (``readout_view``); test images are seen in the test view.
    """
    train = features_of(model, dataset, dataset.train, augmented=augmented)
    return Features(train.cpu(), features_of(model, dataset, dataset.test).cpu())


@torch.no_grad()
def output_predictions(model: Model, features: Tensor) -> Tensor:
    """Classes (N,) that the model's own head predicts from features (N, d), on the device of the features."""
    device = next(model.encoder.parameters()).device
    return model.head(features.to(device)).argmax(1).to(features.device)


def hits(model: Model, features: Features, dataset: Dataset) -> dict[str, list[int]]:
    """``train_hits`` and ``test_hits``: how many images of each class the model's own head classifies correctly."""
    found = {}
    for part in ("train", "test"):
        labels = getattr(dataset, part).labels.cpu()
        right = output_predictions(model, getattr(features, part)).cpu() == labels
        found[f"{part}_hits"] = torch.bincount(labels[right], minlength=len(dataset.classes)).tolist()
    return found
