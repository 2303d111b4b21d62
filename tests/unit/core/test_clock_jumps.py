"""The wall clock is set ahead or back, by minutes or years: nothing that takes time takes another one for it."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from hostdev.v1 import service_pb2
from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.steady import JUMP_S, STEADY_S, Steadiness
from hostdevd.core.upkeep import KEEP_CLOSED_S, PURGE_S
from hostdevd.sim.extras import Unplug
from unit.api.test_lists import devices, service_of
from unit.core.rig import FastClock, Machine, Shape, machine, until

DAY_S = 86_400.0
YEAR_S = 365 * DAY_S
EITHER_WAY = pytest.mark.parametrize("jump_s", [-YEAR_S, -DAY_S, DAY_S, 10 * YEAR_S])


async def asked(on: Machine, times: int) -> None:
    """Until the guest was asked to let go so often."""
    async with asyncio.timeout(20):
        while on.sim.hypervisor.call_counts().get("detach", 0) < times:  # noqa: ASYNC110  the guest tells nobody
            await asyncio.sleep(0.01)


@EITHER_WAY
async def test_a_page_token_lives_on(tmp_path: Path, jump_s: float) -> None:
    clock = FastClock(factor=1.0)
    async with machine(tmp_path, clock) as on:
        service = service_of(on)
        first = await devices(service, service_pb2.ListDevicesRequest(page_size=1))
        clock.jumped = jump_s
        rest = await devices(service, service_pb2.ListDevicesRequest(page_token=first.next_page_token))
        assert rest.revision == first.revision


@EITHER_WAY
async def test_no_record_is_forgotten_for_an_age_that_a_jump_gave_it(tmp_path: Path, jump_s: float) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock) as on:
        old = await on.attach(Shape("nic_single"), str(uuid.uuid4()))
        await on.detach(old.name)
        clock.ahead += STEADY_S + PURGE_S  # so that it is time to look for what is old
        clock.jumped = jump_s
        await asyncio.sleep(0.05)  # five looks
        assert old.name in on.core.store.assignments
        assert old.name in on.core.engine._requests
        clock.jumped = 0.0  # and somebody sees it
        await asyncio.sleep(0.05)
        clock.ahead += KEEP_CLOSED_S
        await until(on, lambda: old.name not in on.core.store.assignments)


@pytest.mark.parametrize("jump_s", [-YEAR_S, -DAY_S])
async def test_an_unplug_request_is_sent_again_though_it_seems_to_be_of_tomorrow(tmp_path: Path, jump_s: float) -> None:
    clock = FastClock(factor=1.0)
    async with machine(tmp_path, clock) as on:
        held = await on.attach(Shape("nic_single", scope=Scope.LIVE))
        on.sim.controls.set_guest_behaviour("alpha", Unplug.NEVER)
        assert (await on.detach(held.name, wait_s=0.0)).state is AssignmentState.DETACHING
        counts = on.sim.hypervisor.call_counts
        await asked(on, 1)
        clock.jumped = jump_s
        clock.ahead += 31.0
        await on.detach(held.name, wait_s=0.0)
        await asked(on, 2)
        assert counts()["detach"] == 2


async def test_an_unplug_request_is_not_sent_twice_because_a_minute_seems_to_have_passed(tmp_path: Path) -> None:
    clock = FastClock(factor=1.0)
    async with machine(tmp_path, clock) as on:
        held = await on.attach(Shape("nic_single", scope=Scope.LIVE))
        on.sim.controls.set_guest_behaviour("alpha", Unplug.NEVER)
        await on.detach(held.name, wait_s=0.0)
        await asked(on, 1)
        clock.jumped = DAY_S
        assert (await on.detach(held.name, wait_s=0.05)).state is AssignmentState.DETACHING
        assert on.sim.hypervisor.call_counts()["detach"] == 1


@EITHER_WAY
async def test_whole_operations_and_a_restart_go_on(tmp_path: Path, jump_s: float) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as on:
        held = await on.attach(Shape("dual_0"), str(uuid.uuid4()))
        revision = on.core.store.revision
        clock.jumped = jump_s
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        again = await on.attach(Shape("dual_0"), str(uuid.uuid4()))
    async with machine(tmp_path, clock, kept=True) as on:
        await until(on, lambda: again.name in on.core.store.assignments)
        assert on.assignment(again.name).state is AssignmentState.ATTACHED
        assert on.core.store.revision > revision
        assert (await on.detach(again.name)).state is AssignmentState.DETACHED
        assert on.driver("dual_0") == on.driver("dual_1") == "e1000e"


def test_a_clock_is_steady_until_it_is_set() -> None:
    clock = FastClock(factor=1.0)
    steady = Steadiness(clock)
    clock.ahead += 100.0
    assert steady.for_s() == pytest.approx(100.0, abs=5.0)
    clock.jumped += JUMP_S / 2  # a correction as clocks get it
    assert steady.for_s() >= 100.0
    clock.jumped -= 2 * JUMP_S
    assert steady.for_s() == 0.0
    clock.ahead += 50.0
    assert steady.for_s() == pytest.approx(50.0, abs=5.0)
