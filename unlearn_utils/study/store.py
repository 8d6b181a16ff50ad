"""Content-addressed results: what was computed once is found again under a hash of what determines it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load, save
from torch import Tensor

from ..paths import git, home

FEATURES_KEPT = 2e9  # bytes of features: they follow from a model in one pass, so the least recently used may go
BUSY = 0.05  # seconds to wait for another process that computes the same
BROKEN = (ValueError, KeyError, TypeError, RecursionError)  # what a record raises that is not as it was written


def digest(value: Any) -> str:
    """Hash of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


class Damaged(RuntimeError):
    """A result turned out to be damaged when it was read; what lies in the store is removed and computed again."""


def plain(name: str) -> str:
    """A name of one file or folder, which leads nowhere else. Raises Damaged: it comes from elsewhere."""
    if not re.fullmatch(r"\w[\w. -]*", name):
        raise Damaged(f"{name!r:.60} is no plain name of a file.")
    return name


@dataclass(frozen=True)
class Record:
    """A stored result: JSON values and, beside them, files of tensors."""

    folder: Path
    spec: dict[str, Any]
    result: dict[str, Any]
    seconds: float
    made_with: dict[str, str]
    files: dict[str, str]  # checksum by name

    @staticmethod
    def read(folder: Path) -> Record:
        """What lies in a folder ``<kind>/<key>``. Raises Damaged where it is not what was written there.

        Its tensors are checked when they are loaded. What cannot be read now (OSError) is no damage.
        """
        try:
            written = json.loads((folder / "record.json").read_bytes())
            record = Record(folder, **written["body"])
            named = [record.spec["kind"], digest(record.spec)] == [folder.parent.name, folder.name]
            if written["checksum"] == digest(written["body"]) and named:
                if all((folder / plain(name)).is_file() for name in record.files):
                    return record
        except (FileNotFoundError, NotADirectoryError, *BROKEN):
            pass
        raise Damaged(f"{folder} is not what was written there.")

    def content(self, file: str) -> bytes:
        """A file of tensors as it was written. Raises Damaged where it is another."""
        content = (self.folder / file).read_bytes() if (self.folder / file).is_file() else b""
        if hashlib.sha256(content).hexdigest() != self.files[file]:
            raise Damaged(f"stored result {self.folder.name} is damaged; run again to compute it anew.")
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Raises Damaged where the file is not what was written; then all of it is removed from the store."""
        try:
            return load(self.content(f"{name}.safetensors"))
        except Damaged:
            remove(self.folder)
            raise


def remove(path: Path) -> None:
    """Take away a result, whatever lies in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@cache
