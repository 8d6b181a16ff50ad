"""Retain-only fine-tuning."""

from dataclasses import dataclass

from torch.nn.functional import cross_entropy

from . import Method, method


@method("finetune", "Fine-tune", citation="a control: it asks for no forgetting", role="reference")
@dataclass(frozen=True)
class FineTune(Method):
    """min CE(D_r), from the original model; the forget set is never seen."""

    def losses(self, run, epoch):
        for x, y in run.batches(run.retain):
            yield cross_entropy(run.model(x), y)
