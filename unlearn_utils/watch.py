"""``Watch``: output, probe and NCC accuracy of the forget classes while any training loop runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from .arrays import Arrays
from .data_forms import listed
from .evaluation import default_probe, measured, whole
from .foreign import NoNumbers, Pass, Where
from .settings import READOUTS, Probe

STYLES = {"Retrain": "dashed", "Original": "dotted"}


class Watch:
    """Measures a network every so many steps of somebody's loop, and leaves the loop as it would be without it.

    ``watch = Watch(train, test, forget, original=..., retrain=..., every=50)``, then ``watch(model, step)`` in the
    loop; ``watch.frame`` has a row per reading: step, accuracies (fractions) by output, probe and NCC, seconds.
    Data, ``forget``, ``features`` and ``probe`` (one start) are those of ``evaluate``; what a generator yields is kept.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        forget: Any,
        original: nn.Module | Arrays | None = None,
        retrain: nn.Module | Arrays | None = None,
        every: int = 50,
        *,
        features: Where = None,
        probe: Probe | None = None,
        batch_size: int = 256,
    ):
        parts = {"train": train, "test": test}
        self.parts = {part: list(data) if isinstance(data, Iterator) else data for part, data in parts.items()}
        references = {"Original": original, "Retrain": retrain}
        self.references = {name: model for name, model in references.items() if model is not None}
        self.forget, self.every, self.batch_size = listed(forget), whole("every", every), batch_size
        self.features, self.probe, self.calls = features, probe, 0
        self.rows: list[dict[str, float]] = []
        self.levels: dict[str, dict[str, float]] = {}
        self.started, self.spent = time.time(), 0.0

    def __call__(self, model: nn.Module, step: int | None = None) -> None:
        """Read the model at steps 0, ``every``, 2 ``every``, ...; without a ``step`` calls are counted."""
        step, self.calls = self.calls if step is None else int(step), self.calls + 1
        if step % self.every == 0:
            self.read(model, step)

    def read(self, model: nn.Module, step: int) -> None:
        """Read the model now; of one that has become NaN the row is NaN. Raises BadInput where nothing can be read."""
        before, row = time.time(), {}
        self.levels = self.levels or self._read(self.references)
        try:
            row = self._read({"model": model})["model"]
        except NoNumbers as reason:
            if not any(pd.isna(row.get("output_forget")) for row in self.rows):
                print(f"Watch at step {step}: {reason}")
        self.rows.append({"step": step, **row, "seconds": time.time() - before})
        self.spent += time.time() - before

    def _read(self, models: dict[str, nn.Module | Arrays]) -> dict[str, dict[str, float]]:
        """Their rows, by name."""
        if not models:
            return {}
        seen = Pass(models, self.parts, dict.fromkeys(models, self.features), self.forget, self.batch_size)
        probe = self.probe or default_probe(len(seen.labels["train"]), len(seen.names))
        return {name: measured(name, seen, probe, (0,), READOUTS)[0] for name in models}

    @property
    def frame(self) -> pd.DataFrame:
        columns = [f"{readout}_{side}" for readout in READOUTS for side in ("retain", "forget")]
        return pd.DataFrame(self.rows).reindex(columns=["step", *columns, "seconds"])

    @property
    def share(self) -> float:
        """The share of the time since the start that the readings took."""
        return self.spent / max(time.time() - self.started, 1e-9)

    def plot(self) -> Figure:
        """Forget accuracy against the step; Retrain's level dashed, the Original's dotted, in the readout's colour."""
        figure = Figure(figsize=(4.5, 2.8), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="forget accuracy (%)", ylim=(-3, 103))
        for i, (readout, label) in enumerate(READOUTS.items()):
            column = f"{readout}_forget"
            axes.plot(self.frame.step, 100 * self.frame[column], marker="o", color=f"C{i}", label=label)
            for name, level in self.levels.items():
                axes.axhline(100 * level[column], color=f"C{i}", linestyle=STYLES[name], linewidth=1)
        axes.legend(title=", ".join(f"{STYLES[name]}: {name}" for name in self.levels))
        return figure

    def __repr__(self) -> str:
        return f"{len(self.rows)} readings, {100 * self.share:.0f} % of the time.\n{self.frame.to_string(index=False)}"
