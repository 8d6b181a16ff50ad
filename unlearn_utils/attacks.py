"""Relearning attacks (an extension: the paper contains none): recover a forgotten class from a model.

Each attack returns readings: a list of ``{"x", "draw", "accuracy"}`` with one test accuracy per class;
x is the number of images per class, or the number of optimiser steps. Higher forget accuracy means that
more of the class was retained. Compare with the Original, Retrain and an untrained network.
"""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .data import Dataset, Images, is_in
from .heads import LinearHead, class_means
from .metrics import accuracy_per_class
from .models import Model
from .representation import Features, features_of, output_predictions
from .settings import Attack, Recipe
from .training import train, worth_reading

Readings = list[dict[str, Any]]

ON_FEATURES = ("few_shot", "few_shot_shuffled", "prototype")
FINE_TUNING = ("fresh_head", "own_head", "retain_only")
NEEDS_FORGET_SET = ("prototype", "retain_only")  # the others treat all classes alike


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


def prototype(
    model: Model,
    features: Features,
    train_labels: Tensor,
    test_labels: Tensor,
    forget: tuple[int, ...],
    shots: list[int],
    draws: int,
    generator: torch.Generator,
) -> Readings:
    """Training-free: the forget weight vectors of the model's own head become centred means of k features.

    w_f = s (m_f - m) / ||m_f - m|| with m the mean of the class means m_c and s the mean norm of the retain
    weight vectors; the bias makes the new logit at m equal to the mean retain logit there.
    """
    classes, readings = int(train_labels.max()) + 1, []
    with torch.no_grad():
        train_z, test_z = model.head.embed(features.train), model.head.embed(features.test)
    weight = model.head.weight.detach()
    bias = getattr(model.head, "bias", torch.zeros(classes)).detach()
    retain = ~is_in(torch.arange(classes), forget)
    for k in shots:
        for draw in range(draws):
            index = draw_shots(train_labels, k, generator)
            means = class_means(train_z[index], train_labels[index], classes)
            centre = means.mean(0)
            w, b = weight.clone(), bias.clone()
            neutral = (weight[retain] @ centre + bias[retain]).mean()
            for f in forget:
                direction = torch.nn.functional.normalize(means[f] - centre, dim=0)
                w[f] = direction * weight[retain].norm(dim=1).mean()
                b[f] = neutral - w[f] @ centre
            readings.append(_reading(k, draw, (test_z @ w.T + b).argmax(1), test_labels, classes))
    return readings


def fine_tune(
    model: Model, dataset: Dataset, attack: str, forget: tuple[int, ...], budget: Attack, generator: torch.Generator
) -> Readings:
    """Fine-tune the whole network for a few clipped steps and read its output on the way.

    ``fresh_head`` and ``own_head`` see k images of every class, ``retain_only`` (the model's own head) sees
    all retain images and no forget image. A CMF head counts as the model's own and stays as it is.
    """
    model = copy.deepcopy(model)
    labels = dataset.train.labels
    if attack == "retain_only":
        images = dataset.train.select(~is_in(labels, forget))
    else:
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())  # the same images on every device
        images = dataset.train.select(draw_shots(labels.cpu(), budget.shots, on_cpu).to(labels.device))
    if attack == "fresh_head":
        classes, width = model.head.weight.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator.initial_seed())
            model.head = LinearHead(width, classes).to(labels.device)
    readings = []

    def read(step: int) -> None:
        if worth_reading(step) or step == budget.steps:
            readings.append(_output_reading(model, dataset, step))

    recipe = Recipe(epochs=1, lr=budget.lr, batch_size=budget.batch_size, clip=budget.clip)
    losses = _losses(model, dataset, images, recipe, generator)
    train(model, lambda _: islice(losses, budget.steps), [recipe], on_step=read)
    return readings


def _losses(model: Model, dataset: Dataset, images: Images, recipe: Recipe, generator: torch.Generator):
    while True:
        for x, y in dataset.batches(images, recipe.batch_size, generator):
            yield cross_entropy(model(x), y)


def _output_reading(model: Model, dataset: Dataset, step: int) -> dict[str, Any]:
    features = features_of(model, dataset, dataset.test).cpu()
    classes = len(dataset.classes)
    return _reading(step, 0, output_predictions(model, features), dataset.test.labels.cpu(), classes)


def _reading(x: int, draw: int, predicted: Tensor, labels: Tensor, classes: int) -> dict[str, Any]:
    return {"x": x, "draw": draw, "accuracy": accuracy_per_class(predicted, labels, classes).tolist()}
