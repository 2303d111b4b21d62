"""Faults, lost connections, restarts and reboots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hostdevd.core.model import HostUse, HostUseKind, VmState
from hostdevd.core.ports import (
    Connected,
    Disconnected,
    HostChanged,
    HostdevSpec,
    HypervisorBusy,
    HypervisorError,
    HypervisorGone,
    Target,
)
from hostdevd.sim.simulation import simulate
from unit.sim.rig import ALPHA, DEAF, KEEPER, NIC, SPARE, Rig, SteppedClock, settle


async def test_a_fault_meets_the_nth_call_once(rig: Rig) -> None:
    rig.sim.controls.fail_next("attach", 9, "operation failed: no", nth=2, domain="alpha")
    spec = HostdevSpec("ua-nic", NIC, managed=True)
    await rig.sim.hypervisor.attach(SPARE, spec, Target.CONFIG)
    await rig.sim.hypervisor.attach(ALPHA, spec, Target.CONFIG)
    with pytest.raises(HypervisorError, match="operation failed: no") as caught:
        await rig.sim.hypervisor.attach(ALPHA, spec, Target.LIVE)
    assert caught.value.code == 9
    assert await rig.live(ALPHA) == {}
    await rig.sim.hypervisor.attach(ALPHA, spec, Target.LIVE)


async def test_a_fault_may_come_after_the_effect_and_break_the_connection(rig: Rig) -> None:
    rig.sim.controls.fail_next("nodedev_detach", after=True, gone=True, text="end of file", device="pci_0000_01_00_0")
    with pytest.raises(HypervisorGone):
        await rig.sim.hypervisor.nodedev_detach("pci_0000_01_00_0")
    assert rig.driver(NIC) == "vfio-pci"
    with pytest.raises(HypervisorGone):
        await rig.sim.hypervisor.domains()
    await settle()
    assert Disconnected("end of file") in rig.events


async def test_a_time_out_of_the_domains_lock_is_busy(rig: Rig) -> None:
    rig.sim.controls.fail_next("domain", 68, "Timed out during operation: cannot acquire state change lock")
    with pytest.raises(HypervisorBusy):
        await rig.sim.hypervisor.domain(ALPHA)


async def test_events_of_a_lost_connection_are_lost_and_the_guests_run_on(rig: Rig) -> None:
    assert rig.take_events() == [Connected()]
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    rig.sim.controls.set_guest_behaviour("alpha", "delayed", delay_s=1.0)
    await rig.detach(ALPHA, "nic")
    rig.sim.controls.disconnect("gone")
    rig.clock.step(1.0)
    await settle()
    rig.sim.controls.reconnect()
    await settle()
    assert rig.answers() == []
    assert rig.events[-1] == Connected()
    assert await rig.live(ALPHA) == {}


async def test_before_call_may_end_the_caller_at_a_step(rig: Rig) -> None:
    class Killed(BaseException):
        pass

    async def kill(call: str, arguments: Mapping[str, object]) -> None:
        if call == "attach":
            assert arguments["uuid"] == ALPHA
            assert arguments["device"] == "pci_0000_01_00_0"
            raise Killed

    rig.sim.hypervisor.before_call = kill
    await rig.sim.hypervisor.nodedev_detach("pci_0000_01_00_0")
    with pytest.raises(Killed):
        await rig.sim.hypervisor.attach(ALPHA, HostdevSpec("ua-nic", NIC), Target.LIVE)
    assert rig.driver(NIC) == "vfio-pci"


async def test_calls_are_counted(rig: Rig) -> None:
    await rig.sim.hypervisor.domains()
    assert rig.sim.hypervisor.call_counts() == {"domains": 1}


async def test_a_restarted_simulation_goes_on_where_it_was(rig: Rig, tmp_path: Path) -> None:
    await rig.attach(DEAF, "nic", NIC, managed=True)
    await rig.detach(DEAF, "nic")
    await rig.sim.hypervisor.nodedev_detach("pci_0000_15_00_0")
    rig.sim.controls.start_domain("spare")
    rig.sim.controls.destroy_domain("brief")
    rig.sim.controls.unplug_device("usb_2_4")
    rig.sim.controls.replug("usb_2_4")
    rig.sim.controls.unplug_device("usb_1_1_1")
    rig.sim.controls.add_use("block_sdc_33333330000002000", HostUseKind.MOUNT, "/mnt")
    again = simulate(rig.clock, state_dir=tmp_path / "state")
    assert await again.hypervisor.domains() == await rig.sim.hypervisor.domains()
    assert await again.hypervisor.node_devices() == await rig.sim.hypervisor.node_devices()
    assert again.world.uses == rig.sim.world.uses
    assert again.world.libvirt == rig.sim.world.libvirt
    assert again.world.unplugging == rig.sim.world.unplugging
    assert again.host.boot_id() == rig.sim.host.boot_id()
    again.controls.destroy_domain("deaf")
    assert again.host.driver(NIC).driver == "e1000e"


async def test_an_unplug_that_was_due_meanwhile_is_answered_after_the_restart(rig: Rig, tmp_path: Path) -> None:
    rig.sim.controls.set_guest_behaviour("alpha", "delayed", delay_s=5.0)
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    await rig.detach(ALPHA, "nic")
    await rig.close()
    rig.clock.step(5.0)
    again = Rig(simulate(rig.clock, state_dir=tmp_path / "state"), rig.clock)
    await again.start()
    assert await again.live(ALPHA) == {}
    assert again.driver(NIC) == "e1000e"
    await again.close()


def test_a_broken_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "simulated-host.json").write_text("{")
    with pytest.raises(ValueError, match=r"simulated-host\.json: .*remove it"):
        simulate(SteppedClock(), state_dir=tmp_path)


async def test_a_host_reboot_ends_guests_and_restores_drivers(rig: Rig) -> None:
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    await rig.sim.hypervisor.nodedev_detach("pci_0000_15_00_0")
    before = rig.sim.host.boot_id()
    rig.sim.controls.reboot_host()
    assert rig.sim.host.boot_id() != before
    assert rig.driver(NIC) == "e1000e"
    assert (await rig.sim.hypervisor.node_device("pci_0000_15_00_0")).driver == "vfio-pci"
    states = {domain.vm.name: domain.vm.state for domain in await rig.sim.hypervisor.domains()}
    assert set(states.values()) == {VmState.SHUT_OFF}
    assert "brief" not in states


async def test_a_new_use_is_told(rig: Rig) -> None:
    rig.take_events()
    rig.sim.controls.add_use("block_sdc_33333330000002000", HostUseKind.MOUNT, "/mnt")
    await settle()
    (event,) = rig.events
    assert isinstance(event, HostChanged)
    assert (await rig.sim.host.uses()).by_path[event.path] == (HostUse(HostUseKind.MOUNT, "/mnt"),)


async def test_uses_go_with_the_device(rig: Rig) -> None:
    paths = (await rig.sim.host.uses()).by_path
    await rig.sim.hypervisor.nodedev_detach(rig.sim.roles["nvme_mounted"])
    gone = set(paths) - set((await rig.sim.host.uses()).by_path)
    assert [path.rpartition("/")[2] for path in gone] == ["nvme1n1"]


async def test_block_paths_follow_links_and_partitions(rig: Rig) -> None:
    (disk,) = rig.sim.host.block_paths("/dev/sda")
    assert disk.endswith("/block/sda")
    assert rig.sim.host.block_paths("/dev/sda1") == (disk,)
    assert rig.sim.host.block_paths("/dev/disk/by-id/ata-QEMU_HARDDISK_QM00001-part1") == (disk,)
    assert rig.sim.host.block_paths("/dev/none") == ()


async def test_identities_are_derived_and_told(rig: Rig) -> None:
    nodes = {node.name: node for node in await rig.sim.hypervisor.node_devices()}
    nic = rig.sim.host.identity(nodes["pci_0000_01_00_0"])
    assert (nic.root, nic.path) == ("0000:00", "02.0/00.0")
    first, second = (rig.sim.host.identity(nodes[name]) for name in ("usb_2_2", "usb_2_3"))
    assert (first.serial, first.interfaces, first.path) == ("TWIN", "08", "2")
    assert (second.serial, second.path) == ("TWIN", "3")
    assert first.root == nodes["pci_0000_0e_00_0"].path


async def test_the_keeper_holds_a_nic_in_its_configuration(rig: Rig) -> None:
    (entry,) = (await rig.config(KEEPER)).values()
    assert str(entry.source) == "0000:16:00.0"
