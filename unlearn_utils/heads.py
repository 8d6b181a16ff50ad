"""Heads: what turns penultimate features into one logit per class."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize

# Feature normalisation: what the class means are taken of, before centring. The paper's Algorithm 1 (as reported)
# has none; the official code brings features to unit length, for its ResNets in effect after a log-softmax.
NORMALISATIONS = {
    "none": lambda f: f,
    "unit_length": lambda f: normalize(f, dim=1),
    "log_softmax": lambda f: normalize(log_softmax(f, dim=1), dim=1),
}


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class, (K, d). Raises ValueError where a class has no sample."""
    count = torch.bincount(labels, minlength=classes)
    if (count == 0).any():
        raise ValueError(f"no sample of class {int((count == 0).nonzero()[0])}: its mean is not defined.")
    total = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return total / count[:, None]


def class_moments(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Class means mu_k (K, d) and within-class scatter S_W = (1/N) sum_i (f_i - mu_{y_i}) (f_i - mu_{y_i})^T (d, d).

    In float64. What neural collapse asks of N features, in a size that does not grow with N.
    """
    features = features.double()
    means = class_means(features, labels, classes)
    within = features - means[labels]
    return means, within.T @ within / len(features)


class LinearHead(nn.Linear):
    """The ordinary classifier: W f + b."""

    def transform(self, features: Tensor) -> Tensor:
        """What this head's weight vectors are compared with: the features themselves."""
        return features

    embed = transform


class ClassMeanHead(nn.Module):
    """Class-mean-features (CMF) classifier (paper, Algorithm 1).

    w_k = (mu_k - mu) / ||mu_k - mu|| with mu_k the mean of the normalised features over D_k and
    mu = (1/K) sum_k mu_k; logits are the cosines w_k . z with z = (f - mu) / ||f - mu||. Both mu and W are
    buffers: no gradient reaches them, and they change only through ``refit``.
    """

    def __init__(self, features: int, classes: int, normalisation: str):
        super().__init__()
        self.transform = NORMALISATIONS[normalisation]
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("weight", torch.zeros(classes, features))

    @torch.no_grad()
    def refit(self, features: Tensor, labels: Tensor) -> None:
        """Set the head from the features (N, d) of the full training set and their true labels."""
        means = class_means(self.transform(features), labels, len(self.weight))
        self.centre.copy_(means.mean(0))
        self.weight.copy_(normalize(means - self.centre, dim=1))

    def embed(self, features: Tensor) -> Tensor:
        """Centred unit vectors z, in which the official code probes CMF models."""
        return normalize(self.transform(features) - self.centre, dim=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.embed(features) @ self.weight.T
