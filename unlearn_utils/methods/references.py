"""The networks that every unlearned model is compared with."""

from dataclasses import dataclass

from torch.nn.functional import cross_entropy

from . import Method, method


@method("random", "Untrained network", citation="control, ours", start="initialisation", sees_all=True)
@dataclass(frozen=True)
class UntrainedNetwork(Method):
    """The Original's initialisation, never trained."""


@method("original", "Original", start="initialisation", sees_all=True)
@dataclass(frozen=True)
class Original(Method):
    """min CE(D)."""

    def losses(self, run, epoch):
        for x, y in run.batches(run.everything):
            yield cross_entropy(run.model(x), y)


@method("retrain", "Retrain", citation="paper, App. A.5", start="initialisation")
@dataclass(frozen=True)
class Retrain(Method):
    """min CE(D_r), from scratch: the model that never saw the forget set."""

    def losses(self, run, epoch):
        for x, y in run.batches(run.retain):
            yield cross_entropy(run.model(x), y)


@method(
    "retrain_again",
    "Retrain, second seed",
    citation="null control",
    start="initialisation",
    recipe_of="retrain",
    other_seed=1000,
)
@dataclass(frozen=True)
class RetrainAgain(Retrain):
    """min CE(D_r), from scratch and from another initialisation: its difference from Retrain is the null."""
