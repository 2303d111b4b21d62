"""A client of one hostdevd: its calls as methods, its lists as iterators, its errors as one exception."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from hostdev.channel import address_or_default, open_channel
from hostdev.errors import HostdevApiError
from hostdev.listing import Listing
from hostdev.v1 import assignment_pb2, device_pb2, group_pb2, holder_pb2, host_pb2, service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceAdminServiceStub, HostDeviceServiceStub

DEFAULT_TIMEOUT_S = 30.0
DEFAULT_WAIT_S = 60.0
"""How long the server waits when it is not told (Attach, Detach)."""
_GRACE_S = 2.0
"""The server answers when `wait` is over: the deadline only guards against its death."""

Request = TypeVar("Request")
Response = TypeVar("Response")


class HostdevClient:
    """Talks to the hostdevd at `address`: `unix:/path` or `host:port`.

    Without an address: the environment's HOSTDEV_ADDRESS, else the local socket. `host`, a name or a UUID, guards
    every call against reaching another host's server. `credentials` encrypt the connection. `timeout_s` bounds
    calls other than Attach, Detach and watches, which have a time of their own.

    Every method raises `HostdevApiError` when the call fails. Use as a context manager, or `close` it. May be
    shared between threads. `service` and `admin` are the bare stubs.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        host: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        self.address = address_or_default(address)
        self.host = host
        self.timeout_s = timeout_s
        self._channel = open_channel(self.address, credentials)
        self.service = HostDeviceServiceStub(self._channel)
        self.admin = HostDeviceAdminServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection. What the server is doing goes on."""
        self._channel.close()

    # --- the host and its devices

    def get_host(self) -> host_pb2.Host:
        """The host and whether it is fit for assigning devices."""
        return self._call(self.service.GetHost, service_pb2.GetHostRequest(host=self.host), "GetHost").host

    def list_devices(
        self, device_filter: device_pb2.DeviceFilter | None = None, *, page_size: int = 0
    ) -> Listing[device_pb2.Device]:
        """All devices, or those that match."""

        def fetch(token: str) -> service_pb2.ListDevicesResponse:
            request = service_pb2.ListDevicesRequest(
                host=self.host, filter=device_filter, page_size=page_size, page_token=token
            )
            return self._call(self.service.ListDevices, request, "ListDevices")

        return Listing(fetch, lambda page: page.devices)

    def get_device(self, device: str) -> device_pb2.Device:
        """One device, by libvirt's name or its uid."""
        request = service_pb2.GetDeviceRequest(host=self.host, device=device)
        return self._call(self.service.GetDevice, request, "GetDevice").device

    def list_eligible(
        self,
        device_filter: device_pb2.DeviceFilter | None = None,
        *,
        available_only: bool = False,
        include_ineligible: bool = False,
        page_size: int = 0,
    ) -> Listing[service_pb2.EligibleDevice]:
        """The devices that can be assigned, each with what the host would lose."""

        def fetch(token: str) -> service_pb2.ListEligibleResponse:
            request = service_pb2.ListEligibleRequest(
                host=self.host,
                filter=device_filter,
                available_only=available_only,
                include_ineligible=include_ineligible,
                page_size=page_size,
                page_token=token,
            )
            return self._call(self.service.ListEligible, request, "ListEligible")

        return Listing(fetch, lambda page: page.eligible_devices)

    def list_groups(
        self, device_filter: device_pb2.DeviceFilter | None = None, *, page_size: int = 0
    ) -> Listing[group_pb2.Group]:
        """All groups, or those with a member that matches."""

        def fetch(token: str) -> service_pb2.ListGroupsResponse:
            request = service_pb2.ListGroupsRequest(
                host=self.host, filter=device_filter, page_size=page_size, page_token=token
            )
            return self._call(self.service.ListGroups, request, "ListGroups")

        return Listing(fetch, lambda page: page.groups)

    def get_group(self, *, group: str = "", device: str = "") -> group_pb2.Group:
        """One group: give its uid, or a device in it."""
        request = service_pb2.GetGroupRequest(host=self.host, group=group, device=device)
        return self._call(self.service.GetGroup, request, "GetGroup").group

    # --- attach and detach

    def attach(  # noqa: PLR0913 (the fields of the request)
        self,
        vm: str,
        device: str,
        *,
        group_policy: assignment_pb2.GroupPolicy.ValueType = assignment_pb2.GROUP_POLICY_UNSPECIFIED,
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        expected_affected: Iterable[str] | None = None,
        validate_only: bool = False,
        request_id: str | None = None,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> service_pb2.AttachResponse:
        """Give a device, with its group, to a VM; wait up to `wait_s` seconds for the result.

        A `request_id` is made when none is given. It is the assignment's name, and a repeat with it is safe: make
        one yourself (a UUID) where a lost answer must not lose the assignment. `expected_affected` are the uids
        of all devices that the host may lose beside this one; None is not checked.
        """
        request = service_pb2.AttachRequest(
            host=self.host,
            vm=vm,
            device=device,
            group_policy=group_policy,
            scope=scope,
            expected_affected=None
            if expected_affected is None
            else service_pb2.ExpectedAffected(uids=expected_affected),
            validate_only=validate_only,
            request_id=request_id or str(uuid.uuid4()),
            wait=_duration(wait_s),
        )
        return self._call(self.service.Attach, request, "Attach", wait_s + _GRACE_S)

    def detach(  # noqa: PLR0913 (the same)
        self,
        *,
        assignment: str = "",
        vm: str = "",
        device: str = "",
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        validate_only: bool = False,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> service_pb2.DetachResponse:
        """Take back what was attached together, by assignment or by VM and device; wait up to `wait_s` seconds.

        The answer may still be `DETACHING`: the guest has not let go yet, and the server goes on.
        """
        request = service_pb2.DetachRequest(
            host=self.host,
            assignment=assignment,
            vm=vm,
            device=device,
            scope=scope,
            validate_only=validate_only,
            wait=_duration(wait_s),
        )
        return self._call(self.service.Detach, request, "Detach", wait_s + _GRACE_S)

    # --- records and holders

    def list_assignments(
        self,
        *,
        vm: str = "",
        device: str = "",
        states: Iterable[assignment_pb2.AssignmentState.ValueType] = (),
        page_size: int = 0,
    ) -> Listing[assignment_pb2.Assignment]:
        """Assignments, those closed within 30 days included."""
        wanted = tuple(states)

        def fetch(token: str) -> service_pb2.ListAssignmentsResponse:
            request = service_pb2.ListAssignmentsRequest(
                host=self.host, vm=vm, device=device, states=wanted, page_size=page_size, page_token=token
            )
            return self._call(self.service.ListAssignments, request, "ListAssignments")

        return Listing(fetch, lambda page: page.assignments)

    def get_assignment(self, name: str) -> assignment_pb2.Assignment:
        """One assignment, by its name: the attach's request id."""
        request = service_pb2.GetAssignmentRequest(host=self.host, name=name)
        return self._call(self.service.GetAssignment, request, "GetAssignment").assignment

    def forget_assignment(self, name: str) -> assignment_pb2.Assignment:
        """Remove the record of an assignment that holds nothing any more; the record as it was."""
        request = service_pb2.ForgetAssignmentRequest(host=self.host, name=name)
        return self._call(self.service.ForgetAssignment, request, "ForgetAssignment").assignment

    def list_holders(
        self, *, devices: Iterable[str] = (), vms: Iterable[str] = (), page_size: int = 0
    ) -> Listing[holder_pb2.Holder]:
        """Which VMs, running or not, hold which devices."""
        wanted_devices, wanted_vms = tuple(devices), tuple(vms)

        def fetch(token: str) -> service_pb2.ListHoldersResponse:
            request = service_pb2.ListHoldersRequest(
                host=self.host, devices=wanted_devices, vms=wanted_vms, page_size=page_size, page_token=token
            )
            return self._call(self.service.ListHolders, request, "ListHolders")

        return Listing(fetch, lambda page: page.holders)

    # --- virtual functions and mediated devices

    def set_virtual_functions(self, device: str, count: int) -> device_pb2.Device:
        """Set how many virtual functions a physical one has; the physical function."""
        request = service_pb2.SetVirtualFunctionsRequest(host=self.host, device=device, count=count)
        return self._call(self.admin.SetVirtualFunctions, request, "SetVirtualFunctions").device

    def create_mediated_device(
        self,
        parent: str,
        type_id: str,
        *,
        mdev_uuid: str | None = None,
        attributes: Mapping[str, str] | None = None,
        persistent: bool = False,
    ) -> device_pb2.Device:
        """Make a mediated device of one of the parent's types."""
        request = service_pb2.CreateMediatedDeviceRequest(
            host=self.host,
            parent=parent,
            type_id=type_id,
            uuid=mdev_uuid,
            attributes=attributes or {},
            persistent=persistent,
        )
        return self._call(self.admin.CreateMediatedDevice, request, "CreateMediatedDevice").device

    def delete_mediated_device(self, device: str) -> None:
        """Remove a mediated device."""
        request = service_pb2.DeleteMediatedDeviceRequest(host=self.host, device=device)
        self._call(self.admin.DeleteMediatedDevice, request, "DeleteMediatedDevice")

    def _call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        name: str,
        timeout_s: float | None = None,
    ) -> Response:
        try:
            return method(request, timeout=self.timeout_s if timeout_s is None else timeout_s)
        except grpc.RpcError as error:
            raise HostdevApiError.from_rpc_error(error, name) from error


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration
