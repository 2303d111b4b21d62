"""Writes what begins nothing to the audit log behind the answers, and keeps the log within its bounds.

A refusal costs its caller nothing to provoke, so it costs no disk write of its own: rows are written in batches, and
each caller has only so many (`core/audit_room.py`). What is left out is counted, and the count is a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import structlog
from structlog.contextvars import bind_contextvars

from hostdevd.core.audit import Asked, Ended, Entry, Noted, Outcome
from hostdevd.core.audit_file import Kept
from hostdevd.core.audit_room import Room
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal
from hostdevd.core.ports import Clock
from hostdevd.core.steady import STEADY_S, Steadiness

log = structlog.get_logger()

PAUSE_S = 0.5
"""Between two batches, so between two disk writes."""
RETRY_S = 5.0
TRIM_S = 10.0
TRIM_ROWS = 2000
"""Of one transaction; more than can be added in between."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long rows are kept, and how many."""

    days: int = 400
    rows: int = 100_000


class AuditLog:
    """Follows one journal; `start` once, `close` last, before the journal's."""

    def __init__(self, journal: Journal, clock: Clock, retention: Retention | None = None) -> None:
        self._journal = journal
        self._clock = clock
        self._retention = retention or Retention()
        self._waiting: list[Noted] = []
        self._room = Room(clock.monotonic)
        self._steadiness = Steadiness(clock)
        self._due = asyncio.Event()
        self._writing = asyncio.Lock()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> None:
        """Begin to write and to trim."""
        self._tasks = (
            asyncio.create_task(self._run(), name="audit"),
            asyncio.create_task(self._trim(), name="audit-trim"),
        )

    async def close(self) -> None:
        """Write what is left to write."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            if self._journal.is_open:
                await self._write(at_last=True)
        except HostdevError as error:
            log.warning("the audit log could not be written", rows=len(self._waiting), error=error.message)

    def note(self, asked: Asked, outcome: Outcome, error: HostdevError | None = None) -> None:
        """Have a row written soon for a request that began nothing."""
        if self._room.take(asked.caller, error.reason if error is not None else "", len(self._waiting)):
            now = self._clock.now()
            ended = Ended.by(error, now, outcome) if error is not None else Ended(outcome, now)
            self._waiting.append(Noted(asked, ended))
        self._due.set()

    @asynccontextmanager
    async def work(self, entry: Entry, device: str) -> AsyncIterator[None]:
        """Around work on the host's devices that has no assignment: its row before, how it ended after.

        `STATE_STORE_UNAVAILABLE` when the row cannot be written: then nothing is done. `device` as libvirt calls it.
        """
        begun = await self._journal.accept(replace(entry.asked, device=device))
        entry.accepted = True
        bind_contextvars(audit=begun)  # on every line from here on; the work's task has a context of its own
        try:
            yield
        except HostdevError as error:
            await self._end(begun, error)
            raise
        except Exception:
            await self._end(begun, HostdevError("UNEXPECTED", "see the log"))
            raise
        await self._end(begun, None)

    async def _end(self, begun: int, error: HostdevError | None) -> None:
        try:
            await self._journal.end(begun, Ended.by(error, self._clock.now()))
        except HostdevError as fault:
            log.warning("an outcome could not be written to the audit log", row=begun, error=fault.message)

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._write()
            except HostdevError as error:
                log.warning("the audit log could not be written; trying again", error=error.message)
                await self._clock.sleep(RETRY_S)
                self._due.set()
            except Exception:
                log.exception("the audit log could not be written; trying again")
                await self._clock.sleep(RETRY_S)
                self._due.set()
            else:
                await self._clock.sleep(PAUSE_S)

    async def _write(self, *, at_last: bool = False) -> None:
        async with self._writing:
            await self._write_batch(at_last=at_last)

    async def _write_batch(self, *, at_last: bool) -> None:
        rows, dropped = len(self._waiting), self._room.left_out(at_last=at_last)
        now = self._clock.now()
        counts = (
            Noted(Asked(now, "", caller), Ended(Outcome.DROPPED, now, message=f"{count} rows were left out"), count)
            for caller, count in dropped.items()
        )
        batch = (*self._waiting, *counts)
        if not batch:
            return
        await self._journal.note(batch)
        del self._waiting[:rows]
        self._room.told(dropped)

    async def _trim(self) -> None:
        while True:
            await self._clock.sleep(TRIM_S)
            if self._room.left_out():  # told of a minute later, also when nothing comes any more
                self._due.set()
            now, steady_s = self._clock.now(), self._steadiness.for_s()
            if not self._journal.is_open:
                continue
            young = (now - self._retention.days * DAY_S, now) if steady_s >= STEADY_S else None
            with suppress(HostdevError):  # the next one will do
                await self._journal.trim_audit(Kept(self._retention.rows, young), TRIM_ROWS)
