"""Fixtures shared by the tests: seeded randomness, clusters, and a data set and network small enough for a test."""

import tomllib
from pathlib import Path

import pytest
import torch

from unlearn_utils import models
from unlearn_utils.data import Dataset, Images
from unlearn_utils.settings import Network, Views
from unlearn_utils.study.rows import Study

torch.set_num_threads(1)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def clusters(rng):
    """clusters(K, d, n per class, noise) -> float64 features around the corners 3 e_k, and labels in random order."""

    def make(classes, dimension, per_class, noise):
        labels = torch.arange(classes).repeat_interleave(per_class)
        labels = labels[torch.randperm(len(labels), generator=rng)]
        corners = 3 * torch.eye(classes, dimension, dtype=torch.float64)
        scatter = torch.randn(len(labels), dimension, generator=rng, dtype=torch.float64)
        return corners[labels] + noise * scatter, labels

    return make


@pytest.fixture
def dataset(rng) -> Dataset:
    """Four classes of 8x8 grey images, 12 + 6 of each, that differ in which quarter is bright; augmented."""

    def images(per_class):
        labels = torch.arange(4).repeat_interleave(per_class)
        pixels = torch.randint(0, 60, (len(labels), 1, 8, 8), generator=rng, dtype=torch.uint8)
        for i, c in enumerate(labels.tolist()):
            pixels[i, :, 4 * (c // 2) : 4 * (c // 2) + 4, 4 * (c % 2) : 4 * (c % 2) + 4] += 150
        return Images(pixels, labels)

    train, test = images(12), images(6)
    scaled = train.pixels.float() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3))
    return Dataset(train, test, ("a", "b", "c", "d"), mean, std, Views(crop_padding=1), "toy")


@pytest.fixture
def resnet():
    """A two-stage ResNet with batch norm and a linear head for the four classes of ``dataset``."""
    return models.build(Network(width=4, blocks=[1, 1]), channels=1, classes=4, seed=0)


@pytest.fixture
def state_of():
    """state_of(module) -> a copy of everything that a module holds, for bit-for-bit comparisons."""
    return lambda module: {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture
def same():
    """same(before, after): two states are equal bit for bit."""
    return lambda a, b: a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="session")
def tiny() -> dict:
    """The parameters of tests/tiny.toml, the same for every test that runs cells or notebooks."""
    return tomllib.loads((Path(__file__).parent / "tiny.toml").read_text())


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty place for the store and the figures."""
    monkeypatch.setenv("UNLEARN_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def study(home, tiny) -> Study:
    """A study of seconds, on the digits."""
    return Study.of("digits", tiny["seeds"], tiny["forget_sets"], "cpu", jobs=1, overrides=tiny["overrides"])
