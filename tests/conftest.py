"""Fixtures shared by the tests: seeded randomness, clusters, and a data set and network small enough for a test."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from small import LEARNED

from unlearn_utils import models
from unlearn_utils.data import Dataset, Images
from unlearn_utils.paths import ROOT
from unlearn_utils.settings import Network, Views
from unlearn_utils.study.study import Study

torch.set_num_threads(1)

MODELS = [  # one of each kind: from scratch, whole network, the head alone, a frozen encoder, a CMF head
    *("original", "retrain", "random", "random_label", "prune"),
    *("random_label.classifier", "original.cmf", "scrub.cmf"),
]


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
    return Study("digits", tiny["forget_sets"], tiny["seeds"], tiny["overrides"], device="cpu", jobs=1)


def learned_study(tiny: dict, **given) -> Study:
    overrides = tiny["overrides"] | LEARNED | given.pop("overrides", {})
    return Study("digits", given.pop("forget_sets", tiny["forget_sets"]), [0], overrides, device="cpu", jobs=1, **given)


@pytest.fixture(scope="session")
def computed(tmp_path_factory, tiny) -> Path:
    """A home in which all readings of MODELS lie, computed once for all tests."""
    home = tmp_path_factory.mktemp("computed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARN_HOME", str(home))
        learned_study(tiny).measure(MODELS, references=False)
    return home


@pytest.fixture
def ran(computed, home, tiny) -> Study:
    """A study whose MODELS and readings are in the store, in a home of its own."""
    shutil.copytree(computed, home, dirs_exist_ok=True)
    return learned_study(tiny)


@pytest.fixture
def count(monkeypatch) -> list:
    """The labels of all tasks that are computed in this process from here on."""
    from unlearn_utils.study.cells import Task

    done = []
    for kind in Task.__subclasses__() + [sub for cls in Task.__subclasses__() for sub in cls.__subclasses__()]:
        if "compute" in vars(kind) and kind.__module__.startswith("unlearn_utils."):

            def noted(task, device, compute=kind.compute):
                done.append(task.label)
                return compute(task, device)

            monkeypatch.setattr(kind, "compute", noted)
    return done


@pytest.fixture(scope="session")
def python():
    """python(script, home, root): a process that runs a script, with the package that lies in a folder."""

    def start(script: str, home: Path, root: Path = ROOT, **options) -> subprocess.Popen:
        environment = os.environ | {"UNLEARN_HOME": str(home), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=root, **pipes | options)

    return start


@pytest.fixture(scope="session")
def copied(tmp_path_factory):
    """copied(): a folder with a copy of the package, whose code a test may edit."""

    def copy() -> Path:
        root = tmp_path_factory.mktemp("copy")
        shutil.copytree(ROOT / "unlearn_utils", root / "unlearn_utils", ignore=shutil.ignore_patterns("__pycache__"))
        return root

    return copy
