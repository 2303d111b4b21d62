"""A server of canned answers that remembers what it was asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, NoReturn, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import assignment_pb2, device_pb2, error_pb2, service_pb2
from hostdev.v1.service_pb2_grpc import (
    HostDeviceAdminServiceServicer,
    HostDeviceServiceServicer,
    add_HostDeviceAdminServiceServicer_to_server,
    add_HostDeviceServiceServicer_to_server,
)
from unit.client import fake_host

PAGE = 3


def packed(message: Message) -> AnyMessage:
    wrapped = AnyMessage()
    wrapped.Pack(message)
    return wrapped


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="hostdevd", metadata=metadata)


class Refused(Exception):
    """What a call of the fake shall fail with."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.status = status_pb2.Status(
            code=code.value[0], message=message, details=[packed(detail) for detail in details]
        )

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        context.set_trailing_metadata((("grpc-status-details-bin", self.status.SerializeToString()),))
        context.abort(self.code, self.status.message)


def no_device(name: str) -> Refused:
    return Refused(
        grpc.StatusCode.NOT_FOUND, f"no device is called {name}", error_info("DEVICE_NOT_FOUND", device=name)
    )


Watch = Callable[[service_pb2.WatchHoldersRequest, grpc.ServicerContext], Iterator[service_pb2.WatchHoldersResponse]]


