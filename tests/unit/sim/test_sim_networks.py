"""Networks of the simulated libvirt: those with a pool hand functions to guests that start."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import HolderVia, Network
from hostdevd.core.ports import HypervisorError, NetworksChanged, NoSuchObject, Target
from hostdevd.sim.simulation import simulate
from unit.sim.rig import Rig, SteppedClock, settle

VFS = (PciAddress.parse("0000:17:10.0"), PciAddress.parse("0000:17:10.2"))
POOL = Network("vf-pool", "c0ffee00-0000-4000-8000-0000000000f1", "eth14", VFS)
NAT = "<network><name>nat</name><forward mode='nat'/></network>"


def client(name: str, source: str = "vf-pool", interfaces: int = 1) -> str:
    nics = "".join(
        f"<interface type='network'><mac address='52:54:00:00:{len(name):02x}:{number:02x}'/>"
        f"<source network='{source}'/></interface>"
        for number in range(interfaces)
    )
    return (
        f"<domain type='kvm'><name>{name}</name><os><type machine='pc-q35-7.2'>hvm</type></os>"
        f"<devices>{nics}</devices></domain>"
    )


def start(rig: Rig, name: str, source: str = "vf-pool", interfaces: int = 1) -> str:
    uuid = rig.sim.controls.define_domain(client(name, source, interfaces))
    rig.sim.controls.start_domain(name)
    return uuid


async def test_the_networks_of_the_file_are_active(rig: Rig) -> None:
    assert await rig.sim.hypervisor.networks() == [POOL]


async def test_networks_come_and_go_with_events(rig: Rig) -> None:
    controls = rig.sim.controls
    for act, argument in (
        (controls.destroy_network, "vf-pool"),
        (controls.define_network, NAT),
        (controls.start_network, "nat"),
    ):
        rig.take_events()
        act(argument)
        await settle()
        assert rig.take_events() == [NetworksChanged()]
    assert await rig.sim.hypervisor.networks() == []
    controls.start_network("vf-pool")
    assert await rig.sim.hypervisor.networks() == [POOL]


async def test_what_libvirt_would_refuse_is_refused(rig: Rig) -> None:
    with pytest.raises(NoSuchObject):
        rig.sim.controls.start_network("none")
    with pytest.raises(HypervisorError, match="already active"):
        rig.sim.controls.start_network("vf-pool")
    with pytest.raises(HypervisorError, match="already active"):
        rig.sim.controls.define_network("<network><name>vf-pool</name></network>")
    rig.sim.controls.destroy_network("vf-pool")
    with pytest.raises(HypervisorError, match="not active"):
        rig.sim.controls.destroy_network("vf-pool")


async def test_a_guest_gets_functions_of_the_pool_while_there_are_any(rig: Rig) -> None:
    uuid = start(rig, "two", interfaces=2)
    found = await rig.live(uuid)
    assert {entry.source: entry.via for entry in found.values()} == dict.fromkeys(VFS, HolderVia.NETWORK_POOL)
    assert all(entry.guest_address for entry in found.values())
    assert await rig.config(uuid) == {}
    assert [rig.driver(address) for address in VFS] == ["vfio-pci"] * 2
    with pytest.raises(HypervisorError, match="none are available"):
        start(rig, "late")
    rig.sim.controls.destroy_domain("two")
    assert [rig.driver(address) for address in VFS] == ["igbvf"] * 2
    rig.sim.controls.start_domain("late")


async def test_a_network_that_is_not_active_gives_nothing(rig: Rig) -> None:
    rig.sim.controls.destroy_network("vf-pool")
    with pytest.raises(HypervisorError, match="network 'vf-pool' is not active"):
        start(rig, "early")


async def test_other_networks_are_left_alone(rig: Rig) -> None:
    rig.sim.controls.define_network(NAT)
    assert await rig.live(start(rig, "plain", "nat")) == {}
    assert await rig.live(start(rig, "unknown", "default")) == {}


async def test_networks_outlive_the_process(tmp_path: Path) -> None:
    first = simulate(SteppedClock(), state_dir=tmp_path)
    first.controls.destroy_network("vf-pool")
    first.controls.define_network(NAT)
    again = simulate(SteppedClock(), state_dir=tmp_path)
    assert {each.name: each.active for each in again.world.networks.values()} == {"vf-pool": False, "nat": False}


async def test_a_running_guest_of_the_file_has_its_function(tmp_path: Path) -> None:
    built_in = Path(simulate.__code__.co_filename).parent / "builtin" / "host.xml"
    text = built_in.read_text(encoding="utf-8")
    file = tmp_path / "host.xml"
    file.write_text(text.replace("<node>", "<node>" + client("here"), 1), encoding="utf-8")
    sim = simulate(SteppedClock(), file)
    here = sim.world.named("here")
    assert [entry.source for entry in here.live_entries()] == [VFS[0]]
    xml = sim.controls.domain_xml("here", Target.CONFIG)
    assert xml is not None
    assert "vf-pool" in xml
