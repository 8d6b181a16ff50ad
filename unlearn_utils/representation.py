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
def features_of(model: Model, dataset: Dataset, images: Images, batch_size: int = 500) -> Tensor:
    """Features (N, d) of images under the test-time transform, in eval mode; the model is left in eval mode."""
    model.eval()
    batch_size = min(batch_size, model.images_per_pass or batch_size)
    parts = [model.features(dataset.test_view(pixels)) for pixels in images.pixels.split(batch_size)]
    return torch.cat(parts)


def extract(model: Model, dataset: Dataset) -> Features:
    """One forward pass over all images; the features lie on the CPU."""
    return Features(
        features_of(model, dataset, dataset.train).cpu(), features_of(model, dataset, dataset.test).cpu()
    )


@torch.no_grad()
def output_predictions(model: Model, features: Tensor) -> Tensor:
    """Classes (N,) that the model's own head reads from features (N, d), on the device of the features."""
    device = next(model.encoder.parameters()).device
    return model.head(features.to(device)).argmax(1).to(features.device)


def hits(model: Model, features: Features, dataset: Dataset) -> dict[str, list[int]]:
    """``train_hits`` and ``test_hits``: how many images of each class the model's own head reads right."""
    found = {}
    for part in ("train", "test"):
        labels = getattr(dataset, part).labels.cpu()
        right = output_predictions(model, getattr(features, part)).cpu() == labels
        found[f"{part}_hits"] = torch.bincount(labels[right], minlength=len(dataset.classes)).tolist()
    return found
