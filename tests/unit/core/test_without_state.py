"""Without its state store hostdevd reads and refuses to change; with it back it goes on as if it had it always."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.plan import AttachRequest
from hostdevd.core.release import DetachRequest
from unit.core.rig import FastClock, Machine, Shape, machine, until

GARBAGE = b"no database at all " * 1000


async def forget(on: Machine) -> None:
    await on.core.engine.forget("anything")


async def look(on: Machine) -> None:
    on.core.engine.require_records()


CHANGES: dict[str, Callable[[Machine], Awaitable[object]]] = {
    "attach": lambda on: on.attach(Shape("nic_single")),
    "detach": lambda on: on.detach(vm="alpha", device="dual_0"),
    "detach by name": lambda on: on.detach("anything"),
    "forget": forget,
    "list assignments": look,
}


async def refusal(on: Machine, name: str) -> HostdevError:
    with pytest.raises(HostdevError) as error:
        await CHANGES[name](on)
    return error.value


async def test_reads_go_on_and_every_change_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(GARBAGE)
    async with machine(tmp_path) as m:
        assert m.core.store.device(m.name("nic_single")) is not None
        assert m.held("nic_single") == set()
        before = m.state()
        for name in CHANGES:
            error = await refusal(m, name)
            assert error.reason == "STATE_STORE_UNAVAILABLE"
            assert "damaged" in error.message
            assert error.metadata["remedy"] in error.message
            assert error.retry_after_s
        assert m.state() == before
    assert (tmp_path / "state.sqlite").read_bytes() == GARBAGE


async def test_a_dry_run_answers_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(GARBAGE)
    async with machine(tmp_path) as m:
        request = AttachRequest("alpha", m.name("nic_single"))
        dry = await m.core.engine.attach(request, caller="test", request_id="", validate_only=True, wait_s=1.0)
        assert dry.assignment is None
        assert dry.plan.blockers == ()
        assert any("records cannot be read" in one.message for one in dry.plan.side_effects)
        with pytest.raises(HostdevError) as refused:
            await m.core.engine.detach(DetachRequest("anything"), caller="test", validate_only=True, wait_s=1.0)
        assert refused.value.reason == "STATE_STORE_UNAVAILABLE"


async def test_what_is_back_is_taken_over_without_a_restart(tmp_path: Path) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as m:
        made = await m.attach(Shape("dual_0"))
        uid = m.core.store.devices[m.name("dual_0")].uid
        epoch, revision = m.core.store.epoch, m.core.store.revision
    path = tmp_path / "state.sqlite"
    whole = path.read_bytes()
    path.write_bytes(GARBAGE)
    async with machine(tmp_path, clock, kept=True) as m:
        store = m.core.store
        other, shown = store.epoch, store.revision
        assert other != epoch
        assert store.assignments == {}
        assert m.held("dual_0") == {("alpha", True, True)}
        # It is looked at again and again, and never overwritten.
        await clock.sleep(20.0)
        assert path.read_bytes() == GARBAGE
        path.write_bytes(whole)
        await until(m, lambda: made.name in store.assignments)
        assert m.core.journal.fault is None
        assert store.epoch == epoch
        assert store.revision > max(revision, shown)
        # No position of either epoch from before it is continued: what happened meanwhile is not in the history.
        assert store.holder_history.oldest > max(revision, shown)
        assert store.device_history.oldest > max(revision, shown)
        assert store.devices[m.name("dual_0")].uid == uid
        assert [one.assignment for one in store.holders_of(m.name("dual_0"))] == [made.name]
        assert (await m.detach(made.name)).state is AssignmentState.DETACHED
        assert m.driver("dual_0") == "e1000e"
        ended = store.revision
    async with machine(tmp_path, clock, kept=True) as m:
        assert (m.core.store.epoch, m.core.store.revision > ended) == (epoch, True)
        assert m.assignment(made.name).state is AssignmentState.DETACHED


async def test_what_a_crash_left_open_is_finished_when_the_store_is_back(tmp_path: Path) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock, kept=True) as m:
        m.sim.controls.set_guest_behaviour("deaf")
        made = await m.attach(Shape("nic_single", "deaf", scope=Scope.LIVE))
        m.sim.controls.destroy_domain("stubborn")
    path = tmp_path / "state.sqlite"
    async with machine(tmp_path, clock, kept=True) as m:
        m.sim.controls.set_guest_behaviour("deaf", unplug="never")
        assert (await m.detach(made.name, wait_s=0.05)).state is AssignmentState.DETACHING
    whole = path.read_bytes()
    path.write_bytes(GARBAGE)
    async with machine(tmp_path, clock, kept=True) as m:
        assert m.core.store.assignments == {}
        path.write_bytes(whole)
        await until(m, lambda: made.name in m.core.store.assignments)
        assert m.assignment(made.name).state is AssignmentState.DETACHING
        m.sim.controls.destroy_domain("deaf")
        await until(m, lambda: m.assignment(made.name).state is AssignmentState.DETACHED)
        assert m.driver("nic_single") == "e1000e"


async def test_a_fault_of_one_write_passes_with_the_fault(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        db = m.core.journal._db
        assert db is not None
        await m.core.journal._run(lambda: db.execute("PRAGMA query_only = ON"))
        error = await refusal(m, "attach")
        assert error.reason == "STATE_STORE_UNAVAILABLE"
        assert m.core.journal.fault is not None
        # The records are known, so what is planned is whole.
        request = AttachRequest("alpha", m.name("nic_single"))
        dry = await m.core.engine.attach(request, caller="test", request_id="", validate_only=True, wait_s=1.0)
        assert not any("records cannot be read" in one.message for one in dry.plan.side_effects)
        await m.core.journal._run(lambda: db.execute("PRAGMA query_only = OFF"))
        while m.core.journal.fault is not None:
            await m.clock.sleep(1.0)
        assert (await m.attach(Shape("nic_single"))).state is AssignmentState.ATTACHED
