"""Encoder and head. Every model has ``.features(x)`` and ``.head``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu
from torch.utils.checkpoint import checkpoint

from .heads import ClassMeanHead, LinearHead
from .settings import BadInput, Network

ENCODERS: dict[str, Callable[[Network, int], nn.Module]] = {}


def encoder(*architectures: str):
    """Register what makes the encoder, with its ``out_features``, of a network and a number of channels.

    A further architecture is no part of the code that made the others.
    """

    def register(maker: Callable[[Network, int], nn.Module]):
        ENCODERS.update(dict.fromkeys(architectures, maker))
        return maker

    return register


def encoder_of(architecture: str) -> Callable[[Network, int], nn.Module]:
    return ENCODERS[architecture.partition("/")[0]]


class Convolution(nn.Conv2d):
    """A convolution without bias that is right and fast on processors without bfloat16, too.

    With AVX2 only, the weight gradient of a strided 1x1 convolution of less than 8 channels writes outside its memory
    (torch 2.14.1, channels last), so the images are thinned out before it. And bfloat16 takes twelve times as long as
    float32 there, and three times with an AVX-512 that lacks it; so the rounded numbers are multiplied in float32,
    and the result is rounded.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int):
        every = stride if kernel == 1 else 1
        super().__init__(inputs, outputs, kernel, stride // every, kernel // 2, bias=False)
        self.every = every

    def forward(self, x: Tensor) -> Tensor:
        if self.every > 1:  # a slice would give gradients in another memory layout, which costs 14 % of a training
            x = avg_pool2d(x, 1, self.every)
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or _has_bfloat16():
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(x.bfloat16().float(), self.weight.bfloat16().float(), None).bfloat16()


@cache
def _has_bfloat16() -> bool:
    emulated = torch.backends.cpu.get_cpu_capability() == "AVX512" and not torch.cpu._is_avx512_bf16_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported() and not emulated


class Block(nn.Module):
    """Convolutions with batch norm and a shortcut (He et al. 2016).

    Two of 3x3; or as a bottleneck 1x1, 3x3 and 1x1, a quarter as wide inside.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool):
        super().__init__()
        shapes = [(inputs, outputs, 3, stride), (outputs, outputs, 3, 1)]
        if bottleneck:
            inner = outputs // 4
            shapes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        for i, (before, after, kernel, step) in enumerate(shapes, 1):
            self.add_module(f"conv{i}", Convolution(before, after, kernel, step))
            self.add_module(f"bn{i}", nn.BatchNorm2d(after))
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(Convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(relu(y)))
        return relu(y + self.shortcut(x))


@encoder("resnet", "bottleneck_resnet")
class ResNet(nn.Module):
    """Residual encoder with the CIFAR stem (3x3, stride 1, no pooling) and global average pooling.

    At width 64 ``blocks`` [2, 2, 2, 2] is the paper's ResNet-18, [3, 4, 6, 3] of bottlenecks its ResNet-50.
    Weights are initialised by PyTorch's defaults, as in the official code.
    """

    def __init__(self, network: Network, channels: int):
        super().__init__()
        width, bottleneck = network.width, network.architecture == "bottleneck_resnet"
        self.stem = nn.Sequential(Convolution(channels, width, 3, 1), nn.BatchNorm2d(width), nn.ReLU())
        stages, inputs = [], width
        for stage, count in enumerate(network.blocks):
            outputs = width * 2**stage * (4 if bottleneck else 1)
            for block in range(count):
                stages.append(Block(inputs, outputs, 2 if stage and not block else 1, bottleneck))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.out_features = inputs

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean((2, 3))


class Model(nn.Module):
    """An encoder (N, C, H, W) -> (N, d) and a head (N, d) -> (N, K)."""

    def __init__(self, encoder: nn.Module, head: nn.Module, precision: str, images_per_pass: int = 0):
        super().__init__()
        self.encoder, self.head = encoder, head
        self.autocast_to = torch.bfloat16 if precision == "bfloat16" else None
        self.images_per_pass = images_per_pass
        self.encoder_frozen = False
        self.images_seen = 0  # with a gradient: what a training costs
        self.register_buffer("projection", None)  # (d, d), where a method has set one

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features, float32 (N, d)."""
        self.images_seen += len(x) * torch.is_grad_enabled()
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=self.autocast_to, enabled=self.autocast_to is not None):
            parts = x.split(self.images_per_pass or len(x))
            features = self.encoder(x) if len(parts) == 1 else torch.cat([self._pass(part) for part in parts])
        features = features.float()
        return features if self.projection is None else features @ self.projection.T

    def _pass(self, x: Tensor) -> Tensor:
        """A part of a batch: its activations are not kept for the gradient but computed again.

        The loss still sees the whole batch, so the recipe stays what it is; only batch norm, in training,
        takes its statistics of each part.
        """
        contexts = nullcontext(), statistics_kept(self.encoder)
        return checkpoint(self.encoder, x, use_reentrant=False, context_fn=lambda: contexts)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def freeze_encoder(self) -> None:
        """Leave only the head to train; batch norm stays as it is and uses its running statistics.

        The official code trains the head on features normalised with the statistics of each batch, and tests it on
        those with the running ones. Here head and test see the same features: the question is what a head alone
        can do on them.
        """
        self.encoder_frozen = True
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it a pass in training mode leaves the running statistics of batch norm as they are."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)


