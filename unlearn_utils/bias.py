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
    return tuple((total / torch.bincount(labels, minlength=classes)[:, None]).T)


def bias_numbers(bias: Tensor, forget: tuple[int, ...]) -> dict[str, float]:
    """BSC, MBG and MBS of the forget and the retain biases, b_F and b_R (arXiv 2605.08730).

    1 / (1 + |mean b_F - mean b_R|): null value 1, lower where the forget biases stand out, on either side.
    sigmoid(median b_F - min b_R) and sigmoid(min b_F - min b_R): null value 0.5, as low as the lowest retain
    bias, and above it for most classes; towards 0 the biases alone name the forgotten classes.
    """
    of_forget = is_in(torch.arange(len(bias), device=bias.device), forget)
    b_f, b_r = bias[of_forget].double(), bias[~of_forget].double()
    return {
        "bias_stability": 1 / (1 + (b_f.mean() - b_r.mean()).abs().item()),
        "median_bias_gap": (b_f.quantile(0.5) - b_r.min()).sigmoid().item(),
        "minimal_bias_score": (b_f.min() - b_r.min()).sigmoid().item(),
    }
