"""Where results and figures lie, and how a file is written."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .settings import BadInput

ROOT = Path(__file__).parent.parent


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
    """A folder of figures and tables: ``figures/<profile>/``, or one next to it for other parameters.

    ``differs`` says in what, as JSON; such a folder is named by it, holds it as ``parameters.json``, and never
    touches the reference.
    """

    profile: str
    differs: str = ""

    @property
    def name(self) -> str:
        return (
            f"{self.profile}+{hashlib.sha256(self.differs.encode()).hexdigest()[:6]}" if self.differs else self.profile
        )

    @property
    def path(self) -> Path:
        return home() / "figures" / self.name

    def file(self, name: str) -> Path:
        """The path of a file of this folder, which is made on first use."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self.differs and not (self.path / "parameters.json").exists():
            write(self.path / "parameters.json", self.differs + "\n")
        return self.path / name

    def note(self, name: str, lines: list[str]) -> None:
        """Print lines and keep them in a file, for the summary of a run."""
        write(self.file(name), "\n".join(lines) + "\n")
        print(*lines, sep="\n")

    @property
    def caption(self) -> str:
        """What a table's caption says of its parameters."""
        return f"profile {self.profile}" + (f", with other parameters: {self.differs}" if self.differs else "")


def write(path: Path, text: str) -> None:
    """Write a file in one step: a run that is cut off leaves the old one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def git(*arguments: str) -> str:
    """What git says of the repository, or "unknown" outside of one."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
