"""Networks have the sizes of the literature, batches may pass in parts, and weights are loaded only where they fit."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from unlearn_utils import models
from unlearn_utils.settings import BadInput, Network

VIT = "vit_small_patch16_224"


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_resnet18_and_resnet50_have_the_sizes_of_torchvisions_with_another_stem():
    from torchvision.models import resnet18, resnet50

    stem = 64 * 3 * (7 * 7 - 3 * 3)
    eighteen = models.build(Network(), 3, 10, 0)
    fifty = models.build(Network(architecture="bottleneck_resnet", blocks=[3, 4, 6, 3]), 3, 200, 0)
    assert count(eighteen) == count(resnet18(num_classes=10)) - stem
    assert count(fifty) == count(resnet50(num_classes=200)) - stem
    assert fifty.eval().features(torch.zeros(2, 3, 16, 16)).shape == (2, 2048)


def test_the_vit_has_384_features_and_the_size_of_timms():
    import timm

    model = models.build(Network(architecture=VIT), 3, 10, 0)
    assert count(model) == count(timm.create_model(VIT, num_classes=10))
    assert model.eval().features(torch.zeros(1, 3, 224, 224)).shape == (1, 384)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.05) and not model.head.bias.any()  # as timm's


# --- initialisation and resolution


def test_a_resnets_weights_are_drawn_as_pytorch_draws_them():
    """Uniform between -1 and 1 over the root of the number of inputs, whose deviation is root 3 smaller."""
    model = models.build(Network(width=32), 3, 10, 0)
    drawn = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(drawn) == 21
    for layer in drawn:
        largest = layer.weight[0].numel() ** -0.5
        assert layer.weight.abs().max() <= largest
        assert layer.weight.std().item() == pytest.approx(largest / 3**0.5, rel=0.05)
    assert model.head.bias.std() > 0


def test_without_bfloat16_instructions_the_rounded_numbers_are_multiplied_in_float32(monkeypatch):
    monkeypatch.setattr(models, "_has_bfloat16", lambda: False)
    layer, x = models.Convolution(3, 8, 3, 2), torch.randn(4, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.backward(up := torch.randn(y.shape).bfloat16())
    exact, weight = x.detach().bfloat16().double().requires_grad_(), layer.weight.detach().bfloat16().double()
    wanted = torch.nn.functional.conv2d(exact, weight.requires_grad_(), None, 2, 1)
    wanted.backward(up.double())
    for found, of in ((y, wanted), (x.grad, exact.grad), (layer.weight.grad, weight.grad)):
        torch.testing.assert_close(found.double(), of, rtol=2**-8, atol=1e-5)
    assert y.dtype is torch.bfloat16 and layer(x).dtype is torch.float32


def test_bfloat16_that_is_only_emulated_does_not_count(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    for level, has, expected in (("AVX512", True, True), ("AVX512", False, False), ("NEON", False, True)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda level=level: level)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has: has)
        assert models._has_bfloat16.__wrapped__() is expected


def test_a_thinned_out_image_and_no_stride_give_a_strided_convolution():
    layer, x = models.Convolution(9, 16, 1, 2), torch.randn(4, 9, 7, 7)
    weight = layer.weight.detach().clone().requires_grad_()
    for y in (found := layer(x), wanted := torch.nn.functional.conv2d(x, weight, None, 2)):
        y.square().sum().backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(layer.weight.grad, weight.grad)


# --- a batch in parts


@pytest.fixture
def whole_and_parts(dataset, resnet):
    resnet.double()
    parts = copy.deepcopy(resnet)
    parts.images_per_pass = 5
    x, y = dataset.normalise(dataset.train.pixels[::4]).double(), dataset.train.labels[::4]
    return resnet, parts, x, y


def gradients(model, x, y):
    cross_entropy(model.head(model.features(x).double()), y).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch(whole_and_parts):
    whole, parts, x, y = whole_and_parts
    whole.eval(), parts.eval()  # in training batch norm takes its statistics of each part
    expected, found = gradients(whole, x, y), gradients(parts, x, y)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)


def test_in_training_running_statistics_move_once_for_each_part(whole_and_parts):
    whole, parts, x, y = whole_and_parts
    whole.train(), parts.train()
    gradients(parts, x, y)
    with torch.no_grad():
        for part in x.split(5):
            whole.features(part)
    for name, expected in whole.encoder.named_buffers():
        torch.testing.assert_close(dict(parts.encoder.named_buffers())[name], expected)


def test_a_batch_in_parts_holds_fewer_activations(resnet):
    x = torch.randn(64, 1, 8, 8)

    def held():
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            resnet.features(x)
        return sum(sizes)

    whole = held()
    resnet.images_per_pass = 8
    assert held() < whole / 4


# --- weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_encoder_starts_from_a_file_of_weights(suffix, tmp_path):
    source, file = models.build(Network(width=4, blocks=[1, 1]), 3, 10, seed=7), tmp_path / f"weights{suffix}"
    weights = {key: value.contiguous() for key, value in source.encoder.state_dict().items()}
    weights["head.weight"] = torch.zeros(1000, 8)
    save_file(weights, file) if suffix == ".safetensors" else torch.save(weights, file)
    model = models.build(Network(width=4, blocks=[1, 1], weights=str(file)), 3, 10, seed=0)
    assert all(torch.equal(value, weights[key]) for key, value in model.encoder.state_dict().items())
    assert not torch.equal(model.head.weight, source.head.weight)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_the_head_reads_as_many_features_as_a_network_of_timm_gives(name):
    model = models.build(Network(architecture=f"timm/{name}"), 3, 4, 0).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 4)


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


class Evil:
    """Code in a file, that must not be executed."""

    def __reduce__(self):
        return pytest.fail, ("executed",)


ENDLESS = models.build(Network(width=4, blocks=[1, 1]), 3, 10, 7).encoder.state_dict() | {
    "stem.0.weight": torch.full((4, 3, 3, 3), torch.inf)
}


@pytest.mark.parametrize("content, said", [
    (b"eight weights", "does not hold the weights of a resnet encoder"),
    (b"\x80\x02", "does not hold the weights of a resnet encoder"),
    (3, "does not hold the weights of a resnet encoder"),
    ({"stem": torch.zeros(3)}, "does not hold the weights of a resnet encoder"),
    ({"stem": Evil()}, "does not hold the weights of a resnet encoder"),
    (ENDLESS, "holds weights that are infinite or no numbers"),
])  # fmt: skip
def test_a_file_that_does_not_hold_the_encoders_weights_is_named_with_a_reason(tmp_path, content, said):
    file = tmp_path / "weights.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(BadInput, match=f"weights.pth {said}") as refused:
        models.build(Network(width=4, blocks=[1, 1], weights=str(file)), 3, 10, 0)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("network, said", [
    ({"architecture": "resnett"}, "network.architecture is 'resnett', but it must be one of resnet"),
    ({"architecture": "timm/zz"}, "timm has no model 'zz'"),
    ({"architecture": "timm/resnet18.zz"}, "no model 'resnet18.zz'"),
    ({"architecture": "timm/levit_128s"}, "takes images of 224 pixels, not 64; set data.enlarge_to"),
    ({"architecture": VIT}, "takes images of 224 pixels, not 64"),
    ({"weights": "nowhere.pth"}, "network.weights is 'nowhere.pth', but it must be"),
    ({"weights": "package:no_such_weights"}, "package:<name> of an installed package"),
])  # fmt: skip
def test_a_network_that_cannot_be_made_is_refused_before_a_run(network, said):
    models.check_network(Network(), 64)
    with pytest.raises(BadInput, match=said):
        models.check_network(Network(**network), 64)
