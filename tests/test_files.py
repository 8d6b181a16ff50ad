"""Checkpoints as repositories of this field write them, and class folders as they lie on disks, from the shell."""

import argparse
import copy
import re
import shlex
import subprocess
import sys
from collections import OrderedDict, defaultdict
from datetime import datetime
from enum import Enum
from functools import partial
from pathlib import Path, PosixPath

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import normalize

from unlearn_utils import __main__, files, models, shell
from unlearn_utils.settings import BadInput, Network

BLOCKS = (2, 2, 2, 2)
MEAN, STD = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])


@pytest.fixture(scope="module")
def network():
    return models.build(Network(width=4, blocks=list(BLOCKS)), 3, 3, seed=5).eval()


def usual(model, head="linear", blocks=BLOCKS):
    """The state of our ResNet under the names of the usual CIFAR ResNet."""
    places = [f"layer{layer}.{i}." for layer, n in enumerate(blocks, 1) for i in range(n)]
    renamed = {}
    for key, value in model.state_dict().items():
        for ours, theirs in {"encoder.stem.0.": "conv1.", "encoder.stem.1.": "bn1.", "head.": f"{head}."}.items():
            key = key.replace(ours, theirs) if key.startswith(ours) else key
        for i in reversed(range(len(places))):
            key = key.replace(f"encoder.stages.{i}.", places[i])
        renamed[key] = value.contiguous()
    return renamed


def other_usual(model):
    """The names of the other usual CIFAR ResNet."""
    inner = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}
    renamed = {}
    for key, value in usual(model, "fc").items():
        first, *rest = key.split(".")
        if first.startswith("layer"):
            block, part, *rest = rest
            part = f"residual_function.{inner[part]}" if part in inner else part
            key = ".".join([f"conv{int(first[5:]) + 1}_x", block, part, *rest])
        renamed[re.sub(r"^(conv1|bn1)\.", lambda m: f"conv1.{inner[m[1]]}.", key)] = value
    return renamed


def prefixed(prefix, state):
    return OrderedDict((f"{prefix}{key}", value) for key, value in state.items())


def away(state):
    return {key: torch.zeros_like(value) for key, value in state.items()}


class Mode(Enum):
    A = 1


CHECKPOINTS = {
    "ours": lambda m: m.state_dict(),
    "kuangliu": lambda m: {"net": prefixed("module.", usual(m)), "acc": 93.1, "epoch": 199},
    "the official code": lambda m: {k.replace("shortcut", "downsample"): v for k, v in usual(m, "fc").items()},
    "weiaicunzai": other_usual,
    "Unlearn-Sparse and SalUn": lambda m: {
        "state_dict": usual(m, "fc"),
        "evaluation_result": {"accuracy": {"forget": np.float64(0.4)}, "mia": np.arange(3.0)},
        "best_sa": torch.tensor(93.0),
        "init_weight": None,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
    },
    "arguments": lambda m: {
        "model": usual(m),
        "args": argparse.Namespace(lr=0.1, out=PosixPath("x")),
        "log": defaultdict(list, a=[1]),
    },
    "objects of many kinds": lambda m: {
        "optimizer": torch.optim.SGD(m.parameters(), 0.1),
        "criterion": nn.CrossEntropyLoss(torch.ones(3)),
        "log": pd.DataFrame({"a": [1]}),
        "generator": np.random.default_rng(0),
        "state": np.random.get_state(),
        "mode": Mode.A,
        "when": datetime(2026, 1, 1),
        "odd": np.array([{"a": 1}, None]),
        "more": [{1, 2}, range(3), 1j, bytearray(b"x"), len, partial(max, 1), torch.float32, torch.device("cpu")],
        "net": usual(m),
    },
    "a list": lambda m: [3, usual(m)],
    "a head beside its encoder": lambda m: {
        key if key.startswith("fc.") else f"backbone.{key}": value for key, value in usual(m, "fc").items()
    },
    "compiled in parallel": lambda m: prefixed("_orig_mod.module.", usual(m)),
    "wrappers within": lambda m: {
        key.replace("layer1.", "layer1._orig_mod.module."): value for key, value in usual(m).items()
    },
    "the other way round": lambda m: prefixed("model._orig_mod.", usual(m)),
    "an averaged model": lambda m: {"n_averaged": torch.tensor(3), **prefixed("module.", usual(m))},
    "a criterion beside it": lambda m: {
        **prefixed("net.", usual(m)),
        "criterion.weight": torch.ones(3),
        "normalizer": 1,
    },
    "another entry, and deeper": lambda m: {"checkpoint": {"unlearned": {"weights": usual(m)}, "epoch": 3}},
    "raw and averaged": lambda m: {"model_ema": away(usual(m)), "model": usual(m)},
    "a teacher and a student": lambda m: {**prefixed("teacher.", away(usual(m))), **prefixed("student.", usual(m))},
    "an averaged model alone": lambda m: {"state_dict_ema": usual(m)},
    "Lightning": lambda m: {
        "pytorch-lightning_version": "2.1",
        "state_dict": prefixed("encoder.net.", usual(m)),
        "callbacks": {PosixPath("x"): 1},
    },
    "a whole pickled model": lambda m: m,
    "a whole pickled model in parallel": lambda m: {"net": nn.DataParallel(m)},
    "NumPy arrays": lambda m: {key: value.numpy() for key, value in usual(m).items()},
}


