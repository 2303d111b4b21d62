"""The audit log's own keeping: what waits, what is said of a caller, what an old file gets."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.audit import GROUPS, TEXT_CHARACTERS, Asked, Ended, Entry, Noted, Outcome
from hostdevd.core.audit_file import AUDIT_SCHEMA, AUDIT_VERSION, read_rows
from hostdevd.core.audit_log import AuditLog
from hostdevd.core.audit_room import USUAL
from hostdevd.core.caller import Caller, Proof
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal
from hostdevd.core.statefile import _SCHEMAS, SCHEMA_VERSION, _migrate
from unit.core.rig import FastClock, stopped
from unit.core.test_journal import ONE, REQUEST


def _count(journal: Journal, table: str) -> int:
    assert journal._db is not None
    return int(journal._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608  a test's own word


def noted(time: float, caller: str = "uid:1", outcome: Outcome = Outcome.REFUSED) -> Noted:
    return Noted(Asked(time, "Attach", caller), Ended(outcome, time, "NOT_ALLOWED", "no"))


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


async def test_while_nothing_can_be_written_rows_wait_and_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, stopped())
        with monkeypatch.context() as disk:

            async def full(*_: object) -> None:
                raise HostdevError("STATE_STORE_UNAVAILABLE", "full")

            disk.setattr(journal, "note", full)
            for caller in range(30):
                for _ in range(300):
                    log.note(Asked(1.0, "Attach", f"uid:{caller}"), Outcome.REFUSED)
            with pytest.raises(HostdevError):
                await log._write(at_last=True)
        await log._write(at_last=True)
        found = await rows(journal)
        written = [row for row in found if row["outcome"] == "REFUSED"]
        assert len(written) == USUAL.waiting
        assert len([row for row in written if row["caller"] == "uid:0"]) == USUAL.burst
        assert len(written) + sum(row["count"] for row in found) == 30 * 300
        await log._write(at_last=True)
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


async def test_what_the_roles_go_by_is_in_both_rows_and_bounded(tmp_path: Path) -> None:
    caller = Caller(Proof.PEER, uid=7, gids=tuple(range(65_536)), pid=1, read_only=True)
    asked = Asked.by(caller, "Attach", 1.0)
    async with opened(tmp_path) as journal:
        await journal.save(ONE, accepted=asked)
        await journal.save(ONE, ended=Ended(Outcome.DONE, 2.0))
        await journal.note([Noted(Asked(3.0, "Attach", "uid:8"), Ended(Outcome.REFUSED, 3.0))])
        begun, ended, refused = await rows(journal)
        for row in (begun, ended):
            assert (row["gids"], row["read_only"]) == (list(range(GROUPS)), True)
        assert (refused["gids"], refused["read_only"]) == ([], False)


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
