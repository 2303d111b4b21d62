"""What the audit log keeps: not what floods it, nor what a wrong clock calls young."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from hostdevd.core import audit_file
from hostdevd.core.audit import Asked, Ended, Outcome
from hostdevd.core.audit_file import Kept
from hostdevd.core.audit_log import DAY_S, TRIM_S, AuditLog, Retention
from hostdevd.core.journal import Journal
from hostdevd.core.statefile import open_file
from hostdevd.core.steady import STEADY_S
from unit.core.rig import FastClock
from unit.core.test_audit import noted, opened, rows
from unit.core.test_journal import ONE

EVER = (0.0, 1e12)


async def begun(journal: Journal, *times: float) -> None:
    """Two rows each."""
    for time in times:
        await journal.end(await journal.accept(Asked(time, "Attach", "uid:0")), Ended(Outcome.DONE, time))


async def outcomes(journal: Journal) -> Counter[str]:
    return Counter(row["outcome"] for row in await rows(journal))


async def times(journal: Journal) -> list[float]:
    return [row["time"] for row in await rows(journal)]


async def test_the_oldest_rows_go_first_in_small_portions_and_what_is_under_way_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.save(ONE, accepted=Asked(1.0, "Attach", "uid:1"))
        await journal.note([noted(float(number)) for number in range(2, 12)])
        assert await journal.trim_audit(Kept(100, EVER), portion=3) == 0
        assert await journal.trim_audit(Kept(100, (9.0, 20.0)), portion=3) == 3
        assert await times(journal) == [1.0, *map(float, range(5, 12))]
        assert await journal.trim_audit(Kept(8), portion=100) == 3
        assert await times(journal) == [1.0, 8.0, 9.0, 10.0, 11.0]
        await journal.save(ONE, ended=Ended(Outcome.DONE, 12.0))
        assert await journal.trim_audit(Kept(100, (12.0, 20.0)), portion=100) == 5
        assert [row["outcome"] for row in await rows(journal)] == ["DONE"]
        # Numbers are never given again: who follows sees each row once.
        await journal.note([noted(13.0)])
        assert [row["id"] for row in await rows(journal)] == [12, 13]


async def test_a_flood_of_refusals_takes_no_place_of_what_was_begun(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await begun(journal, *map(float, range(20)))
        await journal.note([noted(20.0 + number) for number in range(500)])
        assert await journal.trim_audit(Kept(60), portion=1000) == 480
        assert await outcomes(journal) == {"ACCEPTED": 20, "DONE": 20, "REFUSED": 20}
        # Half of the rows at the most, however few were begun.
        await journal.note([noted(600.0 + number) for number in range(500)])
        await journal.trim_audit(Kept(200), portion=1000)
        assert await outcomes(journal) == {"ACCEPTED": 20, "DONE": 20, "REFUSED": 100}
        assert await journal.trim_audit(Kept(200), portion=1000) == 0


async def test_what_was_begun_leaves_a_quarter_to_what_was_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.note([noted(float(number)) for number in range(30)])
        await begun(journal, *(30.0 + number for number in range(50)))
        await journal.trim_audit(Kept(80), portion=1000)
        found = await outcomes(journal)
        assert found["REFUSED"] == 20
        assert found["ACCEPTED"] + found["DONE"] == 60
        assert (await times(journal))[-1] == 79.0


async def test_each_kind_of_row_is_of_one_of_the_two(tmp_path: Path) -> None:
    """Whatever may be noted is bounded, and nothing else is."""
    async with opened(tmp_path) as journal:
        for outcome in Outcome:
            await journal.note([noted(1.0, outcome=outcome)])
        await journal.trim_audit(Kept(0), portion=1000)
        assert await outcomes(journal) == {"ACCEPTED": 1}  # it is under way


def test_a_large_log_is_trimmed_by_its_indexes(tmp_path: Path) -> None:
    """To count, and to find where what is too much ends, reads no row; with 100,000 of them that is 2 ms, not 30."""
    with closing(open_file(tmp_path)) as db:
        for kind, index in ((audit_file._IS_BEGUN, "audit_begun"), (audit_file._IS_OTHER, "audit_others")):
            for query, values, way in (
                (audit_file._BEYOND, (5,), f"USING COVERING INDEX {index}"),
                (audit_file._TRIM, (5, 5.0, 5), f"USING INDEX {index} (id<?)"),
            ):
                plan = " ".join(str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {query.format(kind)}", values))
                assert way in plan, plan
        (plan,) = (str(row[3]) for row in db.execute(f"EXPLAIN QUERY PLAN {audit_file._COUNT}"))
        assert "USING COVERING INDEX audit_begun" in plan


async def test_old_rows_are_trimmed_once_the_clock_has_been_steady(tmp_path: Path) -> None:
    clock = FastClock()
    async with opened(tmp_path) as journal:
        old, young = clock.now() - 3 * DAY_S, clock.now() - DAY_S
        await journal.note([noted(old), noted(young)])
        log = AuditLog(journal, clock, Retention(days=2, rows=10))
        log.start()
        await clock.sleep(5 * TRIM_S)
        assert await times(journal) == [old, young]
        clock.ahead += STEADY_S
        await clock.sleep(5 * TRIM_S)
        assert await times(journal) == [young]
        await log.close()


@pytest.mark.parametrize("jump_s", [-800 * DAY_S, 401 * DAY_S, 4000 * DAY_S])
async def test_no_row_is_forgotten_for_an_age_that_a_jump_gave_it(tmp_path: Path, jump_s: float) -> None:
    clock = FastClock()
    async with opened(tmp_path) as journal:
        await journal.note([noted(clock.now())])
        await begun(journal, clock.now())
        log = AuditLog(journal, clock)
        log.start()
        clock.ahead += STEADY_S
        clock.jumped = jump_s
        await clock.sleep(5 * TRIM_S)
        assert len(await rows(journal)) == 3
        await journal.note([noted(clock.now())])  # a row of the wrong time
        clock.jumped = 0.0  # somebody sees it
        await clock.sleep(5 * TRIM_S)
        assert len(await rows(journal)) == 4
        clock.ahead += STEADY_S
        await clock.sleep(5 * TRIM_S)
        assert len(await rows(journal)) == 4  # what is written after a young row is no older, whatever it says
        clock.ahead += 401 * DAY_S
        await clock.sleep(5 * TRIM_S)
        assert len(await rows(journal)) == (1 if jump_s > 0 else 0)
        await log.close()


async def test_a_clock_that_is_a_year_behind_for_long_forgets_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.note([noted(1000.0), noted(1001.0)])
        assert await journal.trim_audit(Kept(100, (400.0, 500.0)), portion=100) == 0
        assert await times(journal) == [1000.0, 1001.0]
