"""What another tool does arrives as events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from hostdevd.core.model import VmState
from hostdevd.core.ports import (
    DomainChanged,
    DomainStarted,
    DomainStopped,
    NodeDeviceChanged,
    NoSuchObject,
)

if TYPE_CHECKING:
    from rpc.conftest import Connect, Daemon

pytestmark = pytest.mark.asyncio

Tool = Callable[..., Awaitable[Any]]

UUID = "22222222-2222-4222-8222-222222222222"
DOMAIN = f"""
<domain type='test'><name>vm2</name><uuid>{UUID}</uuid><memory>8192</memory><os><type>hvm</type></os></domain>
"""
VPORT = """
<device><parent>scsi_host1</parent><capability type='scsi_host'>
  <capability type='fc_host'><wwnn>2000000012345678</wwnn><wwpn>1000000012345678</wwpn></capability>
</capability></device>
"""


async def test_the_life_of_a_domain(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, events):
        await other_tool(daemon.uri(), lambda conn: conn.defineXML(DOMAIN).UUIDString())
        await events.wait_for(DomainChanged(UUID))
        assert DomainStarted(UUID) not in events.all
        domain = await port.domain(UUID)
        assert (domain.vm.state, domain.live, domain.config is None) == (VmState.SHUT_OFF, None, False)

        events.clear()
        await other_tool(daemon.uri(), lambda conn: conn.lookupByUUIDString(UUID).create())
        await events.wait_for(DomainStarted(UUID), DomainChanged(UUID))
        assert (await port.domain(UUID)).vm.state is VmState.RUNNING

        events.clear()
        await other_tool(daemon.uri(), lambda conn: conn.lookupByUUIDString(UUID).suspend())
        await events.wait_for(DomainChanged(UUID))
        assert events.all == [DomainChanged(UUID)]
        assert (await port.domain(UUID)).vm.state is VmState.PAUSED

        events.clear()
        await other_tool(daemon.uri(), lambda conn: conn.lookupByUUIDString(UUID).destroy())
        await events.wait_for(DomainStopped(UUID), DomainChanged(UUID))
        assert (await port.domain(UUID)).live is None

        events.clear()
        await other_tool(daemon.uri(), lambda conn: conn.lookupByUUIDString(UUID).undefine())
        await events.wait_for(DomainChanged(UUID))
        with pytest.raises(NoSuchObject):
            await port.domain(UUID)


async def test_a_transient_domain_has_no_configuration(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, events):
        await other_tool(daemon.uri(), lambda conn: conn.createXML(DOMAIN).UUIDString())
        await events.wait_for(DomainStarted(UUID))
        domain = await port.domain(UUID)
        assert (domain.vm.persistent, domain.live is None, domain.config) == (False, False, None)


async def test_metadata_changes_are_told(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (_, events):
        await other_tool(daemon.uri(), lambda conn: conn.defineXML(DOMAIN).UUIDString())
        await events.wait_for(DomainChanged(UUID))
        events.clear()
        # 0 is VIR_DOMAIN_METADATA_DESCRIPTION, 2 is VIR_DOMAIN_AFFECT_CONFIG.
        await other_tool(daemon.uri(), lambda conn: conn.lookupByUUIDString(UUID).setMetadata(0, "x", None, None, 2))
        await events.wait_for(DomainChanged(UUID))


async def test_a_node_device_comes_and_goes(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, events):
        name = await other_tool(daemon.uri(), lambda conn: conn.nodeDeviceCreateXML(VPORT, 0).name())
        await events.wait_for(NodeDeviceChanged(name))
        assert name in await port.node_device_names()

        events.clear()
        await other_tool(daemon.uri(), lambda conn: conn.nodeDeviceLookupByName(name).destroy())
        await events.wait_for(NodeDeviceChanged(name))
        with pytest.raises(NoSuchObject):
            await port.node_device(name)
