"""GetHost, ListDevices, GetDevice, ListEligible and WatchDevices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc.aio

from hostdev.v1 import service_pb2
from hostdevd import __version__
from hostdevd.api import render
from hostdevd.api.context import Context
from hostdevd.api.feeds import Feed, Filtered, Related
from hostdevd.api.filters import device_filter, related_names, value_filter
from hostdevd.api.requests import check_host, text
from hostdevd.api.tokens import resume_token
from hostdevd.api.watch import Kind, Told, watch
from hostdevd.api.wire import entry, moved
from hostdevd.core.history import Delta
from hostdevd.core.model import HypervisorInfo
from hostdevd.core.redaction import check_for
from hostdevd.core.rights import Permission
from hostdevd.core.sight import Sight
from hostdevd.core.views import DeviceView

Rpc = grpc.aio.ServicerContext[Any, Any]

_WithAffected = tuple[DeviceView, bytes]
"""A device and what went with it when the list was made."""

_NOBODY = HypervisorInfo("", "", "", "", "", "")


class DeviceRpcs:
    """The calls about devices."""

    _ctx: Context

    async def GetHost(self, request: service_pb2.GetHostRequest, context: Rpc) -> service_pb2.GetHostResponse:  # noqa: N802
        """Answer also while libvirt is away: that is when it is asked."""
        ctx = self._ctx
        if ctx.sync.info is not None:
            check_host(request.host, ctx.sync.info)
        sight = ctx.sight(context)
        checks = [check_for(sight, check) for check in await ctx.checks()]
        info = ctx.sync.info or _NOBODY
        return service_pb2.GetHostResponse(host=render.host(info, __version__, ctx.sync.synced_time, checks))

    async def ListDevices(  # noqa: N802
        self,
        request: service_pb2.ListDevicesRequest,
        context: Rpc,
    ) -> bytes:
        """All devices of one revision, by name."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        sight = ctx.sight(context)
        chosen = device_filter(ctx.store, request.filter, sight, strict=not request.page_token)
        encode = self._entry_for(sight)
        page = await ctx.page(context, request, chosen.views, encode)
        return page.response(service_pb2.ListDevicesResponse, resume_token(ctx.store, sight, page.revision))

    async def GetDevice(self, request: service_pb2.GetDeviceRequest, context: Rpc) -> bytes:  # noqa: N802
        """One device by libvirt name or uid."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        sight = ctx.sight(context)
        node = sight.find_device(text("device", request.device, required=True))
        return self._entry_for(sight)(ctx.store.devices[node.name])

    async def ListEligible(  # noqa: N802
        self,
        request: service_pb2.ListEligibleRequest,
        context: Rpc,
    ) -> bytes:
        """The devices that may be assigned, each with what goes with it; on request the others too, with why not."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        sight = ctx.sight(context)
        chosen = device_filter(ctx.store, request.filter, sight, strict=not request.page_token)
        encode = self._entry_for(sight)

        def is_wanted(view: DeviceView) -> bool:
            may_go = view.eligibility
            return (request.include_ineligible or may_go.eligible) and (may_go.available or not request.available_only)

        def select() -> Iterator[_WithAffected | None]:
            for view in chosen.views():
                if view is None:
                    yield None
                elif is_wanted(view):
                    yield view, ctx.renderer.affected_entries(view)

        def eligible(item: _WithAffected) -> bytes:
            view, with_it = item
            return entry(encode(view) + with_it)

        page = await ctx.page(context, request, select, eligible)
        return page.response(service_pb2.ListEligibleResponse, resume_token(ctx.store, sight, page.revision))

    async def WatchDevices(self, request: service_pb2.WatchDevicesRequest, context: Rpc) -> None:  # noqa: N802
        """The devices and their changes."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        given = value_filter(request.filter)

        def told(sight: Sight) -> Told[DeviceView]:
            matches = given if sight.is_whole else lambda view: given(view) and sight.device(view)
            related = related_names(ctx.store, request.filter, sight)
            feed: Feed[DeviceView] = (
                Related(ctx.store, related, matches)
                if related is not None
                else Filtered(
                    lambda: ctx.store.device_history,
                    lambda: map(ctx.store.devices.__getitem__, ctx.store.device_names),
                    matches,
                    lambda view: view.uid,  # clients may know a device by it, and its name may go to another
                )
            )
            same = None if related is not None else ("devices", request.filter.SerializeToString(), sight.view)
            return Told(sight, self._device_kind(sight), feed, same)

        await watch(ctx.hub, lambda: ctx.access.watching(context, Permission.DEVICES_READ), told, request, context)

    def _entry_for(self, sight: Sight) -> Callable[[DeviceView], bytes]:
        """A device as field 1, as a caller sees it."""
        made = self._ctx.renderer.device_entry
        return made if sight.is_whole else lambda view: made(sight.shown_device(view))

    def _device_kind(self, sight: Sight) -> Kind[DeviceView]:
        ctx, item = self._ctx, self._entry_for(sight)

        def change(delta: Delta[DeviceView]) -> bytes:
            rest = service_pb2.DeviceChange(
                kind=change_kind(removed=delta.removed),
                source=change_source(delta.source),
                time=render.timestamp(delta.time),
            )
            return entry(
                moved(item(delta.item), service_pb2.DeviceChange.DEVICE_FIELD_NUMBER) + rest.SerializeToString()
            )

        return Kind(
            name="devices",
            history=lambda: ctx.store.device_history,
            response=service_pb2.WatchDevicesResponse,
            item=item,
            change=change,
        )


def change_kind(*, removed: bool) -> Any:
    """UPSERT or REMOVE."""
    return service_pb2.ChangeKind.Value(f"CHANGE_KIND_{'REMOVE' if removed else 'UPSERT'}")


def change_source(source: str) -> Any:
    """Who noticed a change."""
    return service_pb2.ChangeSource.Value(f"CHANGE_SOURCE_{source}")
