"""ListHolders and WatchHolders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc.aio

from hostdev.v1 import service_pb2
from hostdevd.api import render
from hostdevd.api.context import Context
from hostdevd.api.devices import change_kind, change_source
from hostdevd.api.feeds import ByDriver, Feed, Filtered
from hostdevd.api.requests import check_host, texts
from hostdevd.api.tokens import resume_token
from hostdevd.api.watch import Kind, Told, watch
from hostdevd.api.wire import entry
from hostdevd.core.history import Delta
from hostdevd.core.model import Holder
from hostdevd.core.rights import Permission
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store

Rpc = grpc.aio.ServicerContext[Any, Any]


class HolderRpcs:
    """The calls about who holds what."""

    _ctx: Context

    async def ListHolders(  # noqa: N802
        self,
        request: service_pb2.ListHoldersRequest,
        context: Rpc,
    ) -> bytes:
        """The VMs that hold devices, running or not."""
        ctx = self._ctx
        ctx.begin_read(request.host)
        sight = ctx.sight(context)
        matches = _filter(request, sight)

        def select() -> list[Holder]:
            among = _of_devices(ctx.store, request.devices)
            return sorted(filter(matches, among), key=lambda holder: (holder.vm.name, holder.device))

        page = await ctx.page(
            context, request, select, lambda holder: entry(ctx.renderer.holder(holder).SerializeToString())
        )
        return page.response(service_pb2.ListHoldersResponse, resume_token(ctx.store, sight, page.revision))

    async def WatchHolders(self, request: service_pb2.WatchHoldersRequest, context: Rpc) -> None:  # noqa: N802
        """The holders and their changes."""
        ctx = self._ctx
        check_host(request.host, ctx.sync.info)
        kind = self._holder_kind()

        def told(sight: Sight) -> Told[Holder]:
            matches = _filter(request, sight)
            feed: Feed[Holder] = (
                ByDriver(ctx.store, matches)
                if sight.by_driver
                else Filtered(
                    lambda: ctx.store.holder_history,
                    lambda: tuple(ctx.store.holders.values()),
                    matches,
                    lambda holder: holder.key,
                )
            )
            same = None if sight.by_driver else ("holders", tuple(request.devices), tuple(request.vms), sight.view)
            return Told(sight, kind, feed, same)

        await watch(ctx.hub, lambda: ctx.access.watching(context, Permission.HOLDERS_READ), told, request, context)

    def _holder_kind(self) -> Kind[Holder]:
        ctx = self._ctx

        def item(holder: Holder) -> bytes:
            return entry(ctx.renderer.holder(holder).SerializeToString())

        def change(delta: Delta[Holder]) -> bytes:
            made = service_pb2.HolderChange(
                kind=change_kind(removed=delta.removed),
                holder=ctx.renderer.holder(delta.item),
                source=change_source(delta.source),
                time=render.timestamp(delta.time),
            )
            return entry(made.SerializeToString())

        return Kind(
            name="holders",
            history=lambda: ctx.store.holder_history,
            response=service_pb2.WatchHoldersResponse,
            item=item,
            change=change,
        )


def _of_devices(store: Store, devices: Sequence[str]) -> Iterable[Holder]:
    """The holders that may be of these devices: few where all of them are here by their libvirt names."""
    if devices and all(device in store.devices for device in devices):
        return (holder for device in dict.fromkeys(devices) for holder in store.holders_of(device))
    # A uid may be of a device that has another name now, or none: what an operation holds on to is still shown.
    return store.holders.values()


def _filter(request: Any, sight: Sight) -> Callable[[Holder], bool]:
    """Devices by name or uid, VMs by name or UUID, of those that may be seen; what nobody has matches nothing yet."""
    devices = frozenset(texts("devices", request.devices))
    vms = frozenset(texts("vms", request.vms))
    uuids = frozenset(vm.lower() for vm in vms)

    def matches(holder: Holder) -> bool:
        if devices and holder.device not in devices and holder.uid not in devices:
            return False
        return (not vms or holder.vm.name in vms or holder.vm.uuid in uuids) and sight.holder(holder)

    return matches
