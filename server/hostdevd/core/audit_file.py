"""The audit log in the state file: its table, what is written to it, what is read and trimmed.

Rows are only ever added, and trimmed from the oldest on; a row that tells of a beginning gets the number of the one
that tells of its end. What began nothing is free to provoke, so it never takes the place of what was begun. Each
function runs within a transaction of the journal's.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hostdevd.core.assignments import Assignment
from hostdevd.core.audit import Asked, Ended, Noted, Outcome

AUDIT_VERSION = 3
"""The version of the state file's schema from which on it has this."""
AUDIT_SCHEMA = """
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, outcome TEXT NOT NULL, method TEXT NOT NULL,
    caller TEXT NOT NULL, uid INTEGER, pid INTEGER, sans TEXT NOT NULL,
    vm TEXT NOT NULL, vm_uuid TEXT NOT NULL, devices TEXT NOT NULL, assignment TEXT NOT NULL, request_id TEXT NOT NULL,
    arguments TEXT NOT NULL, dry_run INTEGER NOT NULL, reason TEXT NOT NULL, message TEXT NOT NULL,
    began INTEGER, ended INTEGER, count INTEGER NOT NULL
) STRICT;
CREATE INDEX audit_open ON audit (assignment) WHERE outcome = 'ACCEPTED' AND ended IS NULL;
"""
AUDIT_GROUPS_SCHEMA = """
ALTER TABLE audit ADD COLUMN gids TEXT;
ALTER TABLE audit ADD COLUMN read_only INTEGER;
CREATE INDEX audit_begun ON audit (id, outcome) WHERE outcome IN ('ACCEPTED', 'DONE', 'FAILED');
CREATE INDEX audit_others ON audit (id, outcome) WHERE outcome NOT IN ('ACCEPTED', 'DONE', 'FAILED');
"""
"""What the version after it added. In rows of before both columns are NULL: it was not asked."""

_WHO_AND_WHAT = (
    *("method", "caller", "uid", "pid", "sans", "gids", "read_only", "vm", "vm_uuid", "devices", "assignment"),
    *("request_id", "arguments", "dry_run"),
)
_COLUMNS = ("id", "time", "outcome", *_WHO_AND_WHAT, "reason", "message", "began", "ended", "count")

# Made of the names above alone; what callers say comes as parameters.
_SAME = ", ".join(_WHO_AND_WHAT)
_INSERT = (
    f"INSERT INTO audit ({', '.join(_COLUMNS)})"  # noqa: S608  see above
    f" VALUES ({', '.join(f':{column}' for column in _COLUMNS)})"
)
_END = (
    f"INSERT INTO audit (time, outcome, {_SAME}, reason, message, began, count)"  # noqa: S608  see above
    f" SELECT ?, ?, {_SAME}, ?, ?, id, 0 FROM audit WHERE id = ?"
)
_READ = "SELECT * FROM audit WHERE id > ? AND time >= ? AND time < ? ORDER BY id LIMIT ?"

# The words of the indexes above, or they would not be used.
_IS_BEGUN = "outcome IN ('ACCEPTED', 'DONE', 'FAILED')"
_IS_OTHER = "outcome NOT IN ('ACCEPTED', 'DONE', 'FAILED')"
_COUNT = f"SELECT count(*) FROM audit WHERE {_IS_BEGUN}"  # noqa: S608  see above
_BEYOND = "SELECT id FROM audit WHERE {} ORDER BY id DESC LIMIT 1 OFFSET ?"
_YOUNG = "SELECT id FROM audit WHERE time >= ? AND time <= ? ORDER BY id LIMIT 1"
_TRIM = (
    "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE {} AND id <= ? AND time < ?"
    " AND NOT (outcome = 'ACCEPTED' AND ended IS NULL) ORDER BY id LIMIT ?)"
)
_EVER = float("inf")


def write_accepted(db: sqlite3.Connection, asked: Asked, assignment: Assignment | None = None) -> int:
    """The row of what is about to be begun, with what it is about as it was found; returns its number."""
    row = _said(asked)
    if assignment is not None:
        row |= {
            "vm": assignment.vm.name,
            "vm_uuid": assignment.vm.uuid,
            "devices": json.dumps([{"name": device.name, "uid": device.uid} for device in assignment.devices]),
            "assignment": assignment.name,
        }
    return _insert(db, {**row, "time": asked.time, "outcome": str(Outcome.ACCEPTED)})


