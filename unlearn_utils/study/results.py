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
Pair = tuple[int, tuple[int, ...]]  # seed and forget set


class Results:
    """What ``Study`` asks for tasks and gives pictures and tables to.

    It brings ``profile``, ``machine``, ``pack``, ``used`` (results by question), ``differs`` (from the profile's own).
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

    def save(self, thing: Any, name: str, caption: str = "", of: str = "") -> None:
        """Show a figure or a table with its caption, and keep it with its points as ``<name>.*`` beside the others.

        ``of`` names the data where they are not the study's own.
        """
        from IPython.display import HTML, display

        if not hasattr(thing, "savefig") and not hasattr(thing, "write"):
            raise BadInput(f"save takes a figure or a table of unlearn_utils.views.tables, not {type(thing).__name__}.")
        caption = " ".join(filter(None, [caption or getattr(thing, "caption", ""), f"{of or self.outputs.caption}."]))
        target, is_figure = self.outputs.file(name), hasattr(thing, "savefig")
        if is_figure:
            thing.savefig(f"{target}.png", metadata={"Description": caption, "Software": None})
            thing.savefig(f"{target}.pdf", metadata={"Subject": caption, "CreationDate": None})
            if hasattr(thing, "points"):
                write(target.with_name(f"{name}_points.csv"), thing.points.to_csv(index=False, float_format="%.5g"))
        else:
            thing.write(target, caption)
        _note([f"file/{name}.{'png' if is_figure else 'csv'}"])
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
        """One model of the study; the Original and the untrained network are the same for every forget set."""
        return Cell(self.profile, seed, () if METHODS[method].sees_all else forget, method, variant)

    def _run(self, tasks: list[Task]) -> dict[str, dict[str, Any]]:
        """Results by question: committed, cached, or computed now. What fails is printed and left out."""
        look_again(tasks)
        packed = {task.question: found for task in tasks if self.pack and (found := self.pack.find(task))}
        here = [task for task in tasks if task.question not in packed]
        if self.pack and here and sweep.missing(here):
            try:
                dataset_of(self.profile)
            except BadInput as problem:
                told = f"{len(here)} results are not committed ({here[0].label}, ...)"
                raise BadInput(f"{told}, and they cannot be computed: {problem}") from None
        found = self._here(here)
        if here and self.pack and (others := self._others(here)):
            told = f"{len(here)} of {len(tasks)} results are not committed, and {others[0]} is another model here"
            if packed:
                print(f"{told}: all of this table is computed here, since two versions of a model are never mixed.")
                packed, found = {}, self._here(tasks)
            else:
                print(f"{told}: do not compare these numbers with committed ones.")
        self.used["committed"] |= packed
        _note(packed)
        return {question: record["result"] for question, record in packed.items()} | found

    def _here(self, tasks: list[Task]) -> dict[str, dict[str, Any]]:
        """Results by question, cached or computed now. What fails is printed and left out."""
        try:
            sweep.run(tasks, self.machine)
        except sweep.Failure as failure:
            print(failure)
        found = {task.question: (task, record.result) for task in tasks if (record := Store().get(task.spec))}
        self.used["here"] |= {question: task for question, (task, _) in found.items()}
        _note(f"{task.kind}/{task.key}" for task, _ in found.values())
        return {question: result for question, (_, result) in found.items()}

    def _others(self, here: list[Task]) -> list[str]:
        """Labels of the models behind these tasks that are other ones than the committed."""
        behind, cells = {}, [task.cell for task in here]
        for cell in cells:  # which grows
            behind[trained(cell).question] = trained(cell)
            cells += filter(None, [cell.start])
        others = []
        for task in behind.values():
            own, theirs = Store().get(task.spec), self.pack.find(task)
            known = theirs or (task.cell.method, task.cell.variant) == ("original", "linear")  # which all starts from
            if own and known and (not theirs or own.result.get("weights") != theirs["result"].get("weights")):
                others.append(task.label)
        return sorted(others)


def _note(lines) -> None:
    """Tell the command that executes this notebook which results and files it used."""
    if place := os.environ.get(USED):
        with Path(place).open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def identity(cell: Cell, pair: Pair) -> dict[str, Any]:
    """The columns that say which model a row is of."""
    forget = " ".join(map(str, pair[1]))
    return {"model": cell.label, "method": cell.method, "variant": cell.variant, "seed": pair[0], "forget": forget}
