"""Content-addressed results: what was computed once is found again under a hash of what determines it."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import platform
import shutil
import tempfile
import time
import tokenize
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..paths import home

def digest(value: Any) -> str:
    """Hash of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


@lru_cache(maxsize=None)
def code_version(*modules: str) -> str:
    """Hash of the code of modules of this package, docstrings and comments left out.

    It is part of what determines a result: whoever edits a method gets new numbers, not stored ones.
    """
    folder = Path(__file__).parent.parent
    return digest([_code_only((folder / f"{module}.py").read_text()) for module in modules])


def _code_only(source: str) -> list[str]:
    """The lines of a module without docstrings, comments and blank lines; the same in every Python version."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines[first.lineno - 1 : first.end_lineno] = [""] * (first.end_lineno - first.lineno + 1)
    return [line.rstrip() for line in lines if line.strip()]


@dataclass(frozen=True)
class Record:
    """A stored result: JSON values and the files of tensors beside them."""

    folder: Path
    result: dict[str, Any]
    seconds: float
    made_with: dict[str, str]

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")


def hardware(device: str) -> str:
    """The name of a GPU or of the processor."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")  # elsewhere than on Linux the architecture has to do
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _made_with(device: str) -> dict[str, str]:
    return {
        "torch": torch.__version__, "python": platform.python_version(), "device": device,
        "hardware": hardware(device), "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """``<home>/.store/<kind>/<hash>/``: ``record.json`` and tensor files, each folder written atomically."""

    def __init__(self) -> None:
        self.root = home() / ".store"

    def tidy(self) -> None:
        """Remove what killed runs left: half-written results after a day, unfinished trainings after a month."""
        for pattern, days in (("*/.partial-*", 1), ("unfinished/*", 30)):
            for left in self.root.glob(pattern):
                if time.time() - left.stat().st_mtime > 86400 * days:
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    def folder(self, spec: dict[str, Any]) -> Path:
        return self.root / spec["kind"] / digest(spec)

    def get(self, spec: dict[str, Any]) -> Record | None:
        """The intact result of ``spec``, or None. A damaged or foreign one is removed and never believed."""
        folder = self.folder(spec)
        if not folder.exists():
            return None
        try:
            record = json.loads((folder / "record.json").read_text())
            body = record["body"]
            intact = (
                record["checksum"] == digest(body)
                and body["spec"] == json.loads(json.dumps(spec))
                and all(_sha256(folder / name) == checksum for name, checksum in body["files"].items())
            )
        except (OSError, ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            print(f"stored result {folder.relative_to(self.root)} is damaged; it will be computed again.")
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return Record(folder, body["result"], body["seconds"], body["made_with"])

    def put(
        self, spec: dict[str, Any], result: dict[str, Any], tensors: dict[str, dict[str, Tensor]],
        seconds: float, device: str,
    ) -> None:
        """Write a result beside its place and move it there in one step."""
        folder = self.folder(spec)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as scratch:
            partial = Path(scratch) / "result"
            partial.mkdir()
            for name, named in tensors.items():
                contiguous = {key: t.detach().cpu().contiguous() for key, t in named.items()}
                (partial / f"{name}.safetensors").write_bytes(save(contiguous))  # a full disk is an OSError this way
            files = {path.name: _sha256(path) for path in partial.iterdir()}
            body = {
                "spec": spec, "result": result, "files": files, "seconds": seconds, "made_with": _made_with(device),
            }
            body = json.loads(json.dumps(body))
            (partial / "record.json").write_text(json.dumps({"body": body, "checksum": digest(body)}, indent=1))
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():  # another process was first: its result is as good
                    raise
