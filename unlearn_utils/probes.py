"""Does the answer depend on the probe? Forget-class hits by further probes on the same features."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .arrays import Arrays, own_state
from .data import is_in

FITTED = {  # on features standardised with the training images, as each of these depends on their scale
    "logistic regression": lambda seed: LogisticRegression(max_iter=2000),  # L2 penalty 1, to convergence
    "ridge": lambda seed: RidgeClassifier(),
    "5 nearest neighbours": lambda seed: KNeighborsClassifier(),
    "MLP, 64 hidden units": lambda seed: MLPClassifier((64,), early_stopping=True, max_iter=100, random_state=seed),
}
HAVE_STARTS = ("MLP, 64 hidden units",)


def fitted_hits(
    arrays: dict[str, Arrays], labels: dict[str, Tensor], forget: tuple[int, ...], starts: list[int]
) -> dict[str, dict[str, np.ndarray]]:
    """By model and probe of ``FITTED``, whether each forget-class test image is right, (starts, N) or (1, N)."""
    y, chosen = labels["train"].numpy(), is_in(labels["test"], forget).numpy()
    truth, found = labels["test"].numpy()[chosen], {}
    with own_state():
        for name, model in arrays.items():
            found[name] = {}
            for kind, make in FITTED.items():
                seeds = starts if kind in HAVE_STARTS else starts[:1]
                fitted = [make_pipeline(StandardScaler(), make(seed)).fit(model.train_features, y) for seed in seeds]
                found[name][kind] = np.stack([probe.predict(model.test_features[chosen]) == truth for probe in fitted])
    return found
