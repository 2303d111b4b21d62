"""The service as a process on a state directory that is full, damaged, or cannot be written."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hostdev.v1 import service_pb2 as api
from hostdev.v1 import service_pb2_grpc

GARBAGE = b"no database at all " * 1000
NIC, DUAL = "pci_0000_01_00_0", "pci_0000_04_00_0"


class Service:
    """A service of its own and a client of it."""

    def __init__(self, process: subprocess.Popen[str], channel: grpc.Channel) -> None:
        self.process = process
        self.stub = service_pb2_grpc.HostDeviceServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)

    def state_check(self) -> tuple[str, str, str]:
        host = MessageToDict(self.stub.GetHost(api.GetHostRequest()).host)
        check = next(one for one in host["checks"] if one["code"] == "HOST_CHECK_CODE_STATE_STORE")
        return check["status"].rpartition("_")[2], check["message"], check.get("remedy", "")

    def serving(self, service: str = "") -> bool:
        found = self.health.Check(health_pb2.HealthCheckRequest(service=service))
        return bool(found.status == health_pb2.HealthCheckResponse.SERVING)

    def until_passes(self) -> None:
        deadline = time.monotonic() + 30
        while self.state_check()[0] != "PASS":
            assert time.monotonic() < deadline, self.state_check()
            time.sleep(0.2)


@contextmanager
def running(directory: Path, *, no_room: bool = False) -> Iterator[Service]:
    """The simulated host on `state` in this directory; with `no_room` on a disk that takes not one byte."""
    socket = f"unix:{directory}/h.sock"
    serve = ["-m", "hostdevd", "serve", "--simulate", "--listen", socket, "--state-dir", str(directory / "state")]
    command = [sys.executable, *serve]
    if no_room:
        limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))"
        command = [sys.executable, "-c", f"import os, resource; {limit}; os.execv({sys.executable!r}, {command!r})"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process,
        grpc.insecure_channel(socket) as channel,
    ):
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening on ")
            service = Service(process, channel)
            deadline = time.monotonic() + 30
            while not service.serving():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield service
        finally:
            process.terminate()


def refusal(call: Callable[[], Any]) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    error: Any = refused.value
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return error.code(), info, error.details()


def check_that_it_reads_and_changes_nothing(service: Service) -> None:
    assert len(service.stub.ListDevices(api.ListDevicesRequest()).devices) > 50
    assert service.stub.ListEligible(api.ListEligibleRequest()).eligible_devices
    service.stub.ListHolders(api.ListHoldersRequest())
    dry = service.stub.Attach(api.AttachRequest(vm="alpha", device=DUAL, validate_only=True))
    assert not dry.plan.blockers
    status, message, remedy = service.state_check()
    assert status == "FAIL"
    assert message
    # What reads goes on; the service that only changes things says that it cannot.
    assert service.serving()
    assert service.serving("hostdev.v1.HostDeviceService")
    assert not service.serving("hostdev.v1.HostDeviceAdminService")
    for call in (
        lambda: service.stub.Attach(api.AttachRequest(vm="alpha", device=NIC)),
        lambda: service.stub.Detach(api.DetachRequest(vm="alpha", device=NIC)),
        lambda: service.stub.Detach(api.DetachRequest(assignment="one")),
        lambda: service.stub.ForgetAssignment(api.ForgetAssignmentRequest(name="one")),
        # What is assigned is not known: an error, never an empty list.
        lambda: service.stub.ListAssignments(api.ListAssignmentsRequest()),
        lambda: service.stub.GetAssignment(api.GetAssignmentRequest(name="one")),
    ):
        code, info, text = refusal(call)
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "STATE_STORE_UNAVAILABLE")
        assert remedy in text


def test_a_damaged_file_is_served_around_and_taken_over_when_it_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "state" / "state.sqlite"
    with running(tmp_path) as service:
        made = service.stub.Attach(api.AttachRequest(vm="alpha", device=NIC))
        name, token, revision = made.assignment.name, made.resume_token, made.revision
    whole = path.read_bytes()
    path.write_bytes(GARBAGE)
    with running(tmp_path) as service:
        check_that_it_reads_and_changes_nothing(service)
        assert path.read_bytes() == GARBAGE
        watch = service.stub.WatchHolders(api.WatchHoldersRequest(resume_token=token), timeout=60)
        events = [next(watch) for _ in range(3)]
        assert [one.WhichOneof("event") for one in events] == ["reset", "snapshot", "bookmark"]
        assert events[0].reset.reason == api.RESET_REASON_NEW_EPOCH
        meanwhile = events[2].resume_token
        path.write_bytes(whole)
        service.until_passes()
        events = [next(watch) for _ in range(3)]
        assert [one.WhichOneof("event") for one in events] == ["reset", "snapshot", "bookmark"]
        assert events[0].reset.reason == api.RESET_REASON_NEW_EPOCH
        assert events[2].revision > revision
        assert {one.assignment for one in events[1].snapshot.holders if one.device == NIC} == {name}
        watch.cancel()
        # A position of the epoch in between is of no epoch now; one of the stored epoch is too old.
        for old in (meanwhile, token):
            again = service.stub.WatchHolders(api.WatchHoldersRequest(resume_token=old), timeout=30)
            assert next(again).WhichOneof("event") == "reset"
            again.cancel()
        goes_on = service.stub.WatchHolders(api.WatchHoldersRequest(resume_token=events[2].resume_token), timeout=30)
        done = service.stub.Detach(api.DetachRequest(assignment=name))
        assert done.assignment.devices[0].current_driver == "e1000e"
        first = next(goes_on)
        assert first.WhichOneof("event") == "change_batch", json.dumps(MessageToDict(first))
        goes_on.cancel()


def test_a_full_disk_is_served_around_until_there_is_room(tmp_path: Path) -> None:
    with running(tmp_path, no_room=True) as service:
        check_that_it_reads_and_changes_nothing(service)
        assert not (tmp_path / "state" / "state.sqlite").exists()
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, unlimited)
        service.until_passes()
        made = service.stub.Attach(api.AttachRequest(vm="alpha", device=NIC))
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        code, info, _ = refusal(lambda: service.stub.Detach(api.DetachRequest(assignment=made.assignment.name)))
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "STATE_STORE_UNAVAILABLE")
        assert service.state_check()[0] == "FAIL"
        # The records are known, so they are told.
        assert len(service.stub.ListAssignments(api.ListAssignmentsRequest()).assignments) == 1
        resource.prlimit(service.process.pid, resource.RLIMIT_FSIZE, unlimited)
        done = service.stub.Detach(api.DetachRequest(assignment=made.assignment.name))
        assert done.assignment.devices[0].current_driver == "e1000e"
        service.until_passes()


def test_a_directory_that_takes_no_lock_is_served_around(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "lock"
    lock.mkdir(parents=True)
    with running(tmp_path) as service:
        check_that_it_reads_and_changes_nothing(service)
        assert not (tmp_path / "state" / "state.sqlite").exists()
        lock.rmdir()
        service.until_passes()
        service.stub.Attach(api.AttachRequest(vm="alpha", device=NIC))
