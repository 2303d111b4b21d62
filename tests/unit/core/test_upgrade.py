"""A state file of an earlier version, left by a kill in the middle of an operation, is opened, migrated and recovered.

There was no tagged release before schema 4: the files in `states` are what hostdevd wrote at 7bd3d12 (schema 1, the
last commit with it), at c33f9f3 (schema 2) and at e3dd738 (schema 3) over the simulated host, as SQL text, cut to the
devices they are about.
A new schema adds the one before it.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hostdevd.audit_reader import rows as read
from hostdevd.core.addresses import PciAddress, UsbAddress
from hostdevd.core.assignments import Assignment, AssignmentState
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal
from hostdevd.core.ports import HostdevSpec, Target
from hostdevd.core.records import assignment_from_json
from hostdevd.core.statefile import SCHEMA_VERSION
from hostdevd.sim.simulation import simulate
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.rig import FastClock, Shape, machine, until

STATES = {int(path.stem.rpartition("-")[2]): path for path in (Path(__file__).parent / "states").glob("schema-*.sql")}
HELD, CLOSED, OPEN = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "123")
GROUP = {"pci_0000_04_00_0": PciAddress(0, 4, 0, 0), "pci_0000_04_00_1": PciAddress(0, 4, 0, 1)}
EACH = pytest.mark.parametrize("version", sorted(STATES))


def old_file(directory: Path, version: int) -> Path:
    path = directory / "state.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(STATES[version].read_text("utf-8"))
    return path


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def recorded(path: Path) -> dict[str, Assignment]:
    found = rows(path, "SELECT name, record FROM assignment")
    return {str(name): assignment_from_json(str(record)) for name, record in found}


def host_at_the_kill(directory: Path, records: dict[str, Assignment]) -> None:
    """The simulated host as the killed service had left it: of an attach what was done so far, of a detach all."""
    controls = simulate(FastClock(), None, directory).controls
    (stick,) = records[HELD].devices
    controls.virsh_attach("alpha", build_hostdev(HostdevSpec(stick.alias, UsbAddress(2, 2))), Target.LIVE)
    attaching = records[OPEN].state is AssignmentState.ATTACHING
    group = [
        (device.name, build_hostdev(HostdevSpec(device.alias, GROUP[device.name], managed=True)))
        for device in records[OPEN].devices
    ]
    for name, hostdev in group:
        controls.virsh_attach("alpha", hostdev, Target.CONFIG)
        if not attaching or name.endswith("_0"):
            controls.set_driver(name, "vfio-pci", "vfio-pci")
    for _, hostdev in () if attaching else group:
        controls.virsh_attach("alpha", hostdev, Target.LIVE)


def test_every_earlier_schema_has_a_file() -> None:
    assert set(STATES) >= set(range(1, SCHEMA_VERSION))


@EACH
async def test_what_was_written_is_read_and_the_file_is_as_a_new_one(tmp_path: Path, version: int) -> None:
    (tmp_path / "new").mkdir()
    for directory in (tmp_path, tmp_path / "new"):
        if directory is tmp_path:
            old_file(directory, version)
        journal = Journal(directory)
        loaded = await journal.open()
        await journal.close()
        if directory is tmp_path:
            assert {one.name for one in loaded.assignments} == {HELD, CLOSED, OPEN}
            assert {one.request_id for one in loaded.requests} == {HELD, CLOSED, OPEN}
            assert len(loaded.identities) >= 4
            assert loaded.revision >= 10_000
    schemas = [
        {
            name: re.sub(r"\s+", " ", str(sql))
            for name, sql in rows(directory / "state.sqlite", "SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
        }
        for directory in (tmp_path, tmp_path / "new")
    ]
    assert schemas[0] == schemas[1]
    assert rows(tmp_path / "state.sqlite", "PRAGMA user_version") == [(SCHEMA_VERSION,)]


@EACH
async def test_a_migration_that_fails_leaves_the_file_to_the_version_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    path = old_file(tmp_path, version)
    before = rows(path, "SELECT name FROM sqlite_master ORDER BY 1")
    monkeypatch.setattr("hostdevd.core.statefile.SCHEMA_VERSION", SCHEMA_VERSION + 1)
    broken = ("CREATE TABLE later (a TEXT) STRICT;\nCREATE TABLE later (a TEXT) STRICT;",)
    monkeypatch.setattr("hostdevd.core.statefile._SCHEMAS", (*_schemas(), *broken))
    journal = Journal(tmp_path)
    with pytest.raises(HostdevError) as failure:
        await journal.open()
    await journal.close()
    assert failure.value.reason == "STATE_STORE_UNAVAILABLE"
    assert rows(path, "SELECT name FROM sqlite_master ORDER BY 1") == before
    assert rows(path, "PRAGMA user_version") == [(version,)]
    monkeypatch.undo()
    again = Journal(tmp_path)
    assert len((await again.open()).assignments) == 3
    await again.close()


def _schemas() -> tuple[str, ...]:
    from hostdevd.core.statefile import _SCHEMAS  # noqa: PLC0415  before it is replaced

    return _SCHEMAS


@EACH
async def test_the_open_operation_is_recovered(tmp_path: Path, version: int) -> None:
    path = old_file(tmp_path, version)
    records = recorded(path)
    assert records[OPEN].state.in_flight, "the file is of no use"
    assert rows(path, "SELECT count(*) FROM step WHERE ended IS NULL") == [(1,)]
    host_at_the_kill(tmp_path, records)
    async with machine(tmp_path, kept=True) as m:
        await until(m, lambda: OPEN in m.core.store.assignments and not m.assignment(OPEN).state.in_flight)
        done = m.assignment(OPEN)
        if records[OPEN].state is AssignmentState.DETACHING:
            assert done.state is AssignmentState.DETACHED
        if done.state is AssignmentState.ATTACHED:
            assert [m.driver(name) for name in GROUP] == ["vfio-pci", "vfio-pci"]
            assert [m.held(name) for name in GROUP] == [{("alpha", True, True)}] * 2
            done = await m.detach(OPEN)
        assert done.conditions == ()
        assert [m.driver(name) for name in GROUP] == ["e1000e", "e1000e"]
        assert [m.held(name) for name in GROUP] == [set(), set()]
        # The others are as they were, under their names and uids.
        assert m.assignment(CLOSED).state is AssignmentState.DETACHED
        assert m.assignment(HELD).state is AssignmentState.ATTACHED
        assert m.held("usb_2_2") == {("alpha", True, True)}
        uids = {device.name: device.uid for record in records.values() for device in record.devices}
        assert {name: m.core.store.devices[name].uid for name in uids} == uids
        # And it goes on from there.
        assert (await m.detach(HELD)).state is AssignmentState.DETACHED
        assert (await m.attach(Shape("dual_0"))).state is AssignmentState.ATTACHED
    assert rows(path, "SELECT count(*) FROM step WHERE ended IS NULL") == [(0,)]


async def test_the_audit_log_of_before_goes_on(tmp_path: Path) -> None:
    """What was under way gets its end; what nobody asked then is not made up."""
    path = old_file(tmp_path, 3)
    before = list(read(tmp_path, after=0, since=0.0, until=1e12))  # as it is, by the new command
    assert before[-1]["outcome"] == "ACCEPTED"
    host_at_the_kill(tmp_path, recorded(path))
    async with machine(tmp_path, kept=True) as m:
        await until(m, lambda: OPEN in m.core.store.assignments and not m.assignment(OPEN).state.in_flight)
    found = list(read(tmp_path, after=0, since=0.0, until=1e12))
    assert [row["id"] for row in found] == [*(row["id"] for row in before), 11]
    assert (found[-2]["ended"], found[-1]["began"], found[-1]["outcome"]) == (11, 10, "DONE")
    assert {(row["gids"], row["read_only"]) for row in (*before, *found)} == {(None, None)}
