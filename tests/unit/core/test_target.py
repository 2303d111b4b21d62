"""Which device a uid means is asked anew at each use; where that is not certain, nothing is given away."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.errors import HostdevError
from hostdevd.core.plan import AttachRequest, Plan
from hostdevd.sim.controls import Controls
from unit.core.rig import Machine, machine, until


async def dry_run(on: Machine, device: str) -> Plan:
    request = AttachRequest("alpha", device)
    return (await on.core.engine.attach(request, caller="", request_id="", validate_only=True, wait_s=1)).plan


async def refused(on: Machine, device: str) -> HostdevError:
    request = AttachRequest("alpha", device)
    with pytest.raises(HostdevError) as error:
        await on.core.engine.attach(request, caller="", request_id="", validate_only=False, wait_s=1)
    return error.value


def in_the_place_of(controls: Controls, name: str, old: str, new: str) -> str:
    """Pull a device out and put one in its place whose document differs in this."""
    xml = controls.world.kernel.devices[name].xml
    controls.unplug_device(name)
    assert old in xml
    return controls.plug_device(xml.replace(old, new))


async def test_another_card_in_the_slot_is_not_the_one_that_was_meant(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        name = on.name("nic_single")
        uid = on.core.store.devices[name].uid
        in_the_place_of(on.sim.controls, name, 'id="0x10d3"', 'id="0x1533"')
        await until(on, lambda: on.core.store.device(uid) is None and name in on.core.store.devices)
        error = await refused(on, uid)
        assert (error.reason, error.metadata["successor"]) == ("DEVICE_CHANGED", name)
        assert [(one.code, one.subject) for one in (await dry_run(on, uid)).blockers] == [("DEVICE_CHANGED", name)]
        assert (await dry_run(on, name)).blockers == ()


async def test_an_empty_slot_is_no_other_device(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        name = on.name("nic_single")
        uid = on.core.store.devices[name].uid
        on.sim.controls.unplug_device(name)
        await until(on, lambda: name not in on.core.store.devices)
        assert (await refused(on, uid)).reason == "DEVICE_NOT_FOUND"
        on.sim.controls.replug(name)
        await until(on, lambda: name in on.core.store.devices)
        assert on.core.store.devices[name].uid == uid
