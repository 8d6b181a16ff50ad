"""Where results and figures lie, and how a file is written."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent


def home() -> Path:
    """The folder of ``.store`` and ``figures``: the repository, or $UNLEARN_HOME."""
    return Path(os.environ.get("UNLEARN_HOME", ROOT))


def folder(profile: str) -> Path:
    """``figures/<profile>``, made on first use."""
    path = home() / "figures" / profile
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, text: str) -> None:
    """Write a file in one step: a run that is cut off leaves the old one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
