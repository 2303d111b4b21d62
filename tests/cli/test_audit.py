"""`hostdevd audit` beside a running service, after its end, and after it was killed in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceServiceStub
from hostdevd import audit_reader
from hostdevd.__main__ import main
from hostdevd.core.audit import Asked, Ended, Noted, Outcome
from hostdevd.core.caller import Caller, Proof
from hostdevd.core.journal import Journal

NIC = "pci_0000_01_00_0"
Attach, Detach = service_pb2.AttachRequest, service_pb2.DetachRequest


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, and what is called on it."""

    process: subprocess.Popen[str]
    stub: Any

    def call(self, method: str, request: Any) -> Any:
        return getattr(self.stub, method)(request, timeout=30, wait_for_ready=True)


@contextmanager
def serving(directory: Path) -> Iterator[Service]:
    address = f"unix:{directory}/h.sock"
    where = ["--listen", address, "--state-dir", str(directory / "state")]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "hostdevd", "serve", "--simulate", *where],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process,
        grpc.insecure_channel(address) as channel,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening on")
            service = Service(process, HostDeviceServiceStub(channel))
            until = time.monotonic() + 20
            while not _is_in_step(service):
                assert time.monotonic() < until
                time.sleep(0.02)
            yield service
        finally:
            process.terminate()


def _is_in_step(service: Service) -> bool:
    try:
        service.call("ListDevices", service_pb2.ListDevicesRequest())
    except grpc.RpcError:
        return False
    return True


def command(directory: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "hostdevd", "audit", "--state-dir", str(directory / "state"), *arguments]


