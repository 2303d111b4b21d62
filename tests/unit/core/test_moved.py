"""Addresses that are others after a reboot or a re-scan: each configuration names the device that was assigned."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.assignments import Assignment, AssignmentState, GroupPolicy, Scope
from hostdevd.core.graph import source_of
from hostdevd.core.model import ConditionCode
from hostdevd.core.ports import HostdevSpec, HypervisorError, Target
from hostdevd.sim.moving import Moves
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.injected import FAULTS, Camera, Hook, Interference
from unit.core.rig import FastClock, Machine, Shape, machine, until
from unit.core.test_replug import idle

CONFIG = Scope.CONFIG
PCI = Moves(buses={0x01: 0x21, 0x04: 0x24})
SCSI = Moves(hosts={3: 7})
MISSING = ConditionCode.DEVICE_MISSING
SWAPPED = Moves(buses={0x01: 0x09, 0x09: 0x01})
"""nic_single and switch_0 change places."""


def entries(on: Machine, vm: str) -> dict[str | None, tuple[object, str | None, bool]]:
    """What a VM's configuration has on the simulated host: source, guest address and managed, by alias."""
    config = next(one for one in on.sim.world.domains.values() if one.name == vm).domain().config
    found = config.entries if config else ()
    return {one.alias: (one.source, one.guest_address, one.managed) for one in found}


def right(on: Machine, held: Assignment, vm: str) -> bool:
    """Every entry names the device of its uid, where that is now, and the record says so."""
    now = on.assignment(held.name)
    there = entries(on, vm)
    for device in now.devices:
        name = on.core.store.identities.name(device.uid)
        if (
            name not in on.sim.world.kernel.devices
            or device.name != name
            or device.moving is not None
            or device.alias not in there
        ):
            return False
        if there[device.alias][0] != source_of(on.core.store.graph.nodes[name]):
            return False
    return (now.state, now.config, now.conditions) == (AssignmentState.ATTACHED, True, ())


def guest_places(on: Machine, vm: str) -> dict[str | None, tuple[str | None, bool]]:
    return {alias: place[1:] for alias, place in entries(on, vm).items()}


@pytest.mark.parametrize(
    ("shape", "moves"),
    [
        (Shape("nic_single", "spare"), PCI),
        (Shape("dual_0", "spare"), PCI),
        (Shape("dual_0", "spare", GroupPolicy.RESERVE_REST), PCI),
        (Shape("lun_1", "spare"), SCSI),
        (Shape("nic_single", "alpha", scope=CONFIG), PCI),
        (Shape("dual_0"), PCI),
    ],
    ids=["single", "group", "reserved", "lun", "config only", "live and config"],
)
async def test_after_a_reboot_the_configuration_names_the_device_where_it_is(
    tmp_path: Path, shape: Shape, moves: Moves
) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(shape)
        before = guest_places(on, shape.vm)
        assert right(on, held, shape.vm)
        on.sim.controls.reboot_host(moves=moves)
        await until(on, lambda: right(on, held, shape.vm) and not on.assignment(held.name).live)
        assert {device.name for device in on.assignment(held.name).devices}.isdisjoint(
            {one.name for one in held.devices}
        )
        assert guest_places(on, shape.vm) == before
        on.sim.controls.start_domain(shape.vm)
        await until(on, lambda: on.assignment(held.name).live)
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED


async def test_a_rescan_while_the_vm_runs_rewrites_its_configuration(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("lun_0", scope=CONFIG))
        on.sim.controls.renumber(SCSI)
        await until(on, lambda: right(on, held, "alpha"))
        assert not on.assignment(held.name).live


