"""The audit log's own keeping: what is trimmed, what waits while nothing can be written, what an old file gets."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.audit import TEXT_CHARACTERS, Asked, Ended, Entry, Noted, Outcome
from hostdevd.core.audit_file import AUDIT_SCHEMA, AUDIT_VERSION, read_rows
from hostdevd.core.audit_log import ALL_BURST, BURST, TRIM_S, AuditLog, Retention
from hostdevd.core.caller import Caller, Proof
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal
from hostdevd.core.statefile import _SCHEMAS, SCHEMA_VERSION, _migrate
from unit.core.rig import FastClock
from unit.core.test_journal import ONE, REQUEST

DAY_S = 86_400.0


def _count(journal: Journal, table: str) -> int:
    assert journal._db is not None
    return int(journal._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  a test's own word


def noted(time: float, caller: str = "uid:1") -> Noted:
    return Noted(Asked(time, "Attach", caller), Ended(Outcome.REFUSED, time, "NOT_ALLOWED", "no"))


async def rows(journal: Journal) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        assert journal._db is not None
        return [dict(row) for row in read_rows(journal._db, 0, 0.0, 1e12, 10_000)]

    return await journal._run(read)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Journal]:
    journal = Journal(directory)
    try:
        await journal.open()
        yield journal
    finally:
        await journal.close()


async def test_the_oldest_rows_go_first_in_small_portions_and_what_is_under_way_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.save(ONE, accepted=Asked(1.0, "Attach", "uid:1"))
        await journal.note([noted(float(number)) for number in range(2, 12)])
        assert await journal.trim_audit(before=0.0, keep=100, portion=3) == 0
        assert await journal.trim_audit(before=9.0, keep=100, portion=3) == 3
        assert [row["time"] for row in await rows(journal)] == [1.0, *map(float, range(5, 12))]
        assert await journal.trim_audit(before=0.0, keep=4, portion=100) == 3
        assert [row["time"] for row in await rows(journal)] == [1.0, 8.0, 9.0, 10.0, 11.0]
        await journal.save(ONE, ended=Ended(Outcome.DONE, 12.0))
        assert await journal.trim_audit(before=0.0, keep=1, portion=100) == 5
        assert [row["outcome"] for row in await rows(journal)] == ["DONE"]
        # Numbers are never given again: who follows sees each row once.
        await journal.note([noted(13.0)])
        assert [row["id"] for row in await rows(journal)] == [12, 13]


async def test_an_intent_and_its_row_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as journal:

        def broken(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as disk:
            disk.setattr("hostdevd.core.journal.write_accepted", broken)
            with pytest.raises(HostdevError, match=r"state store"):
                await journal.save(ONE, request=REQUEST, accepted=Asked(1.0, "Attach", "uid:1"))
    async with opened(tmp_path) as journal:
        assert await rows(journal) == []
    async with opened(tmp_path) as journal:
        assert await journal._run(lambda: _count(journal, "assignment") + _count(journal, "request")) == 0


async def test_old_rows_are_trimmed_while_the_service_runs(tmp_path: Path) -> None:
    clock = FastClock()
    async with opened(tmp_path) as journal:
        old, young = clock.now() - 3 * DAY_S, clock.now() - DAY_S
        await journal.note([noted(old), noted(young)])
        log = AuditLog(journal, clock, Retention(days=2, rows=10))
        log.start()
        await clock.sleep(3 * TRIM_S)
        assert [row["time"] for row in await rows(journal)] == [young]
        await log.close()


async def test_while_nothing_can_be_written_rows_wait_and_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, FastClock())
        with monkeypatch.context() as disk:

            async def full(*_: object) -> None:
                raise HostdevError("STATE_STORE_UNAVAILABLE", "full")

            disk.setattr(journal, "note", full)
            for caller in range(30):
                for _ in range(300):
                    log.note(Asked(1.0, "Attach", f"uid:{caller}"), Outcome.REFUSED)
            with pytest.raises(HostdevError):
                await log._write()
        await log._write()
        found = await rows(journal)
        written = [row for row in found if row["outcome"] == "REFUSED"]
        assert len(written) == ALL_BURST
        assert len([row for row in written if row["caller"] == "uid:0"]) == BURST
        assert len(written) + sum(row["count"] for row in found) == 30 * 300
        await log._write()
        assert len(await rows(journal)) == len(found)  # nothing is told twice


async def test_what_has_no_assignment_is_accepted_before_and_ended_after(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, FastClock())
        entry = Entry(Asked(1.0, "CreateMediatedDevice", "uid:0", device="pci_0000_12_00_0"))
        begun: dict[str, Any] = {}

        async def work() -> None:
            async with log.work(entry, "pci_0000_12_00_0"):
                assert entry.accepted
                begun.update((await rows(journal))[0])
                raise HostdevError("FEATURE_DISABLED", "x" * 1000)

        with pytest.raises(HostdevError):
            await work()
        (first, last) = await rows(journal)
        assert (first["outcome"], last["outcome"], last["reason"]) == ("ACCEPTED", "FAILED", "FEATURE_DISABLED")
        assert (first["ended"], last["began"]) == (last["id"], begun["id"])
        assert len(last["message"]) == TEXT_CHARACTERS


def test_what_callers_wrote_is_cut() -> None:
    caller = Caller(Proof.CERTIFICATE, sans=("DNS:a", "URI:spiffe://b/c"))
    asked = Asked.by(caller, "Attach", 1.0, vm="v" * 10_000, arguments="a" * 10_000)
    assert (len(asked.vm), len(asked.arguments)) == (TEXT_CHARACTERS, TEXT_CHARACTERS)
    assert (asked.caller, asked.sans) == ("URI:spiffe://b/c", ("DNS:a", "URI:spiffe://b/c"))


async def test_a_file_of_before_gets_the_log_and_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    db = sqlite3.connect(path, isolation_level=None)
    _migrate(db, AUDIT_VERSION - 1)
    db.execute("INSERT INTO meta VALUES ('epoch', ?)", ("e" * 32,))
    db.close()
    async with opened(tmp_path) as journal:
        await journal.save(ONE, accepted=Asked(1.0, "Attach", "uid:1"))
        assert len(await rows(journal)) == 1
    async with opened(tmp_path) as journal:
        assert len(await rows(journal)) == 1
    assert _SCHEMAS[AUDIT_VERSION - 1] == AUDIT_SCHEMA
    assert AUDIT_VERSION <= SCHEMA_VERSION
