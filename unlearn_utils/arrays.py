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

AGREE = 0.9  # share of the test images of which a head has to predict what the logits do


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
        for name, shape in (shapes | {"weight": (k, d), "bias": (k,), "centre": (d,)}).items():
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
        """The head, or a linear one of NaN where none is known or it does not predict what the logits do.

        So what needs a head is NaN. Logits need not be the head's own: a softmax or a temperature may have followed.
        """
        if self.weight is not None:
            parts = (None if x is None else torch.as_tensor(x) for x in (self.weight, self.bias, self.centre))
            head = head_of(*parts, self.normalisation)
            predicted = head(torch.as_tensor(self.test_features)).argmax(1, keepdim=True).numpy()
            chosen = np.take_along_axis(self.test_logits, predicted, 1)[:, 0]
            if (chosen == self.test_logits.max(1)).mean() >= AGREE:
                return head
        unknown = torch.full((self.test_logits.shape[1], self.train_features.shape[1]), torch.nan)
        return head_of(unknown, unknown[:, 0])


def head_of(
    weight: Tensor, bias: Tensor | None, centre: Tensor | None = None, normalisation: str = "none"
) -> nn.Module:
    """A linear head of weight (K, d) and bias (K,) or, with a centre (d,), a CMF head."""
    classes, width = weight.shape
    cmf = centre is not None
    head = ClassMeanHead(width, classes, normalisation) if cmf else LinearHead(width, classes, bias is not None)
    state = {name: t for name, t in zip(("weight", "bias", "centre"), (weight, bias, centre)) if t is not None}
    head.requires_grad_(False).load_state_dict(state, assign=True)  # on their device, whatever the default one is
    return head


def _array(name: str, value: Any) -> np.ndarray:
    try:
        value = value.detach().float().cpu().numpy() if isinstance(value, Tensor) else value
        return np.array(value, dtype=np.float32)
    except (RuntimeError, TypeError, ValueError) as reason:
        raise BadInput(f"{name} cannot be read as an array ({models.in_short(reason)}).") from None


def _keep_random_states(stack: ExitStack) -> None:
    stack.callback(random.setstate, random.getstate())
    stack.callback(np.random.set_state, np.random.get_state())
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    stack.enter_context(torch.random.fork_rng(devices=gpus))


@contextmanager
def undisturbed(*modules: nn.Module) -> Iterator[None]:
    """In eval mode, without gradients; afterwards random states and every module's mode are what they were.

    What is compiled runs in its eager form, where hooks are called. The caller's autocast stays.
    """
    with ExitStack() as stack:
        _keep_random_states(stack)
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for part in (part for module in modules for part in module.modules() if hasattr(part, "training")):
            stack.callback(setattr, part, "training", part.training)
            part.training = False  # not module.eval(), which may do more in somebody else's network
        yield


@contextmanager
def own_state() -> Iterator[None]:
    """For what trains or measures: gradients on, inference mode and autocast off, float32 on the CPU by default."""
    with ExitStack() as stack:
        _keep_random_states(stack)
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        for state in (torch.inference_mode(False), torch.enable_grad(), torch.device("cpu")):
            stack.enter_context(state)
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
