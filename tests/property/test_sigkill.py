"""A real hostdevd over a simulated host is killed with SIGKILL in the middle, again and again."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from api import Api, eventually
from google.protobuf.duration_pb2 import Duration

from hostdev.v1 import assignment_pb2, service_pb2

GROUP = ("pci_0000_04_00_0", "pci_0000_04_00_1")
SETTLED = {
    assignment_pb2.ASSIGNMENT_STATE_ATTACHED,
    assignment_pb2.ASSIGNMENT_STATE_DETACHED,
    assignment_pb2.ASSIGNMENT_STATE_FAILED,
}
# As many steps as there are: two configured, two unbound, two attached; the same number back.
STEPS = range(1, 7)


@contextmanager
def serving(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Api]]:
    address = f"unix:{directory}/h.sock"
    command = [sys.executable, "-m", "hostdevd", "serve", "--simulate", "--listen", address]
    command += ["--state-dir", str(directory / "state")]
    # The tree that is tested, not one that is installed.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on")
        try:
            with grpc.insecure_channel(address) as channel:
                api = Api(channel)
                eventually(lambda: _answers(api), bool)
                yield process, api
        finally:
            process.kill()


def _answers(api: Api) -> bool:
    try:
        return bool(api.devices())
    except grpc.RpcError:
        return False


def steps_begun(database: Path, assignment: str) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        found: int = db.execute("SELECT count(*) FROM step WHERE assignment = ?", (assignment,)).fetchone()[0]
        return found


def kill_when(process: subprocess.Popen[str], database: Path, assignment: str, steps: int) -> None:
    """Kill as soon as so many steps of an assignment are in the journal (or all there ever were)."""
    end = time.monotonic() + 2.0
    while steps_begun(database, assignment) < steps and time.monotonic() < end:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def open_steps(database: Path) -> int:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as db:
        found: int = db.execute("SELECT count(*) FROM step WHERE ended IS NULL").fetchone()[0]
        return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", ["attach", "detach"])
def test_a_kill_at_any_step_is_all_or_nothing(tmp_path: Path, what: str) -> None:
    database = tmp_path / "state" / "state.sqlite"
    request = service_pb2.AttachRequest(vm="alpha", device=GROUP[0], wait=Duration())
    for steps in STEPS:
        with serving(tmp_path) as (process, api):
            drivers = [api.driver(name) for name in GROUP]
            assert drivers == ["e1000e", "e1000e"], steps
            if what == "attach":
                name = api.stub.Attach(request).assignment.name
                kill_when(process, database, name, steps)
            else:
                name = api.attach("alpha", GROUP[0]).name
                before = steps_begun(database, name)
                api.stub.Detach(service_pb2.DetachRequest(assignment=name, wait=Duration()))
                kill_when(process, database, name, before + steps)
        with serving(tmp_path) as (process, api):
            get = service_pb2.GetAssignmentRequest(name=name)
            now = eventually(lambda: api.stub.GetAssignment(get).assignment, lambda one: one.state in SETTLED, 60)  # noqa: B023
            holders = {holder.device: (holder.live, holder.config) for holder in api.holders(devices=GROUP)}
            if now.state == assignment_pb2.ASSIGNMENT_STATE_ATTACHED:
                assert holders == dict.fromkeys(GROUP, (True, True)), steps
                assert [api.driver(device) for device in GROUP] == ["vfio-pci"] * 2, steps
                api.detach(assignment=name)
            assert [api.driver(device) for device in GROUP] == drivers, steps
            assert list(api.holders(devices=GROUP)) == [], steps
            assert list(now.conditions) == [], steps
            assert open_steps(database) == 0, steps
