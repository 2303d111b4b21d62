"""An undoing that fails too ends in a state that is told: what is still there has a condition that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostdevd.core.assignments import AssignmentState
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import ConditionCode
from unit.core.rig import Shape, machine, until


@pytest.mark.parametrize("call", ["detach", "nodedev_reattach", "domain", "domains"])
@pytest.mark.parametrize("times", [1, 2, 8])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("failing_attach", [1, 3, 4])
async def test_a_fault_while_undoing_is_undone_or_told(
    tmp_path: Path, call: str, times: int, failing_attach: int, *, after: bool
) -> None:
    async with machine(tmp_path) as on:
        before = on.state()
        attaches = 0

        async def fail(name: str, _arguments: object) -> None:
            nonlocal attaches
            attaches += name == "attach"
            if name == "attach" and attaches == failing_attach:
                on.sim.controls.fail_next("attach", text="no")
                for _ in range(times):
                    on.sim.controls.fail_next(call, text="no again", after=after)

        on.sim.hypervisor.before_call = fail
        begun = await on.attach(Shape("dual_0"), wait_s=0.0)
        await until(on, lambda: on.assignment(begun.name).state is AssignmentState.FAILED)
        on.sim.hypervisor.before_call = None
        on.sim.controls._faults._armed.clear()
        ended = on.assignment(begun.name)
        assert ended.failure is not None
        told = {condition.code for condition in ended.conditions}
        rolled_back = dict(ended.failure.metadata)["rolled_back"]
        assert rolled_back == ("false" if told else "true")
        if not told:
            assert on.state() == before
        assert told <= {ConditionCode.DRIVER_NOT_RESTORED, ConditionCode.CONFIG_DIVERGED}
        for role in ("dual_0", "dual_1"):
            name = on.name(role)
            about = {condition.code for condition in ended.conditions if condition.device == name}
            assert (on.driver(role) == "e1000e") == (ConditionCode.DRIVER_NOT_RESTORED not in about), role
            if ("alpha", False, True) in on.held(role):
                assert ConditionCode.CONFIG_DIVERGED in told, role


async def test_what_was_told_can_be_put_right(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        before = on.state()
        on.sim.controls.fail_next("attach", nth=2, text="no")
        for _ in range(3):
            on.sim.controls.fail_next("detach", text="no again")
        with pytest.raises(HostdevError) as failed:
            await on.attach(Shape("dual_0"))
        assert failed.value.metadata["rolled_back"] == "false"
        assert on.held("dual_0") == {("alpha", False, True)}
        assert (await on.detach(vm="alpha", device="dual_0")).state is AssignmentState.DETACHED
        assert on.state() == before
