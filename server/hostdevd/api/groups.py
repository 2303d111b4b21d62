"""ListGroups and GetGroup."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc.aio

from hostdev.v1 import service_pb2
from hostdevd.api.context import Context
from hostdevd.api.filters import device_filter
from hostdevd.api.requests import text
from hostdevd.api.tokens import resume_token
from hostdevd.api.wire import entry
from hostdevd.core.errors import HostdevError, invalid_field
from hostdevd.core.views import GroupView

Rpc = grpc.aio.ServicerContext[Any, Any]


class GroupRpcs:
    """The calls about IOMMU groups."""

    _ctx: Context

    async def ListGroups(self, request: service_pb2.ListGroupsRequest, context: Rpc) -> bytes:  # noqa: N802
        """The groups of which a member matches the filter, by the kernel's number."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        sight = ctx.sight(context)
        matches = device_filter(ctx.store, request.filter, sight, strict=not request.page_token)

        def select() -> Iterator[GroupView | None]:
            for group in sorted(ctx.store.groups.values(), key=lambda group: group.iommu_group):
                members = (ctx.store.devices[member.name] for member in group.members)
                yield group if sight.group(group) and any(map(matches, members)) else None

        page = await ctx.page(
            context,
            request,
            select,
            lambda group: entry(ctx.renderer.group(sight.shown_group(group)).SerializeToString()),
        )
        return page.response(service_pb2.ListGroupsResponse, resume_token(ctx.store, sight, page.revision))

    async def GetGroup(self, request: service_pb2.GetGroupRequest, context: Rpc) -> service_pb2.GetGroupResponse:  # noqa: N802
        """One group, by its uid or by a device in it."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        sight = ctx.sight(context)
        uid, device = text("group", request.group), text("device", request.device)
        if bool(uid) == bool(device):
            raise invalid_field("group", "give either group or device")
        if uid:
            group = ctx.store.groups.get(uid)
            wanted, text_ = uid, f"there is no group {uid}"
        else:
            group = ctx.store.group_of(sight.find_device(device))
            wanted, text_ = device, f"{device} is in no IOMMU group"
        if group is None or not sight.group(group):
            raise HostdevError("GROUP_NOT_FOUND", text_, metadata={"group": wanted}, resource=("group", wanted))
        return service_pb2.GetGroupResponse(group=ctx.renderer.group(sight.shown_group(group)))
