"""Measurements: pure functions of features, labels and weights.

Accuracies are fractions in [0, 1], one per class, so that any forget set is a view of them.
"""

from __future__ import annotations

from typing import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from .data import is_in
from .heads import class_means, class_moments
from .settings import Probe


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """acc_c = |{i : y_i = c, yhat_i = c}| / |{i : y_i = c}| (paper, Sec. 3.1, on test images), (K,).

    All K classes compete in the arg max. Null value 1/K for guessing; on the forget class lower means
    "looks forgotten", on the others higher is better.
    """
    hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
    return hits / torch.bincount(labels, minlength=classes)


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """C_ck = |{i : y_i = c, yhat_i = k}|, (K, K) integers: rows are true classes, columns what they are read as.

    Guessing fills a row evenly, a right reading the diagonal. An output, a probe or NCC is read once; the
    following functions of these counts serve every forget set.
    """
    counts = labels.new_zeros(classes, classes)
    return counts.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)


def class_accuracies(counts: Tensor) -> Tensor:
    """acc_c = C_cc / sum_k C_ck, (K,): ``accuracy_per_class``, with its null value and direction, from counts."""
    return counts.diagonal().double() / counts.sum(1)


def pooled_accuracy(counts: Tensor, chosen: tuple[int, ...]) -> float:
    """sum_{c in S} C_cc / sum_{c in S, k} C_ck over the ``chosen`` classes S.

    As the official code pools forget and retain classes: every image counts the same. Null value and direction
    are those of one class.
    """
    rows = list(chosen)
    return (counts.diagonal()[rows].sum().double() / counts[rows].sum()).item()


def destinations(counts: Tensor, chosen: tuple[int, ...]) -> Tensor:
    """Where the images of the ``chosen`` classes S go: p_k = sum_{c in S} C_ck / sum_{c in S, j} C_cj, (K,). Ours.

    Null value 1/K for guessing; for a forget class that was never seen, Retrain's distribution. The larger p_k,
    the more of the images are read as class k.
    """
    read_as = counts[list(chosen)].sum(0).double()
    return read_as / read_as.sum()


def group_accuracy(counts: Tensor, forget: tuple[int, ...]) -> float:
    """Share of the forget-class images that are classified as any forget class F. Our extension.

    Null value |F|/K for guessing. Higher: the group is retained, even where its members are mixed up and
    the pooled accuracy is 1/|F|. The same as the accuracy where one class is forgotten.
    """
    return destinations(counts, forget)[list(forget)].sum().item()


def false_positives(counts: Tensor, forget: tuple[int, ...]) -> float:
    """Share of the retain-class images that are classified as a forget class F. Our extension.

    Null value |F|/K for guessing; lower is better. It belongs next to ``group_accuracy``, which is 1 for a
    classifier that always predicts a forget class.
    """
    retain = tuple(c for c in range(len(counts)) if c not in forget)
    return destinations(counts, retain)[list(forget)].sum().item()


def linear_probe(features: Tensor, labels: Tensor, classes: int, recipe: Probe, seed: int) -> nn.Linear:
    """Fit min CE(A f + b) on D = D_r and D_f with true labels (paper, Eq. 3); read its test accuracy.

    The official recipe: a tenth of the features is held out, plain SGD on the rest, until ``patience`` epochs
    have brought no better held-out accuracy. Ours: of equally good epochs the last is kept, there the first. Null value of the accuracy
    1/K; higher means that the features separate the class. Compare with Retrain and an untrained network, not with 0.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same order on every device
    order = torch.randperm(len(labels), generator=generator)
    held = max(1, int(recipe.validation * len(labels)))
    validation, fit = order[:held], order[held:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = nn.Linear(features.shape[1], classes).to(features.device)
    optimiser = torch.optim.SGD(probe.parameters(), lr=recipe.lr, momentum=recipe.momentum)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs) if recipe.schedule == "cosine" else None
    best, best_hits, best_epoch = None, -1, 0
    for epoch in range(recipe.epochs):
        shuffled = fit[torch.randperm(len(fit), generator=generator)].to(features.device)
        for index in shuffled.split(recipe.batch_size):
            optimiser.zero_grad()
            cross_entropy(probe(features[index]), labels[index]).backward()
            optimiser.step()
        with torch.no_grad():
            hits = int((probe(features[validation]).argmax(1) == labels[validation]).sum())
        if hits >= best_hits:  # on few held-out images many epochs are best, and the first is not yet fitted
            best_hits, best_epoch = hits, epoch if hits > best_hits else best_epoch
            best = {key: value.clone() for key, value in probe.state_dict().items()}
        if recipe.patience and epoch - best_epoch >= recipe.patience:
            break
        if rate:
            rate.step()
    probe.load_state_dict(best)
    return probe


def refitted_head(
    features: Tensor, labels: Tensor, classes: int, forget: tuple[int, ...], recipe: Probe, seed: int
) -> nn.Linear:
    """An ordinary head of K outputs, fitted to the retain samples alone: ``linear_probe`` on D_r. Our extension.

    No sample asks for a forget class, so its row is only pushed away from the retain features. Null value of
    the forget accuracy: that of the same fit on Retrain's features; where the class shares no direction with
    the others the starting weights decide, so take several seeds. Lower, beside a probe that reads the class:
    an ordinary head hides it again.
    """
    retain = ~is_in(labels, forget)
    return linear_probe(features[retain], labels[retain], classes, recipe, seed)


def probed(train: Tensor, labels: Tensor, test: Tensor, classes: int, recipe: Probe, seed: int) -> Tensor:
    """Logits (N, K) of test features (N, d) in a linear probe fitted on training features (M, d)."""
    probe = linear_probe(train, labels, classes, recipe, seed)
    with torch.no_grad():
        return probe(test)


def nearest(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Classes (N,) whose centre, of the training features (M, d), is nearest to test features (N, d); scores (N, K)."""
    means = class_means(train, labels, classes)
    return nearest_class_centre(test, means), centre_scores(test, means)