@pytest.mark.parametrize("vms", [("spare", "alpha"), ("spare", "spare")], ids=["two VMs", "one VM"])
async def test_two_devices_that_changed_places(tmp_path: Path, vms: tuple[str, str]) -> None:
    async with machine(tmp_path) as on:
        first = await on.attach(Shape("nic_single", vms[0], scope=CONFIG))
        second = await on.attach(Shape("switch_0", vms[1], scope=CONFIG))
        names = {first.devices[0].uid: second.devices[0].name, second.devices[0].uid: first.devices[0].name}
        on.sim.controls.reboot_host(moves=SWAPPED)
        await until(on, lambda: all(on.core.store.identities.name(uid) == name for uid, name in names.items()))
        await until(on, lambda: right(on, first, vms[0]) and right(on, second, vms[1]))
        for held, vm in ((first, vms[0]), (second, vms[1])):
            uid = held.devices[0].uid
            holders = on.core.store.holders_of(names[uid])
            assert [(one.vm.name, one.assignment) for one in holders] == [(vm, held.name)]


async def test_a_device_in_the_place_of_an_absent_one_is_held_as_long_as_the_xml_names_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        was = entries(on, "spare")
        on.sim.controls.unplug_device(on.name("nic_single"))
        on.sim.controls.reboot_host(moves=SWAPPED)
        await until(on, lambda: on.assignment(held.name).conditions != ())
        now = await idle(on, held.name)
        assert [one.code for one in now.conditions] == [ConditionCode.DEVICE_CHANGED]
        assert entries(on, "spare") == was
        other = on.core.store.devices["pci_0000_01_00_0"]
        assert other.uid != held.devices[0].uid
        assert {one.vm.name for one in other.holders} == {"spare"}
        assert not other.eligibility.available


