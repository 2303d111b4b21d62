"""The two services: the concerns put together."""

from __future__ import annotations

from hostdev.v1 import service_pb2_grpc
from hostdevd.api.admin import AdminRpcs
from hostdevd.api.assignments import AssignmentRpcs
from hostdevd.api.context import Context
from hostdevd.api.devices import DeviceRpcs
from hostdevd.api.groups import GroupRpcs
from hostdevd.api.holders import HolderRpcs


class HostDeviceService(  # type: ignore[misc]  # the generated base types its handlers for both kinds of server
    DeviceRpcs, GroupRpcs, AssignmentRpcs, HolderRpcs, service_pb2_grpc.HostDeviceServiceServicer
):
    """`hostdev.v1.HostDeviceService`."""

    def __init__(self, context: Context) -> None:
        self._ctx = context


class HostDeviceAdminService(AdminRpcs, service_pb2_grpc.HostDeviceAdminServiceServicer):
    """`hostdev.v1.HostDeviceAdminService`."""

    def __init__(self, context: Context) -> None:
        self._ctx = context
