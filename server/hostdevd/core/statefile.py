"""The SQLite file of the state store: made once, opened with care, never repaired, replaced or deleted.

What is found broken stays as it is, for its operator to look at: it may be the only record of what was bound
away from which driver. A new file is made under another name and moved into place when it is whole, so that
an empty or half-written `state.sqlite` is never a file that hostdevd was making.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hostdevd.core.audit_file import AUDIT_GROUPS_SCHEMA, AUDIT_SCHEMA

FILE = "state.sqlite"

_FIRST_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE identity (uid TEXT PRIMARY KEY, keys TEXT NOT NULL) STRICT;
CREATE TABLE assignment (
    name TEXT PRIMARY KEY, closed_time REAL, record TEXT NOT NULL
) STRICT;
CREATE TABLE request (
    request_id TEXT PRIMARY KEY, caller TEXT NOT NULL, fingerprint TEXT NOT NULL,
    assignment TEXT NOT NULL, failure TEXT, time REAL NOT NULL
) STRICT;
CREATE TABLE step (
    id INTEGER PRIMARY KEY, assignment TEXT NOT NULL, kind TEXT NOT NULL, device TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, outcome TEXT
) STRICT;
"""

# Holders are as they were at the last revision of the last life. `holder_batch` has the changes of a revision,
# from the one after meta's `holders_since` on. `life.last`: up to there a life's positions are known.
_HOLDERS = """
CREATE TABLE life (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, last INTEGER NOT NULL) STRICT;
CREATE TABLE holder (key TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT;
CREATE TABLE holder_batch (revision INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
"""

_SCHEMAS = (_FIRST_SCHEMA, _HOLDERS, AUDIT_SCHEMA, AUDIT_GROUPS_SCHEMA)
"""What each version has beyond the one before it; a new file is made of all of them too. Only ever added to."""
SCHEMA_VERSION = len(_SCHEMAS)

_BESIDE = ("-wal", "-shm", "-journal")
_FULL = frozenset({"SQLITE_FULL"})
_BROKEN = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT"})

_MAKE_WRITABLE = "free space on its disk, mount it writable, and see that the service's user may write there"


@dataclass(frozen=True, slots=True)
class StateFault:
    """Why the state store cannot be used, and what its operator can do about it."""

    why: str
    remedy: str
    lasts: bool = False
    """It does not pass by itself: trying again is of no use."""


class StateUnusable(Exception):
    """The file is not one that hostdevd may go on with."""

    def __init__(self, fault: StateFault) -> None:
        super().__init__(fault.why)
        self.fault = fault


def open_file(directory: Path) -> sqlite3.Connection:
    """The state file, checked; made when there is none. `StateUnusable`, OSError or sqlite3.Error otherwise.

    The caller closes it, and has seen to it that no other service has it open.
    """
    path = directory / FILE
    if not path.exists():
        _make(path)
    # Never `rwc`: a file that goes away between the two is not replaced by an empty one.
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, check_same_thread=False, isolation_level=None)
    try:
        _check(path, db)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        _migrate(db, SCHEMA_VERSION)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. To close the connection is not enough: what was not read to its end keeps the file locked."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def broken(path: Path, what: str) -> StateUnusable:
    """The file is there and is not, or not any more, what hostdevd wrote."""
    remedy = (
        f"restore {path} from a back-up, or move it away together with {FILE}-wal and {FILE}-shm to begin with an"
        " empty one (what hostdevd knew of assignments and drivers is then forgotten)"
    )
    return StateUnusable(StateFault(f"{path} is damaged: {what}", remedy))


def replaced(path: Path) -> StateUnusable:
    """The file that hostdevd has open is not at its place any more."""
    remedy = (
        f"put it back with {FILE}-wal and {FILE}-shm; or restart hostdevd to begin with what is there now (what it"
        " knows of assignments and drivers is then forgotten)"
    )
    return StateUnusable(StateFault(f"{path} was removed or replaced while hostdevd used it", remedy))


def fault_of(directory: Path, error: Exception) -> StateFault:
    """What an error of opening, reading or writing means for the operator."""
    if isinstance(error, StateUnusable):
        return error.fault
    if isinstance(error, BlockingIOError):
        return StateFault(f"{directory}: {error.strerror}", "stop one of the two, or give each its own")
    name = getattr(error, "sqlite_errorname", "").partition("_")[2].partition("_")[0]
    code = f"SQLITE_{name}"
    if code in _BROKEN:
        return broken(directory / FILE, str(error)).fault
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    remedy = "free space on its disk" if code in _FULL else _MAKE_WRITABLE
    return StateFault(f"{directory}: {text}", remedy)


def _make(path: Path) -> None:
    stray = [beside for ending in _BESIDE if (beside := path.with_name(path.name + ending)).exists()]
    if stray:
        # SQLite would play back into a new file what belongs to the one that is gone.
        raise broken(path, f"{stray[0].name} is there without it")
    new = path.with_name(f"{FILE}.new")
    for ending in ("", *_BESIDE):  # of a start that was interrupted
        new.with_name(new.name + ending).unlink(missing_ok=True)
    db = sqlite3.connect(new, isolation_level=None)
    try:
        _migrate(db, SCHEMA_VERSION)
        db.execute("INSERT INTO meta VALUES ('epoch', ?)", (uuid.uuid4().hex,))
    finally:
        db.close()
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check(path: Path, db: sqlite3.Connection) -> None:
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA_VERSION:
        why = f"{path} is of a newer hostdevd (schema {found}, this one knows {SCHEMA_VERSION})"
        raise StateUnusable(StateFault(why, "run that hostdevd again, or restore a back-up from before it", lasts=True))
    if found < 1:
        raise broken(path, "it is empty, or no state file of hostdevd's")
    damage = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if damage != "ok":
        raise broken(path, damage)


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """Bring a file to a later version, all or nothing; what is in it stays."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == version:
        return
    with transaction(db):
        for schema in _SCHEMAS[found:version]:
            for statement in schema.split(";"):  # `executescript` would end the transaction
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {version}")
