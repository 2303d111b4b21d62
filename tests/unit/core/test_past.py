"""The holders of an earlier life: what is written of them is read, and tells which positions can be gone on from."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostdevd.core.assignments import Assignment, AssignmentState, Failure
from hostdevd.core.history import Batch, Change, ChangeSource
from hostdevd.core.identity import Identity
from hostdevd.core.journal import Journal, Loaded, RequestRecord
from hostdevd.core.model import Holder, HolderRole, HolderVia, Reason, Vm, VmState
from hostdevd.core.past import Lives, Lost, Past, Position, Written
from hostdevd.core.past_file import KEEP_LIVES
from hostdevd.core.records import batch_from_json, batch_to_json, holder_from_json, holder_to_json, to_json

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
ONE = Holder(
    key="hld-1",
    device="pci_0000_04_00_0",
    uid="dev-1",
    group="grp-1",
    vm=Vm("vm", "c0ffee00-0000-4000-8000-000000000001", VmState.PAUSED, persistent=False, managed_save=True),
    live=True,
    config=False,
    via=HolderVia.INTERFACE,
    role=HolderRole.RESERVED,
    guest_address="0000:07:00.0",
    alias="ua-x",
    managed=True,
    assignment="one",
    since=NOW,
)
TWO = replace(ONE, key="hld-2", device="usb_1_2", group=None, guest_address=None, alias=None, assignment=None)

VERSION_1 = """
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
PRAGMA user_version = 1;
"""
TABLES = ("identity", "assignment", "request", "step")


def rows(db: sqlite3.Connection) -> dict[str, list[object]]:
    """What a file of the first version has, but for `meta`."""
    return {table: db.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall() for table in TABLES}  # noqa: S608


def change(before: Holder | None, after: Holder | None, time: datetime = NOW) -> Change[Holder]:
    holder = after or before
    assert holder is not None
    return Change(holder.key, before, after, ChangeSource.EVENT, time)


async def once(directory: Path, *written: Callable[[Loaded], Written]) -> Loaded:
    """One life that writes this; what it had found."""
    journal = Journal(directory)
    try:
        loaded = await journal.open()
        for one in written:
            await journal.save_holders(one(loaded))
        return loaded
    finally:
        await journal.close()


@pytest.mark.parametrize(
    ("position", "lost"),
    [
        (Position("e", "now", 100), None),
        (Position("e", "now", 101), Lost.TOKEN_AHEAD),
        # Resumed in this life, where a former one was.
        (Position("e", "now", 7), None),
        (Position("e", "first", 10), None),
        (Position("e", "first", 11), Lost.HISTORY_LOST),
        # Given out by a life that was killed, and by now a revision of a later one too.
        (Position("e", "first", 55), Lost.HISTORY_LOST),
        (Position("e", "second", 60), None),
        (Position("e", "second", 61), Lost.HISTORY_LOST),
        # Of a life after the back-up that this directory was restored from, however far this one is by now.
        (Position("e", "unheard of", 55), Lost.TOKEN_AHEAD),
        (Position("e", "", 55), Lost.TOKEN_AHEAD),
        (Position("another", "now", 55), Lost.NEW_EPOCH),
    ],
)
def test_a_position_is_on_the_line_or_it_is_told_why_not(position: Position, lost: Lost | None) -> None:
    assert Lives("e", "now", {"first": 10, "second": 60}).lost(position, revision=100) is lost


holders = st.builds(
    replace,
    st.just(ONE),
    via=st.sampled_from(HolderVia),
    role=st.sampled_from(HolderRole),
    vm=st.builds(replace, st.just(ONE.vm), state=st.sampled_from(VmState), name=st.text()),
    device=st.text(),
    group=st.none() | st.text(),
    guest_address=st.none() | st.text(),
    live=st.booleans(),
    since=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)


@given(holders)
def test_any_holder_and_change_is_read_as_it_was_written(holder: Holder) -> None:
    assert holder_from_json(holder_to_json(holder)) == holder
    batch = Batch(7, (change(None, holder), change(ONE, holder), change(holder, None)))
    assert batch_from_json(7, batch_to_json(batch)) == batch


async def test_a_life_begins_with_what_the_one_before_it_wrote(tmp_path: Path) -> None:
    came, went = Batch(2, (change(None, ONE), change(None, TWO))), Batch(4, (change(ONE, None),))
    first = await once(
        tmp_path,
        lambda it: Written(it.lives.now, 2, 0, (came,), holders=(ONE, TWO)),
        lambda it: Written(it.lives.now, 4, 0, (went,)),
        lambda it: Written(it.lives.now, 4, 0, (went,)),  # written again after it was not known to be there
        lambda it: Written(it.lives.now, 5, 0, ()),  # devices alone changed
    )
    assert first.past is None
    second = await once(tmp_path)
    assert second.past == Past(revision=5, oldest=0, holders=(TWO,), batches=(came, went))
    assert second.lives.before[first.lives.now] == 5
    assert second.revision > 5


async def test_what_a_killed_life_did_not_write_is_a_hole_and_what_it_resumed_is_not(tmp_path: Path) -> None:
    first = await once(tmp_path, lambda it: Written(it.lives.now, 5, 0, (), holders=(ONE,)))
    second = await once(tmp_path)  # killed before it wrote anything
    third = await once(tmp_path)
    assert third.past is not None
    assert (third.past.revision, third.past.holders) == (5, (ONE,))
    for life in (first.lives, second.lives):
        assert third.lives.lost(life.at(5), third.revision) is None
        assert third.lives.lost(life.at(second.revision), third.revision) is Lost.HISTORY_LOST


async def test_what_the_history_forgets_goes_from_the_file(tmp_path: Path) -> None:
    batches = tuple(Batch(number, (change(None, ONE),)) for number in range(1, 6))
    await once(
        tmp_path,
        lambda it: Written(it.lives.now, 5, 0, batches, holders=(ONE,)),
        lambda it: Written(it.lives.now, 6, 3, ()),
    )
    loaded = await once(tmp_path, lambda it: Written(it.lives.now, 20_000, 20_000, (), holders=(TWO,)))
    assert loaded.past == Past(6, 3, (ONE,), batches[3:])
    # All anew: nothing of what was there is left.
    assert (await once(tmp_path)).past == Past(20_000, 20_000, (TWO,), ())


async def test_positions_of_very_many_lives_ago_are_too_old(tmp_path: Path) -> None:
    first = await once(tmp_path, lambda it: Written(it.lives.now, 5, 0, (), holders=(ONE,)))
    journal = Journal(tmp_path)
    await journal.open()
    db = journal._db
    assert db is not None
    lives = [(f"{number:016x}", 10 + number) for number in range(KEEP_LIVES)]
    await journal._run(lambda: db.executemany("INSERT INTO life (name, last) VALUES (?, ?)", lives))
    await journal.close()
    last = await once(tmp_path)
    assert last.past is not None
    assert first.lives.now not in last.lives.before
    assert last.past.oldest > 5
    assert len(last.lives.before) == KEEP_LIVES


async def test_a_restored_back_up_takes_no_position_of_after_it(tmp_path: Path) -> None:
    await once(tmp_path, lambda it: Written(it.lives.now, 5, 0, (), holders=(ONE,)))
    file = tmp_path / "state.sqlite"
    back_up = file.read_bytes()
    after = await once(
        tmp_path, lambda it: Written(it.lives.now, it.revision + 9, 0, (Batch(it.revision + 9, (change(ONE, TWO),)),))
    )
    file.write_bytes(back_up)
    restored = await once(tmp_path)
    assert restored.revision == after.revision
    position = after.lives.at(after.revision + 9)
    for grown in (restored.revision, restored.revision + 9, restored.revision + 50_000):
        assert restored.lives.lost(position, grown) is Lost.TOKEN_AHEAD


async def test_a_file_of_the_first_version_goes_on_in_place_with_all_that_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    vm = Vm("vm", "uuid", VmState.RUNNING)
    assignment = Assignment("one", vm, (), AssignmentState.ATTACHED, NOW, NOW + timedelta(seconds=1))
    failure = Failure("ATTACH_FAILED", "text", (), (Reason("BRIDGE", "x", "y", "z"),))
    with closing(sqlite3.connect(file)) as db:
        db.executescript(VERSION_1)
        db.execute("INSERT INTO meta VALUES ('epoch', ?), ('revision', '30000')", ("e" * 32,))
        db.execute("""INSERT INTO identity VALUES ('dev-1', '["strong", "weak"]')""")
        db.execute("INSERT INTO assignment VALUES ('one', NULL, ?)", (to_json(assignment),))
        db.execute("INSERT INTO request VALUES ('r', 'me', 'f', 'one', ?, 5.0)", (to_json(failure),))
        db.execute("INSERT INTO step VALUES (7, 'one', 'DETACH_LIVE', 'dev', 1.0, 2.0, 'done')")
        db.commit()
        db.execute("PRAGMA journal_mode = WAL")
        before = rows(db)
    inode = file.stat().st_ino
    journal = Journal(tmp_path)
    loaded = await journal.open()
    assert (loaded.lives.epoch, loaded.revision) == ("e" * 32, 30_000)
    assert loaded.identities == (Identity("dev-1", ("strong", "weak")),)
    assert loaded.assignments == (assignment,)
    assert loaded.requests == (RequestRecord("r", "me", "f", "one", 5.0, failure),)
    assert await journal.unplugs("one", 0.0) == {"dev": 1.0}
    assert loaded.past is None
    assert set(loaded.lives.before) == {loaded.lives.now}
    await journal.save_holders(Written(loaded.lives.now, 30_001, 30_000, (), holders=(ONE,)))
    await journal.close()
    with closing(sqlite3.connect(file)) as db:
        assert rows(db) == before
    assert file.stat().st_ino == inode
    again = await once(tmp_path)
    assert again.past == Past(30_001, 30_000, (ONE,), ())


async def test_a_migration_that_fails_half_way_leaves_the_former_version(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(VERSION_1)
        db.execute("INSERT INTO meta VALUES ('epoch', ?)", ("e" * 32,))
        db.execute("CREATE TABLE holder (something TEXT)")  # in the way of the second statement
        db.commit()
    journal = Journal(tmp_path)
    with pytest.raises(Exception, match="state store cannot be used"):
        await journal.open()
    await journal.close()
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'life'").fetchone() == (0,)
        db.execute("DROP TABLE holder")
    assert (await once(tmp_path)).lives.epoch == "e" * 32