def hardware(device: str) -> str:
    """The name of a GPU, or of the processor with the vector instructions that torch uses: they act like a seed."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")  # elsewhere than on Linux the architecture has to do
    name = re.search(r"model name\s*: (.*)", described.read_text(encoding="utf-8")) if described.exists() else None
    processor = name[1].strip() if name else platform.processor() or platform.machine()
    return f"{processor} ({torch.backends.cpu.get_cpu_capability()})"


@cache
def commit() -> str:
    """The commit of the code that runs, with a + where the package was changed since; "unknown" outside of git."""
    changed = git("status", "--porcelain", "--", "unlearn_utils")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed not in ("", "unknown") else "")


def _made_with(device: str) -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "hardware": hardware(device),
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": commit(),
    }


class Store:
    """``<home>/.store/<kind>/<hash>/``: ``record.json`` and tensor files, each folder written in one step."""

    def __init__(self) -> None:
        self.root = home() / ".store"

    def tidy(self) -> None:
        """Remove what killed runs left: half results after a day, locks and unfinished trainings after a month."""
        for pattern, days in (("*/.partial-*", 1), ("locks/*", 30), ("unfinished/*", 30)):
            for left in self.root.glob(pattern):
                with suppress(FileNotFoundError):  # another run moved it to its place
                    if time.time() - left.stat().st_mtime > 86400 * days:
                        remove(left)

    def folder(self, spec: dict[str, Any]) -> Path:
        return self.root / plain(spec["kind"]) / digest(spec)

    def unfinished(self, spec: dict[str, Any]) -> Path:
        """Where a long training notes how far it has come."""
        return self.root / "unfinished" / f"{digest(spec)}.pt"

    @contextmanager
    def claimed(self, spec: dict[str, Any]) -> Iterator[bool]:
        """Whether no other process computes the same, or will within it; a claim ends with its process, however."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(locks / digest(spec)).acquire(timeout=BUSY, poll_interval=BUSY / 5):
                yield True
        except Timeout:
            yield False

    def get(self, spec: dict[str, Any]) -> Record | None:
        """The result of ``spec``, or None."""
        return self.at(spec["kind"], digest(spec))

    def at(self, kind: str, key: str) -> Record | None:
        """The result under a key, or None. A damaged or foreign record is removed and never believed."""
        folder = self.root / plain(kind) / plain(key)
        if not os.path.lexists(folder):
            with suppress(FileNotFoundError):  # opened anew, a folder on another machine's disk is up to date
                os.scandir(folder.parent).close()
            if not os.path.lexists(folder):
                return None
        try:
            return Record.read(folder)
        except Damaged:
            print(f"stored result {folder.relative_to(self.root)} is damaged; it will be computed again.")
            remove(folder)
            return None

    def put(self, spec: dict, result: dict, tensors: dict[str, dict[str, Tensor]], seconds: float, device: str) -> None:
        """Write a result beside its place and move it there in one step."""
        contents = {
            f"{name}.safetensors": save({key: t.detach().cpu().contiguous() for key, t in named.items()})
            for name, named in tensors.items()
        }
        about = {"spec": spec, "result": result, "seconds": seconds, "made_with": _made_with(device)}
        self._place(about, contents)

    def copy(self, record: Record, spec: dict[str, Any]) -> None:
        """Take a result from elsewhere as that of ``spec``. Raises Damaged where it is not what was written there."""
        contents = {file: record.content(file) for file in record.files}
        about = {"spec": spec, "result": record.result, "seconds": record.seconds, "made_with": record.made_with}
        self._place(about, contents)

    def _place(self, about: dict[str, Any], contents: dict[str, bytes]) -> None:
        checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        body = json.loads(json.dumps(about | {"files": checksums}))
        record, folder = {"body": body, "checksum": digest(body)}, self.folder(about["spec"])
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
            partial = Path(scratch) / "result"
            partial.mkdir()
            for name, content in (contents | {"record.json": json.dumps(record, indent=1).encode()}).items():
                (partial / name).write_bytes(content)  # a full disk is an OSError this way
            try:
                partial.rename(folder)
            except OSError:
                if self.get(about["spec"]) is None:  # else another process was first: its result is as good
                    partial.rename(folder)

    def keep_features(self, spec: dict[str, Any], features: dict[str, Tensor], device: str) -> None:
        """Keep features for later readings, in 16 bits where that loses nothing; the oldest make room."""
        halved = {key: f.bfloat16() if torch.equal(f.bfloat16().float(), f) else f for key, f in features.items()}
        self.put(spec, {}, {"features": halved}, 0.0, device)
        kept, used = 0, []
        for folder in (self.root / spec["kind"]).glob("[!.]*"):  # what begins with a dot is being written
            with suppress(OSError):  # another process makes room as well
                used.append((folder.stat().st_mtime, sum(f.stat().st_size for f in folder.iterdir()), folder))
        for _, size, folder in sorted(used, reverse=True):
            kept += size
            if kept > FEATURES_KEPT and folder.name != digest(spec):
                remove(folder)

    def features(self, spec: dict[str, Any]) -> dict[str, Tensor] | None:
        """Kept features as they were; None where they had to make room, or are damaged."""
        with suppress(Damaged):
            if record := self.get(spec):
                os.utime(record.folder)  # the least recently used make room
                return {part: f.float() for part, f in record.tensors("features").items()}
        return None
