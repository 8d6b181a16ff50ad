"""The networks that every reading of an unlearned model is held against."""

from dataclasses import dataclass

from torch.nn.functional import cross_entropy

from . import Method, method


@method("random", "Untrained network", start="initialisation", sees_all=True)
@dataclass(frozen=True)
class UntrainedNetwork(Method):
    """The original's initialisation, never trained: what an architecture gives away by itself (extension)."""


@method("original", "Original", start="initialisation", sees_all=True)
@dataclass(frozen=True)
class Original(Method):
    """Cross-entropy on all training images."""

    def losses(self, run, epoch):
        for x, y in run.batches(run.everything):
            yield cross_entropy(run.model(x), y)


@method("retrain", "Retrain", start="initialisation")
@dataclass(frozen=True)
class Retrain(Method):
    """Cross-entropy on the retain set, from scratch (paper, App. A.5): the model that never saw the class."""

    def losses(self, run, epoch):
        for x, y in run.batches(run.retain):
            yield cross_entropy(run.model(x), y)


@method("retrain_again", "Retrain, second seed", start="initialisation", recipe_of="retrain", other_seed=1000)
@dataclass(frozen=True)
class RetrainAgain(Retrain):
    """Retrain from another initialisation: the null of every gap is what two networks without the class differ by."""
