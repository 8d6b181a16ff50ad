"""What functions take: how images are seen, a network, a recipe, a probe, an attack; and what bad input says.

Only the standard library is needed here, so that a misspelled key is refused before anything heavy is imported.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

READOUTS = {"output": "Output", "probe": "Linear probe", "ncc": "NCC"}


class BadInput(ValueError):
    """Something the user wrote cannot be used; the message is one sentence that says what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows in place of a traceback."""
        return [f"BadInput: {self}"]


@dataclass(frozen=True, kw_only=True)
class Views:
    """How a network sees the images that lie on the device; 0 leaves a step out."""

    crop_padding: int = 0  # pixels: random crop after zero padding
    flip: bool = False
    enlarge_to: int = 0  # images are enlarged to this size ...
    crop_to: int = 0  # ... and this is cut out of them: at random in training, from the centre in testing
    random_resized_crop: bool = False  # in training a random part of the image is brought to ``crop_to`` instead
    normalisation: str = "own"  # of the training images, of "cifar10" or "imagenet", or 0.5 ("half")


@dataclass(frozen=True, kw_only=True)
class Data(Views):
    source: str  # "folder" holds train/<class>/* and test/<class>/*; "digits" come with scikit-learn
    image_size: int
    channels: int
    folder: str = ""  # where images lie or are downloaded to
    train_per_class: int = 0  # 0: all
    test_per_class: int = 0
    evaluate_on: str = "test"  # "validation": a fifth of the training images takes the test set's place
    # How the training images are seen when features are read off them, in eval mode: "test" as test images are,
    # "augmented" one training view of each, as in the official code.
    readout_view: str = "test"

    @property
    def views(self) -> Views:
        return Views(**{spec.name: getattr(self, spec.name) for spec in dataclasses.fields(Views)})


@dataclass(frozen=True)
class Network:
    architecture: str = "resnet"  # or "bottleneck_resnet", both with the CIFAR stem, or a ViT of timm's
    width: int = 64  # channels of a ResNet's first stage; every further stage doubles them
    blocks: list[int] = field(default_factory=lambda: [2, 2, 2, 2])  # residual blocks per stage
    precision: str = "float32"  # "bfloat16": autocast in the encoder
    weights: str = "none"  # what an encoder starts from: "none", "imagenet" (a ViT's), or a file of weights
    images_per_pass: int = 0  # more images go through the encoder in parts, with less memory; 0: all at once

    def check_resolution(self, side: int) -> None:
        """Raise BadInput where a ResNet would halve images of ``side`` pixels below one pixel.

        A 3x3 convolution of stride 2 on 1x1 images in bfloat16 returns weight gradients that are not defined
        with PyTorch 2.14.1 on processors with AMX.
        """
        halvings = max(0, side - 1).bit_length()  # ceil(log2(side)): from side to one pixel
        if self.architecture in ("resnet", "bottleneck_resnet") and len(self.blocks) - 1 > halvings:
            raise BadInput(
                f"network.blocks has {len(self.blocks)} stages, but each after the first halves the image, and "
                f"{side} pixels allow at most {halvings + 1}."
            )


@dataclass(frozen=True)
class Recipe:
    """How one model is optimised. Defaults are those of the official code for the ResNets."""

    epochs: int
    lr: float
    optimiser: str = "sgd"  # "adam" takes neither momentum nor nesterov
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "constant"  # or "cosine", or "step": a fifth of the rate every three epochs; all per epoch
    warmup_epochs: int = 0
    min_lr: float = 0.0
    clip: float = 0.0  # largest gradient norm; 0: no clipping
    constants: dict = field(default_factory=dict)  # the method's own, checked by the method


@dataclass(frozen=True)
class Probe:
    """The linear probe of the official code: SGD on cached features, best of the validation split."""

    epochs: int
    lr: float = 0.01
    schedule: str = "constant"  # or "cosine": from ``lr`` to 0 over ``epochs``, per epoch
    patience: int = 0  # epochs without a better validation accuracy after which it ends; 0: none end it
    momentum: float = 0.9
    batch_size: int = 128
    validation: float = 0.1

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine"):
            raise BadInput(f"the schedule of a probe is {self.schedule!r}, but it must be constant or cosine.")
        whole, any_number = (int,), (int, float)
        for name, kinds, low, below in (
            ("epochs", whole, 1, 1e9), ("batch_size", whole, 1, 1e9), ("patience", whole, 0, 1e9), ("lr", any_number, 0, 1e6),
            ("momentum", any_number, 0, 1), ("validation", any_number, 0, 1),
        ):
            value, what = getattr(self, name), "a whole number" if kinds is whole else "a number"
            if type(value) not in kinds or not low <= value < below:
                raise BadInput(f"{name} of a probe is {value!r}, but it must be {what}, at least {low} and below {below:g}.")


@dataclass(frozen=True)
class Attack:
    """Budget of the attacks that fine-tune a network."""

    shots: int  # images per class
    steps: int
    lr: float
    batch_size: int = 128
    clip: float = 1.0
