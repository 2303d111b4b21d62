"""A USB device that is pulled out and plugged in again while a VM has it: the assignment follows it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest

from hostdevd.core.assignments import Assignment, AssignmentState, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import source_of
from hostdevd.core.history import History
from hostdevd.core.model import ConditionCode, Holder, HostUse, HostUseKind, OfVm, Reason
from hostdevd.core.ports import Target
from unit.core.rig import Machine, Shape, machine, until

MISSING = {ConditionCode.DEVICE_MISSING}
STICK = Shape("usb_stick")
LIVE = Shape("usb_stick", scope=Scope.LIVE)


def codes(assignment: Assignment) -> set[ConditionCode]:
    return {one.code for one in assignment.conditions} - {ConditionCode.CONFIG_BY_SERVICE}


def has_it(on: Machine, name: str, vm: str = "alpha") -> bool:
    """The guest has the assignment's device where that is now, and nothing else by the alias; all is well."""
    held = on.assignment(name)
    device = held.devices[0]
    at = on.core.store.identities.name(device.uid)
    domain = next(one for one in on.core.store.domains.values() if one.vm.name == vm)
    entries = [one for one in (domain.live.entries if domain.live else ()) if one.alias == device.alias]
    return (
        at is not None
        and (held.state, held.live, codes(held)) == (AssignmentState.ATTACHED, True, set())
        and [(one.source, one.missing) for one in entries] == [(source_of(on.core.store.graph.nodes[at]), False)]
    )


async def pull(on: Machine, name: str) -> None:
    on.sim.controls.unplug_device(name)
    await until(on, lambda: name not in on.core.store.devices)


async def replug(on: Machine, role: str, port: str = "") -> str:
    """Out and in again; its name now."""
    name = on.name(role)
    await pull(on, name)
    name = on.sim.controls.replug(name, port)[0]
    await until(on, lambda: name in on.core.store.devices)
    return name


def live_attaches(on: Machine) -> int:
    return on.sim.hypervisor.call_counts().get("attach", 0)


async def idle(on: Machine, name: str) -> Assignment:
    """The assignment after it was looked at, with nothing under way."""
    for _ in range(5):
        on.core.engine._operations.ended.set()  # everything is looked at
        await on.clock.sleep(10.0)
        await on.core.engine._upkeep.compare_named(name)
        async with asyncio.timeout(20):
            while name in on.core.engine._operations:
                await on.clock.sleep(1.0)  # the end of one need not be a commit
    return on.assignment(name)


@pytest.mark.parametrize("shape", [STICK, LIVE, Shape("usb_twin_0")], ids=["both", "live", "twin"])
async def test_the_guest_gets_it_again_at_its_new_address(tmp_path: Path, shape: Shape) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(shape)
        before = on.held(shape.device)
        await pull(on, on.name(shape.device))
        await until(on, lambda: codes(on.assignment(held.name)) == MISSING)
        assert on.assignment(held.name).state is AssignmentState.ATTACHED
        on.sim.controls.replug(on.name(shape.device))
        await until(on, lambda: has_it(on, held.name))
        assert on.held(shape.device) == before
        assert on.assignment(held.name).devices[0].alias == held.devices[0].alias
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        assert on.core.store.devices[on.name(shape.device)].eligibility.available


async def test_nobody_else_gets_it_meanwhile(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        on.sim.controls.fail_next("attach", text="no")
        name = await replug(on, "usb_stick")
        assert not on.core.store.devices[name].eligibility.available
        assert (await idle(on, held.name)).state is AssignmentState.ATTACHED
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("usb_stick", "spare"))
        assert refused.value.reason == "HELD_BY_OTHER_VM"
        assert refused.value.metadata["vm_name"] == held.vm.name


