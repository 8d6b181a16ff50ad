"""Accuracies of output, probes and nearest class centre, and membership inference: pure functions of arrays.

Accuracies are fractions in [0, 1], one per class, so that any forget set is a view of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from .heads import class_means
from .settings import Probe


def accuracy_per_class(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """acc_c = |{i : y_i = c, yhat_i = c}| / |{i : y_i = c}| (paper, Sec. 3.1, on test images), (K,).

    All K classes compete in the arg max. Null value 1/K for guessing; on the forget class lower means forgotten
    at this readout, on the others higher is better.
    """
    hits = torch.bincount(labels[predicted == labels], minlength=classes).double()
    return hits / torch.bincount(labels, minlength=classes)


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """C_ck = |{i : y_i = c, yhat_i = k}|, (K, K) integers: rows are true, columns predicted classes.

    Guessing fills a row evenly, correct predictions the diagonal. The following functions of these counts serve
    every forget set.
    """
    counts = labels.new_zeros(classes, classes)
    return counts.index_put_((labels, predicted), torch.ones_like(labels), accumulate=True)


def tested(predicted: Tensor, labels: Tensor, classes: int) -> dict:
    """Confusion counts of predictions (N,), as a list, and which of them are right, (N,)."""
    return {"counts": confusion(predicted, labels, classes).tolist(), "hits": predicted == labels}


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
    the more images are classified as class k.
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
    """Fit min CE(A f + b) on D = D_r and D_f with true labels (paper, Eq. 3); its test accuracy counts.

    The official recipe: a tenth of the features is held out, plain SGD on the rest, until ``patience`` epochs
    have brought no better held-out accuracy. Ours: of equally good epochs the last is kept, there the first. Null
    value of the accuracy 1/K; higher means that the features separate the class. Compare with Retrain and an
    untrained network, not with 0.
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


def probed(train: Tensor, labels: Tensor, test: Tensor, classes: int, recipe: Probe, seed: int) -> Tensor:
    """Logits (N, K) of test features (N, d) in a linear probe fitted on training features (M, d)."""
    probe = linear_probe(train, labels, classes, recipe, seed)
    with torch.no_grad():
        return probe(test)


