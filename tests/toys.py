"""Images of four quarters and networks that classify them, small enough to be known by heart."""

import numpy as np
import torch
from torch import nn

from unlearn_utils import evaluate
from unlearn_utils.settings import Probe

PROBE = Probe(epochs=40, lr=0.1)


def images(per_class, channels=1, side=8, classes=4, seed=0):
    """Noise with one bright quarter, which names the class; in mixed order."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=random)]
    pixels = 0.3 * torch.randn(len(labels), channels, side, side, generator=random)
    half = side // 2
    for i, c in enumerate(labels.tolist()):
        pixels[i, :, half * (c // 2) : half * (c // 2 + 1), half * (c % 2) : half * (c % 2 + 1)] += 1.5
    return pixels, labels


TRAIN, TEST = images(20), images(40, seed=1)


def quarters():
    """Features are the four quarters' brightness, the head is the identity: right on every image."""
    model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 4))
    with torch.no_grad():
        model[2].weight.copy_(torch.eye(4))
        model[2].bias.zero_()
    return model


def folded():
    """A Retrain: the features of class 3 are those of class 0, and no output names it."""
    model = nn.Sequential(*quarters(), quarters()[2])
    with torch.no_grad():
        model[2].weight[3] = 0
        model[2].weight[0, 3] = 1
        model[3].bias[3] = -9
    return model


def hiding():
    """The Original with class 3 shut out by its bias alone."""
    model = quarters()
    with torch.no_grad():
        model[2].bias[3] = -100
    return model


def three():
    return {"Original": quarters(), "Retrain": folded(), "hiding": hiding()}


def read(models, train=TRAIN, test=TEST, forget=(3,), **options):
    models = models if isinstance(models, dict) else {"mine": models}
    return evaluate(models, train, test, forget, **{"probe": PROBE, "progress": False, "starts": 2, **options})


def noted(report, *words):
    return any(all(word in note for word in words) for note in report.notes)


def result(report, code):
    return report.checks.set_index("code").result[code]


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 4))


def same_numbers(one, other):
    columns = [c for c in one.rows if c.endswith(("_retain", "_forget")) and c in other.rows]
    numbers = (report.rows[columns].to_numpy(float) for report in (one, other))
    return len(columns) > 10 and np.allclose(*numbers, rtol=1e-5, equal_nan=True)
