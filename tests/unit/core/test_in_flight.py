"""What is seen of an operation while it goes on, and who may join it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.assignments import Assignment, AssignmentState, Scope
from hostdevd.core.drives import free_drive
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import REVISION_BLOCK, Journal
from hostdevd.core.model import Domain, DomainDef, GuestHardware, ScsiController
from unit.core.made import HARDWARE, domain
from unit.core.rig import Shape, machine, until


async def test_a_guest_that_keeps_what_failed_is_shown_with_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.fail_next("attach", domain="deaf", after=True)
        begun = await on.attach(Shape("nic_single", "deaf", scope=Scope.LIVE), wait_s=0.0)
        name = on.name("nic_single")
        assert not on.core.store.devices[name].eligibility.available
        await until(on, lambda: on.held("nic_single") == {("deaf", True, False)})
        assert on.assignment(begun.name).state is AssignmentState.ROLLING_BACK
        assert not on.core.store.devices[name].eligibility.available
        on.sim.controls.destroy_domain("deaf")
        await until(on, lambda: on.assignment(begun.name).state is AssignmentState.FAILED)
        assert on.core.store.devices[name].eligibility.available


async def test_a_detach_is_joined_only_by_what_it_does(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", "deaf"))
        await on.detach(held.name, scope=Scope.LIVE, wait_s=0.0)
        for scope in (Scope.CONFIG, Scope.AUTO, Scope.LIVE_AND_CONFIG):
            with pytest.raises(HostdevError) as refused:
                await on.detach(held.name, scope=scope, wait_s=0.0)
            assert refused.value.reason == "OPERATION_IN_PROGRESS"
        joined = await on.detach(vm=held.vm.uuid.upper(), device="nic_single", scope=Scope.LIVE, wait_s=0.0)
        assert joined.name == held.name


async def test_revisions_are_reserved_when_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    await journal.open()

    def full(_work: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(journal, "_transaction", full)
        with pytest.raises(HostdevError):
            await journal.reserve_revisions(REVISION_BLOCK)
    await journal.reserve_revisions(REVISION_BLOCK)
    await journal.close()
    again = Journal(tmp_path)
    assert (await again.open()).revision == 2 * REVISION_BLOCK
    await again.close()


def test_a_lun_gets_no_controller_that_only_one_definition_has() -> None:
    def hardware(index: int) -> GuestHardware:
        return replace(HARDWARE, scsi_controllers=(ScsiController(index, "virtio-scsi"),))

    made = domain("on", ())
    assert free_drive(Domain(made.vm, DomainDef((), hardware(0)), DomainDef((), hardware(0)))) == (0, 0, 0, 0)
    assert free_drive(Domain(made.vm, DomainDef((), hardware(0)), DomainDef((), hardware(1)))) is None


async def test_the_wait_counts_what_was_done_before_the_operation(tmp_path: Path) -> None:
    async def slow(name: str, _arguments: Mapping[str, object]) -> None:
        if begun:
            await asyncio.sleep({"domains": 0.4, "nodedev_detach": 30.0}.get(name, 0.0))

    begun = False
    async with machine(tmp_path, before_call=slow) as on:
        begun = True
        loop = asyncio.get_running_loop()
        start = loop.time()
        assert (await on.attach(Shape("nic_single"), wait_s=0.6)).state is AssignmentState.ATTACHING
        assert loop.time() - start < 10.0  # the step alone takes 30 s


async def test_an_intent_that_is_not_written_in_time_is_told_as_such_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        good = on.core.journal.save

        async def save(*assignments: Assignment, **written_too: Any) -> None:
            await asyncio.sleep(1.0)
            await good(*assignments, **written_too)

        monkeypatch.setattr(on.core.journal, "save", save)
        with pytest.raises(HostdevError) as late:
            await on.attach(Shape("nic_single"), wait_s=0.1)
        assert late.value.reason == "OPERATION_IN_PROGRESS"
        name = late.value.metadata["assignment"]
        await until(on, lambda: name in on.core.store.assignments)
        await until(on, lambda: on.assignment(name).state is AssignmentState.ATTACHED)