def binary_probes(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Recall, false-positive rate and AUROC of "is it class k?" for every class k, each (K,). Our extension.

    "hits" (N,) says whether a test image is called one of its own class.

    K logistic regressions on training features (N, d), standardised by dimension, with true labels: class k against
    all others, both sides weighted equally, L2 penalty 1 (scikit-learn's ``class_weight="balanced"``), fitted together
    by L-BFGS. Null value: recall equal to the false-positive rate, AUROC 0.5; higher recall and AUROC mean that the
    class is retained. Retrain's features separate an unseen class, too: compare with it.
    """
    train, test = train.double(), test.double()
    mean, std = train.mean(0), train.std(0, unbiased=False)
    train, test = ((part - mean) / torch.where(std > 0, std, 1) for part in (train, test))
    own = labels[:, None] == torch.arange(classes, device=labels.device)
    balance = torch.where(own, len(labels) / own.sum(0) / 2, len(labels) / (~own).sum(0) / 2)
    weight = train.new_zeros(classes, train.shape[1], requires_grad=True)
    bias = train.new_zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = train @ weight.T + bias
        errors = binary_cross_entropy_with_logits(logits, own.double(), balance, reduction="sum")
        total = errors + weight.square().sum() / 2
        total.backward()
        return total

    optimiser.step(loss)
    scores = (test @ weight.T + bias).detach()
    own, found = test_labels[:, None] == torch.arange(classes, device=labels.device), scores > 0
    positives = {"recall": (found & own).sum(0) / own.sum(0), "false_positives": (found & ~own).sum(0) / (~own).sum(0)}
    return positives | {"auroc": auroc(scores, test_labels), "hits": (found & own).any(1)}


def fitted(kind: str, train: Tensor, labels: Tensor, test: Tensor, seed: int) -> Tensor:
    """Predictions (N,) for test features (N, d) of one of four further probes of all K classes. Our extension.

    Fitted by scikit-learn with its defaults to training features (M, d), standardised by dimension: each of them
    depends on their scale. Only the MLP has a start. Null value of the accuracy and direction as for ``linear_probe``.
    """
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = {
        "logistic regression": LogisticRegression(max_iter=2000),  # L2 penalty 1, to convergence
        "ridge": RidgeClassifier(),
        "5 nearest neighbours": KNeighborsClassifier(),
        "MLP, 64 hidden units": MLPClassifier((64,), early_stopping=True, max_iter=100, random_state=seed),
    }[kind]
    made = make_pipeline(StandardScaler(), probe).fit(train.cpu().numpy(), labels.cpu().numpy())
    return torch.from_numpy(made.predict(test.cpu().numpy())).to(test.device)


def nearest(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Predictions (N,) of NCC with training features (M, d) for test features (N, d), and its scores (N, K)."""
    means = class_means(train, labels, classes)
    return nearest_class_centre(test, means), centre_scores(test, means)


def nearest_class_centre(features: Tensor, means: Tensor) -> Tensor:
    """NCC prediction argmin_k ||f - mu_k||^2 (paper, Eq. 5), (N,).

    ``means`` (K, d) come from the training features, forget classes included. Training-free. Null value of
    its accuracy 1/K; higher means that the class still has its own cluster.
    """
    return torch.cdist(features.double(), means.double()).argmin(1)


def probe_scores(logits: Tensor) -> Tensor:
    """z_c - log sum_{j != c} exp z_j, the log odds of class c in the softmax, (N, K), float64; for ``auroc``."""
    logits = logits.double()
    best, whole = logits.argmax(1, keepdim=True), logits.logsumexp(1, keepdim=True)
    others = whole + torch.log1p(-(logits - whole).exp())  # exact enough up to p = 1/2, so not for the best class
    rest = logits.scatter(1, best, -torch.inf).logsumexp(1, keepdim=True)
    return logits - others.scatter(1, best, rest)


def centre_scores(features: Tensor, means: Tensor) -> Tensor:
    """min_{j != c} ||f - mu_j||^2 - ||f - mu_c||^2, (N, K), float64: positive where NCC predicts c; for ``auroc``.

    The nearest other mean, and no soft minimum, so that the order does not depend on the scale of the features.
    """
    scores = -torch.cdist(features.double(), means.double()).square()
    first, second = scores.topk(2, dim=1).values.split(1, dim=1)
    return scores - torch.where(scores == first, second, first)  # of two nearest ones each has the other


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """AUROC_c = P(s_c > s'_c) + P(s_c = s'_c) / 2 of an image of class c against one of another class, (K,).

    From the ranks of each column of scores (N, K) (Mann-Whitney; ties get their mean rank). Null value 0.5;
    higher, up to 1: the class is separated from the rest. Unlike the accuracy it does not rise where the class
    is merely predicted more often. NaN for a class without images, and where a score is NaN.
    """
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    below, up_to = (torch.searchsorted(ordered, columns, right=right) for right in (False, True))
    rank = (below + up_to + 1).double() / 2
    own = labels == torch.arange(len(columns), device=labels.device)[:, None]
    n = own.sum(1).double()
    found = ((rank * own).sum(1) - n * (n + 1) / 2) / (n * (len(labels) - n))
    return found.masked_fill(scores.isnan().any(0), float("nan"))


FEWEST_LOSSES = 10  # in each group of ``membership_inference``: a tenth of them is tested on


def membership_inference(members: Tensor, others: Tensor, seed: int = 0) -> tuple[float, float]:
    """Accuracy of telling members from others by their loss, and max(0, 2 (accuracy - 0.5)).

    As in the official code: ``members`` are the cross-entropy losses (N,) of the forget-class training images,
    ``others`` (M,) those of its test images; the larger group is sub-sampled to the size of the smaller.
    Logistic regression on the loss, mean accuracy over five stratified random splits; that a tenth is tested on is our
    assumption. Null values 0.5 and 0, as in Retrain, which saw neither group. Higher: training images are still told
    from test images. It says nothing about the class as such, to which both groups belong.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    generator = torch.Generator().manual_seed(seed)
    size = min(len(members), len(others))
    drawn = [losses.cpu()[torch.randperm(len(losses), generator=generator)[:size]] for losses in (members, others)]
    is_member = torch.tensor([1, 0]).repeat_interleave(size)
    splits = StratifiedShuffleSplit(n_splits=5, test_size=0.1, random_state=seed)
    scores = cross_val_score(
        LogisticRegression(), torch.cat(drawn)[:, None].double().numpy(), is_member.numpy(), cv=splits
    )
    return float(scores.mean()), max(0.0, 2 * (float(scores.mean()) - 0.5))


def donor_features(features, train_labels: Tensor, test_labels: Tensor, forget: tuple[int, ...], seed: int = 0):
    """Control with a known answer: each forget image gets the features of a random retain image of its own part.

    ``features`` has ``.train`` (N, d) and ``.test`` (M, d); labels stay true. No probe can then classify the forget
    class better than by chance, so whatever exceeds Retrain on these features is an artefact.
    """
    generator, parts = torch.Generator().manual_seed(seed), []
    for part, labels in ((features.train, train_labels), (features.test, test_labels)):
        gone = torch.isin(labels.cpu(), torch.tensor(forget))
        kept = torch.where(~gone)[0]
        donors = kept[torch.randint(len(kept), (int(gone.sum()),), generator=generator)]
        changed = part.clone()
        changed[gone.to(part.device)] = part[donors.to(part.device)]
        parts.append(changed)
    return type(features)(*parts)
