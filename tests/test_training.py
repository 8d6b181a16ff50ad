"""The training loop tells how far it is, and its rate is that of the schedule; the steps are in test_methods."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from unlearn_utils.settings import Recipe
from unlearn_utils.training import learning_rate, train


def test_steps_and_epochs_are_counted_through_all_phases_with_the_mean_loss_of_each(resnet, dataset, rng):
    told, losses, recipe = [], [], Recipe(epochs=1, lr=0.05)

    def epoch_losses(epoch):
        for x, y in dataset.batches(dataset.train, 16, rng):
            losses.append(cross_entropy(resnet(x), y))
            assert resnet.training
            yield losses[-1]

    train(
        resnet,
        epoch_losses,
        [recipe, recipe],
        on_step=lambda step: told.append(step) or resnet.eval(),  # as a reading leaves it
        on_epoch=lambda epoch, loss: told.append((epoch, loss)),
    )
    means = [torch.stack(part).mean().item() for part in (losses[:3], losses[3:])]
    assert math.isnan(told[0][1]) and told[1:] == [0, 1, 2, 3, (1, means[0]), 4, 5, 6, (2, means[1])]
    assert not resnet.training


def test_the_learning_rate_warms_up_and_falls_along_a_cosine_or_in_steps():
    recipe = Recipe(epochs=12, lr=1.0, schedule="cosine", warmup_epochs=2, min_lr=0.1)
    rates = [learning_rate(recipe, epoch) for epoch in (0, 1, 2, 7, 12)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.55, 0.1])
    assert learning_rate(Recipe(epochs=3, lr=0.2), 2) == 0.2
    stepped = Recipe(epochs=9, lr=1.0, schedule="step")
    assert [learning_rate(stepped, epoch) for epoch in (2, 3, 6)] == pytest.approx([1.0, 0.2, 0.04])
