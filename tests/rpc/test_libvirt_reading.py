"""Reading a host through libvirt's real protocol."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import DomainEntry, HolderVia, Vm, VmState
from hostdevd.core.ports import HostdevSpec, HypervisorError, NoSuchObject, Target

if TYPE_CHECKING:
    from rpc.conftest import Connect, Daemon

pytestmark = pytest.mark.asyncio

UUID = "11111111-1111-4111-8111-111111111111"
HOST_UUID = "c7a5fdbd-edaf-9455-926a-d65c16db1809"
DEVICES = 100

DOMAIN = f"""
<domain type='test'>
  <name>vm1</name><uuid>{UUID}</uuid><memory>8192</memory><os><type>hvm</type></os>
  <devices><hostdev mode='subsystem' type='pci' managed='yes'>
    <source><address domain='0' bus='5' slot='0' function='0'/></source><alias name='ua-hostdev-1'/>
  </hostdev></devices>
</domain>
"""
COMPUTER = f"""
<device><name>computer</name><capability type='system'>
  <hardware><vendor>x</vendor><uuid>{HOST_UUID}</uuid></hardware>
</capability></device>
"""


def pci(number: int) -> str:
    """A node device."""
    bus, slot = divmod(number, 32)
    return (
        f"<device><name>pci_0000_{bus:02x}_{slot:02x}_0</name><parent>computer</parent><capability type='pci'>"
        f"<class>0x020000</class><domain>0</domain><bus>{bus}</bus><slot>{slot}</slot><function>0</function>"
        "<product id='0x1'>p</product><vendor id='0x8086'>v</vendor></capability></device>"
    )


@pytest.fixture
def host(daemon: Daemon) -> str:
    """The URI of a host with many devices and a VM."""
    path: Path = daemon.root / "host.xml"
    path.write_text(f"<node>{DOMAIN}{COMPUTER}{''.join(map(pci, range(DEVICES)))}</node>", encoding="utf-8")
    return daemon.uri(str(path))


async def test_every_device_is_read_once(host: str, connect: Connect) -> None:
    async with connect(host) as (port, _):
        names = await port.node_device_names()
        devices = await port.node_devices()
        assert len(devices) == DEVICES + 1
        assert {device.name for device in devices} == names
        assert port.call_counts()["virNodeDevice.XMLDesc"] == DEVICES + 1


@pytest.mark.parametrize(("asked_s", "lists"), [(10.0, 3), (0.0, 1)])
async def test_where_polkit_is_asked_about_each_device_they_are_listed_once(
    host: str, connect: Connect, monkeypatch: pytest.MonkeyPatch, asked_s: float, lists: int
) -> None:
    monkeypatch.setattr("hostdevd.virt.libvirt_port._ASKED_S", asked_s)
    async with connect(host) as (port, _):
        assert len(await port.node_devices()) == DEVICES + 1
        assert port.call_counts()["virConnect.listAllDevices"] == lists
        assert port.call_counts()["virNodeDevice.XMLDesc"] == DEVICES + 1


async def test_names_alone_read_no_device(host: str, connect: Connect) -> None:
    async with connect(host) as (port, _):
        await port.node_device_names()
        assert "virNodeDevice.XMLDesc" not in port.call_counts()


async def test_one_device_by_name(host: str, connect: Connect) -> None:
    async with connect(host) as (port, _):
        device = await port.node_device("pci_0000_00_05_0")
        assert (device.name, device.parent) == ("pci_0000_00_05_0", "computer")
        with pytest.raises(NoSuchObject):
            await port.node_device("pci_ffff_ff_ff_7")


async def test_a_domain_with_both_definitions(host: str, connect: Connect) -> None:
    entry = DomainEntry(HolderVia.HOSTDEV, PciAddress(0, 5, 0, 0), "ua-hostdev-1", managed=True)
    async with connect(host) as (port, _):
        (domain,) = await port.domains()
        assert domain == await port.domain(UUID)
        # The test driver starts what its file defines.
        assert domain.vm == Vm("vm1", UUID, VmState.RUNNING)
        assert domain.live is not None
        assert domain.live.entries == (entry,)
        assert domain.config is not None
        assert domain.config.entries == (entry,)


async def test_an_unknown_domain(host: str, connect: Connect) -> None:
    async with connect(host) as (port, _):
        with pytest.raises(NoSuchObject):
            await port.domain(HOST_UUID)


async def test_who_answers(host: str, connect: Connect) -> None:
    async with connect(host) as (port, _):
        info = await port.info()
        # The test driver's capabilities name no host: the system device does.
        assert info.uuid == HOST_UUID
        assert info.connection_uri == host
        assert info.hypervisor == "TEST"
        assert info.name


async def test_what_a_driver_cannot_do_is_libvirts_error(host: str, connect: Connect) -> None:
    async with connect(host) as (port, _):
        attempts: tuple[Callable[[], Coroutine[None, None, None]], ...] = (
            lambda: port.attach(UUID, HostdevSpec("ua-hostdev-2", PciAddress(0, 5, 0, 1)), Target.LIVE),
            lambda: port.detach(
                UUID, DomainEntry(HolderVia.HOSTDEV, PciAddress(0, 5, 0, 1), alias="ua-hostdev-1"), Target.CONFIG
            ),
            lambda: port.nodedev_detach("pci_0000_00_05_0"),
            lambda: port.nodedev_reattach("pci_0000_00_05_0"),
        )
        for attempt in attempts:
            with pytest.raises(HypervisorError, match="not supported") as failure:
                await attempt()
            assert failure.type is HypervisorError
