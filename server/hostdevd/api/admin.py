"""Virtual functions and mediated devices, made and removed."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc.aio

from hostdev.v1 import service_pb2
from hostdevd.api.access import ENTRY
from hostdevd.api.context import Context
from hostdevd.api.requests import BEFORE_DEADLINE_S, MAX_LIST, check_host, text
from hostdevd.core.errors import invalid_field
from hostdevd.core.mediated import MdevRequest

Rpc = grpc.aio.ServicerContext[Any, Any]

MAX_COUNT = 0xFFFF
"""PCI's own bound: the number has 16 bits in the SR-IOV capability."""
MAX_VALUE_CHARS = 4095
"""What a sysfs attribute takes at once."""


class AdminRpcs:
    """The calls of `HostDeviceAdminService`: they take as long as a driver does, and wait as long as their caller."""

    _ctx: Context

    async def SetVirtualFunctions(  # noqa: N802
        self, request: service_pb2.SetVirtualFunctionsRequest, context: Rpc
    ) -> service_pb2.SetVirtualFunctionsResponse:
        """Set how many virtual functions a physical one has."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        device = text("device", request.device, required=True)
        if not request.HasField("count"):
            raise invalid_field("count", "must be given")
        if request.count > MAX_COUNT:
            raise invalid_field("count", f"must be at most {MAX_COUNT}")
        view = await ctx.admin.set_functions(device, request.count, _until(context), ctx.sight(context), ENTRY.get())
        shown = ctx.sight(context).shown_device(view)
        return service_pb2.SetVirtualFunctionsResponse(device=ctx.renderer.device(shown))

    async def CreateMediatedDevice(  # noqa: N802
        self, request: service_pb2.CreateMediatedDeviceRequest, context: Rpc
    ) -> service_pb2.CreateMediatedDeviceResponse:
        """Make a mediated device."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        if len(request.attributes) > MAX_LIST:
            raise invalid_field("attributes", f"must have at most {MAX_LIST} entries")
        wanted = MdevRequest(
            parent=text("parent", request.parent, required=True),
            type_id=text("type_id", request.type_id, required=True),
            uuid=_uuid(request.uuid) if request.HasField("uuid") else None,
            attributes=tuple(
                (text("attributes", name, required=True), text("attributes", value, limit=MAX_VALUE_CHARS))
                for name, value in sorted(request.attributes.items())
            ),
            persistent=request.persistent,
        )
        view = await ctx.admin.create_mdev(wanted, _until(context), ctx.sight(context), ENTRY.get())
        shown = ctx.sight(context).shown_device(view)
        return service_pb2.CreateMediatedDeviceResponse(device=ctx.renderer.device(shown))

    async def DeleteMediatedDevice(  # noqa: N802
        self, request: service_pb2.DeleteMediatedDeviceRequest, context: Rpc
    ) -> service_pb2.DeleteMediatedDeviceResponse:
        """Remove a mediated device."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        device = text("device", request.device, required=True)
        await ctx.admin.delete_mdev(device, _until(context), ctx.sight(context), ENTRY.get())
        return service_pb2.DeleteMediatedDeviceResponse()


def _until(context: Rpc) -> float | None:
    """The loop's time at which the call has to answer; None when its caller set no deadline."""
    remaining = context.time_remaining()
    if remaining is None:
        return None
    return asyncio.get_running_loop().time() + max(0.0, remaining - BEFORE_DEADLINE_S)


def _uuid(value: str) -> str:
    try:
        return str(uuid.UUID(text("uuid", value, required=True)))
    except ValueError:
        raise invalid_field("uuid", "must be a UUID") from None
