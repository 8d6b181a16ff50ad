"""Retain-only fine-tuning."""

from dataclasses import dataclass

from . import method
from .references import Retrain


@method("finetune", "Fine-tune", citation="a control: it asks for no forgetting", role="reference")
@dataclass(frozen=True)
class FineTune(Retrain):
    """min CE(D_r), from the original model; the forget set is never seen."""
