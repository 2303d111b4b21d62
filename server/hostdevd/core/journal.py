"""What must survive a crash: operations, assignments, request ids, identities, revisions, holders.

One SQLite file in the state directory (WAL, synchronous FULL), written on one thread of its own. Records
travel as JSON of their dataclasses. A write that fails raises `STATE_STORE_UNAVAILABLE`: whoever was about
to touch a device must not. So does a file that cannot be opened; it may be tried again (`statefile` tells
which files are not).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hostdevd.core.assignments import Assignment, Failure
from hostdevd.core.audit import Asked, Ended, Noted, Outcome
from hostdevd.core.audit_file import Kept, end_row, trim, write_accepted, write_ended, write_noted
from hostdevd.core.errors import HostdevError
from hostdevd.core.identity import Identity
from hostdevd.core.past import Lives, Past, Written
from hostdevd.core.past_file import begin_life, read_lives, read_past, write_past
from hostdevd.core.records import assignment_from_json, failure_from_json, to_json
from hostdevd.core.statefile import FILE, StateFault, StateUnusable, broken, fault_of, open_file, replaced, transaction

T = TypeVar("T")

REVISION_BLOCK = 10_000
"""Revisions are reserved in blocks, so that they never go back and not every change is a disk write."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request id that was used: by whom, for what, with which result."""

    request_id: str
    caller: str
    fingerprint: str
    assignment: str
    time: float
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the journal held at start."""

    lives: Lives
    revision: int
    identities: tuple[Identity, ...]
    assignments: tuple[Assignment, ...]
    requests: tuple[RequestRecord, ...]
    past: Past | None = None
    """The holders as they were; None where they never were written."""

    @classmethod
    def nothing(cls) -> Loaded:
        """What is known while the journal cannot be read: nothing, under an epoch that no other life has."""
        return cls(Lives(uuid.uuid4().hex, _new_life()), 0, (), (), ())


class Journal:
    """The durable side of the service; `open` first, `close` last.

    `claim` is called before each try to open the file: an OSError of its means that it must not be.
    """

    def __init__(self, directory: Path, claim: Callable[[], None] = lambda: None) -> None:
        self._directory = directory
        self._claim = claim
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None
        self._reserved = 0
        self._file = (0, 0)
        self.is_open = False
        """Whether the file was read: before, nothing is known of it, and nothing can be written."""
        self.fault: StateFault | None = None
        """Why it cannot be opened, or the last write failed; None after one that worked."""
        self.failures = 0
        """How often it could not be opened or written."""

    async def open(self) -> Loaded:
        """Open or create the file and read it; `STATE_STORE_UNAVAILABLE` when that fails, with `fault` set.

        The file is then as it was, and `open` may be called again.
        """
        try:
            loaded = await self._run(self._open)
        except (StateUnusable, sqlite3.Error, OSError) as error:
            raise self._failed(error) from error
        self.is_open = True
        self.fault = None
        return loaded

    def require(self) -> None:
        """`STATE_STORE_UNAVAILABLE` while the file was never read."""
        if not self.is_open:
            raise _unavailable(self.fault or StateFault("it is not open", "see the log"))

    def size_bytes(self) -> int:
        """What the file takes on the disk, with what is still to be merged into it; from any thread."""
        files = (self._directory / f"{FILE}{suffix}" for suffix in ("", "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    async def look(self) -> None:
        """Tell by `fault` when the file is not the one any more that was opened: what is written then is lost."""
        if self.is_open:
            try:
                await self._run(self._require_file)
            except (StateUnusable, OSError) as error:
                self._failed(error)

    async def probe(self) -> None:
        """Write something that nobody reads, to see whether writing works (again)."""
        # Another value each time: SQLite does not write what is there already.
        await self._write(lambda db: _set_meta(db, "probe", uuid.uuid4().hex))

    async def close(self) -> None:
        """Close the file."""
        self.is_open = False
        if self._db is not None:
            await self._run(self._db.close)
            self._db = None
        self._thread.shutdown()

    async def save(
        self,
        *assignments: Assignment,
        request: RequestRecord | None = None,
        accepted: Asked | None = None,
        ended: Ended | None = None,
    ) -> None:
        """Write assignments, and with them the request that is behind them, in one transaction.

        In the same one the audit log gets who asked for work on the first of them (`accepted`), or how that ended.
        """

        def write(db: sqlite3.Connection) -> None:
            for assignment in assignments:
                closed = assignment.update_time.timestamp() if assignment.state.closed else None
                db.execute(
                    "INSERT INTO assignment VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
                    " SET closed_time = excluded.closed_time, record = excluded.record",
                    (assignment.name, closed, to_json(assignment)),
                )
                if not assignment.state.in_flight:
                    # A step that a crash left open is over with the operation that it was of.
                    db.execute(
                        "UPDATE step SET ended = ?, outcome = 'interrupted' WHERE assignment = ? AND ended IS NULL",
                        (assignment.update_time.timestamp(), assignment.name),
                    )
            if request is not None:
                failure = to_json(request.failure) if request.failure else None
                db.execute(
                    "INSERT INTO request VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE"
                    " SET failure = excluded.failure",
                    (
                        request.request_id,
                        request.caller,
                        request.fingerprint,
                        request.assignment,
                        failure,
                        request.time,
                    ),
                )
            if accepted is not None:
                write_accepted(db, accepted, assignments[0])
            if ended is not None:
                write_ended(db, assignments[0].name, ended)

        await self._write(write)

    async def begin_step(self, assignment: str, kind: str, device: str, now: float) -> int:
        """Write that a step is about to touch the host; returns its number."""

        def write(db: sqlite3.Connection) -> int:
            row = db.execute(
                "INSERT INTO step (assignment, kind, device, started) VALUES (?, ?, ?, ?)",
                (assignment, kind, device, now),
            ).lastrowid
            return row or 0

        return await self._write(write)

    async def end_step(self, step: int, now: float, outcome: str) -> None:
        """Write how a step ended."""
        await self._write(
            lambda db: db.execute("UPDATE step SET ended = ?, outcome = ? WHERE id = ?", (now, outcome, step))
        )

    async def unplugs(self, assignment: str, since: float) -> dict[str, float]:
        """When the last unplug request per device was about to be sent, by an assignment's steps."""

        def read(db: sqlite3.Connection) -> dict[str, float]:
            rows = db.execute(
                "SELECT device, started FROM step"
                " WHERE assignment = ? AND kind = 'DETACH_LIVE' AND started >= ? ORDER BY id",
                (assignment, since),
            )
            return dict(rows.fetchall())

        return await self._write(read)

    async def forget(self, assignment: Assignment, asked: Asked) -> None:
        """Remove an assignment with its steps, as somebody asked; its request id stays known."""

        def write(db: sqlite3.Connection) -> None:
            end_row(db, write_accepted(db, asked, assignment), Ended(Outcome.DONE, asked.time))
            db.execute("DELETE FROM assignment WHERE name = ?", (assignment.name,))
            db.execute("DELETE FROM step WHERE assignment = ?", (assignment.name,))

        await self._write(write)

    async def accept(self, asked: Asked) -> int:
        """Write to the audit log that something is begun that has no assignment; returns the row's number."""
        return await self._write(lambda db: write_accepted(db, asked))

    async def end(self, begun: int, ended: Ended) -> None:
        """Write how that ended."""
        await self._write(lambda db: end_row(db, begun, ended))

    async def note(self, rows: Sequence[Noted]) -> None:
        """Write rows to the audit log of what began nothing."""
        await self._write(lambda db: write_noted(db, rows))

    async def trim_audit(self, kept: Kept, portion: int) -> int:
        """Remove the oldest rows of the audit log, up to so many; returns how many."""
        return await self._write(lambda db: trim(db, kept, portion))

    async def purge(self, *, assignments_before: float, requests_before: float) -> tuple[str, ...]:
        """Remove old closed assignments and request ids without one; returns the assignments' names."""

        def write(db: sqlite3.Connection) -> tuple[str, ...]:
            old = "SELECT name FROM assignment WHERE closed_time < ?"
            names = tuple(row[0] for row in db.execute(old, (assignments_before,)))
            for name in names:
                db.execute("DELETE FROM assignment WHERE name = ?", (name,))
                db.execute("DELETE FROM step WHERE assignment = ?", (name,))
            db.execute(
                "DELETE FROM request WHERE time < ? AND assignment NOT IN (SELECT name FROM assignment)",
                (requests_before,),
            )
            return names

        return await self._write(write)

    async def save_identities(self, identities: Iterable[Identity]) -> None:
        """Write new or changed identities."""
        rows = [(identity.uid, json.dumps(identity.keys)) for identity in identities]
        await self._write(
            lambda db: db.executemany(
                "INSERT INTO identity VALUES (?, ?) ON CONFLICT (uid) DO UPDATE SET keys = excluded.keys", rows
            )
        )

    async def save_holders(self, written: Written) -> None:
        """Write the holders and what changed of them."""
        await self._write(lambda db: write_past(db, written))

    async def reserve_revisions(self, revision: int) -> None:
        """Make sure that a restart continues beyond this revision."""
        if revision + REVISION_BLOCK // 2 < self._reserved:
            return
        reserved = revision + REVISION_BLOCK
        await self._write(lambda db: _set_meta(db, "revision", str(reserved)))
        self._reserved = max(self._reserved, reserved)

    # --- on the journal's thread ---------------------------------------------------------------------

    def _open(self) -> Loaded:
        self._claim()
        db = open_file(self._directory)
        try:
            # The first write: on a full disk, or a read-only one, it ends here.
            with transaction(db):
                loaded = self._read(db, _new_life())
                reserved = loaded.revision + REVISION_BLOCK
                _set_meta(db, "revision", str(reserved))
            self._file = self._present()
        except BaseException:
            db.close()
            raise
        self._db, self._reserved = db, reserved
        return loaded

    def _present(self) -> tuple[int, int]:
        found = (self._directory / FILE).stat()
        return found.st_dev, found.st_ino

    def _require_file(self) -> None:
        """SQLite would go on writing into a file that somebody has deleted, and nobody would ever read that."""
        try:
            there = self._present() == self._file
        except FileNotFoundError:
            there = False
        if not there:
            raise replaced(self._directory / FILE)

    def _read(self, db: sqlite3.Connection, life: str) -> Loaded:
        try:
            begin_life(db, life)
            meta = dict(db.execute("SELECT key, value FROM meta"))
            return Loaded(
                lives=Lives(meta["epoch"], life, read_lives(db)),
                revision=int(meta.get("revision", "0")),
                identities=tuple(
                    Identity(uid, tuple(json.loads(keys))) for uid, keys in db.execute("SELECT uid, keys FROM identity")
                ),
                assignments=tuple(
                    assignment_from_json(record) for (record,) in db.execute("SELECT record FROM assignment")
                ),
                requests=tuple(
                    RequestRecord(rid, caller, fingerprint, name, time, failure_from_json(failure) if failure else None)
                    for rid, caller, fingerprint, name, failure, time in db.execute(
                        "SELECT request_id, caller, fingerprint, assignment, failure, time FROM request"
                    )
                ),
                past=read_past(db),
            )
        except sqlite3.Error as error:
            # What cannot be read for now is told as such; a table or a column that is not there will not come.
            if getattr(error, "sqlite_errorname", "SQLITE_ERROR") != "SQLITE_ERROR":
                raise
            raise broken(self._directory / FILE, str(error)) from error
        except Exception as error:
            raise broken(self._directory / FILE, f"a record cannot be read ({error!r})") from error

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self.require()
        try:
            result = await self._run(lambda: self._transaction(work))
        except (StateUnusable, sqlite3.Error, OSError) as error:
            raise self._failed(error) from error
        self.fault = None
        return result

    def _failed(self, error: Exception) -> HostdevError:
        self.failures += 1
        self.fault = fault_of(self._directory, error)
        return _unavailable(self.fault)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._db is None:
            raise sqlite3.ProgrammingError("the state store is closed")
        self._require_file()
        with transaction(self._db):
            return work(self._db)

    async def _run(self, work: Callable[[], T]) -> T:
        # Shielded: a write that began ends, whatever becomes of who asked for it.
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        return await asyncio.shield(future)


def _unavailable(fault: StateFault) -> HostdevError:
    return HostdevError(
        "STATE_STORE_UNAVAILABLE",
        f"the state store cannot be used: {fault.why}; {fault.remedy}",
        metadata={"why": fault.why, "remedy": fault.remedy},
        retry_after_s=None if fault.lasts else 10.0,
    )


def _new_life() -> str:
    return uuid.uuid4().hex[:16]


def _set_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))
