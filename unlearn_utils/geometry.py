"""Geometry of features and of the classifier: neural collapse, alignment, margins, and pictures of it.

Pure functions of features, labels and weights, one number per class where a class is meant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from .data import is_in
from .heads import class_means, class_moments


def centred_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """mu_k - mu with mu the mean of all samples, (K, d), float64.

    Of the head's inputs as they are, as the official pipeline takes them for its NC3 and NCC.
    """
    features = features.double()
    return class_means(features, labels, classes) - features.mean(0)


def at_global_mean(means: Tensor) -> Tensor:
    """Classes with ||mu_k - mu|| at most 1 % of its mean across classes, (K,) boolean, of centred means (K, d).

    The direction of such a mean is rounding noise.
    """
    norms = means.norm(dim=1)
    return norms <= 0.01 * norms.mean()


def nc1_of_moments(means: Tensor, overall: Tensor, within: Tensor) -> float:
    """NC1 = tr(S_W S_B^+) / K (Papyan et al. 2020): within-class over between-class variation.

    Of ``class_moments`` and the mean of all samples; S_B is the mean over classes of (mu_k - mu) (mu_k - mu)^T.
    0 when every class has collapsed to a point, as the paper's theory assumes; without an upper bound. Lower is
    more collapsed. NaN where a class lies ``at_global_mean``: S_B has then lost a direction, and its inverse there is
    rounding noise.
    """
    between, classes = means - overall, len(means)
    if at_global_mean(between).any():
        return float("nan")
    s_b = between.T @ between / classes
    return (torch.trace(within @ torch.linalg.pinv(s_b, hermitian=True)) / classes).item()


def nc1(features: Tensor, labels: Tensor, classes: int) -> float:
    """``nc1_of_moments`` of features (N, d)."""
    means, within = class_moments(features, labels, classes)
    return nc1_of_moments(means, features.double().mean(0), within)


def _distance_to_etf(gram: Tensor) -> float:
    classes = len(gram)
    etf = torch.eye(classes, dtype=gram.dtype, device=gram.device) - 1 / classes
    return torch.linalg.norm(gram / torch.linalg.norm(gram) - etf / torch.linalg.norm(etf)).item()


def nc2(means: Tensor) -> float:
    """NC2 = || H H^T / ||H H^T||_F - ETF ||_F of the centred class means H (K, d), ETF = (I - 11^T/K)/sqrt(K-1).

    0 for a simplex ETF of equally large classes (the centre is the mean of the images), at most 2. Lower is more
    collapsed.
    """
    return _distance_to_etf(means @ means.T)


def nc3(weight: Tensor, means: Tensor) -> float:
    """NC3 = || W H^T / ||W H^T||_F - ETF ||_F of classifier W (K, d) and centred class means H (K, d).

    0 when W is aligned with an ETF of means, sqrt(2) in expectation for unrelated ones, 2 when opposite.
    Lower is more aligned.
    """
    return _distance_to_etf(weight.double() @ means.T)


def alignment(weight: Tensor, means: Tensor) -> Tensor:
    """s_k = cos(w_k, mu_k - mu) per class (paper's feature-classifier alignment), (K,).

    The mean of 1 - s_k is the official pipeline's NC3 ("duality distance"), of raw head inputs like its own.
    1 aligned, 0 orthogonal (the null value; also for a weight vector of zeros), -1 opposite. On the
    forget class lower means more misaligned. NaN for a class that lies ``at_global_mean``.
    """
    return cosine_similarity(weight.double(), means, dim=1).masked_fill(at_global_mean(means), float("nan"))


def turned(before: Tensor, after: Tensor) -> Tensor:
    """Angle in degrees between vector k of two models, (K,), of class weight vectors or centred class means (K, d).
    Our extension.

    arccos cos(before_k, after_k): 0 (the null value) where nothing turned, 90 for orthogonal ones; higher means
    turned further. It needs models that share their axes: one was made from the other.
    """
    return cosine_similarity(before.double(), after.double(), dim=1).clamp(-1, 1).arccos().rad2deg()


def mean_distance(means: Tensor) -> Tensor:
    """||mu_k - mu|| over its mean across classes, (K,). Our extension.

    1 for every class of a simplex ETF of equally large classes, the null value. Near 0 the class mean lies at the
    global mean: a classifier by directions (CMF) is blind there, one by distances (NCC) is not. NaN for one
    ``at_global_mean``.
    """
    norms = means.norm(dim=1)
    return (norms / norms.mean()).masked_fill(at_global_mean(means), float("nan"))


def margin_parts(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Parts of the margin z_k - max_{j != k} z_j by weight vectors and by biases, means over class k, (K,). Ours.

    With j* the arg max over the other logits of one image, z_k - z_{j*} = (w_k - w_{j*}) f + (b_k - b_{j*}).
    The two add up to the margin. ``features`` are what the weight vectors are multiplied with: z for a CMF
    head, which has no bias (None) and a bias part of 0. Null value of the margin 0: a tie with the best other class;
    negative: the class is not predicted, by the more negative part. NaN for a class without images.
    """
    classes = len(weight)
    scores = features.double() @ weight.double().T
    bias = scores.new_zeros(classes) if bias is None else bias.double()
    own = labels[:, None]
    rival = (scores + bias).scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    parts = torch.cat([scores.gather(1, own) - scores.gather(1, rival), bias[own] - bias[rival]], dim=1)
    total = parts.new_zeros(classes, 2).index_add_(0, labels, parts)
    return tuple((total / torch.bincount(labels, minlength=classes)[:, None]).T)


def bias_numbers(bias: Tensor, forget: tuple[int, ...]) -> dict[str, float]:
    """Stability of the forget and the retain biases, b_F and b_R: 1 / (1 + |mean b_F - mean b_R|) (arXiv 2605.08730).

    Null value 1; lower where the forget biases differ, in either direction.
    """
    of_forget = is_in(torch.arange(len(bias), device=bias.device), forget)
    apart = bias[of_forget].double().mean() - bias[~of_forget].double().mean()
    return {"bias_stability": 1 / (1 + apart.abs().item())}


def tsne(features: Tensor) -> Tensor:
    """Two-dimensional layout (N, 2) of features (N, d), with the official code's settings: t-SNE of unit vectors.

    PCA to 50 dimensions, perplexity 30, started from PCA, seed 0. A picture, not a measurement.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = normalize(features, dim=1).numpy()
    reduced = PCA(min(50, *unit.shape), random_state=0).fit_transform(unit)
    perplexity = min(30, (len(features) - 1) / 3)
    layout = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=0).fit_transform(reduced)
    return torch.from_numpy(layout).float()


def plane_of(means: Tensor) -> tuple[Tensor, Tensor]:
    """The plane through three means (3, d): its origin (d,), the mean of the three, and its axes (d, 2), float64.

    The first axis points to the first mean, the second to the side of the second. The axes are divided by the
    distance of the first two, so that ``in_plane`` brings them 1 apart. Ours; a picture, not a measurement.
    """
    means = means.double()
    origin, unit = means.mean(0), (means[0] - means[1]).norm().clamp_min(1e-12)
    first = normalize(means[0] - origin, dim=0)
    rest = means[1] - origin
    second = normalize(rest - (rest @ first) * first, dim=0)
    return origin, torch.stack([first, second], dim=1) / unit


def in_plane(features: Tensor, origin: Tensor, axes: Tensor) -> Tensor:
    """Orthogonal projection of features (N, d) to a plane of ``plane_of``, (N, 2)."""
    return (features.double() - origin) @ axes
