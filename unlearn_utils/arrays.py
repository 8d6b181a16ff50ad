"""Plain arrays in place of a network, and the guards behind which networks are read and arrays measured."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import models
from .heads import NORMALISATIONS, ClassMeanHead, LinearHead
from .settings import BadInput


@dataclass(frozen=True, eq=False)
class Arrays:
    """All that ``evaluate`` measures of a model, as NumPy arrays, tensors or lists; kept as float32 NumPy arrays.

    Features (M, d) of the training and (N, d) of the test images, in the order of the labels, and logits (N, K) of the
    test images. Of a linear head also ``weight`` (K, d) and ``bias`` (K,); of a CMF head, whose logits are the cosines
    of ``weight`` and g(f) - ``centre``, the centre (d,) and the ``normalisation`` g ("none", "unit_length" or
    "log_softmax"). Raises BadInput where shapes do not belong together, or features are no finite numbers.
    """

    train_features: Any
    test_features: Any
    test_logits: Any
    weight: Any = None
    bias: Any = None
    centre: Any = None
    normalisation: str = "unit_length"

    def __post_init__(self):
        for field in fields(self)[:-1]:
            if (value := getattr(self, field.name)) is not None:
                object.__setattr__(self, field.name, _array(field.name, value))
        (m, d), (n, k) = (np.shape(x) if np.ndim(x) == 2 else (0, 0) for x in (self.train_features, self.test_logits))
        shapes = {"train_features": (m, d), "test_features": (n, d), "test_logits": (n, k)}
        shapes |= {"weight": (k, d), "bias": (k,), "centre": (d,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if 0 in shape or value is not None and value.shape != shape:
                raise BadInput(
                    f"{name} has the shape {np.shape(value)}, but train_features must be (M, d), test_features (N, d), "
                    "test_logits (N, K), weight (K, d), bias (K,) and centre (d,)."
                )
        if not all(np.isfinite(x).all() for x in (self.train_features, self.test_features)):
            raise BadInput("features are infinite or no numbers.")
        if np.isnan(self.test_logits).any():
            raise BadInput("logits are no numbers.")
        if self.normalisation not in NORMALISATIONS:
            raise BadInput(f"normalisation is {self.normalisation!r}, but must be one of {', '.join(NORMALISATIONS)}.")

    def head(self) -> nn.Module:
        """The head that they have, or a linear one of NaN, so that whatever needs a head is NaN."""
        nothing = np.full((self.test_logits.shape[1], self.train_features.shape[1]), np.nan, np.float32)
        weight = nothing if self.weight is None else self.weight
        bias = nothing[:, 0] if self.weight is None else self.bias
        return head_of(
            *(None if x is None else torch.as_tensor(x) for x in (weight, bias, self.centre)), self.normalisation
        )


def head_of(
    weight: Tensor, bias: Tensor | None, centre: Tensor | None = None, normalisation: str = "none"
) -> nn.Module:
    """A linear head of weight (K, d) and bias (K,) or, with a centre (d,), a CMF head."""
    classes, width = weight.shape
    if centre is None:
        head, state = LinearHead(width, classes, bias is not None), {"weight": weight, "bias": bias}
    else:
        head, state = ClassMeanHead(width, classes, normalisation), {"weight": weight, "centre": centre}
    state = {name: value for name, value in state.items() if value is not None}
    head.requires_grad_(False).load_state_dict(state, assign=True)  # on their device, whatever the default one is
    return head


def _array(name: str, value: Any) -> np.ndarray:
    try:
        value = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value
        return np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as reason:
        raise BadInput(f"{name} cannot be read as an array ({models.in_short(reason)}).") from None


@contextmanager
def _random_states_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients; afterwards random states and every module's mode are what they were.

    What is compiled runs in its eager form, where hooks are called. The caller's autocast stays.
    """
    modes = [(part, part.training) for module in modules for part in module.modules() if hasattr(part, "training")]
    with ExitStack() as stack:
        stack.enter_context(_random_states_kept())
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for part, _ in modes:  # not module.eval(), which may do more in somebody else's network
                part.training = False
            yield
        finally:
            for part, mode in modes:
                part.training = mode


@contextmanager
def own_state() -> Iterator[None]:
    """For what trains or measures: gradients on, inference mode and autocast off, float32 on the CPU by default."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    off = torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False)
    try:
        with (
            _random_states_kept(),
            torch.inference_mode(False),
            torch.enable_grad(),
            off[0],
            off[1],
            torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