def build(network: Network, channels: int, classes: int, seed: int) -> Model:
    """A freshly initialised network with a linear head; the same seed gives the same weights.

    The encoder starts from ``network.weights`` where they are named. Raises BadInput where they do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = encoder_of(network.architecture)(network, channels)
        head = LinearHead(encoder.out_features, classes)
        if "vit" in network.architecture:  # as timm does it, and with it the official code
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
    if network.weights not in ("none", "imagenet"):
        _load_weights(encoder, weights_file(network.weights), network.architecture)
    model = Model(encoder, head, network.precision, network.images_per_pass)
    return model.to(memory_format=torch.channels_last)


@encoder("vit_small_patch16_224", "timm")
def _timm(network: Network, channels: int) -> nn.Module:
    """An encoder of timm's: its features after pooling, a ViT's class token after the last norm."""
    import timm

    name, pretrained = network.architecture.removeprefix("timm/"), network.weights == "imagenet"
    try:
        made = timm.create_model(name, pretrained=pretrained, num_classes=0, in_chans=channels)
    except Exception as reason:  # the model hub's errors have no base class of their own
        raise BadInput(
            f"timm cannot make {network.architecture} ({in_short(reason)}); without a download network.weights can be "
            "a file that holds its ImageNet weights, or 'none'."
        ) from None
    made.out_features = getattr(made, "head_hidden_size", 0) or made.num_features  # some widen them before the head
    return made


def check_network(network: Network, side: int) -> None:
    """Raise BadInput where no network can be made: no such encoder, no such weights, or not for ``side`` pixels."""
    asked = network.architecture
    if asked not in ENCODERS and not asked.startswith("timm/"):
        raise BadInput(f"network.architecture is '{asked}', but it must be one of {', '.join(ENCODERS)} (timm/<name>).")
    if network.weights not in ("none", "imagenet"):
        weights_file(network.weights)
    if encoder_of(asked) is not _timm:
        return
    import timm

    name, known = asked.removeprefix("timm/"), None
    with suppress(RuntimeError):  # no such weights of it
        known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if known is None:
        raise BadInput(f"timm has no model '{name}'; timm.list_models() names those that it has.")
    if known.fixed_input_size and known.input_size[1] != side:
        raise BadInput(
            f"{asked} takes images of {known.input_size[1]} pixels, not {side}; set data.enlarge_to and data.crop_to, "
            "or take another network."
        )


def weights_file(named: str) -> Path:
    """The file that ``network.weights`` names: a path, or "package:<name>" for the one in an installed package.

    Raises BadInput where there is none.
    """
    package = named.removeprefix("package:")
    found = importlib.util.find_spec(package) if package != named else None
    folders = found.submodule_search_locations or () if found else ()
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.suffix in (".pth", ".safetensors")]
    if package == named:
        files = [path for path in [Path(named).expanduser()] if path.is_file()]
    if len(files) != 1:
        raise BadInput(
            f"network.weights is '{named}', but it must be 'none', 'imagenet', a file, or package:<name> of an "
            "installed package with one file of weights."
        )
    return files[0]


def _load_weights(encoder: nn.Module, file: Path, architecture: str) -> None:
    """Fill the encoder from a .safetensors or PyTorch file; no code in the file is executed, a head is ignored.

    A file whose tensors have other names, but the same shapes in the same order, is the same network.
    """
    from safetensors.torch import load_file

    try:
        is_safe = file.suffix == ".safetensors"
        weights = load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
        weights = {key: value for key, value in weights.items() if not key.startswith("head.")}
        own = encoder.state_dict()
        if not own.keys() & weights.keys() and all(a.shape == b.shape for a, b in zip(own.values(), weights.values())):
            weights = dict(zip(own, weights.values()))
        encoder.load_state_dict(weights)
    except Exception as reason:  # what files that hold something else lead to has no base class
        raise BadInput(f"{file} does not hold the weights of a {architecture} encoder ({in_short(reason)}).") from None
    if not all(value.isfinite().all() for value in encoder.state_dict().values()):
        raise BadInput(f"{file} holds weights that are infinite or no numbers; take those of a sound training.")


def in_short(reason: Exception) -> str:
    """The first line of a message, or the kind of error where it says nothing."""
    first = str(reason).replace("\n\t", " ").partition("\n")[0][:200]
    return first if " " in first else type(reason).__name__


def use_class_mean_head(model: Model, normalisation: str) -> None:
    """Replace the head by an unfitted CMF head of the same shape."""
    classes, features = model.head.weight.shape
    model.head = ClassMeanHead(features, classes, normalisation).to(model.head.weight.device)
