"""All pages of a list are of its revision, whatever happens to the devices in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostdev.v1 import device_pb2, service_pb2
from hostdevd.api.access import Access
from hostdevd.api.context import Context
from hostdevd.api.pages import Pages
from hostdevd.api.render import Renderer
from hostdevd.api.service import HostDeviceService
from hostdevd.api.watch import Hub
from hostdevd.core.caller import LOOPBACK, Caller
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import HostUses
from hostdevd.core.roles import Roles
from unit.core.rig import Machine, Shape, machine, until


async def no_checks() -> Any:
    return ()


def context_of(
    m: Machine, hub: Hub, roles: Roles | None = None, identify: Callable[[Any], Caller] = lambda _: LOOPBACK
) -> Context:
    core = m.core
    return Context(
        store=core.store,
        sync=core.sync,
        engine=core.engine,
        admin=core.admin,
        pages=Pages(m.clock.monotonic),
        renderer=Renderer(core.store, lambda: "host"),
        hub=hub,
        access=Access(core.store, roles, identify),
        audit=core.audit,
        now=m.clock.now,
        checks=no_checks,
    )


def service_of(m: Machine) -> HostDeviceService:
    return HostDeviceService(context_of(m, Hub(m.core.store, m.core.sync)))


async def devices(
    service: HostDeviceService, request: service_pb2.ListDevicesRequest
) -> service_pb2.ListDevicesResponse:
    return service_pb2.ListDevicesResponse.FromString(await service.ListDevices(request, None))  # type: ignore[arg-type]


async def eligible(
    service: HostDeviceService, request: service_pb2.ListEligibleRequest
) -> service_pb2.ListEligibleResponse:
    return service_pb2.ListEligibleResponse.FromString(await service.ListEligible(request, None))  # type: ignore[arg-type]


async def unplug(m: Machine, name: str) -> None:
    m.sim.controls.unplug_device(name)
    await until(m, lambda: name not in m.core.store.devices)


async def test_the_filters_device_may_go_between_pages(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        service = service_of(m)
        parent = next(
            view.name for view in m.core.store.devices.values() if len(view.children) > 1 and view.node.parent
        )
        children = sorted(m.core.store.devices[parent].children)
        given = device_pb2.DeviceFilter(parent=parent)
        first = await devices(service, service_pb2.ListDevicesRequest(filter=given, page_size=1))
        await unplug(m, parent)
        rest = service_pb2.ListDevicesRequest(filter=given, page_token=first.next_page_token)
        second = await devices(service, rest)
        assert [device.name for device in (*first.devices, *second.devices)] == children
        assert first.revision == second.revision


async def test_what_is_affected_is_of_the_lists_revision(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        service = service_of(m)
        arguments: dict[str, Any] = {"include_ineligible": True}
        whole = await eligible(service, service_pb2.ListEligibleRequest(**arguments))
        first = await eligible(service, service_pb2.ListEligibleRequest(page_size=1, **arguments))
        await unplug(m, m.name("dual_1"))
        rest = service_pb2.ListEligibleRequest(page_token=first.next_page_token, **arguments)
        second = await eligible(service, rest)
        assert [*first.eligible_devices, *second.eligible_devices] == list(whole.eligible_devices)


async def test_a_holder_is_found_by_the_uid_of_a_device_that_is_gone_while_an_operation_works_on_it(
    tmp_path: Path,
) -> None:
    async with machine(tmp_path) as m:
        store, service, name = m.core.store, service_of(m), m.name("nic_single")
        await m.attach(Shape("nic_single"))
        (held,) = store.holders_of(name)
        store.freeze(held.vm.uuid, [held.uid])
        await unplug(m, name)
        request = service_pb2.ListHoldersRequest(devices=[held.uid])
        answer = service_pb2.ListHoldersResponse.FromString(await service.ListHolders(request, None))  # type: ignore[arg-type]
        assert [holder.uid for holder in answer.holders] == [held.uid]


async def test_a_disk_that_a_function_begins_to_reach_is_affected_in_the_next_list(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        service, store = service_of(m), m.core.store
        function, disk = m.node("nic_single"), next(v.node for v in store.devices.values() if v.node.type == "storage")
        assert function.path is not None
        assert disk.path is not None

        async def lost() -> set[str]:
            request = service_pb2.ListEligibleRequest(include_ineligible=True)
            found = {one.device.name: one for one in (await eligible(service, request)).eligible_devices}
            return {one.name for one in found[function.name].affected}

        before = await lost()
        for shared, more in (({disk.path: (function.path,)}, {disk.name}), ({}, set[str]())):
            with store.change(ChangeSource.EVENT):
                store.put_uses(HostUses(shared=shared))
            assert await lost() == before | more
