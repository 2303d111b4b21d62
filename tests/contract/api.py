"""A thin client for the suite: the API's own words, plus waiting for what is announced later."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc

from hostdev.v1 import assignment_pb2, device_pb2, error_pb2, group_pb2, holder_pb2, service_pb2, service_pb2_grpc

T = TypeVar("T")

# Limits cost nothing when a test passes, and the lab is emulated, on machines that may be slow and busy.
WAIT_S = 180
LONG_S = WAIT_S + 60.0
EVENTUALLY_S = 120.0
ATTACHED = assignment_pb2.ASSIGNMENT_STATE_ATTACHED
DETACHED = assignment_pb2.ASSIGNMENT_STATE_DETACHED
OPEN_STATES = (ATTACHED, assignment_pb2.ASSIGNMENT_STATE_ATTACHING, assignment_pb2.ASSIGNMENT_STATE_DETACHING)


class Refused(Exception):
    """A call's error with its details read."""

    def __init__(self, error: grpc.RpcError) -> None:
        call: Any = error
        super().__init__(call.details())
        self.code: grpc.StatusCode = call.code()
        status = status_pb2.Status()
        for key, value in call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status.ParseFromString(value)
        self.info = error_details_pb2.ErrorInfo()
        self.fields: list[str] = []
        self.reasons: list[error_pb2.Reason] = []
        self.retry_after_s = 0.0
        for detail in status.details:
            bad, reason = error_details_pb2.BadRequest(), error_pb2.Reason()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(bad):
                self.fields += [violation.field for violation in bad.field_violations]
            elif detail.Unpack(reason):
                self.reasons.append(reason)
            elif detail.Unpack(retry):
                self.retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
            else:
                detail.Unpack(self.info)

    @property
    def reason(self) -> str:
        return self.info.reason


def codes(reasons: Any) -> list[str]:
    return [error_pb2.ErrorReason.Name(reason.code).removeprefix("ERROR_REASON_") for reason in reasons]


@contextmanager
def refused(reason: str) -> Iterator[list[Refused]]:
    """The block's call must fail for this reason; the error is left in the list."""
    caught: list[Refused] = []
    with pytest.raises(grpc.RpcError) as failure:
        yield caught
    error = Refused(failure.value)
    caught.append(error)
    assert error.reason == reason, (error.reason, str(error))
    assert error.info.domain == "hostdevd"


def eventually(look: Callable[[], T], until: Callable[[T], bool], within_s: float = EVENTUALLY_S) -> T:
    """Look again and again until it is as it should be; the last look is in the failure."""
    end = time.monotonic() + within_s
    while True:
        began = time.monotonic()
        found = look()
        if until(found):
            return found
        now = time.monotonic()
        assert now < end, f"still {found}"
        time.sleep(max(0.1, now - began))  # to look must not keep a slow machine from what is waited for


class Api:
    """The service under test."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = service_pb2_grpc.HostDeviceServiceStub(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        self.admin = service_pb2_grpc.HostDeviceAdminServiceStub(channel)

    def devices(self, **filter_: Any) -> list[device_pb2.Device]:
        found: list[device_pb2.Device] = []
        token = ""
        while True:
            request = service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(**filter_), page_token=token)
            page = self.stub.ListDevices(request, timeout=LONG_S)
            found += page.devices
            token = page.next_page_token
            if not token:
                return found

    def device(self, name: str) -> device_pb2.Device:
        return self.stub.GetDevice(service_pb2.GetDeviceRequest(device=name), timeout=LONG_S).device

    def driver(self, name: str) -> str:
        return self.device(name).driver

    def group_of(self, name: str) -> group_pb2.Group:
        return self.stub.GetGroup(service_pb2.GetGroupRequest(device=name), timeout=LONG_S).group

    def eligible(self, **arguments: Any) -> dict[str, service_pb2.EligibleDevice]:
        request = service_pb2.ListEligibleRequest(page_size=1000, **arguments)
        answer = self.stub.ListEligible(request, timeout=LONG_S)
        return {one.device.name: one for one in answer.eligible_devices}

    def holders(self, **arguments: Any) -> list[holder_pb2.Holder]:
        request = service_pb2.ListHoldersRequest(**arguments)
        return list(self.stub.ListHolders(request, timeout=LONG_S).holders)

    def host_uses(self, device: str) -> list[tuple[str, str]]:
        """How the host uses a device: kind and detail of each."""
        return [
            (device_pb2.HostUseKind.Name(use.kind).removeprefix("HOST_USE_KIND_"), use.detail)
            for use in self.device(device).host_uses
        ]

    def plan(self, vm: str, device: str, **arguments: Any) -> assignment_pb2.Plan:
        request = service_pb2.AttachRequest(vm=vm, device=device, validate_only=True, **arguments)
        answer = self.stub.Attach(request, timeout=LONG_S)
        assert not answer.HasField("assignment")
        return answer.plan

    def attach(self, vm: str, device: str, **arguments: Any) -> assignment_pb2.Assignment:
        arguments.setdefault("request_id", str(uuid.uuid4()))
        request = service_pb2.AttachRequest(vm=vm, device=device, wait=Duration(seconds=WAIT_S), **arguments)
        return self.stub.Attach(request, timeout=LONG_S).assignment

    def detach(self, vm: str = "", device: str = "", **arguments: Any) -> assignment_pb2.Assignment:
        request = service_pb2.DetachRequest(vm=vm, device=device, wait=Duration(seconds=WAIT_S), **arguments)
        return self.stub.Detach(request, timeout=LONG_S).assignment