def write_ended(db: sqlite3.Connection, assignment: str, ended: Ended) -> None:
    """The row that tells how everything ended that was begun on an assignment."""
    begun = db.execute(
        "SELECT id FROM audit WHERE assignment = ? AND outcome = 'ACCEPTED' AND ended IS NULL", (assignment,)
    ).fetchall()
    for (number,) in begun:
        end_row(db, number, ended)


def end_row(db: sqlite3.Connection, begun: int, ended: Ended) -> None:
    """The same for one row of a beginning."""
    number = db.execute(
        _END,
        (ended.time, str(ended.outcome), ended.reason, ended.message, begun),
    ).lastrowid
    db.execute("UPDATE audit SET ended = ? WHERE id = ?", (number, begun))


def write_noted(db: sqlite3.Connection, rows: Iterable[Noted]) -> None:
    """Rows of their own."""
    for row in rows:
        told = {
            "time": row.ended.time,
            "outcome": str(row.ended.outcome),
            "reason": row.ended.reason,
            "message": row.ended.message,
            "count": row.count,
        }
        _insert(db, {**_said(row.asked), **told})


@dataclass(frozen=True, slots=True)
class Kept:
    """What of the log is kept: so many rows, and of those the ones that are young.

    `young` is from when to when, in seconds since the epoch; None while nobody knows how late it is.
    """

    rows: int
    young: tuple[float, float] | None = None

    @property
    def begun(self) -> int:
        """How many rows of what was begun at the most: something is left for what was refused."""
        return self.rows - self.rows // 4

    def others(self, begun: int) -> int:
        """How many of the others: half of all at the most, and never the place of one of what was begun."""
        return min(self.rows // 2, self.rows - min(begun, self.begun))


def trim(db: sqlite3.Connection, kept: Kept, portion: int) -> int:
    """Remove up to `portion` of the oldest rows that are more than are kept; returns how many.

    A beginning without an end stays: what came of it is still to be told.
    """
    begun = db.execute(_COUNT).fetchone()[0]
    removed = 0
    for kind, rows in ((_IS_OTHER, kept.others(begun)), (_IS_BEGUN, kept.begun)):
        beyond = db.execute(_BEYOND.format(kind), (rows,)).fetchone()
        if beyond is not None:
            removed += db.execute(_TRIM.format(kind), (beyond[0], _EVER, portion - removed)).rowcount
    if kept.young is not None:
        removed += _trim_old(db, *kept.young, portion - removed)
    return removed


def _trim_old(db: sqlite3.Connection, since: float, now: float, portion: int) -> int:
    """A row after a young one is no older, whatever the clock was when it was written."""
    first = db.execute(_YOUNG, (since, now)).fetchone()
    last = db.execute("SELECT max(id) FROM audit").fetchone()[0] or 0
    return db.execute(_TRIM.format("TRUE"), (last if first is None else first[0], since, portion)).rowcount


def read_rows(db: sqlite3.Connection, after: int, since: float, until: float, most: int) -> Iterator[Mapping[str, Any]]:
    """The rows after a number and within a time, oldest first, so many at the most, as `hostdevd audit` tells them.

    What a file of an older version has no column for is None.
    """
    found = db.execute(_READ, (after, since, until, most))
    there = [column for column, *_ in found.description]
    for values in found:
        row: dict[str, Any] = {**dict.fromkeys(_COLUMNS), **dict(zip(there, values, strict=True))}
        yield {
            **row,
            "sans": json.loads(row["sans"]),
            "gids": None if row["gids"] is None else json.loads(row["gids"]),
            "read_only": None if row["read_only"] is None else bool(row["read_only"]),
            "devices": json.loads(row["devices"]),
            "dry_run": bool(row["dry_run"]),
        }


def _said(asked: Asked) -> dict[str, object]:
    return {
        "method": asked.method,
        "caller": asked.caller,
        "uid": asked.uid,
        "pid": asked.pid,
        "sans": json.dumps(asked.sans),
        "gids": json.dumps(asked.gids),
        "read_only": int(asked.read_only),
        "vm": asked.vm,
        "vm_uuid": "",
        "devices": json.dumps([{"name": asked.device, "uid": ""}] if asked.device else []),
        "assignment": asked.assignment,
        "request_id": asked.request_id,
        "arguments": asked.arguments,
        "dry_run": int(asked.dry_run),
    }


def _insert(db: sqlite3.Connection, row: Mapping[str, object]) -> int:
    given = {**dict.fromkeys(_COLUMNS), "reason": "", "message": "", "count": 0, **row}
    return db.execute(_INSERT, given).lastrowid or 0
