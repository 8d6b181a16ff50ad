"""Result packs: the records behind a profile's tables and figures in one file that travels, without any tensor.

One JSON object per line, compressed: first what is known of the images and a digest of the whole, then the records.
A pack is asked by what was wanted, whatever code computed it, so it outlives an edit of the code; each record names
the commit that made it.
"""

from __future__ import annotations

import json
import lzma
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import paths
from ..methods import METHODS
from ..paths import ROOT, home
from ..settings import BadInput
from .cells import Task
from .code import is_user_defined
from .profiles import Images
from .readouts import READOUTS
from .store import BROKEN, Damaged, Record, Store, digest

NAME = "results.jsonl.xz"
FORMAT = 2
Records = dict[str, dict[str, Any]]  # by question


@dataclass(frozen=True)
class Pack:
    """What a file holds: the images, and the records by their question."""

    profile: str
    images: Images
    records: Records

    def find(self, task: Task) -> dict[str, Any] | None:
        """The record of a task, or None. What a notebook cell or another package defines is never served."""
        defined = [METHODS[task.cell.method]] + ([READOUTS[task.name].function] if task.kind == "reading" else [])
        return None if any(map(is_user_defined, defined)) else self.records.get(task.question)


def place(profile: str) -> Path:
    """Where the committed pack of a profile is written."""
    return home() / "figures" / profile / NAME


def reference(profile: str) -> Path:
    """Where the committed pack of a profile lies."""
    return place(profile) if place(profile).exists() else ROOT / "figures" / profile / NAME


def read(path: Path, of: str = "", only_head: bool = False) -> Pack:
    """Raises BadInput where the file is no pack as it was written, or one of another profile than ``of``.

    With ``only_head`` there are no records, and nobody knows whether it is whole.
    """
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            head, *listed = [json.loads(line) for line in ([file.readline()] if only_head else file)]
        if head["format"] != FORMAT:
            raise ValueError(f"it has format {head['format']}, but format {FORMAT} is read here; update one of them")
        images = Images(**{key: tuple(v) if isinstance(v, list) else v for key, v in head["images"].items()})
        pack = Pack(head["profile"], images, {record["question"]: record for record in listed})
        if not only_head and head["digest"] != _digest(pack.profile, images, listed):
            raise ValueError("it was changed since it was written")
    except OSError as problem:
        raise BadInput(
            f"there is no result pack that can be read at {path} ({problem.strerror or problem}); --export writes one, "
            "and without --results committed all is computed."
        ) from None
    except (AttributeError, EOFError, lzma.LZMAError, *BROKEN) as problem:
        raise BadInput(f"{path} is no intact result pack ({type(problem).__name__}: {problem}).") from None
    if of and pack.profile != of:
        raise BadInput(f"{path} is a result pack of profile '{pack.profile}', but '{of}' is asked for.")
    return pack


def read_images(path: Path) -> Images:
    """What a pack says of its images, without its records."""
    return read(path, only_head=True).images


def _digest(profile: str, images: Images, records: Iterable[dict]) -> str:
    return digest([profile, asdict(images), sorted(records, key=lambda record: record["question"])])


