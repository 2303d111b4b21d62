"""Which rows of a flood are written, and how what is left out is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.audit import Asked, Outcome
from hostdevd.core.audit_log import TRIM_S, AuditLog
from hostdevd.core.audit_room import AWAY, MOST_CALLERS, TELL_S, TURNED_AWAY, USUAL, Room
from hostdevd.core.errors import HostdevError
from unit.core.rig import FastClock, stopped
from unit.core.test_audit import opened, rows


def refuse(log: AuditLog, reason: str, times: int, caller: str = "uid:9") -> None:
    for _ in range(times):
        log.note(Asked(1.0, "Attach", caller), Outcome.REFUSED, HostdevError(reason, "no"))


def by(found: list[dict[str, Any]], caller: str = "uid:9") -> Counter[str]:
    return Counter(row["reason"] or row["outcome"] for row in found if row["caller"] == caller)


@pytest.mark.parametrize("reason", sorted(TURNED_AWAY))
async def test_who_is_turned_away_leaves_the_room_of_his_other_rows(tmp_path: Path, reason: str) -> None:
    clock = stopped()
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, clock)
        refuse(log, reason, 1000)
        refuse(log, "DEVICE_NOT_FOUND", 150)
        log.note(Asked(1.0, "Attach", "uid:9"), Outcome.UNCHANGED)
        await log._write()
        assert by(await rows(journal)) == {reason: 20, "DEVICE_NOT_FOUND": 150, "UNCHANGED": 1, "DROPPED": 1}
        clock.ahead += 100.0
        refuse(log, reason, 1000)
        await log._write()
        assert by(await rows(journal))[reason] == 20 + 10


async def test_many_who_are_turned_away_leave_room_for_the_rest(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, stopped())
        for caller in range(300):
            refuse(log, "NOT_ALLOWED", 20, f"spiffe://flood/{caller}")
        refuse(log, "HELD_BY_OTHER_VM", 1, "uid:1")
        await log._write()
        found = await rows(journal)
        assert by(found, "uid:1") == {"HELD_BY_OTHER_VM": 1}
        assert len([row for row in found if row["reason"] == "NOT_ALLOWED"]) == AWAY.all_burst < USUAL.all_burst


async def test_what_is_left_out_is_told_at_once_then_once_a_minute_and_at_the_end(tmp_path: Path) -> None:
    clock = stopped()
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, clock)
        asked = 0
        for _ in range(10 * 60 * 2):  # ten minutes, a batch each half a second
            refuse(log, "RATE_LIMITED", 10)
            asked += 10
            await log._write()
            clock.ahead += 0.5
        found = await rows(journal)
        counts = [row for row in found if row["outcome"] == "DROPPED"]
        assert len(counts) == 10
        assert counts[0]["time"] < 1_700_000_000.0 + 2.0
        refuse(log, "RATE_LIMITED", 1, "uid:8")  # another's is not held up
        await log.close()
        found = await rows(journal)
        assert len([row for row in found if row["outcome"] == "DROPPED"]) == 11
        written = by(found)["RATE_LIMITED"]
        assert written == pytest.approx(20 + 60, abs=2)
        assert written + sum(row["count"] for row in found) == asked
        assert by(found, "uid:8") == {"RATE_LIMITED": 1}


async def test_the_count_of_a_flood_that_has_ended_is_told_too(tmp_path: Path) -> None:
    clock = FastClock()
    async with opened(tmp_path) as journal:
        log = AuditLog(journal, clock)
        log.start()
        refuse(log, "NOT_ALLOWED", 100)
        await clock.sleep(TRIM_S)
        refuse(log, "NOT_ALLOWED", 100)
        await clock.sleep(TELL_S + 5 * TRIM_S)
        found = await rows(journal)
        assert by(found)["NOT_ALLOWED"] + sum(row["count"] for row in found) == 200
        assert by(found)["DROPPED"] == 2
        await log.close()


def test_callers_without_end_are_counted_together() -> None:
    room = Room(stopped().monotonic)
    for caller in range(3 * MOST_CALLERS):
        for _ in range(21):
            room.take(str(caller), "NOT_ALLOWED", 0)
    assert len(room.left_out()) == MOST_CALLERS + 1
    assert sum(room.left_out().values()) == 3 * MOST_CALLERS * 21 - AWAY.all_burst
