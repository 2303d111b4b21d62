"""The requests of all calls, from Python's values: the synchronous and the asynchronous client send the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from hostdev.v1 import assignment_pb2, device_pb2, service_pb2

ListRequest = TypeVar(
    "ListRequest",
    service_pb2.ListDevicesRequest,
    service_pb2.ListEligibleRequest,
    service_pb2.ListGroupsRequest,
    service_pb2.ListAssignmentsRequest,
    service_pb2.ListHoldersRequest,
)

DEFAULT_WAIT_S = 60.0
"""How long the server waits when it is not told (Attach, Detach)."""


def duration(seconds: float) -> Duration:
    """Seconds as the API has them."""
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


@dataclass(frozen=True, slots=True)
class Requests:
    """Makes requests that all carry the guard `host`."""

    host: str

    def get_host(self) -> service_pb2.GetHostRequest:
        """Of GetHost."""
        return service_pb2.GetHostRequest(host=self.host)

    def list_devices(
        self, device_filter: device_pb2.DeviceFilter | None, page_size: int
    ) -> service_pb2.ListDevicesRequest:
        """Of ListDevices."""
        return service_pb2.ListDevicesRequest(host=self.host, filter=device_filter, page_size=page_size)

    def get_device(self, device: str) -> service_pb2.GetDeviceRequest:
        """Of GetDevice."""
        return service_pb2.GetDeviceRequest(host=self.host, device=device)

    def list_eligible(
        self,
        device_filter: device_pb2.DeviceFilter | None,
        page_size: int,
        *,
        available_only: bool,
        include_ineligible: bool,
    ) -> service_pb2.ListEligibleRequest:
        """Of ListEligible."""
        return service_pb2.ListEligibleRequest(
            host=self.host,
            filter=device_filter,
            available_only=available_only,
            include_ineligible=include_ineligible,
            page_size=page_size,
        )

    def list_groups(
        self, device_filter: device_pb2.DeviceFilter | None, page_size: int
    ) -> service_pb2.ListGroupsRequest:
        """Of ListGroups."""
        return service_pb2.ListGroupsRequest(host=self.host, filter=device_filter, page_size=page_size)

    def get_group(self, group: str, device: str) -> service_pb2.GetGroupRequest:
        """Of GetGroup."""
        return service_pb2.GetGroupRequest(host=self.host, group=group, device=device)

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
    ) -> service_pb2.AttachRequest:
        """Of Attach, with a new id when none is given."""
        expected = None if expected_affected is None else service_pb2.ExpectedAffected(uids=expected_affected)
        return service_pb2.AttachRequest(
            host=self.host,
            vm=vm,
            device=device,
            group_policy=group_policy,
            scope=scope,
            expected_affected=expected,
            validate_only=validate_only,
            request_id=request_id or str(uuid.uuid4()),
            wait=duration(wait_s),
        )

    def detach(  # noqa: PLR0913 (the same)
        self,
        *,
        assignment: str = "",
        vm: str = "",
        device: str = "",
        scope: assignment_pb2.Scope.ValueType = assignment_pb2.SCOPE_UNSPECIFIED,
        validate_only: bool = False,
        wait_s: float = DEFAULT_WAIT_S,
    ) -> service_pb2.DetachRequest:
        """Of Detach."""
        return service_pb2.DetachRequest(
            host=self.host,
            assignment=assignment,
            vm=vm,
            device=device,
            scope=scope,
            validate_only=validate_only,
            wait=duration(wait_s),
        )

    def list_assignments(
        self, vm: str, device: str, states: Iterable[assignment_pb2.AssignmentState.ValueType], page_size: int
    ) -> service_pb2.ListAssignmentsRequest:
        """Of ListAssignments."""
        return service_pb2.ListAssignmentsRequest(
            host=self.host, vm=vm, device=device, states=states, page_size=page_size
        )

    def get_assignment(self, name: str) -> service_pb2.GetAssignmentRequest:
        """Of GetAssignment."""
        return service_pb2.GetAssignmentRequest(host=self.host, name=name)

    def forget_assignment(self, name: str) -> service_pb2.ForgetAssignmentRequest:
        """Of ForgetAssignment."""
        return service_pb2.ForgetAssignmentRequest(host=self.host, name=name)

    def list_holders(
        self, devices: Iterable[str], vms: Iterable[str], page_size: int
    ) -> service_pb2.ListHoldersRequest:
        """Of ListHolders."""
        return service_pb2.ListHoldersRequest(host=self.host, devices=devices, vms=vms, page_size=page_size)

    def watch_holders(
        self, devices: Iterable[str], vms: Iterable[str], bookmark_interval_s: float
    ) -> service_pb2.WatchHoldersRequest:
        """Of WatchHolders, without where it begins."""
        return service_pb2.WatchHoldersRequest(
            host=self.host, devices=devices, vms=vms, bookmark_interval=duration(bookmark_interval_s)
        )

    def watch_devices(
        self, device_filter: device_pb2.DeviceFilter | None, bookmark_interval_s: float
    ) -> service_pb2.WatchDevicesRequest:
        """Of WatchDevices, without where it begins."""
        return service_pb2.WatchDevicesRequest(
            host=self.host, filter=device_filter, bookmark_interval=duration(bookmark_interval_s)
        )

    def set_virtual_functions(self, device: str, count: int) -> service_pb2.SetVirtualFunctionsRequest:
        """Of SetVirtualFunctions."""
        return service_pb2.SetVirtualFunctionsRequest(host=self.host, device=device, count=count)

    def create_mediated_device(
        self,
        parent: str,
        type_id: str,
        *,
        mdev_uuid: str | None,
        attributes: Mapping[str, str] | None,
        persistent: bool,
    ) -> service_pb2.CreateMediatedDeviceRequest:
        """Of CreateMediatedDevice."""
        return service_pb2.CreateMediatedDeviceRequest(
            host=self.host,
            parent=parent,
            type_id=type_id,
            uuid=mdev_uuid,
            attributes=attributes or {},
            persistent=persistent,
        )

    def delete_mediated_device(self, device: str) -> service_pb2.DeleteMediatedDeviceRequest:
        """Of DeleteMediatedDevice."""
        return service_pb2.DeleteMediatedDeviceRequest(host=self.host, device=device)


def page_of(request: ListRequest, token: str) -> ListRequest:
    """The request of another page of the same list."""
    page = type(request)()
    page.CopyFrom(request)
    page.page_token = token
    return page


def method_of(request: Message) -> str:
    """The call that a request belongs to."""
    return request.DESCRIPTOR.name.removesuffix("Request")
