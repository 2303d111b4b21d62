"""Reads the audit log of a state directory beside the service, or without one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hostdevd.core.audit_file import AUDIT_VERSION, read_rows
from hostdevd.core.statefile import FILE

PORTION = 1000
"""Rows of one look. Who reads slowly must not hold one open: while he does, the service's log of changes only grows."""


class AuditError(Exception):
    """The audit log cannot be read, in one line."""


def rows(directory: Path, *, after: int, since: float, until: float) -> Iterator[Mapping[str, Any]]:
    """The rows after a number and within a time (seconds since the epoch), oldest first; `AuditError`."""
    while True:
        found = _portion(directory, after, since, until)
        yield from found
        if len(found) < PORTION:
            return
        after = found[-1]["id"]


def _portion(directory: Path, after: int, since: float, until: float) -> list[Mapping[str, Any]]:
    path = directory / FILE
    try:
        if not path.is_file():
            raise AuditError(f"{path}: there is no such file; has hostdevd run with this state directory?")
        with closing(_opened(path)) as db:
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found < AUDIT_VERSION:
                raise AuditError(f"{path} is of an older hostdevd, which had no audit log")
            return list(read_rows(db, after, since, until, PORTION))
    except (sqlite3.Error, OSError) as error:
        raise AuditError(f"{path}: {_told(error)}") from error


def _told(error: sqlite3.Error | OSError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # Whoever reads a database that is in use notes that in a file beside it. Of misuse there is no name.
    if getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
        return "only root and the service's own user can read it while the service runs"
    return str(error)


def _opened(path: Path) -> sqlite3.Connection:
    # After an end in order everything is in the one file: nothing needs to be made beside it, by a user perhaps who
    # would then own it. While the service runs, or after a crash, there is a log of changes, which is read too.
    rest = "" if path.with_name(f"{FILE}-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro{rest}", uri=True, timeout=5.0)
