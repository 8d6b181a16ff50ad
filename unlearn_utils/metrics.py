"""Measurements: pure functions of features, labels and weights.

Accuracies are fractions in [0, 1], one per class, so that any forget set is a view of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from .heads import class_means
from .settings import Probe


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """acc_c = |{i : y_i = c, yhat_i = c}| / |{i : y_i = c}| (paper, Sec. 3.1, on test images), (K,).

    All K classes compete in the arg max. Null value 1/K for guessing; on the forget class lower means
    "looks forgotten", on the others higher is better.
    """
    hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
    return hits / torch.bincount(labels, minlength=classes)


def linear_probe(features: Tensor, labels: Tensor, classes: int, recipe: Probe, seed: int) -> nn.Linear:
    """Fit min CE(A f + b) on D = D_r and D_f with true labels (paper, Eq. 3); read its test accuracy.

    The official recipe: a tenth of the features is held out, plain SGD on the rest, until ``patience`` epochs
    have brought no better held-out accuracy; the weights of the best epoch are kept. Null value of the accuracy
    1/K; higher means that the features separate the class. Compare with Retrain and a random network, not with 0.
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
        if hits > best_hits:
            best_hits, best_epoch = hits, epoch
            best = {key: value.clone() for key, value in probe.state_dict().items()}
        if recipe.patience and epoch - best_epoch >= recipe.patience:
            break
        if rate:
            rate.step()
    probe.load_state_dict(best)
    return probe


def nearest_class_centre(features: Tensor, means: Tensor) -> Tensor:
    """NCC prediction argmin_k ||f - mu_k||^2 (paper, Eq. 5), (N,).

    ``means`` (K, d) come from the training features, forget classes included. Training-free. Null value of
    its accuracy 1/K; higher means that the class still has its own cluster.
    """
    return torch.cdist(features.double(), means.double()).argmin(1)


def centred_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """mu_k - mu with mu the mean of all samples, (K, d), float64.

    Of the head's inputs as they are, as the official pipeline does for its NC3 and NCC; a file of the official
    code that nothing calls scales every feature to length 1 first, and its alignment and NC differ from these.
    """
    features = features.double()
    return class_means(features, labels, classes) - features.mean(0)


def nc1(features: Tensor, labels: Tensor, classes: int) -> float:
    """NC1 = tr(S_W S_B^+) / K (Papyan et al. 2020): within-class over between-class variation.

    0 when every class has collapsed to a point, which is the value the paper's theory assumes; it grows
    without bound as classes blur. Lower is more collapsed.
    """
    features = features.double()
    within = features - class_means(features, labels, classes)[labels]
    between = centred_means(features, labels, classes)
    s_w = within.T @ within / len(features)
    s_b = between.T @ between / classes
    return (torch.trace(s_w @ torch.linalg.pinv(s_b, hermitian=True)) / classes).item()


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
    against the class. On the forget class lower means more misaligned.
    """
    return cosine_similarity(weight.double(), means, dim=1)


def centre_distance(means: Tensor) -> Tensor:
    """||mu_k - mu|| over its mean across classes, (K,). Our extension.

    1 for every class of a simplex ETF, which is the null value. 0: the class lies at the centre of the features,
    where a head that reads directions only (CMF) is blind and one that reads distances (NCC) is not.
    """
    norms = means.norm(dim=1)
    return norms / norms.mean()


def recovery(value: float, retrain: float, original: float, smallest: float = 0.02) -> float:
    """(value - retrain) / (original - retrain): 0 like Retrain, 1 like the Original, negative below Retrain.

    NaN where the denominator is under ``smallest``: there Retrain already reads the class as well as the
    Original does, and the ratio would be noise.
    """
    room = original - retrain
    return (value - retrain) / room if room >= smallest else float("nan")
