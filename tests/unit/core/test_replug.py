"""A USB device that is pulled out and plugged in again while a VM has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.assignments import AssignmentState
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import ConditionCode
from unit.core.rig import Shape, machine, until


async def test_after_a_replug_the_device_stays_its_vms(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("usb_stick"))
        name = on.name("usb_stick")
        on.sim.controls.unplug_device(name)
        await until(on, lambda: name not in on.core.store.devices)
        on.sim.controls.replug(name)
        await until(on, lambda: name in on.core.store.devices)
        assert on.held("usb_stick") == {("alpha", False, True)}
        assert not on.core.store.devices[name].eligibility.available
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("usb_stick", "spare"))
        assert refused.value.reason == "HELD_BY_OTHER_VM"
        await until(on, lambda: on.assignment(held.name).conditions != ())
        assert [one.code for one in on.assignment(held.name).conditions] == [ConditionCode.DEVICE_MISSING]
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        assert on.core.store.devices[name].eligibility.available


async def test_a_device_of_another_vms_open_assignment_is_refused_though_nobody_holds_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        name = on.name("usb_twin_0")  # kept by the service: the XML has nothing
        held = await on.attach(Shape("usb_twin_0"))
        on.sim.controls.unplug_device(name)
        await until(on, lambda: name not in on.core.store.devices)
        on.sim.controls.replug(name)
        await until(on, lambda: name in on.core.store.devices)
        assert not on.core.store.devices[name].eligibility.available
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("usb_twin_0", "deaf"))
        assert refused.value.reason == "HELD_BY_OTHER_VM"
        assert refused.value.metadata["vm_name"] == held.vm.name
