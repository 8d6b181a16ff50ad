"""What hides a class at the head: its logit's margin in two parts, and how far its bias was lowered."""

from __future__ import annotations

import torch
from torch import Tensor

from .data import is_in


def margin_parts(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Parts of the margin z_k - max_{j != k} z_j that row and bias have, each its mean over class k, (K,). Ours.

    With j* the arg max over the other logits of one image, z_k - z_{j*} = (w_k - w_{j*}) f + (b_k - b_{j*}).
    The two add up to the margin. ``features`` are what the rows are multiplied with: z for a CMF head, which has
    no bias (None) and a bias part of 0. Null value of the margin 0: a tie with the best other class; negative:
    the class is not read, and the more negative part is what hides it. NaN for a class without images.
    """
    classes = len(weight)
    scores = features.double() @ weight.double().T
    bias = scores.new_zeros(classes) if bias is None else bias.double()
    own = labels[:, None]
    rival = (scores + bias).scatter(1, own, -torch.inf).argmax(1, keepdim=True)
    parts = torch.cat([scores.gather(1, own) - scores.gather(1, rival), bias[own] - bias[rival]], dim=1)
    total = parts.new_zeros(classes, 2).index_add_(0, labels, parts)
    row, of_bias = (total / torch.bincount(labels, minlength=classes)[:, None]).T
    return row, of_bias


def _split(bias: Tensor, forget: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    chosen = is_in(torch.arange(len(bias), device=bias.device), forget)
    return bias[chosen].double(), bias[~chosen].double()


def bias_stability(bias: Tensor, forget: tuple[int, ...]) -> float:
    """BSC = 1 / (1 + |mean b_F - mean b_R|) of the forget and the retain biases (arXiv 2605.08730).

    Null value 1: the same mean. Lower, towards 0: the biases of the forget classes stand out, on either side.
    """
    of_forget, of_retain = _split(bias, forget)
    return 1 / (1 + (of_forget.mean() - of_retain.mean()).abs().item())


def median_bias_gap(bias: Tensor, forget: tuple[int, ...]) -> float:
    """MBG = sigmoid(median b_F - min b_R) (arXiv 2605.08730).

    Null value 0.5: the median forget bias equals the smallest retain bias. Lower, towards 0: it lies below all
    of them, so that the biases alone name the forgotten classes; a class like any other is at 0.5 or above.
    """
    of_forget, of_retain = _split(bias, forget)
    return (of_forget.quantile(0.5) - of_retain.min()).sigmoid().item()


def minimal_bias_score(bias: Tensor, forget: tuple[int, ...]) -> float:
    """MBS = sigmoid(min b_F - min b_R) (arXiv 2605.08730): ``median_bias_gap`` of the lowest forget bias.

    The same null value and direction; the two are equal where one class is forgotten.
    """
    of_forget, of_retain = _split(bias, forget)
    return (of_forget.min() - of_retain.min()).sigmoid().item()
