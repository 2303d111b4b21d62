"""Whatever fails while a guest gets its USB device again, and wherever hostdevd dies: it has it in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.assignments import AssignmentState
from unit.core.injected import FAULTS, Camera, Hook, Interference
from unit.core.rig import FastClock, Shape, machine, until
from unit.core.test_replug import LIVE, STICK, has_it, idle


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_fault_at_any_call_loses_nothing(tmp_path: Path, fault: Hook) -> None:
    interference = Interference()
    async with machine(tmp_path, before_call=interference) as on:
        held = await on.attach(LIVE)
        name = on.name("usb_stick")
        at = 0
        while True:
            at += 1
            on.sim.controls.unplug_device(name)
            await until(on, lambda: name not in on.core.store.devices)
            await idle(on, held.name)
            with interference.during(on, at, fault):
                on.sim.controls.replug(name)
                await until(on, lambda: name in on.core.store.devices)
                await on.core.sync.synced.wait()
                now = await idle(on, held.name)
            where = interference.calls
            assert now.state is AssignmentState.ATTACHED, where
            assert now.conditions or has_it(on, held.name), where
            if interference.seen < at:
                break
            if now.conditions:
                on.sim.controls.unplug_device(name)
                await until(on, lambda: name not in on.core.store.devices)
                on.sim.controls.replug(name)
            await until(on, lambda: has_it(on, held.name))
        assert at > 4


@pytest.mark.parametrize("shape", [STICK, LIVE], ids=["both", "live"])
async def test_a_crash_at_any_call_is_found_after_the_restart(tmp_path: Path, shape: Shape) -> None:
    clock = FastClock()
    camera = Camera(tmp_path / "state", tmp_path / "pictures")
    camera.directory.mkdir()
    async with machine(camera.directory, clock, camera, kept=True) as on:
        held = await on.attach(shape)
        on.sim.controls.unplug_device(on.name("usb_stick"))
        await until(on, lambda: on.assignment(held.name).conditions != ())
        camera.on = True
        on.sim.controls.replug(on.name("usb_stick"))
        await until(on, lambda: has_it(on, held.name))
        camera.take()
        camera.on = False
    clock.ahead += 60.0
    assert len(camera.pictures) > 3
    for picture in camera.pictures:
        async with machine(picture, clock, kept=True) as on:
            await until(on, lambda: has_it(on, held.name))
            assert (await on.detach(held.name)).state is AssignmentState.DETACHED, picture
            assert on.held("usb_stick") == set(), picture
