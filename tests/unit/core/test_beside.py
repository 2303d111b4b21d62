"""What happens beside an assignment's work: repeats of a request, drivers that its operator chose, late writes."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.assignments import Assignment, AssignmentState, Scope
from hostdevd.core.journal import RequestRecord
from unit.core.rig import FastClock, HeldCall, Shape, machine, until


async def test_a_repeat_while_a_stopped_vm_gives_back_is_answered(tmp_path: Path) -> None:
    reattach = HeldCall("nodedev_reattach")
    async with machine(tmp_path, before_call=reattach) as on:
        request_id = str(uuid.uuid4())
        shape = Shape("dual_0")
        await on.attach(shape, request_id)
        on.sim.controls.destroy_domain("alpha")
        await reattach.going.wait()
        assert (await on.attach(shape, request_id, wait_s=0.1)).state is AssignmentState.ATTACHED
        reattach.may.set()


async def test_a_repeat_of_an_attach_does_not_join_the_detach_that_followed(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        request_id = str(uuid.uuid4())
        shape = Shape("nic_single", "deaf")
        await on.attach(shape, request_id)
        assert (await on.detach(request_id, wait_s=0.0)).state is AssignmentState.DETACHING
        begun = asyncio.get_running_loop().time()
        assert (await on.attach(shape, request_id, wait_s=5.0)).state is AssignmentState.DETACHING
        assert asyncio.get_running_loop().time() - begun < 4.0


async def test_what_was_never_given_is_not_given_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", scope=Scope.CONFIG))
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (AssignmentState.DETACHED, ())
        assert on.driver("nic_single") == "vfio-pci"


async def test_a_late_write_does_not_bring_back_what_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, kept=True) as on:
        first = await on.attach(Shape("nic_single", "spare"))
        second = await on.attach(Shape("dual_0", "spare"))
        operations, good = on.core.engine._operations, on.core.journal.save
        operations._unwritten = {first.name: (first, None, None), second.name: (second, None, None)}

        async def save(*assignments: Assignment, **more: Any) -> None:
            if assignments == (first,):
                monkeypatch.setattr(on.core.journal, "save", good)
                await on.detach(second.name)
            await good(*assignments, **more)

        monkeypatch.setattr(on.core.journal, "save", save)
        await operations.save_again()
        await on.core.engine.close(grace_s=0.0)
    async with machine(tmp_path, kept=True) as on:
        assert on.assignment(second.name).state is AssignmentState.DETACHED
        assert on.assignment(second.name).update_time > second.update_time


async def test_a_failure_that_could_not_be_written_is_written_with_the_next_state(tmp_path: Path) -> None:
    async with machine(tmp_path, kept=True) as on:
        held = await on.attach(Shape("nic_single", "spare"), str(uuid.uuid4()))
        record = on.core.engine._requests.get(held.name)
        assert record is not None
        on.core.engine._operations._unwritten[held.name] = (
            held,
            RequestRecord("other", record.caller, record.fingerprint, held.name, record.time),
            None,
        )
        await on.detach(held.name)
    async with machine(tmp_path, kept=True) as on:
        assert "other" in on.core.engine._requests


async def test_a_fault_in_a_comparison_is_not_met_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, FastClock(10.0)) as on:
        held = await on.attach(Shape("nic_single"))
        calls = 0

        async def broken(_: Assignment) -> tuple[()]:
            nonlocal calls
            calls += 1
            raise ValueError("a fault")

        with monkeypatch.context() as patched:
            patched.setattr(on.core.engine._upkeep._effects.restoring, "give_back", broken)
            on.sim.controls.destroy_domain("alpha")
            await asyncio.sleep(0.5)
            assert 0 < calls < 10
        await until(on, lambda: not on.assignment(held.name).live)
        assert on.driver("nic_single") == "e1000e"


async def test_a_fault_in_following_is_not_tried_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path, FastClock(10.0)) as on:
        held = await on.attach(Shape("usb_stick"))
        on.sim.controls.unplug_device(on.name("usb_stick"))
        await until(on, lambda: on.assignment(held.name).awaits)
        calls = 0

        async def broken(*_: object) -> None:
            nonlocal calls
            calls += 1
            raise ValueError("a fault")

        monkeypatch.setattr(on.core.engine._upkeep._effects.clearing, "clear", broken)
        on.sim.controls.replug(on.name("usb_stick"))
        await asyncio.sleep(0.5)
        assert calls == 1
        assert "a fault of hostdevd's" in on.assignment(held.name).conditions[0].message
