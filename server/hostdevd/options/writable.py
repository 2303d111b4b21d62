"""A file that everybody can write says what anybody wants: who may what, and with which device, is not read from it."""

from __future__ import annotations

import stat
from pathlib import Path


def refuse_writable(path: Path, mode: int) -> None:
    """ValueError where a file with this mode (`st_mode`) can be written by everybody."""
    if mode & stat.S_IWOTH:
        raise ValueError(f"can be written by everybody: chmod o-w {path}")