def audit(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows as the command tells them; run in this process, which is another than the service's."""
    with redirect_stdout(StringIO()) as printed:
        assert main(["audit", "--state-dir", str(directory / "state"), "-o", "json", *arguments]) == 0
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def until_told(directory: Path, outcome: str) -> list[dict[str, Any]]:
    until = time.monotonic() + 20
    while True:
        rows = audit(directory)
        if outcome in {row["outcome"] for row in rows}:
            return rows
        assert time.monotonic() < until, rows


def test_the_log_is_read_while_the_service_runs_when_it_has_ended_and_when_it_was_killed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with serving(tmp_path) as service:
        with subprocess.Popen(
            command(tmp_path, "--follow", "-o", "json"), stdout=subprocess.PIPE, text=True
        ) as follower:
            service.call("Attach", Attach(vm="alpha", device=NIC))
            with pytest.raises(grpc.RpcError):
                service.call("Attach", Attach(vm="alpha", device="\x1b[31mnothing"))
            assert follower.stdout is not None
            followed = [json.loads(follower.stdout.readline()) for _ in range(3)]
            follower.send_signal(signal.SIGINT)
            assert follower.wait(20) == 0
        assert [row["outcome"] for row in followed] == ["ACCEPTED", "DONE", "REFUSED"]
        rows = until_told(tmp_path, "REFUSED")
        assert [row["id"] for row in rows] == [row["id"] for row in followed]
        (uid,) = {device["uid"] for device in rows[0]["devices"]}
        for arguments, found in (
            (("--vm", "alpha"), 3),
            (("--vm", rows[0]["vm_uuid"]), 2),
            (("--vm", "spare"), 0),
            (("--device", NIC), 2),
            (("--device", uid), 2),
            (("--caller", rows[0]["caller"]), 3),
            (("--caller", "uid:4294967294"), 0),
            (("--since", "1h"), 3),
            (("--until", "1h"), 0),
            (("--since", rows[2]["time"]), 1),
            (("--since", "2020-01-01", "--until", rows[1]["time"]), 1),
        ):
            assert len(audit(tmp_path, *arguments)) == found, arguments
        assert os.getegid() in rows[0]["gids"]
        assert rows[0]["read_only"] is False
        table = subprocess.run(command(tmp_path), check=True, capture_output=True, text=True).stdout
        assert "\x1b" not in table
        assert [line.split()[1] for line in table.splitlines()] == ["OUTCOME", "ACCEPTED", "DONE", "REFUSED"]
        # A guest that never answers: the detach is under way when the service is killed.
        held = service.call("Attach", Attach(vm="deaf", device="pci_0000_09_00_0")).assignment.name
        service.call("Detach", Detach(assignment=held, wait=Duration()))
        os.kill(service.process.pid, signal.SIGKILL)
        service.process.wait()
    assert (state / "state.sqlite-wal").exists()
    begun = audit(tmp_path)[-1]
    assert (begun["method"], begun["outcome"], begun["ended"]) == ("Detach", "ACCEPTED", None)
    with serving(tmp_path) as service:
        with pytest.raises(grpc.RpcError):
            service.call("Attach", Attach(vm="alpha"))
        service.process.terminate()
        service.process.wait(20)
    # Ended in order, everything is in one file, and to read it makes no other.
    before = {path.name for path in state.iterdir()}
    assert "state.sqlite-wal" not in before
    assert [row["reason"] for row in audit(tmp_path)][-1] == "INVALID_FIELD"
    assert {path.name for path in state.iterdir()} == before


def test_the_table_says_by_which_groups_and_which_socket_somebody_came(tmp_path: Path) -> None:
    caller = Caller(Proof.PEER, uid=7, gids=(27, 100, 101, 102, 103, 104), read_only=True)
    refused = Ended(Outcome.REFUSED, 1.0, "NOT_ALLOWED", "no")

    async def write() -> None:
        (tmp_path / "state").mkdir()
        journal = Journal(tmp_path / "state")
        await journal.open()
        await journal.note([Noted(Asked.by(caller, "Attach", 1.0), refused)])
        await journal.note([Noted(Asked.by(replace(caller, read_only=False), "Attach", 1.0), refused)])
        await journal.close()

    asyncio.run(write())
    with redirect_stdout(StringIO()) as printed:
        assert main(["audit", "--state-dir", str(tmp_path / "state")]) == 0
    _, read_only, other = printed.getvalue().splitlines()
    assert "uid:7" in read_only
    assert "27,100,101,102 and 2 more" in read_only
    assert read_only.endswith("NOT_ALLOWED: no: by the read-only socket")
    assert other.endswith("NOT_ALLOWED: no")


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for content in (None, b"", b"no database" * 100):
        directory = tmp_path / "state"
        directory.mkdir(exist_ok=True)
        if content is not None:
            (directory / "state.sqlite").write_bytes(content)
        done = subprocess.run(command(tmp_path), check=False, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("hostdevd: ")
        assert str(directory / "state.sqlite") in line


def test_who_may_read_and_not_write_is_told_who_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite notes its readers in a file beside the database; root, whom tests may run as, is kept from nothing."""

    class ReadOnly(sqlite3.OperationalError):
        sqlite_errorname = "SQLITE_READONLY_CANTINIT"

    def opened(path: Path) -> sqlite3.Connection:
        raise ReadOnly(f"attempt to write a readonly database {path}")

    (tmp_path / "state.sqlite").touch()
    monkeypatch.setattr(audit_reader, "_opened", opened)
    with pytest.raises(audit_reader.AuditError, match="only root and the service's own user can read it"):
        next(audit_reader.rows(tmp_path, after=0, since=0.0, until=1.0))


def test_a_time_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    done = subprocess.run(command(tmp_path, "--since", "soon"), check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "argument --since: 'soon' is no time: 2026-11-26, " in done.stderr


def test_the_end_of_a_pipe_is_no_error(tmp_path: Path) -> None:
    with serving(tmp_path) as service, pytest.raises(grpc.RpcError):
        service.call("Attach", Attach(vm="alpha"))
    with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reading:
        assert reading.stdout is not None
        assert reading.stderr is not None
        reading.stdout.close()
        assert reading.stderr.read() == ""
        assert reading.wait(20) == 0
