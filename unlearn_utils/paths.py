"""Where results and figures lie, and how a file is written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .settings import BadInput

ROOT = Path(__file__).parent.parent


def home() -> Path:
    """The folder of ``.store`` and ``figures``: the repository, or $UNLEARN_HOME.

    Raises BadInput where nothing can be written there.
    """
    named = os.environ.get("UNLEARN_HOME")
    try:
        path = Path(named).expanduser().resolve() if named else ROOT
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, RuntimeError) as reason:  # the latter where ~ or a link leads nowhere
        raise BadInput(
            f"results cannot be kept in {named or ROOT} ({getattr(reason, 'strerror', None) or reason}); "
            "set UNLEARN_HOME to a folder that can be written to."
        ) from None
    return path


def folder(profile: str) -> Path:
    """``figures/<profile>``, made on first use."""
    path = home() / "figures" / profile
    path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, text: str) -> None:
    """Write a file in one step: a run that is cut off leaves the old one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
