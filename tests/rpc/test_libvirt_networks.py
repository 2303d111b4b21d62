"""libvirt's networks through its real protocol, and a libvirt whose interfaces are not this host's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hostdevd.app import Ports, run_core
from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import CheckCode, CheckStatus, Network
from hostdevd.core.ports import NetworksChanged
from hostdevd.ops.clock import SystemClock

if TYPE_CHECKING:
    from rpc.conftest import Connect, Daemon

pytestmark = pytest.mark.asyncio

Tool = Callable[..., Awaitable[Any]]

UUID = "66666666-6666-4666-8666-666666666666"
NETWORK = f"""
<network><name>vf-pool</name><uuid>{UUID}</uuid><forward mode='hostdev' managed='yes'>
  <address type='pci' domain='0' bus='5' slot='0' function='1'/>
</forward></network>
"""
NAMED = "<network><name>named</name><forward mode='hostdev'><pf dev='eth1'/></forward></network>"
POOL = Network("vf-pool", UUID, None, (PciAddress(0, 5, 0, 1),))

INTERFACE = "nowhere0"
DEVICES = f"""
<device><name>pci_0000_05_00_1</name><parent>computer</parent><path>/sys/devices/x</path><capability type='pci'>
<class>0x020000</class><domain>0</domain><bus>5</bus><slot>0</slot><function>1</function>
<product id='0x1'>p</product><vendor id='0x8086'>v</vendor>
<iommuGroup number='1'><address domain='0' bus='5' slot='0' function='1'/></iommuGroup></capability></device>
<device><name>net_{INTERFACE}</name><parent>pci_0000_05_00_1</parent><capability type='net'>
<interface>{INTERFACE}</interface><address>52:54:00:00:00:01</address></capability></device>
<device><name>computer</name><capability type='system'><hardware><vendor>x</vendor>
<uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid></hardware></capability></device>
"""


async def test_the_life_of_a_network(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, events):
        # The daemon's own network is active, and has no pool.
        assert await port.networks() == []
        for act, pools in (
            (lambda conn: conn.networkDefineXML(NETWORK).name(), []),
            (lambda conn: conn.networkLookupByName("vf-pool").create(), [POOL]),
            (lambda conn: conn.networkLookupByName("vf-pool").destroy(), []),
            (lambda conn: conn.networkLookupByName("vf-pool").undefine(), []),
        ):
            events.clear()
            await other_tool(daemon.uri(), act)
            await events.wait_for(NetworksChanged)
            assert await port.networks() == pools


async def test_a_pool_by_the_name_of_its_interface(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, events):
        await other_tool(daemon.uri(), lambda conn: conn.networkCreateXML(NAMED).name())
        await events.wait_for(NetworksChanged)
        (found,) = await port.networks()
        assert (found.name, found.pf, found.addresses, found.gap) == ("named", "eth1", (), "")


async def test_a_read_costs_one_list_and_one_document_a_network(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, _):
        before = port.call_counts()
        await port.networks()
        after = port.call_counts()
        spent = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
        assert spent == {"virConnect.listAllNetworks": 1, "virNetwork.XMLDesc": 1}


async def test_a_libvirt_of_another_host_is_refused_as_a_whole(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hostdevd.host.running import RunningHost  # noqa: PLC0415  with the tests that need libvirt
    from hostdevd.virt.libvirt_port import LibvirtPort  # noqa: PLC0415
    from hostdevd.virt.xml.nodedev import node_device  # noqa: PLC0415

    monkeypatch.setattr("hostdevd.host.running.SETTLE_S", 0.2)
    file = daemon.root / "host.xml"
    file.write_text(f"<node>{DEVICES}{NETWORK}</node>", encoding="utf-8")
    ports = Ports(LibvirtPort(daemon.uri(str(file)), node_device), RunningHost())
    async with run_core(ports, tmp_path, SystemClock()) as core:
        await core.sync.synced.wait()
        reasons = core.store.devices["pci_0000_05_00_1"].eligibility.reasons
        assert "belongs to the libvirt network vf-pool" in " ".join(one.message for one in reasons)
        unknown = [reason.message for reason in reasons if reason.code == "HOST_USE_UNKNOWN"]
        assert any(INTERFACE in message for message in unknown)
        checks = {check.code: check for check in await ports.host.checks(core.sync.listed)}
        assert checks[CheckCode.HOST_USES].status is CheckStatus.FAIL
        assert INTERFACE in checks[CheckCode.HOST_USES].message
