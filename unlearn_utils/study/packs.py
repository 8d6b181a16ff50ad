"""Result packs: the records behind a profile's tables and figures in one file that travels, without any tensor.

One JSON object per line, compressed: first what is known of the images, then the records. A pack is asked by what
was wanted, whatever code computed it, so it outlives an edit of the code; each record names the commit that made it.
"""

from __future__ import annotations

import json
import lzma
import math
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator

from ..methods import METHODS
from ..paths import ROOT, home
from ..settings import BadInput
from .cells import Task, images_of, trained
from .guests import is_guest
from .profiles import Images, Profile
from .readouts import READOUTS
from .store import Damaged, Store, digest

NAME = "results.jsonl.xz"
FORMAT = 1
FIELDS = {"question", "kind", "asked", "code", "made_with", "seconds", "original", "result"}  # of a record


@dataclass(frozen=True)
class Pack:
    """What a file holds: the images, and the records by their question."""

    profile: str
    images: Images
    records: dict[str, dict[str, Any]]

    def find(self, task: Task) -> dict[str, Any] | None:
        """The record of a task, or None. What a notebook cell or another package defines is never served."""
        defined = [METHODS[task.cell.method]] + ([READOUTS[task.name].function] if task.kind == "reading" else [])
        return None if any(map(is_guest, defined)) else self.records.get(task.question)

    def original_of(self, task: Task) -> str:
        """Digest of the weights of the Original behind a task; empty where none is."""
        found = self.find(task)
        return found["original"] if found else ""


def reference(profile: str) -> Path:
    """Where the committed pack of a profile lies."""
    own = home() / "figures" / profile / NAME
    return own if own.exists() else ROOT / "figures" / profile / NAME


def read(path: Path, of: str = "") -> Pack:
    """Raises BadInput where the file is no pack, or one of another profile than ``of``."""
    lines = _lines(path)
    profile, images = next(lines)
    if of and profile != of:
        raise BadInput(f"{path} is a result pack of profile '{profile}', but '{of}' is asked for; name a pack of '{of}'.")
    return Pack(profile, images, dict(lines))


def read_images(path: Path) -> Images:
    """What a pack says of its images, without its records."""
    return next(_lines(path))[1]


def _lines(path: Path) -> Iterator[Any]:
    """First (profile, images), then (question, record) of each."""
    try:
        with lzma.open(path, "rt", encoding="utf-8") as file:
            head = json.loads(file.readline())
            if head["format"] != FORMAT:
                raise BadInput(f"{path} has format {head['format']}, but format {FORMAT} is read here; update one of them.")
            yield head["profile"], Images(**{k: tuple(v) if isinstance(v, list) else v for k, v in head["images"].items()})
            for record in map(json.loads, file):
                if missing := FIELDS - record.keys():
                    raise KeyError(", ".join(sorted(missing)))
                if record["question"] != digest({"kind": record["kind"], **record["asked"]}):
                    raise ValueError(f"a record does not answer its question {record['question']}")
                yield record["question"], record
    except FileNotFoundError:
        raise BadInput(f"there is no result pack {path}; --export writes one, and without --results committed "
                       "results are computed.") from None
    except OSError as problem:
        raise BadInput(f"{path} cannot be read as a result pack ({problem.strerror or problem}).") from None
    except (EOFError, KeyError, TypeError, AttributeError, ValueError, lzma.LZMAError) as problem:
        if isinstance(problem, BadInput):
            raise
        raise BadInput(f"{path} is no intact result pack ({type(problem).__name__}: {problem}).") from None


def write(pack: Pack, path: Path) -> None:
    """Write a pack in one step; the same records give the same file."""
    head = {"format": FORMAT, "profile": pack.profile, "images": asdict(pack.images)}
    lines = [head, *(pack.records[question] for question in sorted(pack.records))]
    text = "".join(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in lines)
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name a file for the pack, like {path / NAME}.")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
        partial.replace(path)
    except OSError as problem:
        partial.unlink(missing_ok=True)
        raise BadInput(f"no pack can be written to {path} ({problem.strerror}); make room, or name another file.") from None


def collect(profile: Profile, tasks: Iterable[Task]) -> Pack:
    """A pack of what is stored of the tasks and of the models behind them."""
    store, records = Store(), {}

    def visit(task: Task) -> None:
        if task.question in records or (found := store.get(task.spec)) is None:
            return
        records[task.question] = {
            "question": task.question, "kind": task.kind, "asked": task.asked, "code": task.code,
            "made_with": found.made_with, "seconds": round(found.seconds, 2), "original": _original(task),
            "result": found.result,
        }
        for needed in [*task.requires, trained(task.cell)]:
            visit(needed)

    for task in tasks:
        visit(task)
    return Pack(profile.name, images_of(profile), records)


