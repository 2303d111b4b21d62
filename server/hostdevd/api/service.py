"""The two services: the concerns put together, and what is not served yet."""

from __future__ import annotations

from typing import Any, NoReturn

from hostdev.v1 import service_pb2_grpc
from hostdevd.api.assignments import AssignmentRpcs
from hostdevd.api.context import Context
from hostdevd.api.devices import DeviceRpcs
from hostdevd.api.groups import GroupRpcs
from hostdevd.api.holders import HolderRpcs
from hostdevd.core.errors import HostdevError


class HostDeviceService(  # type: ignore[misc]  # the generated base types its handlers for both kinds of server
    DeviceRpcs, GroupRpcs, AssignmentRpcs, HolderRpcs, service_pb2_grpc.HostDeviceServiceServicer
):
    """`hostdev.v1.HostDeviceService`."""

    def __init__(self, context: Context) -> None:
        self._ctx = context


class HostDeviceAdminService(service_pb2_grpc.HostDeviceAdminServiceServicer):
    """`hostdev.v1.HostDeviceAdminService`: known to clients, not served yet."""

    async def SetVirtualFunctions(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        """Not served yet."""
        _not_served("SetVirtualFunctions")

    async def CreateMediatedDevice(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        """Not served yet."""
        _not_served("CreateMediatedDevice")

    async def DeleteMediatedDevice(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        """Not served yet."""
        _not_served("DeleteMediatedDevice")


def _not_served(method: str) -> NoReturn:
    raise HostdevError("NOT_SERVED", f"{method} is not served by this version", metadata={"method": method})
