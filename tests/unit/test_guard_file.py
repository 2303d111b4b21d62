"""The start guard's file follows the store, whole or not at all, and stays when the service ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hostdevd import guard_file
from hostdevd.guard_file import NAME, GuardFile, replace_file
from unit.core.rig import Machine, Shape, machine


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_file, "PAUSE_S", 0.01)
    monkeypatch.setattr(guard_file, "RETRY_S", 0.01)


def guard_of(on: Machine, directory: Path, boot_id: Callable[[], str] = lambda: "boot") -> GuardFile:
    return GuardFile(directory, on.core.store, on.core.sync, boot_id)


def read(directory: Path) -> Any:
    return json.loads((directory / NAME).read_text())


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110  a file's content tells nobody
            await asyncio.sleep(0.01)


async def test_it_follows_the_store_and_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    async with machine(tmp_path) as on:
        guard = guard_of(on, kept)
        guard.start()
        await eventually((kept / NAME).exists)
        assert read(kept)["assigned"] == {}
        assignment = await on.attach(Shape("nic_single", "spare"))
        await eventually(lambda: bool(read(kept)["assigned"]))
        await on.detach(assignment.name)
        await eventually(lambda: not read(kept)["assigned"])
        await on.attach(Shape("nic_single", "spare"))
        await guard.close()
    assert len(read(kept)["assigned"]) == 1  # what was left to write was written
    assert [path.name for path in kept.iterdir()] == [NAME]
    assert (kept / NAME).stat().st_mode & 0o777 == 0o600


async def test_what_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    async with machine(tmp_path) as on:
        guard = guard_of(on, kept)
        guard.start()
        await eventually((kept / NAME).exists)
        before = (kept / NAME).stat().st_ino
        on.sim.controls.start_domain("spare")
        await asyncio.sleep(0.1)
        assert (kept / NAME).stat().st_ino == before
        await guard.close()


async def test_a_write_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    async with machine(tmp_path) as on:
        guard = guard_of(on, kept)
        guard.start()
        await eventually(lambda: guard.fault is not None)
        assert guard.fault == "No such file or directory"
        kept.mkdir()
        await eventually(lambda: guard.fault is None)
        assert read(kept)["boot_id"] == "boot"
        await guard.close()


async def test_a_boot_that_cannot_be_told_is_a_fault_and_another_machines_is_no_file(tmp_path: Path) -> None:
    def unreadable() -> str:
        raise RuntimeError("no boot id")

    async with machine(tmp_path) as on:
        guard = guard_of(on, tmp_path, unreadable)
        guard.start()
        await eventually(lambda: guard.fault is not None)
        await guard.close()
        foreign = guard_of(on, tmp_path, lambda: "")
        foreign.start()
        await asyncio.sleep(0.05)
        await foreign.close()
        assert foreign.fault is None
        assert not (tmp_path / NAME).exists()


def test_a_file_is_replaced_whole_and_no_link_is_followed(tmp_path: Path) -> None:
    path = tmp_path / NAME
    replace_file(path, "one")
    replace_file(path, "two")
    assert path.read_text() == "two"
    (tmp_path / f"{NAME}.new").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        replace_file(path, "three")
    assert path.read_text() == "two"
    assert not (tmp_path / "elsewhere").exists()


async def test_while_the_state_is_not_read_the_last_runs_file_stays(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    replace_file(kept / NAME, '{"of": "the last run"}')
    ours: list[bool] = []
    async with machine(tmp_path) as on:
        guard = GuardFile(kept, on.core.store, on.core.sync, lambda: "boot", lambda: bool(ours))
        await guard._keep()
        assert read(kept) == {"of": "the last run"}
        ours.append(True)
        await guard._keep()
        assert read(kept)["assigned"] == {}
        guard._thread.shutdown()