def nearest_class_centre(features: Tensor, means: Tensor) -> Tensor:
    """NCC prediction argmin_k ||f - mu_k||^2 (paper, Eq. 5), (N,).

    ``means`` (K, d) come from the training features, forget classes included. Training-free. Null value of
    its accuracy 1/K; higher means that the class still has its own cluster.
    """
    return torch.cdist(features.double(), means.double()).argmin(1)


def _against_others(scores: Tensor, pool: Callable) -> Tensor:
    """Each class's score less the pooled scores of all other classes, (N, K)."""
    others = [pool(scores.index_fill(1, c, -torch.inf), 1) for c in torch.arange(scores.shape[1], device=scores.device)]
    return scores - torch.stack(others, dim=1)


def probe_scores(logits: Tensor) -> Tensor:
    """z_c - log sum_{j != c} exp z_j, the log odds of class c in the softmax, (N, K), float64; for ``auroc``."""
    return _against_others(logits.double(), torch.logsumexp)


def centre_scores(features: Tensor, means: Tensor) -> Tensor:
    """min_{j != c} ||f - mu_j||^2 - ||f - mu_c||^2, (N, K), float64: positive where NCC reads c; for ``auroc``.

    The nearest other centre, and no soft minimum, so that the order does not depend on the scale of the features.
    """
    return _against_others(-torch.cdist(features.double(), means.double()).square(), torch.amax)


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """AUROC_c = P(s_c > s'_c) + P(s_c = s'_c) / 2 of an image of class c against one of another class, (K,).

    From the ranks of each column of scores (N, K) (Mann-Whitney; ties get their mean rank). Null value 0.5;
    higher, up to 1: the class is told apart from the rest. Unlike its accuracy it does not rise when a readout
    merely reads the class more often. NaN for a class without images.
    """
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    below, up_to = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
    rank = (below + up_to + 1).double() / 2
    own = labels == torch.arange(len(columns), device=labels.device)[:, None]
    n = own.sum(1).double()
    return ((rank * own).sum(1) - n * (n + 1) / 2) / (n * (len(labels) - n))


def centred_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """mu_k - mu with mu the mean of all samples, (K, d), float64.

    Of the head's inputs as they are, as the official pipeline does for its NC3 and NCC; a file of the official
    code that nothing calls scales every feature to length 1 first, and its alignment and NC differ from these.
    """
    features = features.double()
    return class_means(features, labels, classes) - features.mean(0)


def at_centre(means: Tensor) -> Tensor:
    """Classes with ||mu_k - mu|| at most 1 % of its mean across classes, (K,) boolean, of centred means (K, d).

    Such a mean has no direction but that of rounding noise.
    """
    norms = means.norm(dim=1)
    return norms <= 0.01 * norms.mean()


def nc1_of_moments(means: Tensor, centre: Tensor, within: Tensor) -> float:
    """NC1 = tr(S_W S_B^+) / K (Papyan et al. 2020): within-class over between-class variation.

    Of ``class_moments`` and the mean of all samples; S_B is the mean over classes of (mu_k - mu) (mu_k - mu)^T.
    0 when every class has collapsed to a point, which is the value the paper's theory assumes; it grows
    without bound as classes blur. Lower is more collapsed. NaN where a class lies ``at_centre``: S_B has then
    lost a direction, and its inverse there is rounding noise.
    """
    between, classes = means - centre, len(means)
    if at_centre(between).any():
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

    0 for a simplex ETF, at most 2. Lower is more collapsed.
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
    1 aligned, 0 orthogonal (the null value; also given to a zero row), -1 opposite: the classifier votes
    against the class. On the forget class lower means more misaligned. NaN for a class that lies ``at_centre``.
    """
    return cosine_similarity(weight.double(), means, dim=1).masked_fill(at_centre(means), float("nan"))


def turned(before: Tensor, after: Tensor) -> Tensor:
    """Angle in degrees between vector k of two models, (K,), of rows or centred class means (K, d). Ours.

    arccos cos(before_k, after_k): 0 (the null value) where nothing turned, 90 where they have nothing in common;
    higher means turned further. Only where one model was made from the other do they share their axes.
    """
    return cosine_similarity(before.double(), after.double(), dim=1).clamp(-1, 1).arccos().rad2deg()


def mean_distance(means: Tensor) -> Tensor:
    """||mu_k - mu|| over its mean across classes, (K,). Our extension.

    1 for every class of a simplex ETF, which is the null value. Near 0 the class lies at the centre of the
    features, where a head that reads directions only (CMF) is blind and one that reads distances (NCC) is not;
    NaN for one ``at_centre``, as for everything else that is read off such a mean.
    """
    norms = means.norm(dim=1)
    return (norms / norms.mean()).masked_fill(at_centre(means), float("nan"))


def recovery(value: float, retrain: float, original: float, smallest: float = 0.02) -> float:
    """(value - retrain) / (original - retrain): 0 like Retrain, 1 like the Original, negative below Retrain.

    NaN where the denominator is under ``smallest``: there Retrain already reads the class as well as the
    Original does, and the ratio would be noise.
    """
    room = original - retrain
    return (value - retrain) / room if room >= smallest else float("nan")


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
    """Where features (N, d) lie in a plane of ``plane_of`` when seen at a right angle, (N, 2)."""
    return (features.double() - origin) @ axes
