"""Where a study's results come from: the committed ones, the cache, or computing; and which of them were used."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..methods import METHODS
from ..paths import Outputs, write
from ..settings import BadInput
from . import sweep
from .cells import Cell, Task, dataset_of, look_again, trained
from .machine import Machine
from .packs import Pack
from .profiles import Profile
from .store import Store

USED = "UNLEARN_USED"  # names a file in which an executed notebook notes the results that it used


class Results:
    """What ``Study`` asks for tasks and gives pictures and tables to.

    It brings ``profile``, ``machine``, ``pack``, ``used`` (results by question) and ``differs`` (from the profile's own).
    """

    profile: Profile
    machine: Machine
    pack: Pack | None
    used: dict[str, dict]
    differs: dict[str, Any]

    @property
    def outputs(self) -> Outputs:
        """Where pictures and tables go; a folder of its own where the study is not the profile's."""
        return Outputs(self.profile.name, json.dumps(self.differs, sort_keys=True) if self.differs else "")

    def save(self, thing: Any, name: str, caption: str = "") -> None:
        """Show a figure or a table with its caption, and keep it with its points as ``<name>.*`` beside the others."""
        from IPython.display import HTML, display

        caption = " ".join(filter(None, [caption or getattr(thing, "caption", ""), f"{self.outputs.caption}."]))
        target = self.outputs.file(name)
        if hasattr(thing, "savefig"):
            thing.savefig(f"{target}.png", metadata={"Description": caption, "Software": None})
            thing.savefig(f"{target}.pdf", metadata={"Subject": caption, "CreationDate": None})
            if hasattr(thing, "points"):
                write(target.with_name(f"{name}_points.csv"), thing.points.to_csv(index=False, float_format="%.5g"))
        else:
            thing.write(target, caption)
        self._note_line(f"file/{name}.{'png' if hasattr(thing, 'savefig') else 'csv'}")
        display(thing)
        display(HTML(f"<p><small>{caption}</small></p>"))

    def _origin(self) -> str:
        committed, here = self.used["committed"].values(), self.used["here"]
        if not committed and not here:
            return "committed results" if self.pack else "results are cached, and computed where the cache lacks them"
        if not committed:
            return f"{len(here)} results computed here"
        made = sorted({record["made_with"]["hardware"] for record in committed})
        return f"{len(committed)} committed results (made on {', '.join(made)}), {len(here)} computed here"

    def cell(self, seed: int, forget: tuple[int, ...], method: str, variant: str = "linear") -> Cell:
        """What stands for one model of the study."""
        return self._cell((seed, forget), method, variant)

    def _cell(self, pair: tuple[int, tuple[int, ...]], method: str, variant: str) -> Cell:
        """The Original and the untrained network are the same for every forget set."""
        return Cell(self.profile, pair[0], () if METHODS[method].sees_all else pair[1], method, variant)

    def _run(self, tasks: list[Task]) -> dict[str, dict[str, Any]]:
        """Results by key: committed, cached, or computed now. What fails is printed and left out."""
        look_again(tasks)
        packed = {task.key: found for task in tasks if self.pack and (found := self.pack.find(task))}
        here = [task for task in tasks if task.key not in packed]
        if here and packed and not self._same_originals(here):
            print(
                f"{len(here)} of {len(tasks)} results are not committed, and the Original here is another one: all of "
                "this table is computed here, since two Originals are never mixed."
            )
            packed, here = {}, tasks
        if self.pack and (absent := sweep.missing(here)):
            try:
                dataset_of(self.profile)
            except BadInput as problem:
                raise BadInput(
                    f"{len(absent)} results are not committed ({absent[0].label}, ...), and they cannot be "
                    f"computed: {problem}"
                ) from None
        try:
            sweep.run(here, self.machine)
        except sweep.Failure as failure:
            print(failure)
        stored = {task.key: record for task in here if (record := Store().get(task.spec))}
        self.used["committed"] |= {task.question: packed[task.key] for task in tasks if task.key in packed}
        self.used["here"] |= {task.question: task for task in here if task.key in stored}
        self._note([task for task in here if task.key in stored], packed)
        return {key: found["result"] for key, found in packed.items()} | {key: r.result for key, r in stored.items()}

    def _note(self, here: list[Task], packed: dict[str, dict]) -> None:
        """Tell the command that executes this notebook which results it used."""
        for note in [
            *(f"{task.kind}/{task.key}" for task in here),
            *(record["question"] for record in packed.values()),
        ]:
            self._note_line(note)

    def _note_line(self, note: str) -> None:
        if place := os.environ.get(USED):
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(f"{note}\n")

    def _same_originals(self, here: list[Task]) -> bool:
        """Whether the Originals behind these tasks are cached and are those of the committed results."""
        for seed in {task.cell.seed for task in here}:
            original = trained(self._cell((seed, ()), "original", "linear"))
            record = Store().get(original.spec)
            if record is None or record.result["weights"] != self.pack.original_of(original):
                return False
        return True


def identity(cell: Cell, pair: tuple[int, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "model": cell.label,
        "method": cell.method,
        "variant": cell.variant,
        "seed": pair[0],
        "forget": " ".join(map(str, pair[1])),
    }