def write(pack: Pack, path: Path) -> None:
    """Write a pack in one step; the same records give the same file. Raises BadInput where that is not possible."""
    records = [pack.records[question] for question in sorted(pack.records)]
    head = {"format": FORMAT, "profile": pack.profile, "images": asdict(pack.images)}
    head["digest"] = _digest(pack.profile, pack.images, records)
    text = "".join(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in [head, *records])
    try:
        paths.write(path, lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    except OSError as problem:
        raise BadInput(f"no pack can be written to {path} ({problem.strerror}); name another file.") from None


def _behind(keys: Iterable[str]) -> dict[str, Record]:
    """What is stored under "kind/key", and the models behind it, each once."""
    store, found, todo = Store(), {}, list(keys)
    for name in todo:  # which grows
        if not re.fullmatch(r"[\w -]+/\w+", name):
            raise BadInput(f"{name!r:.80} names no result; a result is named by its kind and key, like model/0123abc.")
        if name not in found and (record := store.at(*name.split("/"))):
            found[name] = record
            todo += [f"model/{key}" for key in _models_of(record)]
    return found


def _models_of(record: Record) -> list[str]:
    """Keys of the models that a result is made of; last the one that it is about, or that this one started from."""
    return record.spec["requires"] + ([record.spec["model"]] if "model" in record.spec else [])


def collect(profile: str, images: Images, keys: Iterable[str]) -> Pack:
    """A pack of stored results, named by "kind/key", and of the models behind them; what is not stored is left out.

    Raises BadInput for results of two Originals.
    """
    found, records = _behind(keys), {}

    def original(record: Record | None) -> str:
        """Digest of the weights at the root of a result's model: the Original's, or its own where it has no start."""
        while record and (models := _models_of(record)):
            record = found.get(f"model/{models[-1]}")
        return record.result["weights"] if record else ""

    for record in found.values():
        kind, asked = record.spec["kind"], record.spec["asked"]
        question = digest({"kind": kind, **asked})
        about = {"question": question, "kind": kind, "asked": asked, "code": record.spec["code"]}
        made = {"made_with": record.made_with, "seconds": round(record.seconds, 2), "original": original(record)}
        records.setdefault(question, about | made | {"result": record.result})
    refuse_two_originals(records)
    return Pack(profile, images, records)


def merge(first: Pack, second: Pack) -> tuple[Pack, str]:
    """Both as one, and one line on it. Where both hold a question, the first stays.

    A further result of the second stays out where the first holds its model with other weights. Raises BadInput for
    packs of other profiles or images, and where results of two Originals would meet.
    """
    if (first.profile, first.images) != (second.profile, second.images):
        raise BadInput(
            f"a pack of '{first.profile}' ({first.images.fingerprint}) and one of '{second.profile}' "
            f"({second.images.fingerprint}) do not belong together; merge packs of one profile on the same images."
        )
    refuse_two_originals(first.records, second.records)
    both = first.records.keys() & second.records.keys()
    results = {question: (first.records[question]["result"], second.records[question]["result"]) for question in both}
    other = sum(ours != theirs for ours, theirs in results.values())
    changed = {question for question, of in results.items() if of[0].get("weights") != of[1].get("weights")}
    out = {question for question in second.records if changed & set(_line(question, second.records))} - both
    added = {question: second.records[question] for question in second.records.keys() - both - out}
    said = f"{len(added)} results added to {len(first.records)}; {len(both)} stand in both"
    said += f", {other} of them with other numbers (the first stays)." if other else "."
    said += f" {len(out)} are left out: their models have other weights here." if out else ""
    return Pack(first.profile, first.images, first.records | added), said


def _line(question: str | None, records: Records) -> Iterator[str]:
    """A question and those of the models that its answer is made of, up to the first that is not held."""
    while question:
        yield question
        question = _above(records[question]) if question in records else None


def _above(record: dict) -> str | None:
    """The question of the model that a result is about, or that a model started from."""
    return record["asked"].get("start" if record["kind"] == "model" else "model")


def refuse_two_originals(*packs: Records) -> None:
    """Raise BadInput where a model from scratch has two weights, or where it is not known whose weights they are."""
    models = {question: record for records in packs for question, record in records.items()}
    weights: dict[str, set[str]] = defaultdict(set)  # of each model from scratch; of unknown ones under ""
    for record in (record for records in packs for record in records.values()):
        root: dict | None = record
        while root and (above := _above(root)):
            root = models.get(above)
        question = root["question"] if root else ""
        weights[question].add(record["original"])
        if root and root["kind"] == "model":
            weights[question].add(root["result"]["weights"])
    two = weights.pop("", set()).union(*(those for those in weights.values() if len(those) > 1))
    if two:
        raise BadInput(
            f"these are results of two Originals, or of models that they do not hold ({', '.join(sorted(two))}), "
            "and two Originals never stand in one table; execute all notebooks again at once, or bring the models of "
            "one machine to the other first (--carry, --bring)."
        )


def carry(keys: Iterable[str], into: Path) -> int:
    """Copy the models from scratch behind results, named by "kind/key", to a folder that ``bring`` takes; how many.

    Raises BadInput where that cannot be written.
    """
    roots = [record.folder for record in _behind(keys).values() if not _models_of(record)]
    try:
        for source in roots:
            shutil.copytree(source, into / "model" / source.name, dirs_exist_ok=True)
    except OSError as problem:
        raise BadInput(f"no models can be written to {into} ({problem}); name another folder.") from None
    return len(roots)


def bring(folder: Path, wanted: Iterable[Task] = ()) -> int:
    """Take the models of such a folder into the store; how many it did not have. What is damaged stays out.

    A model that answers the question of a ``wanted`` task is kept as that task's, whatever code trained it.
    """
    specs, store, taken = {task.question: task.spec for task in wanted}, Store(), 0
    if not (found := sorted(path.parent for path in folder.glob("model/*/record.json"))):
        raise BadInput(f"{folder} holds no models; name a folder that --carry has written.")
    for source in found:
        try:
            record = Record.read(source)
            spec = specs.get(digest({"kind": "model", **record.spec["asked"]}), record.spec)
            if not store.folder(spec).exists():
                store.copy(record, spec)
                taken += 1
        except (Damaged, OSError, *BROKEN):
            print(f"{source} is damaged and left out; carry it again.")
    return taken