async def test_a_device_that_is_absent_leaves_its_entry_alone(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        was = entries(on, "spare")
        on.sim.controls.unplug_device(on.name("nic_single"))
        await until(on, lambda: on.assignment(held.name).conditions != ())
        assert [one.code for one in (await idle(on, held.name)).conditions] == [ConditionCode.DEVICE_MISSING]
        assert entries(on, "spare") == was


async def test_the_entries_of_other_tools_are_not_touched(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        source = source_of(on.node("nic_single"))
        assert source is not None
        spec = HostdevSpec("ua-theirs", source, managed=True)
        on.sim.controls.virsh_attach("spare", build_hostdev(spec), Target.CONFIG)
        was = entries(on, "spare")
        held = await on.attach(Shape("dual_0", "spare"))
        on.sim.controls.reboot_host(moves=PCI)
        await until(on, lambda: right(on, held, "spare"))
        assert entries(on, "spare")["ua-theirs"] == was["ua-theirs"]


# --- what fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nth", [1, 2])
async def test_when_libvirt_refuses_all_is_put_back_and_told(tmp_path: Path, nth: int) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("dual_0", scope=CONFIG))
        was = entries(on, "alpha")
        on.sim.controls.fail_next("attach", nth=nth, text="not today")
        on.sim.controls.renumber(PCI)
        await until(on, lambda: any("not today" in one.message for one in on.assignment(held.name).conditions))
        now = on.assignment(held.name)
        assert entries(on, "alpha") == was
        assert {one.code for one in now.conditions} == {ConditionCode.DEVICE_CHANGED}
        assert [one.moving for one in now.devices] == [None, None]
        on.sim.controls.disconnect()  # it may be another libvirt that comes back
        on.sim.controls.reconnect()
        await until(on, lambda: right(on, held, "alpha"))


async def test_when_it_cannot_be_put_back_either_nothing_wrong_is_named(tmp_path: Path) -> None:
    refuse = False

    async def no_attach(name: str, _arguments: object) -> None:
        if refuse and name == "attach":
            raise HypervisorError(1, "never")

    async with machine(tmp_path, before_call=no_attach) as on:
        held = await on.attach(Shape("dual_0", "spare"))
        refuse = True
        on.sim.controls.reboot_host(moves=PCI)
        await until(on, lambda: any("never" in one.message for one in on.assignment(held.name).conditions))
        now = await idle(on, held.name)
        assert (now.state, now.config) == (AssignmentState.ATTACHED, True)
        refuse = False
        on.sim.controls.disconnect()
        on.sim.controls.reconnect()
        await until(on, lambda: right(on, held, "spare"))


async def test_between_two_addresses_a_device_that_vanished_is_named_nowhere_until_it_is_back(tmp_path: Path) -> None:
    refuse = False

    async def no_attach(name: str, _arguments: object) -> None:
        if refuse and name == "attach":
            raise HypervisorError(1, "never")

    async with machine(tmp_path, before_call=no_attach) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        places = guest_places(on, "spare")
        refuse = True
        on.sim.controls.renumber(PCI)
        await until(on, lambda: any("never" in one.message for one in on.assignment(held.name).conditions))
        await idle(on, held.name)
        assert entries(on, "spare") == {}
        on.sim.controls.unplug_device("pci_0000_21_00_0")
        await until(on, lambda: "pci_0000_21_00_0" not in on.core.store.devices)
        refuse = False
        on.sim.controls.reboot_host()
        await until(on, lambda: [one.code for one in on.assignment(held.name).conditions] == [MISSING])
        now = await idle(on, held.name)
        assert (now.state, now.config, entries(on, "spare")) == (AssignmentState.ATTACHED, True, {})
        on.sim.controls.replug("pci_0000_21_00_0")
        await until(on, lambda: right(on, held, "spare"))
        assert guest_places(on, "spare") == places


async def test_what_is_between_two_addresses_can_be_detached(tmp_path: Path) -> None:
    refuse = False

    async def no_attach(name: str, _arguments: object) -> None:
        if refuse and name == "attach":
            raise HypervisorError(1, "never")

    async with machine(tmp_path, before_call=no_attach) as on:
        held = await on.attach(Shape("dual_0", "spare"))
        refuse = True
        on.sim.controls.renumber(PCI)
        await until(on, lambda: any("never" in one.message for one in on.assignment(held.name).conditions))
        await idle(on, held.name)
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        assert entries(on, "spare") == {}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_at_any_call_leaves_all_or_nothing(tmp_path: Path, fault: Hook) -> None:
    interference = Interference()
    back = {new: old for old, new in PCI.buses.items()}
    async with machine(tmp_path, before_call=interference) as on:
        held = await on.attach(Shape("dual_0", "spare"))
        at = 0
        moves = PCI
        while True:
            at += 1
            with interference.during(on, at, fault):
                on.sim.controls.renumber(moves)
                await on.clock.sleep(20.0)
                await on.core.sync.synced.wait()
                now = await idle(on, held.name)
            where = interference.calls
            assert now.state is AssignmentState.ATTACHED, where
            assert set(entries(on, "spare")) == {device.alias for device in held.devices}, where
            if not right(on, held, "spare"):
                on.sim.controls.disconnect()
                on.sim.controls.reconnect()
            await until(on, lambda: right(on, held, "spare"))
            if interference.seen < at:
                break
            moves = Moves(buses=back) if moves is PCI else PCI
        assert at > 8


@pytest.mark.parametrize("reboots", [False, True], ids=["", "and the host reboots again"])
async def test_a_crash_at_any_call_is_finished_after_the_restart(tmp_path: Path, *, reboots: bool) -> None:
    clock = FastClock()
    camera = Camera(tmp_path / "state", tmp_path / "pictures")
    camera.directory.mkdir()
    async with machine(camera.directory, clock, camera, kept=True) as on:
        first = await on.attach(Shape("dual_0", "spare"))
        second = await on.attach(Shape("lun_1", "spare"))
        places = guest_places(on, "spare")
        camera.on = True
        on.sim.controls.reboot_host(moves=Moves(PCI.buses, SCSI.hosts))
        await until(on, lambda: right(on, first, "spare") and right(on, second, "spare"))
        camera.take()
        camera.on = False
    assert len(camera.pictures) > 5
    for picture in camera.pictures:
        async with machine(picture, clock, kept=True) as on:
            if reboots:
                on.sim.controls.reboot_host(moves=Moves({0x04: 0x34, 0x24: 0x34}, {3: 9, 7: 9}))
            await until(on, lambda: right(on, first, "spare") and right(on, second, "spare"))
            assert guest_places(on, "spare") == places, picture