def _original(task: Task) -> str:
    """Digest of the weights at the root of a task's model: the Original's, or its own where it is trained from scratch."""
    cell = task.cell
    while cell.start:
        cell = cell.start
    found = Store().get(trained(cell).spec)
    return found.result["weights"] if found else ""


def merge(first: Pack, second: Pack) -> tuple[Pack, str]:
    """Both as one, and one line on it. Where both hold a question, the first stays.

    Raises BadInput for packs of other profiles or images, and where the second's results come from another Original.
    """
    if (first.profile, first.images) != (second.profile, second.images):
        raise BadInput(
            f"a pack of '{first.profile}' ({first.images.fingerprint}) and one of '{second.profile}' "
            f"({second.images.fingerprint}) do not belong together; merge packs of one profile on the same images."
        )
    merged = Pack(first.profile, first.images, second.records | first.records)
    if others := _strangers(merged) - _strangers(first):
        raise BadInput(
            f"the packs of '{first.profile}' hold results of two Originals, or two Retrains ({', '.join(sorted(others))} beside the "
            "first pack's), which never stand in one table; bring the first's models over (--carry, --bring), compute again and "
            "merge, or refresh all notebooks at once."
        )
    both = first.records.keys() & second.records.keys()
    apart = [_apart(first.records[q]["result"], second.records[q]["result"]) for q in both]
    other = [difference for difference in apart if difference]
    said = f"{len(second.records) - len(both)} results added to {len(first.records)}; {len(both)} stand in both"
    if other:
        said += f", {len(other)} of them with other numbers (the first stays; they differ by at most {max(other):.4g})"
    return merged, said + "."


def _strangers(pack: Pack) -> set[str]:
    """Weights, trained from scratch, that results of a pack come from and that none of its models has."""
    held = {record["result"]["weights"] for record in pack.records.values() if record["kind"] == "model"}
    return {record["original"] for record in pack.records.values()} - held - {""}


def _apart(one: Any, other: Any) -> float:
    """Largest difference between the numbers of two results; infinite where shapes, texts or NaNs differ."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return max((_apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(_apart, one, other), default=0.0)
    if type(one) in (int, float) and type(other) in (int, float):
        if math.isnan(one) or math.isnan(other):
            return 0.0 if math.isnan(one) and math.isnan(other) else math.inf
        return abs(one - other) if one != other else 0.0
    return 0.0 if one == other else math.inf


def refresh(pack: Pack, place: Path, some: bool) -> None:
    """Write the pack of a run; one of ``some`` notebooks keeps what the others show."""
    if some and place.exists():
        pack, _ = merge(pack, read(place, pack.profile))
    write(pack, place)


def carry(tasks: Iterable[Task], into: Path) -> int:
    """Copy the models from scratch (Originals, Retrains) with their tensors into a folder, for another machine.

    Raises BadInput where that cannot be written.
    """
    store, count = Store(), 0
    for task in {t.key: t for task in tasks for t in [trained(task.cell)]}.values():
        source = store.folder(task.spec)
        if METHODS[task.cell.method].start == "initialisation" and store.get(task.spec):
            try:
                shutil.copytree(source, into / source.parent.name / source.name, dirs_exist_ok=True)
            except OSError as problem:
                reason = problem.strerror or problem.args[0][0][-1]  # the first one of shutil's own, of several files
                raise BadInput(f"no models can be written to {into} ({reason}); name another folder.") from None
            count += 1
    return count


def bring(folder: Path) -> int:
    """Take the models of such a folder into the store; how many it did not have. What is damaged stays out."""
    found = sorted(folder.glob("model/*/record.json"))
    if not found:
        raise BadInput(f"{folder} holds no models; name a folder that --carry has written.")
    store, taken = Store(), 0
    for record in found:
        if (store.root / "model" / record.parent.name).exists():
            continue
        try:
            body = json.loads(record.read_bytes())["body"]
            files = {name: (record.parent / name).read_bytes() for name in (*body["files"], "record.json")}
            store.unpack(body["spec"], files)
            taken += 1
        except (Damaged, ValueError, KeyError, TypeError, FileNotFoundError, IsADirectoryError):  # one that is no record any more
            print(f"{record.parent} is damaged and left out; carry it again.")
    return taken
