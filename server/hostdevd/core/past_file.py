"""The holders and their history in the state file: what is written behind the commits, and read at start.

Each write is one transaction of the journal's, so what is read is true for one revision. It may be done
again, and then changes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from hostdevd.core.model import Holder
from hostdevd.core.past import Past, Written
from hostdevd.core.records import batch_from_json, batch_to_json, holder_from_json, holder_to_json

KEEP_LIVES = 256
"""Positions of lives before these are too old, however little happened since."""


def read_lives(db: sqlite3.Connection) -> dict[str, int]:
    """The lives with the last revision that is known of each."""
    return dict(db.execute("SELECT name, last FROM life"))


def read_past(db: sqlite3.Connection) -> Past | None:
    """The holders as they were last written; None when they never were."""
    oldest = db.execute("SELECT value FROM meta WHERE key = 'holders_since'").fetchone()
    if oldest is None:
        return None
    return Past(
        revision=db.execute("SELECT max(last) FROM life").fetchone()[0],
        oldest=int(oldest[0]),
        holders=tuple(holder_from_json(text) for (text,) in db.execute("SELECT record FROM holder ORDER BY key")),
        batches=tuple(
            batch_from_json(revision, text)
            for revision, text in db.execute("SELECT revision, record FROM holder_batch ORDER BY revision")
        ),
    )


def begin_life(db: sqlite3.Connection, name: str) -> None:
    """Note that a life begins, before the rest is read. Until it writes it is known as far as the one before it."""
    db.execute("INSERT INTO life (name, last) SELECT ?, ifnull(max(last), 0) FROM life", (name,))
    old = "FROM life WHERE id <= (SELECT max(id) FROM life) - ?"
    (last,) = db.execute(f"SELECT max(last) {old}", (KEEP_LIVES,)).fetchone()
    if last is not None:
        db.execute(f"DELETE {old}", (KEEP_LIVES,))
        db.execute("UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE key = 'holders_since'", (last + 1,))


def write_past(db: sqlite3.Connection, written: Written) -> None:
    """Bring the file to a later revision."""
    if written.holders is None:
        latest = {change.key: change.after for batch in written.batches for change in batch.changes}
        _put(db, (holder for holder in latest.values() if holder is not None))
        gone = [(key,) for key, holder in latest.items() if holder is None]
        db.executemany("DELETE FROM holder WHERE key = ?", gone)
    else:
        db.execute("DELETE FROM holder")
        db.execute("DELETE FROM holder_batch")
        _put(db, written.holders)
    db.executemany(
        "INSERT OR REPLACE INTO holder_batch VALUES (?, ?)",
        [(batch.revision, batch_to_json(batch)) for batch in written.batches],
    )
    db.execute("DELETE FROM holder_batch WHERE revision <= ?", (written.oldest,))
    db.execute("INSERT OR REPLACE INTO meta VALUES ('holders_since', ?)", (str(written.oldest),))
    db.execute("UPDATE life SET last = ? WHERE name = ?", (written.revision, written.life))


def _put(db: sqlite3.Connection, holders: Iterable[Holder]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO holder VALUES (?, ?)", [(holder.key, holder_to_json(holder)) for holder in holders]
    )
