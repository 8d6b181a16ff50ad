"""The one pass that turns a model into cached features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .data import Dataset, Images
from .models import Model


@dataclass(frozen=True)
class Features:
    """Penultimate features (N, d) of the training and the test images, float32, on the CPU."""

    train: Tensor
    test: Tensor


@torch.no_grad()
def features_of(model: Model, dataset: Dataset, images: Images, batch_size: int = 500) -> Tensor:
    """Features (N, d) of images under the test-time transform, in eval mode; the model is left in eval mode."""
    model.eval()
    parts = [model.features(dataset.normalise(pixels)) for pixels in images.pixels.split(batch_size)]
    return torch.cat(parts)


def extract(model: Model, dataset: Dataset) -> Features:
    """One forward pass over all images."""
    return Features(
        features_of(model, dataset, dataset.train).cpu(), features_of(model, dataset, dataset.test).cpu()
    )


@torch.no_grad()
def output_predictions(model: Model, features: Tensor) -> Tensor:
    """Classes (N,) that the model's own head reads from features (N, d)."""
    device = next(model.encoder.parameters()).device
    return model.head(features.to(device)).argmax(1).cpu()