@pytest.mark.parametrize("wrapped", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_weights_load_whatever_they_are_called_and_whatever_lies_beside_them(tmp_path, network, wrapped):
    x = torch.randn(2, 3, 16, 16)
    for old, architecture in ((False, "cifar_resnet18"), (True, "resnet18")):
        file = tmp_path / f"{old}.pth"
        torch.save(wrapped(network), file, pickle_protocol=4 if old else 2, _use_new_zipfile_serialization=not old)
        loaded, notes = files.built(architecture, file, 3)
        assert torch.equal(loaded.eval()(x), network(x))
    if wrapped is CHECKPOINTS["raw and averaged"]:
        assert any("those of 'model.'" in note and "'model_ema.' would fit as well" in note for note in notes)
    if wrapped is CHECKPOINTS["a criterion beside it"]:
        assert any("1 other tensors are left out" in note for note in notes)


@pytest.mark.parametrize("names", [("normalize.mean", "normalize.std"), ("0.mean", "0.std"), ("mu", "sigma")])
def test_the_networks_own_normalisation_is_used_and_not_repeated(tmp_path, network, names):
    own = {name: value.view(1, 3, 1, 1) for name, value in zip(names, (MEAN, STD))}
    torch.save({"state_dict": prefixed("1.", usual(network, "fc")) | own}, tmp_path / "mine.pth")
    x = torch.rand(2, 3, 16, 16)
    loaded, notes = files.built("resnet18", tmp_path / "mine.pth", 3)
    expected = network((x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
    assert torch.allclose(files.with_normalisation(loaded, (9, 9, 9), (9, 9, 9)).eval()(x), expected, atol=1e-5)
    assert any(f"normalised by its own state_dict.{names[0]}" in note for note in notes)
    assert torch.allclose(files.with_normalisation(network, tuple(MEAN), tuple(STD)).eval()(x), expected, atol=1e-5)


def test_official_cmf_checkpoints_load_for_resnets_and_vits(tmp_path, network):
    weight, mu = normalize(torch.randn(3, 32), dim=1), 0.1 * torch.randn(32)
    encoder = {key: value for key, value in usual(network, "fc").items() if not key.startswith("fc.")}
    torch.save({**prefixed("encoder.", encoder), "CMFweights.weight": weight, "CMFweights.mu": mu}, tmp_path / "0.pt")
    x = torch.randn(2, 3, 16, 16)
    f = torch.log_softmax(network.features(x), 1)
    expected = normalize(normalize(f, dim=1) - mu, dim=1) @ weight.T
    assert torch.allclose(files.built("resnet18", tmp_path / "0.pt", 3)[0].eval()(x), expected, atol=1e-5)
    vit = timm.create_model("test_vit", num_classes=0).eval()
    weight, mu = normalize(torch.randn(3, vit.num_features), dim=1), 0.1 * torch.randn(vit.num_features)
    state = {**prefixed("encoder.", vit.state_dict()), "CMFweights.weight": weight, "CMFweights.mu": mu}
    torch.save(state, tmp_path / "1.pt")
    x = torch.randn(2, 3, 160, 160)
    expected = normalize(normalize(vit.forward_features(x)[:, 0], dim=1) - mu, dim=1) @ weight.T
    assert torch.allclose(files.built("timm/test_vit", tmp_path / "1.pt", 3)[0].eval()(x), expected, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["none", "unit_length", "log_softmax"])
def test_the_normalisation_of_our_own_cmf_heads_is_seen_in_the_file(tmp_path, network, normalisation):
    model, (x, y) = copy.deepcopy(network), (5 * torch.randn(30, 3, 16, 16), torch.arange(3).repeat(10))
    models.use_class_mean_head(model, normalisation)
    model.head.refit(10 * model.features(x).detach(), y)
    torch.save(model.state_dict(), tmp_path / "ours.pt")
    assert torch.allclose(files.built("resnet18", tmp_path / "ours.pt", 3)[0].eval()(x), model.eval()(x), atol=1e-5)


def test_weights_of_libraries_load_under_any_prefix(tmp_path):
    for architecture, model in {
        "resnet50": models.build(Network(architecture="bottleneck_resnet", width=4, blocks=[3, 4, 6, 3]), 3, 3, seed=5),
        "torchvision/squeezenet1_1": torchvision.models.squeezenet1_1(num_classes=3),
        "resnet18": torchvision.models.resnet18(num_classes=3),
        "timm/resnet10t": timm.create_model("resnet10t", num_classes=3),
        "test_vit": timm.create_model("test_vit", num_classes=3),
    }.items():
        save_file(
            {k: v.contiguous() for k, v in prefixed("backbone.", model.state_dict()).items()},
            tmp_path / "3.safetensors",
        )
        loaded = files.built(architecture, tmp_path / "3.safetensors", 3)[0].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass C:\n    n: int = 3\n"
        "def make(): return nn.Linear(2, C().n)",
        "from blocks_of_mine import head\ndef make(num_classes): return head(num_classes)",
        "def make(width=2, *, num_classes=10, in_channels=1): return nn.Linear(width, num_classes)",
        "class make(nn.Linear):\n    def __init__(self, num_classes): super().__init__(2, num_classes)",
        "def make(n_out, dropout=0): return nn.Linear(2, n_out)",
        "def make(k): return nn.Linear(2, k)",
        "make = nn.Linear(2, 3)",
    ],
)
def test_a_file_of_ones_own_is_a_module(tmp_path, code):
    future = "from __future__ import annotations\n" * code.startswith("from __future__")
    (tmp_path / "net_of_mine.py").write_text(future + "from torch import nn\n" + code.removeprefix(future))
    (tmp_path / "blocks_of_mine.py").write_text("from torch import nn\ndef head(n): return nn.Linear(2, n)\n")
    model = nn.Linear(2, 3)
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    loaded, _ = files.built(f"{tmp_path}/net_of_mine.py:make", tmp_path / "mine.pth", 3)
    assert torch.equal(loaded.weight, model.weight)


def test_of_a_torchscript_file_one_sentence_leads_out(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), tmp_path / "mine.pt")
    with pytest.raises(BadInput, match=r"mine.pt .* weights \(it is TorchScript\); save model.state_dict"):
        files.weights_of(tmp_path / "mine.pt")


