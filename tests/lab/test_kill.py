"""hostdevd in the lab dies of SIGKILL at five points of an attach and of a detach, and starts again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from api import EVENTUALLY_S, eventually
from google.protobuf.duration_pb2 import Duration
from hosts import LabHost

from hostdev.v1 import assignment_pb2, service_pb2
from lab.own_service import Life, Lives, state_in

IN_FLIGHT = {
    assignment_pb2.ASSIGNMENT_STATE_ATTACHING,
    assignment_pb2.ASSIGNMENT_STATE_ROLLING_BACK,
    assignment_pb2.ASSIGNMENT_STATE_DETACHING,
}
# Killed when so many steps have begun. Attach: 2 configured, 2 unbound, 2 attached, the fifth point in QEMU.
# Detach: 2 asked, 2 out of the configuration, 2 given back.
POINTS = [("attach", 1), ("attach", 4), ("attach", 6), ("detach", 1), ("detach", 4)]


def begun(database: Path, assignment: str) -> int:
    return _count(database, "SELECT count(*) FROM step WHERE assignment = ?", assignment)


def open_steps(database: Path) -> int:
    return _count(database, "SELECT count(*) FROM step WHERE ended IS NULL")


def _count(database: Path, query: str, *values: str) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        found: int = db.execute(query, values).fetchone()[0]
        return found


def kill_at(life: Life, database: Path, assignment: str, steps: int) -> None:
    """Kill when so many steps of the assignment have begun; the last one has a moment to be in libvirt's hands."""
    end = time.monotonic() + EVENTUALLY_S
    while begun(database, assignment) < steps:
        assert time.monotonic() < end, f"step {steps} never began"
        time.sleep(0.002)
    life.kill()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lives")


@pytest.fixture(scope="module")
def lives(directory: Path) -> Iterator[Lives]:
    with closing(Lives(directory)) as one_after_the_other:
        yield one_after_the_other


@pytest.mark.parametrize(("what", "point"), POINTS)
def test_a_kill_in_the_middle_is_all_or_nothing(
    lab: LabHost, directory: Path, lives: Lives, what: str, point: int
) -> None:
    names = [lab.roles["dual_0"], lab.roles["dual_1"]]
    database = state_in(directory) / "state.sqlite"
    life = lives.now()
    drivers = {name: life.api.driver(name) for name in names}
    if what == "attach":
        request = service_pb2.AttachRequest(vm="alpha", device=names[0], wait=Duration())
        assignment = life.api.stub.Attach(request).assignment.name
        kill_at(life, database, assignment, point)
    else:
        assignment = life.api.attach("alpha", names[0]).name
        before = begun(database, assignment)
        life.api.stub.Detach(service_pb2.DetachRequest(assignment=assignment, wait=Duration()))
        kill_at(life, database, assignment, before + point)
    api = lives.now().api
    get = service_pb2.GetAssignmentRequest(name=assignment)
    now = eventually(lambda: api.stub.GetAssignment(get).assignment, lambda found: found.state not in IN_FLIGHT)
    held = {holder.device: (holder.live, holder.config) for holder in api.holders(devices=names)}
    if now.state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED:
        assert held == dict.fromkeys(names, (True, True))
        assert {api.driver(name) for name in names} == {"vfio-pci"}
        now = api.detach(assignment=assignment)
    assert list(now.conditions) == []
    assert list(api.holders(devices=names)) == []
    assert {name: api.driver(name) for name in names} == drivers
    assert open_steps(database) == 0
