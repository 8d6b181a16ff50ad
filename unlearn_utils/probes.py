"""Does the answer depend on the probe? Forget-class hits by six probes on the same features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from . import metrics
from .arrays import Arrays, own_state
from .data import is_in
from .settings import Probe

FITTED = {  # on features standardised with the training images, as each of these depends on their scale
    "logistic regression": lambda seed: LogisticRegression(max_iter=2000),  # L2 penalty 1, to convergence
    "ridge": lambda seed: RidgeClassifier(),
    "5 nearest neighbours": lambda seed: KNeighborsClassifier(),
    "MLP, 64 hidden units": lambda seed: MLPClassifier((64,), early_stopping=True, max_iter=100, random_state=seed),
}
HAVE_STARTS = ("MLP, 64 hidden units",)


def hits_by_probe(
    arrays: dict[str, Arrays],
    labels: dict[str, torch.Tensor],
    forget: tuple[int, ...],
    probe: dict[str, Any],
    starts: list[int],
) -> dict[str, dict[str, np.ndarray]]:
    """By model and probe, whether each forget-class test image is classified right, (starts, N) or (1, N).

    "official probe" is the SGD recipe; "binary" the same recipe, asked whether an image is of a forget class.
    """
    y, y_test, recipe = labels["train"], labels["test"], Probe(**probe)
    chosen, classes = is_in(y_test, forget), next(iter(arrays.values())).test_logits.shape[1]
    found: dict[str, dict[str, np.ndarray]] = {}
    with own_state():
        for name, model in arrays.items():
            train, test = torch.from_numpy(model.train_features), torch.from_numpy(model.test_features)[chosen]
            official = [
                metrics.probed(train, y, test, classes, recipe, seed).argmax(1) == y_test[chosen] for seed in starts
            ]
            binary = [
                metrics.probed(train, is_in(y, forget).long(), test, 2, recipe, seed).argmax(1) == 1 for seed in starts
            ]
            hits = {"official probe": torch.stack(official).numpy()}
            for kind, make in FITTED.items():
                fitted = [
                    make_pipeline(StandardScaler(), make(seed)).fit(train.numpy(), y.numpy())
                    for seed in (starts if kind in HAVE_STARTS else starts[:1])
                ]
                hits[kind] = np.stack([model.predict(test.numpy()) == y_test[chosen].numpy() for model in fitted])
            found[name] = hits | {"binary": torch.stack(binary).numpy()}
    return found
