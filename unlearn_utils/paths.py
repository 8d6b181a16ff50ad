"""Where results and figures lie, and how a file is written."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .settings import BadInput

ROOT = Path(__file__).parent.parent
REFERENCE = "UNLEARN_REFERENCE"  # set by a maintainer's command: figures are the committed ones


def home() -> Path:
    """The folder of ``.store`` and ``figures``: $UNLEARN_HOME, or the repository, or where there is none (the package
    was installed from a wheel) the working directory.

    Raises BadInput where nothing can be written there.
    """
    named = os.environ.get("UNLEARN_HOME") or (ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd())
    path = Path(named).expanduser().resolve()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError("it is read-only")
    except OSError as reason:
        raise BadInput(
            f"results cannot be kept in {named} ({reason.strerror or reason}); set UNLEARN_HOME to a folder "
            "that can be written to."
        ) from None
    return path


def expanded(named: str | os.PathLike) -> Path:
    """A path as it was typed, with ~ resolved."""
    return Path(named).expanduser()


@dataclass(frozen=True)
class Outputs:
    """A folder of figures and tables: ``figures/local/<profile>/``, which git does not see, or for maintainers, with
    $UNLEARN_REFERENCE set, the committed ``figures/<profile>/``.

    ``differs`` says in what a study is not the profile's own, as JSON: its folder is named by it and holds it as
    ``parameters.json``.
    """

    profile: str
    differs: str = ""

    @property
    def name(self) -> str:
        changed = f"+{hashlib.sha256(self.differs.encode()).hexdigest()[:6]}" if self.differs else ""
        return self.profile + changed

    @property
    def path(self) -> Path:
        figures = home() / "figures"
        return figures / self.name if os.environ.get(REFERENCE) and not self.differs else figures / "local" / self.name

    def file(self, name: str) -> Path:
        """The path of a file of this folder, which is made on first use."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.differs and not (self.path / "parameters.json").exists():
            write(self.path / "parameters.json", self.differs + "\n")
        return self.path / name

    @property
    def caption(self) -> str:
        """What a caption says of the parameters."""
        return f"Profile {self.profile}" + (f", changed: {self.differs}" if self.differs else "")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` in one step: a run that is cut off leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Write a file in one step."""
    with replaced(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def git(*arguments: str) -> str:
    """What git says of the repository, or "unknown" outside of one."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
