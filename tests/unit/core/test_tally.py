"""The counts are those of what the store holds, whatever happened to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.behind import catch_up
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import Eligibility
from hostdevd.core.policy import parse_policy
from hostdevd.core.tally import Count
from unit.core.rig import Machine, Shape, machine, until


def state(of: Eligibility) -> str:
    return "ineligible" if not of.eligible else "eligible" if of.available else "taken"


def counted(keys: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    return dict(Counter(keys))


def shown(count: Count) -> dict[tuple[str, ...], int]:
    assert min(count.read().values(), default=0) >= 0
    return {key: number for key, number in count.read().items() if number}


def check(m: Machine) -> None:
    """Count all of it again."""
    store, tally = m.core.store, m.core.store.tally
    devices, groups = store.devices.values(), store.groups.values()
    assert shown(tally.devices) == counted((view.node.type, state(view.eligibility)) for view in devices)
    assert shown(tally.device_reasons) == counted(
        (view.node.type, code) for view in devices for code in {reason.code for reason in view.eligibility.reasons}
    )
    assert shown(tally.groups) == counted((state(group.eligibility),) for group in groups)
    assert shown(tally.group_reasons) == counted(
        (code,) for group in groups for code in {reason.code for reason in group.eligibility.reasons}
    )
    assert shown(tally.holders) == counted(
        (holder.via, "hostdevd" if holder.assignment else "other") for holder in store.holders.values()
    )
    assignments = store.assignments.values()
    assert shown(tally.assignments) == counted((one.state,) for one in assignments)
    assert shown(tally.conditions) == counted(
        (condition.code, one.state) for one in assignments for condition in one.conditions
    )
    since = [one.update_time.timestamp() for one in assignments if one.state.in_flight]
    assert tally.oldest_open() == min(since, default=None)


async def test_after_everything_that_happens_to_a_host(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        check(m)
        single = await m.attach(Shape("nic_single"))
        check(m)
        configured = await m.attach(Shape("usb_stick", vm="spare", scope=Scope.CONFIG))
        check(m)
        m.sim.controls.unplug_device(m.name("usb_stick"))
        await until(m, lambda: m.name("usb_stick") not in m.core.store.devices)
        await m.core.sync.read_domains(ChangeSource.RECONCILE)
        check(m)
        m.sim.controls.undefine_domain("keeper")
        await until(m, lambda: all(one.vm.name != "keeper" for one in m.core.store.holders.values()))
        check(m)
        m.core.store.put_policy(parse_policy({"deny": [{"name": "all", "type": ["pci"]}]}))
        await catch_up(m.core.store)
        check(m)
        assert m.core.store.tally.device_reasons.read()["pci", "POLICY_DENIED"]
        await m.detach(single.name)
        await m.core.engine.forget(single.name)
        check(m)
        assert configured.name in m.core.store.assignments


async def test_an_operation_that_waits_for_its_guest_is_the_oldest(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        one = await m.attach(Shape("nic_single"))
        assert m.core.store.tally.oldest_open() is None
        m.sim.controls.set_guest_behaviour("alpha", "never")
        waiting = await m.detach(one.name, wait_s=0.01)
        assert waiting.state is AssignmentState.DETACHING
        assert m.core.store.tally.oldest_open() == waiting.update_time.timestamp()
        check(m)


async def test_a_condition_is_counted_under_the_state_of_its_assignment(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        one = await m.attach(Shape("nic_single"))
        m.sim.controls.set_guest_behaviour("alpha", "reject")
        with pytest.raises(HostdevError) as refused:
            await m.detach(one.name)
        assert refused.value.reason == "DETACH_REJECTED_BY_GUEST"
        assert m.core.store.tally.conditions.read() == {("DETACH_REJECTED", "ATTACHED"): 1}
        check(m)
