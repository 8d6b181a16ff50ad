"""Membership inference on the forget class, from losses alone."""

from __future__ import annotations

import torch
from torch import Tensor

FEWEST = 10  # losses in each group: a tenth of them is tested on


def membership_inference(members: Tensor, others: Tensor, seed: int = 0) -> tuple[float, float]:
    """Accuracy of telling members from others by their loss, and max(0, 2 (accuracy - 0.5)).

    As in the official code: ``members`` are the cross-entropy losses (N,) of the forget-class training images,
    ``others`` (M,) those of its test images; the larger group is sub-sampled to the size of the smaller.
    Logistic regression on the loss, mean accuracy over five stratified random splits; that a tenth is tested
    on is our reading. Null values 0.5 and 0: losses tell nothing, as in Retrain, which saw neither group. Higher:
    training images still stand out. It says nothing about the class as such, which both groups belong to. Needs
    ``FEWEST`` losses in each group.
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
