"""The served service keeps the start guard's file, and says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from api import eventually
from hosts import SimulatedHost, simulated_host

from hostdev.v1 import assignment_pb2, host_pb2, service_pb2
from hostdevd import guard_file
from hostdevd.guard_file import NAME

CONFIG = assignment_pb2.SCOPE_CONFIG


def state_store(host: SimulatedHost) -> host_pb2.HostCheck:
    checks = host.api.stub.GetHost(service_pb2.GetHostRequest()).host.checks
    return next(check for check in checks if check.code == host_pb2.HOST_CHECK_CODE_STATE_STORE)


def test_an_assignment_is_in_the_file_and_the_file_outlives_the_service(tmp_path: Path) -> None:
    file = tmp_path / "state" / NAME
    with simulated_host(tmp_path) as host:
        eventually(file.exists, bool)
        assignment = host.api.attach("spare", host.roles["nic_single"], scope=CONFIG)
        eventually(lambda: json.loads(file.read_text())["assigned"], bool)
    (entries,) = json.loads(file.read_text())["assigned"].values()
    assert [entry["uid"] for entry in entries.values()] == [device.uid for device in assignment.devices]


def test_a_file_that_cannot_be_written_is_a_warning_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_file, "RETRY_S", 0.1)
    in_the_way = tmp_path / "state" / f"{NAME}.new" / "x"
    with simulated_host(tmp_path) as host:
        eventually((tmp_path / "state" / NAME).exists, bool)
        in_the_way.mkdir(parents=True)
        host.api.attach("spare", host.roles["nic_single"], scope=CONFIG)
        told = eventually(lambda: state_store(host), lambda check: check.status == host_pb2.HOST_CHECK_STATUS_WARN)
        assert "start guard" in told.message
        in_the_way.rmdir()
        in_the_way.parent.rmdir()
        eventually(lambda: state_store(host), lambda check: check.status == host_pb2.HOST_CHECK_STATUS_PASS)
