"""Plain arrays in place of a network, and the guards behind which networks are read and arrays measured."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import models
from .heads import NORMALISATIONS
from .settings import BadInput


@dataclass(frozen=True, eq=False)
class Arrays:
    """All that ``evaluate`` measures of a model, as NumPy arrays, tensors or lists; kept as float32 NumPy arrays.

    Features (M, d) of the training and (N, d) of the test images, in the order of the labels, and logits (N, K) of the
    test images. Of a linear head also ``weight`` (K, d) and ``bias`` (K,); of a CMF head, whose logits are the cosines
    of ``weight`` and g(f) - ``centre``, the centre (d,) and
    the ``normalisation`` g ("none", "unit_length" or "log_softmax").
    Raises BadInput where shapes do not belong together, or features are no finite numbers.
    """

    train_features: Any
    test_features: Any
    test_logits: Any
    weight: Any = None
    bias: Any = None
    centre: Any = None
    normalisation: str = "unit_length"

    def __post_init__(self):
        for name in ("train_features", "test_features", "test_logits", "weight", "bias", "centre"):
            object.__setattr__(self, name, _array(name, getattr(self, name)))
        (m, d), (n, d_test), (n_logits, k) = (
            _matrix(name, getattr(self, name)) for name in ("train_features", "test_features", "test_logits")
        )
        shapes = {"weight": (k, d), "bias": (k,), "centre": (d,)}
        if d != d_test or n != n_logits:
            raise BadInput(
                f"the arrays have features ({m}, {d}) and ({n}, {d_test}) and logits ({n_logits}, {k}), but they "
                "must be (M, d), (N, d) and (N, K)."
            )
        for name, shape in shapes.items():
            if (value := getattr(self, name)) is not None and value.shape != shape:
                raise BadInput(
                    f"{name} has the shape {value.shape}, but with these features and logits it must be {shape}."
                )
        if not (np.isfinite(self.train_features).all() and np.isfinite(self.test_features).all()):
            raise BadInput("features are infinite or no numbers.")
        if np.isnan(self.test_logits).any():
            raise BadInput("logits are no numbers.")
        if self.normalisation not in NORMALISATIONS:
            raise BadInput(
                f"normalisation is {self.normalisation!r}, but it must be one of {', '.join(NORMALISATIONS)}."
            )


def _array(name: str, value: Any) -> np.ndarray | None:
    if value is None:
        return None
    try:
        value = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value
        return np.array(value, dtype=np.float32)
    except (TypeError, ValueError) as reason:
        raise BadInput(f"{name} cannot be read as an array ({models.in_short(reason)}).") from None


def _matrix(name: str, value: np.ndarray | None) -> tuple[int, int]:
    if value is None or value.ndim != 2 or not value.size:
        shown = "missing" if value is None else f"of shape {value.shape}"
        raise BadInput(f"{name} is {shown}, but it must be a matrix, a line per image.")
    return value.shape


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients; afterwards random states and every module's mode are what they were.

    What is compiled runs in its eager form, where hooks are called. The caller's autocast stays.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    states = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module in modules:
                module.eval()
            yield
        finally:
            random.setstate(states[0]), np.random.set_state(states[1])
            for part, mode in modes:
                part.training = mode


@contextmanager
def own_state() -> Iterator[None]:
    """For what trains or measures: gradients on, inference mode and autocast off, float32 on the CPU by default."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            torch.device("cpu"),
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
