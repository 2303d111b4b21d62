"""When a service is in step with its libvirt, and what a test left on the host: asked before and after every test.

Whatever shook the service (libvirtd killed, a second service beside it) ends for one test when its own question is
answered; for the next only when the service has caught up with everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from api import OPEN_STATES, Api, eventually
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2

from hostdev.v1 import host_pb2, service_pb2


@dataclass(frozen=True)
class State:
    """What a test may change and must give back; only what is named alike after a re-plug."""

    drivers: dict[str, str]
    plugged: frozenset[str]
    holders: frozenset[tuple[str, str]]

    def missing_from(self, now: State) -> str:
        """What differs, in words."""
        drivers = {
            name: (driver, now.drivers.get(name))
            for name, driver in self.drivers.items()
            if now.drivers.get(name) != driver
        }
        told = (
            ("driver then and now", drivers),
            ("gone", self.plugged - now.plugged),
            ("new", now.plugged - self.plugged),
            ("not held any more", self.holders - now.holders),
            ("still held", now.holders - self.holders),
        )
        return "; ".join(f"{what}: {found}" for what, found in told if found)


def state_of(api: Api) -> State:
    """Drivers, PCI and USB devices, holders."""
    functions = {device.name: device.driver for device in api.devices(types=["pci"])}
    sticks = {device.name for device in api.devices(types=["usb_device"])}
    held = frozenset((holder.vm.name, holder.uid) for holder in api.holders())
    return State(functions, frozenset(functions) | sticks, held)


def libvirt_check(api: Api) -> host_pb2.HostCheckStatus.ValueType:
    """What GetHost says of the connection to libvirt."""
    host = api.stub.GetHost(service_pb2.GetHostRequest(), timeout=30).host
    return next(check.status for check in host.checks if check.code == host_pb2.HOST_CHECK_CODE_LIBVIRT)


def is_in_step(api: Api) -> bool:
    """Whether the service has read all of a libvirt that answers, and tells so to everybody."""
    try:
        if libvirt_check(api) != host_pb2.HOST_CHECK_STATUS_PASS:
            return False
        health = api.health.Check(health_pb2.HealthCheckRequest(), timeout=30).status
    except grpc.RpcError as error:
        if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            return False  # it has not read anything yet, or is busy
        raise
    return bool(health == health_pb2.HealthCheckResponse.SERVING)


def in_step(api: Api) -> None:
    """Wait until the service is in step."""
    eventually(lambda: is_in_step(api), bool)


def noticed_that_libvirt_is_gone(api: Api) -> None:
    """Wait until the service knows that the libvirtd that was killed is gone: from then on "in step" is news."""
    eventually(lambda: libvirt_check(api), lambda status: status == host_pb2.HOST_CHECK_STATUS_FAIL)


def as_before(api: Api, before: State) -> None:
    """Wait until the host is again as it was; else clear up for the tests that follow, and fail."""
    try:
        eventually(lambda: before.missing_from(state_of(api)), lambda differs: not differs)
    except AssertionError:
        sweep(api)
        raise


def sweep(api: Api) -> None:
    """Take back whatever can be: a test that failed half-way must not fail those after it."""
    for one in api.stub.ListAssignments(service_pb2.ListAssignmentsRequest(states=OPEN_STATES), timeout=30).assignments:
        _take(api, service_pb2.DetachRequest(assignment=one.name, wait=Duration(seconds=30)))
    for holder in api.holders():
        _take(api, service_pb2.DetachRequest(vm=holder.vm.uuid, device=holder.device, wait=Duration(seconds=30)))


def _take(api: Api, request: service_pb2.DetachRequest) -> None:
    try:
        api.stub.Detach(request, timeout=60)
    except grpc.RpcError as error:
        print(f"not cleared up: {error.details()}")  # noqa: T201  beside the failure that is told anyway
