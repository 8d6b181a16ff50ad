"""Files of weights that hold none, or weights that are no numbers: one sentence names the file."""

import math

import pytest
import torch
from safetensors.torch import save_file

from unlearn_utils import models
from unlearn_utils.settings import BadInput, Network

SMALL = {"width": 4, "blocks": [1, 1]}


def refusal(file) -> str:
    with pytest.raises(BadInput) as refused:
        models.build(Network(**SMALL, weights=str(file)), channels=3, classes=10, seed=0)
    return str(refused.value)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"eight weights", b"PK\x03\x04", b"\x80\x02", b"{}", b"\x00" * 100])
def test_a_file_that_holds_no_weights_is_named_with_a_reason(tmp_path, ending, content):
    file = tmp_path / f"weights{ending}"
    file.write_bytes(content)
    told = refusal(file)
    assert told.startswith(f"{file} does not hold the weights of a resnet encoder (") and "\n" not in told
    assert len(told.partition("(")[2]) > len("Error).")


@pytest.mark.parametrize("content", [3, [1, 2], {"stem": "x"}, {1: torch.zeros(2)}, torch.zeros(3)])
def test_a_torch_file_of_something_else_is_named(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    assert "does not hold the weights of a resnet encoder" in refusal(tmp_path / "weights.pth")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_finite_numbers_are_refused(tmp_path, value):
    weights = models.build(Network(**SMALL), 3, 10, seed=7).encoder.state_dict()
    weights = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in weights.items()}
    weights["stem.0.weight"][0, 0, 1, 1] = value
    save_file(weights, tmp_path / "weights.safetensors")
    assert "weights.safetensors holds weights that are infinite or no numbers" in refusal(tmp_path / "weights.safetensors")


def test_an_installed_package_gives_weights_of_other_names_in_the_same_order(tmp_path, monkeypatch):
    network = Network(architecture="timm/resnet18", weights="package:some_weights")
    wanted = models.build(Network(architecture="timm/resnet18"), 3, 4, seed=1).encoder.state_dict()
    (tmp_path / "some_weights").mkdir()
    (tmp_path / "some_weights" / "__init__.py").touch()
    renamed = {f"other.{i}": tensor for i, tensor in enumerate(wanted.values())} | {"classifier": torch.zeros(7)}
    torch.save(renamed, tmp_path / "some_weights" / "weights.pth")
    monkeypatch.syspath_prepend(tmp_path)
    loaded = models.build(network, 3, 4, seed=0).encoder.state_dict()
    assert all(torch.equal(loaded[name], wanted[name]) for name in wanted)


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(BadInput, match="pip install no-such-weights"):
        models.build(Network(architecture="timm/resnet18", weights="package:no_such_weights"), 3, 4, seed=0)


@pytest.mark.parametrize("named", ["package:json", "package:.x", "package:__main__", "~nobody-of-this-name/x.pth"])
def test_odd_names_of_weights_end_with_one_sentence_before_a_run(named):
    with pytest.raises(BadInput, match="network.weights is .*; (it must be 'none'|pip install)") as refused:
        models.check_network(Network(weights=named), 32)
    assert "\n" not in str(refused.value)