class Bomb:
    def __reduce__(self):
        return (open, ("bomb", "w"))


class Evil:
    def __reduce__(self):
        return (exec, ("open('bomb', 'w')",))


@pytest.mark.parametrize(
    "content, architecture, classes, told",
    [
        (lambda m: Bomb(), "resnet18", 3, "holds no tensors"),
        (lambda m: Evil(), "resnet18", 3, "holds no tensors"),
        (lambda m: [1], "resnet18", 3, "holds no tensors"),
        (lambda m: m.state_dict(), "resnet34", 3, "the file has encoder.stages"),
        (lambda m: m.state_dict(), "cifar_resnet18", 10, "the file has head.weight (3, 32), head.bias (3,)."),
        (lambda m: m.state_dict(), "timm/resnet10t", 3, "does not fit timm/resnet10t"),
        (lambda m: m.state_dict(), "resnet19", 3, "no architecture 'resnet19'"),
        (lambda m: m.state_dict(), "nowhere.py:make", 3, "No such file"),
        (lambda m: m.state_dict(), "net.py:nope", 3, "no attribute 'nope'"),
        (lambda m: m.state_dict(), "net.py:three", 3, "returns a int"),
        (lambda m: m.state_dict(), "net.py:bad", 3, "ZeroDivisionError"),
        (lambda m: m.state_dict(), "net.py:ends", 3, "SystemExit"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_no_code_of_them_runs(
    tmp_path, monkeypatch, network, content, architecture, classes, told
):
    monkeypatch.chdir(tmp_path)
    torch.save(content(network), "mine.pth")
    (tmp_path / "net.py").write_text(
        "def three(): return 3\ndef bad(): return 1 / 0\ndef ends(): raise SystemExit(3)\n"
    )
    with pytest.raises(BadInput) as refused:
        files.built(architecture, Path("mine.pth"), classes)
    assert told in str(refused.value) and "\n" not in str(refused.value) and not (tmp_path / "bomb").exists()


# --- the shell


def run(arguments):
    return shell.command(shlex.split(arguments))


@pytest.fixture
def folder(tmp_path):
    """Three classes of colours, 6 + 6 images of 16 pixels."""
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for c, name in enumerate(("cat", "dog", "frog")):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(6):
                pixels = random.integers(0, 90, (16, 16, 3), dtype=np.uint8)
                pixels[..., c] += 150
                Image.fromarray(pixels).save(tmp_path / "images" / part / name / f"{i}.png")
    return tmp_path


def test_files_of_several_kinds_and_a_folder_give_table_and_figure_by_one_command(folder, network, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for place, content in {
        "a/o.pth": usual(network),
        "r.pth": torchvision.models.resnet18(num_classes=3).state_dict(),
        "a/b/3.pt": usual(network),
        "a/c/3.pt": usual(network),
    }.items():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, place)
    encoder = {key: value for key, value in usual(network, "fc").items() if not key.startswith("fc.")}
    torch.save(
        {
            **prefixed("encoder.", encoder),
            "CMFweights.weight": normalize(torch.randn(3, 32), dim=1),
            "CMFweights.mu": torch.zeros(32),
        },
        "cmf.pt",
    )
    models = "a/b/3.pt a/c/3.pt 'with CMF=cmf.pt' --original a/o.pth --retrain r.pth"
    kinds = "--architecture resnet18 --architecture Retrain=torchvision/resnet18"
    assert run(f"{models} {kinds} --data images --forget cat --device cpu --starts 1") == 0
    told = capsys.readouterr().out
    for words in (" b ", " c ", "with CMF", "NCC, head's normalisation", "UNL010", "16 pixels, 3 channels", "0.491"):
        assert words in told
    assert sorted(path.name for path in folder.iterdir()) == ["a", "cmf.pt", "images", "r.pth"]
    for arguments, sentence in {
        "a/o.pth --forget cow": "cat, dog, frog",
        "none.pth --forget cat": "none.pth cannot be read",
        "a/o.pth ./a/o.pth --forget cat": "is given twice",
        "a/o.pth --forget 9": "forget is [9]",
        "a/o.pth --forget cat --sed 3": "--starts",
        "a/o.pth --forget 0 --save ''": "--save names nothing",
        "a/o.pth --forget cat --device foo": "device 'foo' is not available here",
        "a/o.pth --forget cat --architecture you=resnet18": "look at you",
        "a/o.pth --forget cat --normalise much": "--normalise is 'much'",
        "x=a/o.pth x=r.pth --forget cat": "name them, as NAME=FILE",
        "a/o.pth --forget cat --data nowhere": "nowhere",
    }.items():
        with pytest.raises(SystemExit) as ended:
            run(f"--data images --architecture resnet18 {arguments}")
        assert str(ended.value).startswith("evaluate: ") and sentence in str(ended.value)


def test_grey_images_go_to_a_network_of_one_channel(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    torch.save(usual(models.build(Network(width=4, blocks=list(BLOCKS)), 1, 3, seed=5)), "grey.pth")
    given = "grey.pth --architecture resnet18 --data images --forget 0 --device cpu --starts 1"
    assert run(given) == 0 and "1 channels, mean and standard deviation 0, 1" in capsys.readouterr().out
    assert run(f"{given} --normalise 0.13,0.31 --features head --save found") == 0
    assert "deviation 0.13, 0.31" in capsys.readouterr().out and (folder / "found" / "evaluation.png").exists()


def test_what_systems_leave_behind_is_no_image_and_depth_does_not_matter(folder, network, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    torch.save(usual(network), "mine.pth")
    given = "mine.pth --architecture resnet18 --data images --forget dog --device cpu --starts 1"
    run(given)
    before, file = capsys.readouterr().out, Path("images/train/cat/5.png")
    for inside in (".ipynb_checkpoints/5.png", "._5.png", "Thumbs.db", "../.DS_Store", "more/images/5.png"):
        place = file.parent / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    file.unlink()
    run(given)
    assert capsys.readouterr().out.split("UNL001")[0] == before.split("UNL001")[0]


def test_the_package_alone_loads_nothing_heavy_and_the_command_is_known(monkeypatch, capsys):
    code = (
        "import sys, unlearn_utils; assert not any(n.startswith(('unlearn_utils.', 'torch')) for n in sys.modules); "
        "from unlearn_utils import evaluate, Arrays, Watch; assert callable(evaluate)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr(sys, "argv", ["unlearn_utils", "evaluate", "--help"])
    with pytest.raises(SystemExit) as ended:
        __main__.main()
    assert not ended.value.code and "--retrain" in capsys.readouterr().out
