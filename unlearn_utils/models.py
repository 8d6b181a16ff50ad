"""Encoder and head. Every model has ``.features(x)`` and ``.head``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from .heads import ClassMeanHead, LinearHead
from .profiles import Network


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Residual encoder with the CIFAR stem (3x3, stride 1, no pooling) and global average pooling.

    ``blocks`` [2, 2, 2, 2] at width 64 is the paper's ResNet-18.
    """

    def __init__(self, channels: int, network: Network):
        super().__init__()
        width = network.width
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages, inputs = [], width
        for stage, count in enumerate(network.blocks):
            outputs = width * 2**stage
            for block in range(count):
                stages.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.out_features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean((2, 3))


class Model(nn.Module):
    """An encoder (N, C, H, W) -> (N, d) and a head (N, d) -> (N, K)."""

    def __init__(self, encoder: nn.Module, head: nn.Module, precision: str):
        super().__init__()
        self.encoder, self.head = encoder, head
        self.autocast_to = torch.bfloat16 if precision == "bfloat16" else None
        self.encoder_frozen = False
        self.register_buffer("projection", None)  # (d, d), where a method has set one

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features, float32 (N, d)."""
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=self.autocast_to, enabled=self.autocast_to is not None):
            features = self.encoder(x).float()
        return features if self.projection is None else features @ self.projection.T

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def freeze_encoder(self) -> None:
        """Leave only the head to train; batch-norm statistics stay as they are too."""
        self.encoder_frozen = True
        self.encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Model:
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        return self


def build(network: Network, channels: int, classes: int, seed: int) -> Model:
    """A freshly initialised network with a linear head; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ResNet(channels, network)
        model = Model(encoder, LinearHead(encoder.out_features, classes), network.precision)
    return model.to(memory_format=torch.channels_last)


def use_class_mean_head(model: Model, geometry: str) -> None:
    """Replace the head by an unfitted CMF head of the same shape."""
    classes, features = model.head.weight.shape
    model.head = ClassMeanHead(features, classes, geometry).to(model.head.weight.device)


def zero_head(model: Model) -> None:
    """Set the classifier's weight and bias to zero, as the official code does for classifier-only runs."""
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.zero_()