class FakeHostdevd(HostDeviceServiceServicer, HostDeviceAdminServiceServicer):
    """Serves `fake_host`. DeleteMediatedDevice is not served."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / "hostdevd.sock"
        self.address = f"unix:{self._socket}"
        self.requests: list[Any] = []
        self.refusals: dict[str, Refused] = {}
        self.watches: list[Watch] = []
        self.devices = fake_host.devices()
        self.affected = fake_host.affected()
        self.plan = assignment_pb2.Plan(
            steps=[
                assignment_pb2.PlanStep(kind=assignment_pb2.PLAN_STEP_KIND_HOST_DETACH, device=fake_host.GPU),
                assignment_pb2.PlanStep(kind=assignment_pb2.PLAN_STEP_KIND_ATTACH_LIVE, device=fake_host.GPU),
            ],
            affected=[
                device_pb2.AffectedDevice(
                    name=fake_host.SOUND,
                    uid=fake_host.uid(fake_host.SOUND),
                    type="pci",
                    role=device_pb2.AFFECTED_DEVICE_ROLE_ENDPOINT,
                )
            ],
            side_effects=[assignment_pb2.PlanSideEffect(message="The memory of web is pinned.")],
        )
        self.assignments = [fake_host.assignment()]
        self.holders = [fake_host.holder()]
        self.attach_takes_s = 0.0
        self.attached = assignment_pb2.ASSIGNMENT_STATE_ATTACHED
        self.conditions: list[assignment_pb2.AssignmentCondition] = []
        self.detached = assignment_pb2.ASSIGNMENT_STATE_DETACHED

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        add_HostDeviceServiceServicer_to_server(self, self._server)
        add_HostDeviceAdminServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self.address)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=None).wait()

    def asked(self, kind: type[Message]) -> list[Any]:
        """The requests of this kind so far."""
        return [request for request in self.requests if isinstance(request, kind)]

    def _begin(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        if (refusal := self.refusals.get(method)) is not None:
            refusal.abort(context)

    def _device(self, name: str, context: grpc.ServicerContext) -> device_pb2.Device:
        for device in self.devices:
            if name in {device.name, device.uid}:
                return device
        return no_device(name).abort(context)

    def GetHost(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("GetHost", request, context)
        return service_pb2.GetHostResponse(host=fake_host.host())

    def ListDevices(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("ListDevices", request, context)
        shown = self.devices
        if request.filter.affected_by:
            device = self._device(request.filter.affected_by, context)
            shown = [self._device(name, context) for name in self.affected.get(device.name, [])]
        if request.filter.types:
            shown = [device for device in shown if device.type in request.filter.types]
        start = int(request.page_token or 0)
        return service_pb2.ListDevicesResponse(
            devices=shown[start : start + PAGE],
            next_page_token=str(start + PAGE) if start + PAGE < len(shown) else "",
            revision=7,
            resume_token="at-7",  # noqa: S106
        )

    def GetDevice(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("GetDevice", request, context)
        return service_pb2.GetDeviceResponse(device=self._device(request.device, context))

    def ListEligible(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("ListEligible", request, context)
        return service_pb2.ListEligibleResponse(
            eligible_devices=[
                service_pb2.EligibleDevice(
                    device=device, affected=self.plan.affected if device.name == fake_host.GPU else []
                )
                for device in self.devices
                if request.include_ineligible or device.eligibility.eligible
            ]
        )

    def ListGroups(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("ListGroups", request, context)
        return service_pb2.ListGroupsResponse(groups=[fake_host.group()])

    def GetGroup(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("GetGroup", request, context)
        group = fake_host.group()
        if request.group == group.uid or (request.device and self._device(request.device, context).group == group.uid):
            return service_pb2.GetGroupResponse(group=group)
        return Refused(grpc.StatusCode.NOT_FOUND, "it has no group", error_info("GROUP_NOT_FOUND")).abort(context)

    def Attach(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("Attach", request, context)
        if request.validate_only:
            return service_pb2.AttachResponse(plan=self.plan)
        time.sleep(self.attach_takes_s)
        return service_pb2.AttachResponse(
            assignment=fake_host.assignment(self.attached, request.request_id), plan=self.plan, revision=8
        )

    def Detach(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("Detach", request, context)
        record = fake_host.assignment(self.detached)
        record.conditions.extend(self.conditions)
        return service_pb2.DetachResponse(assignment=record)

    def ListAssignments(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("ListAssignments", request, context)
        return service_pb2.ListAssignmentsResponse(assignments=self.assignments)

    def GetAssignment(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("GetAssignment", request, context)
        for assignment in self.assignments:
            if assignment.name == request.name:
                return service_pb2.GetAssignmentResponse(assignment=assignment)
        return Refused(grpc.StatusCode.NOT_FOUND, "no such", error_info("ASSIGNMENT_NOT_FOUND")).abort(context)

    def ForgetAssignment(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("ForgetAssignment", request, context)
        closed = fake_host.assignment(assignment_pb2.ASSIGNMENT_STATE_DETACHED, request.name)
        return service_pb2.ForgetAssignmentResponse(assignment=closed)

    def ListHolders(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("ListHolders", request, context)
        return service_pb2.ListHoldersResponse(holders=self.holders, resume_token="at-7")  # noqa: S106

    def WatchHolders(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("WatchHolders", request, context)
        return self.watches.pop(0)(request, context)

    def WatchDevices(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("WatchDevices", request, context)
        yield service_pb2.WatchDevicesResponse(
            snapshot=service_pb2.WatchDevicesResponse.Snapshot(devices=self.devices[:1])
        )
        Refused(grpc.StatusCode.PERMISSION_DENIED, "no more", error_info("NOT_ALLOWED")).abort(context)

    def SetVirtualFunctions(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("SetVirtualFunctions", request, context)
        return service_pb2.SetVirtualFunctionsResponse(device=self._device(request.device, context))

    def CreateMediatedDevice(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._begin("CreateMediatedDevice", request, context)
        made = device_pb2.Device(name="mdev_1", type="mdev", mdev=device_pb2.MdevDetail(uuid=request.uuid))
        return service_pb2.CreateMediatedDeviceResponse(device=made)

    def DeleteMediatedDevice(self, request: Any, context: Any) -> Any:  # noqa: N802
        """As if this server were older than the call."""
        self._begin("DeleteMediatedDevice", request, context)
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


HELD = error_pb2.Reason(
    code=error_pb2.ERROR_REASON_HELD_BY_OTHER_VM,
    subject="db",
    message="db holds it",
    remedy="Detach it from db first.",
)
