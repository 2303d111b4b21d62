"""A state file that hostdevd cannot go on with is refused in words, and stays as it is byte for byte."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from hostdevd.core.assignments import Assignment, AssignmentState
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal, Loaded
from hostdevd.core.model import Vm, VmState
from hostdevd.core.reopening import open_or_do_without

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ONE = Assignment("one", Vm("vm", "uuid", VmState.RUNNING), (), AssignmentState.ATTACHED, NOW, NOW)


async def made(directory: Path) -> Path:
    """A file with something in it, of a service that ended."""
    journal = Journal(directory)
    await journal.open()
    for number in range(40):
        await journal.begin_step("one", "VERIFY" * 100, f"device-{number}", 1.0)
    await journal.save(ONE)
    await journal.close()
    return directory / "state.sqlite"


async def refused(directory: Path, claim: Callable[[], None] = lambda: None) -> HostdevError:
    journal = Journal(directory, claim)
    try:
        with pytest.raises(HostdevError) as error:
            await journal.open()
        assert error.value.reason == "STATE_STORE_UNAVAILABLE"
        assert not journal.is_open
        assert journal.fault is not None
        assert journal.fault.why in error.value.message
        assert journal.fault.remedy in error.value.message
        with pytest.raises(HostdevError, match=r"state store"):
            await journal.save(ONE)
        return error.value
    finally:
        await journal.close()


async def opened(directory: Path) -> Loaded:
    journal = Journal(directory)
    try:
        return await journal.open()
    finally:
        await journal.close()


def sql(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    for statement in statements:
        db.execute(statement)
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all " * 1000)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_page_of_zeros(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8192:12288] = bytes(4096)
    path.write_bytes(data)


def of_another_program(path: Path) -> None:
    path.unlink()
    sql(path, "CREATE TABLE meta (key TEXT, value TEXT)", "INSERT INTO meta VALUES ('epoch', 'x')")


def a_table_less(path: Path) -> None:
    sql(path, "DROP TABLE request")


def a_column_less(path: Path) -> None:
    sql(path, "ALTER TABLE request DROP COLUMN failure")


def no_epoch(path: Path) -> None:
    sql(path, "DELETE FROM meta")


def a_record_of_nonsense(path: Path) -> None:
    sql(path, """UPDATE assignment SET record = '{"vm": 5}'""")


def a_record_that_is_no_text(path: Path) -> None:
    sql(path, "UPDATE assignment SET record = CAST(x'ff80' AS TEXT)")


@pytest.mark.parametrize(
    "damage",
    [
        garbage,
        truncated,
        empty,
        a_page_of_zeros,
        of_another_program,
        a_table_less,
        a_column_less,
        no_epoch,
        a_record_of_nonsense,
        a_record_that_is_no_text,
    ],
    ids=lambda damage: damage.__name__,
)
async def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = await made(tmp_path)
    whole = path.read_bytes()
    damage(path)
    damaged = path.read_bytes()
    for _ in range(2):
        error = await refused(tmp_path)
        assert "damaged" in error.metadata["why"]
        assert "back-up" in error.metadata["remedy"]
        assert "move it away" in error.metadata["remedy"]
    assert path.read_bytes() == damaged
    # Restored as it is told to be.
    path.write_bytes(whole)
    assert (await opened(tmp_path)).assignments == (ONE,)


async def test_a_file_of_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = await made(tmp_path)
    sql(path, "PRAGMA user_version = 99")
    newer = path.read_bytes()
    error = await refused(tmp_path)
    assert "newer" in error.message
    assert error.retry_after_s is None  # it does not pass
    journal = Journal(tmp_path)
    with structlog.testing.capture_logs() as lines:
        assert not (await open_or_do_without(journal)).assignments
    await journal.close()
    assert [line["log_level"] for line in lines] == ["error"]
    assert path.read_bytes() == newer


async def test_moved_away_it_begins_anew_and_not_with_what_was_left_behind(tmp_path: Path) -> None:
    before = await opened(tmp_path)
    path = tmp_path / "state.sqlite"
    path.rename(tmp_path / "away")
    (tmp_path / "state.sqlite-wal").write_bytes(b"left behind")
    assert "state.sqlite-wal" in (await refused(tmp_path)).message
    assert not path.exists()
    (tmp_path / "state.sqlite-wal").unlink()
    after = await opened(tmp_path)
    assert after.lives.epoch != before.lives.epoch


async def test_a_start_that_was_cut_short_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite.new").write_bytes(b"half")
    (tmp_path / "state.sqlite.new-wal").write_bytes(b"half")
    assert (await opened(tmp_path)).assignments == ()
    assert not (tmp_path / "state.sqlite.new").exists()


async def test_something_else_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").mkdir()
    assert str(tmp_path) in (await refused(tmp_path)).message


async def test_nothing_is_opened_or_made_without_the_claim(tmp_path: Path) -> None:
    def read_only() -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def taken() -> None:
        raise BlockingIOError(errno.EWOULDBLOCK, "another hostdevd uses it")

    assert "mount it writable" in (await refused(tmp_path, read_only)).message
    assert "stop one of the two" in (await refused(tmp_path, taken)).message
    assert not os.listdir(tmp_path)  # noqa: PTH208  quick


_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal

def room(size):
    # A file beyond it: what a full disk says, said by the kernel (EFBIG in place of ENOSPC).
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main():
    directory = Path(sys.argv[1])
    journal = Journal(directory)
    for size in (0, 4096, 16384):
        room(size)
        try:
            await journal.open()
        except HostdevError as error:
            print(error.reason, journal.is_open)
        assert not (directory / "state.sqlite").exists()
    room(resource.RLIM_INFINITY)
    first = await journal.open()
    await journal.close()
    journal = Journal(directory)
    room(0)
    try:
        await journal.open()
    except HostdevError as error:
        print(error.reason, journal.is_open)
    room(resource.RLIM_INFINITY)
    second = await journal.open()
    print(first.lives.epoch == second.lives.epoch, second.revision > first.revision)
    room(0)
    try:
        await journal.probe()
    except HostdevError as error:
        print(error.reason, journal.is_open, journal.fault is not None)
    room(resource.RLIM_INFINITY)
    await journal.probe()
    print(journal.fault)
    await journal.close()

asyncio.run(main())
"""


def test_a_full_disk_is_waited_for_and_leaves_no_half_file(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    no = "STATE_STORE_UNAVAILABLE False"
    assert done.stdout.splitlines() == [no, no, no, no, "True True", "STATE_STORE_UNAVAILABLE True True", "None"]
