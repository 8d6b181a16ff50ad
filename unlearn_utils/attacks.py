"""Relearning attacks (an extension: the paper contains none): recover a forgotten class from a model.

Each attack returns readings: a list of ``{"x", "draw", "accuracy"}`` with one test accuracy per class;
x is the number of images per class, or the number of optimiser steps. Higher forget accuracy means that
more of the class was retained. Compare with the Original, Retrain and an untrained network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .data import Dataset
from .metrics import accuracy_per_class
from .models import Model
from .representation import Features, features_of, output_predictions
from .settings import Attack, Recipe
from .training import train, worth_reading

Readings = list[dict[str, Any]]

ATTACKS = ("few_shot", "few_shot_shuffled", "own_head")  # the first two see features alone


def draw_shots(labels: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    """Indices of ``shots`` random images of each class; of all images where a class has fewer."""
    chosen = []
    for c in labels.unique(sorted=True):
        of_class = torch.where(labels == c)[0]
        chosen.append(of_class[torch.randperm(len(of_class), generator=generator)[:shots]])
    return torch.cat(chosen)


def few_shot(
    features: Features,
    train_labels: Tensor,
    test_labels: Tensor,
    shots: list[int],
    draws: int,
    generator: torch.Generator,
    shuffled: bool = False,
) -> Readings:
    """A fresh linear head, fitted to convergence on k images of every class.

    Multinomial logistic regression (L-BFGS, L2 penalty 1) on features standardised, each dimension by itself,
    with the k-shot images: models differ in the scale of their features, and an attacker has no other images.
    Dimensions that hold only noise are blown up by this, so the curve at small k is a lower bound.
    ``shuffled`` permutes the labels: the control, whose accuracy is 1/K in expectation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, readings = int(train_labels.max()) + 1, []
    for k in shots:
        for draw in range(draws):
            index = draw_shots(train_labels, k, generator)
            labels = train_labels[index]
            if shuffled:
                labels = labels[torch.randperm(len(labels), generator=generator)]
            head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
            head.fit(features.train[index].numpy(), labels.numpy())
            predicted = torch.from_numpy(head.predict(features.test.numpy()))
            readings.append(_reading(k, draw, predicted, test_labels, classes))
    return readings


def fine_tune(model: Model, dataset: Dataset, budget: Attack, generator: torch.Generator) -> Readings:
    """Fine-tune the whole network on k images of every class for a few clipped steps and read its output on the way.

    The model's own head is kept, so the first reading is its output; a CMF head stays as it is.
    """
    model, labels, readings = copy.deepcopy(model), dataset.train.labels, []
    on_cpu = torch.Generator().manual_seed(generator.initial_seed())  # the same images on every device
    images = dataset.train.select(draw_shots(labels.cpu(), budget.shots, on_cpu).to(labels.device))
    recipe = Recipe(epochs=1, lr=budget.lr, batch_size=budget.batch_size, clip=budget.clip)

    def losses(epoch: int) -> Iterator[Tensor]:
        while True:
            for x, y in dataset.batches(images, budget.batch_size, generator):
                yield cross_entropy(model(x), y)

    def read(step: int) -> None:
        if worth_reading(step) or step == budget.steps:
            predicted = output_predictions(model, features_of(model, dataset, dataset.test).cpu())
            readings.append(_reading(step, 0, predicted, dataset.test.labels.cpu(), len(dataset.classes)))

    train(model, lambda epoch: islice(losses(epoch), budget.steps), [recipe], on_step=read)
    return readings


def _reading(x: int, draw: int, predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    return {"x": x, "draw": draw, "accuracy": accuracy_per_class(predicted, labels, classes).tolist()}