async def test_with_a_serial_it_is_followed_to_another_port(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        name = await replug(on, "usb_stick", "2-6")
        assert name != on.name("usb_stick")
        await until(on, lambda: has_it(on, held.name))
        assert on.assignment(held.name).devices[0].name == name
        assert {(one.vm.name, one.live) for one in on.core.store.holders_of(name)} == {("alpha", True)}


async def test_watchers_see_it_leave_and_come_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(LIVE)
        uid = held.devices[0].uid
        history: History[Holder] = on.core.store.holder_history
        since = on.core.store.revision
        await replug(on, "usb_stick")
        await until(on, lambda: has_it(on, held.name))
        batches = history.since(since) or []
        assert any(
            change.after and (change.after.uid, change.after.live) == (uid, True)
            for batch in batches
            for change in batch.changes
        )


# --- twins -----------------------------------------------------------------------------------------------


async def test_each_guest_gets_its_own_twin_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        first = await on.attach(Shape("usb_twin_0"))
        second = await on.attach(Shape("usb_twin_1", "brief"))
        names = [on.name("usb_twin_0"), on.name("usb_twin_1")]
        for name in names:
            await pull(on, name)
        for name in reversed(names):
            on.sim.controls.replug(name)
        await until(on, lambda: has_it(on, first.name) and has_it(on, second.name, "brief"))
        assert on.held("usb_twin_0") == {("alpha", True, True)}
        assert on.held("usb_twin_1") == {("brief", True, False)}


async def test_where_it_is_not_certain_which_twin_came_back_nothing_is_attached(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("usb_twin_0", scope=Scope.LIVE))
        await pull(on, on.name("usb_twin_0"))
        await pull(on, on.name("usb_twin_1"))
        calls = live_attaches(on)
        name = on.sim.controls.replug(on.name("usb_twin_1"), "2-6")[0]
        await until(on, lambda: name in on.core.store.devices)
        now = await idle(on, held.name)
        assert codes(now) == MISSING
        assert "AMBIGUOUS" in now.conditions[0].message
        assert name in now.conditions[0].message
        assert live_attaches(on) == calls
        assert on.core.store.holders_of(name) == ()
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED


# --- what stands in the way ------------------------------------------------------------------------------


async def test_what_the_host_mounted_meanwhile_is_not_attached_until_it_is_free(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        await pull(on, on.name("usb_stick"))
        disk = next(name for name in on.sim.world.kernel.devices if name.startswith("block_") and "Cruzer" in name)
        calls = live_attaches(on)
        on.sim.world.uses[disk] = (HostUse(HostUseKind.MOUNT, "/media/stick"),)
        on.sim.controls.replug(on.name("usb_stick"))
        await until(on, lambda: "/media/stick" in "".join(one.message for one in on.assignment(held.name).conditions))
        now = await idle(on, held.name)
        assert codes(now) == MISSING
        assert now.conditions[0].remedy
        assert live_attaches(on) == calls
        on.sim.controls.remove_uses(disk)
        await until(on, lambda: has_it(on, held.name))


async def test_a_try_that_fails_is_not_repeated_until_the_next_replug(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(LIVE)
        calls = live_attaches(on)
        on.sim.controls.fail_next("attach", text="no such luck")
        await replug(on, "usb_stick")
        await until(on, lambda: any("no such luck" in one.message for one in on.assignment(held.name).conditions))
        now = await idle(on, held.name)
        assert (now.state, codes(now)) == (AssignmentState.ATTACHED, MISSING)
        assert live_attaches(on) == calls + 1
        await replug(on, "usb_stick")
        await until(on, lambda: has_it(on, held.name))


async def test_after_a_try_that_failed_an_attach_gives_it_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(LIVE)
        on.sim.controls.fail_next("attach", text="no such luck")
        await replug(on, "usb_stick")
        await until(on, lambda: any("no such luck" in one.message for one in on.assignment(held.name).conditions))
        await idle(on, held.name)
        assert (await on.attach(LIVE)).name == held.name
        assert has_it(on, held.name)


@pytest.mark.parametrize("call", ["attach", "detach"])
async def test_libvirt_that_breaks_in_the_middle_does_not_end_it(tmp_path: Path, call: str) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(LIVE)
        on.sim.controls.fail_next(call, text="gone", after=True, gone=True)
        await pull(on, on.name("usb_stick"))
        on.sim.controls.replug(on.name("usb_stick"))
        while on.sim.hypervisor.connected:
            await on.clock.sleep(1.0)
        on.sim.controls.reconnect()
        await until(on, lambda: has_it(on, held.name))


async def test_a_device_that_flaps_ends_where_it_should(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        for round_ in range(12):
            on.sim.controls.unplug_device(on.name("usb_stick"))
            await on.clock.sleep(round_ % 4)
            on.sim.controls.replug(on.name("usb_stick"))
            await on.clock.sleep(round_ % 3)
        await until(on, lambda: has_it(on, held.name))
        on.sim.controls.unplug_device(on.name("usb_stick"))
        await until(on, lambda: codes(on.assignment(held.name)) == MISSING)
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED


@pytest.mark.parametrize("shape", [STICK, LIVE], ids=["both", "live"])
async def test_one_that_never_comes_back_can_be_detached(tmp_path: Path, shape: Shape) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(shape)
        await pull(on, on.name("usb_stick"))
        assert codes(await idle(on, held.name)) == MISSING
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        domain = next(one for one in on.sim.world.domains.values() if one.name == "alpha")
        assert [one for one in domain.live_entries() if one.alias == held.devices[0].alias] == []


async def test_a_stale_entry_that_libvirt_dropped_ends_nothing(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(LIVE)
        await pull(on, on.name("usb_stick"))
        await idle(on, held.name)
        on.sim.controls.virsh_detach("alpha", held.devices[0].alias, Target.LIVE)
        await until(on, lambda: not on.assignment(held.name).live)
        assert codes(await idle(on, held.name)) == MISSING
        on.sim.controls.replug(on.name("usb_stick"))
        await until(on, lambda: has_it(on, held.name))


async def test_what_was_detached_live_while_it_was_out_does_not_come_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        await pull(on, on.name("usb_stick"))
        await idle(on, held.name)
        half = await on.detach(held.name, scope=Scope.LIVE)
        assert (half.state, half.live, half.config) == (AssignmentState.ATTACHED, False, True)
        on.sim.controls.replug(on.name("usb_stick"))
        await until(on, lambda: codes(on.assignment(held.name)) == set())
        await idle(on, held.name)
        assert on.held("usb_stick") == {("alpha", False, True)}


async def test_a_guest_that_stopped_meanwhile_ends_a_live_assignment(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(LIVE)
        await pull(on, on.name("usb_stick"))
        await idle(on, held.name)
        on.sim.controls.destroy_domain("alpha")
        on.sim.controls.start_domain("alpha")
        await until(on, lambda: on.assignment(held.name).state is AssignmentState.DETACHED)


# --- a VM that started without it ------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["usb_stick", "usb_twin_0"])
async def test_a_guest_that_started_without_it_gets_it_when_it_is_plugged_in(tmp_path: Path, role: str) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape(role, "spare"))
        await pull(on, on.name(role))
        on.sim.controls.start_domain("spare")
        await until(on, lambda: on.assignment(held.name).vm.state.active)
        assert codes(await idle(on, held.name)) == MISSING
        assert on.assignment(held.name).live is False
        on.sim.controls.replug(on.name(role))
        await until(on, lambda: has_it(on, held.name, "spare"))
        assert on.held(role) == {("spare", True, True)}


# --- restarts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["usb_stick", "usb_twin_0"])
async def test_a_replug_while_the_service_was_away_is_found(tmp_path: Path, role: str) -> None:
    async with machine(tmp_path, kept=True) as on:
        held = await on.attach(Shape(role))
        await on.core.engine.close(grace_s=0.0)
        on.sim.controls.unplug_device(on.name(role))
        on.sim.controls.replug(on.name(role))
    async with machine(tmp_path, kept=True) as on:
        await until(on, lambda: has_it(on, held.name))


async def test_a_replug_while_libvirt_was_away_is_found(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        on.sim.controls.disconnect()
        on.sim.controls.unplug_device(on.name("usb_stick"))
        on.sim.controls.replug(on.name("usb_stick"))
        on.sim.controls.reconnect()
        await until(on, lambda: has_it(on, held.name))


async def test_a_condition_does_not_name_the_machine_that_is_in_the_way(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(STICK)
        following = on.core.engine._upkeep._following
        metadata = {"device": held.devices[0].name, "vm_name": "keeper", "vm_uuid": "u-1"}
        reasons = (Reason("HELD_BY_OTHER_VM", "keeper", "keeper has it", "detach it from keeper first"),)
        error = HostdevError("HELD_BY_OTHER_VM", "keeper has it", metadata=metadata, reasons=reasons)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("hostdevd.core.following.Following._plan", Mock(side_effect=error))
            told = following.condition(held, held.devices[0])
        assert told is not None
        assert "keeper" not in told.message + told.remedy
        assert "is held by another virtual machine" in told.message
        assert told.of_vm == OfVm("keeper", "u-1")  # for those who may see it
