"""Whatever fails at whichever call, and wherever hostdevd dies: all or nothing, and the host as before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from hostdevd.core.assignments import Assignment, AssignmentState, GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from unit.core.injected import FAULTS, Camera, Hook, Interference
from unit.core.rig import FastClock, Machine, Shape, machine, state_of, until

RESERVE = GroupPolicy.RESERVE_REST
SHAPES = {
    "single": Shape("nic_single"),
    "single live": Shape("nic_single", scope=Scope.LIVE),
    "single config": Shape("nic_single", "spare"),
    "group of 2": Shape("dual_0"),
    "group of 2 live": Shape("twoport_0", scope=Scope.LIVE),
    "group of 2 config": Shape("dual_0", scope=Scope.CONFIG),
    "group of 3": Shape("bridge_e1000", "legacy"),
    "reserve rest": Shape("dual_0", policy=RESERVE),
    "transient": Shape("dual_0", "brief"),
    "usb": Shape("usb_stick"),
    "usb twin": Shape("usb_twin_0"),
    "scsi": Shape("lun_0"),
}

FEW = {"group of 2", "usb", "scsi"}
few_shapes = pytest.mark.parametrize("shape", [SHAPES[name] for name in sorted(FEW)], ids=sorted(FEW))

# Where the call fails on this side, every way to attach; what else may happen to it, one of each kind.
CASES = [
    pytest.param(shape, fault, id=f"{name}, {what}")
    for name, shape in SHAPES.items()
    for what, fault in FAULTS.items()
    if what == "before" or name in FEW
]
cases = pytest.mark.parametrize(("shape", "fault"), CASES)


async def tried(work: Awaitable[Assignment]) -> Assignment | HostdevError:
    """What a call came to."""
    try:
        return await work
    except HostdevError as error:
        return error


async def settled(on: Machine, name: str) -> Assignment:
    """The assignment when nobody works on it any more."""
    await until(on, lambda: not on.assignment(name).state.in_flight)
    await on.core.sync.synced.wait()
    return on.assignment(name)


@cases
async def test_a_fault_at_any_call_of_attach_is_undone(tmp_path: Path, shape: Shape, fault: Hook) -> None:
    interference = Interference()
    async with machine(tmp_path, before_call=interference) as on:
        before = on.state()
        at = 0
        while True:
            at += 1
            with interference.during(on, at, fault):
                done = await tried(on.attach(shape))
            where = interference.calls
            await on.core.sync.synced.wait()
            if isinstance(done, HostdevError) and "assignment" in done.metadata:
                assert done.reason == "ATTACH_FAILED", (where, done)
                assert done.metadata["step"], where
                assert done.metadata["rolled_back"] == "true", (where, done)
                assert (await settled(on, done.metadata["assignment"])).state is AssignmentState.FAILED, where
            elif isinstance(done, HostdevError):  # nothing was begun
                # What cannot be read of networks may be about this very NIC.
                refused = where[-1] == "networks" and "networks cannot be read" in str(done)
                assert done.reason == ("DEVICE_NOT_ELIGIBLE" if refused else "LIBVIRT_DISCONNECTED"), (where, done)
            else:
                assert (await settled(on, done.name)).state is AssignmentState.ATTACHED, where
                assert (await on.detach(done.name)).state is AssignmentState.DETACHED, where
            assert on.state() == before, where
            assert on.held(shape.device) == set(), where
            assert [one for one in on.core.store.assignments.values() if not one.state.closed] == [], where
            if interference.seen < at:
                break


@cases
async def test_a_fault_at_any_call_of_detach_ends_in_a_state_that_is_told(
    tmp_path: Path, shape: Shape, fault: Hook
) -> None:
    interference = Interference()
    async with machine(tmp_path, before_call=interference) as on:
        before = on.state()
        at = 0
        while True:
            at += 1
            assignment = await on.attach(shape)
            held = on.held(shape.device)
            with interference.during(on, at, fault):
                done = await tried(on.detach(assignment.name))
            where = interference.calls
            if isinstance(done, HostdevError):
                assert done.reason in {"DETACH_REJECTED_BY_GUEST", "LIBVIRT_DISCONNECTED"}, (where, done)
            await on.core.sync.synced.wait()
            now = await settled(on, assignment.name)
            if now.state is AssignmentState.ATTACHED:
                assert on.held(shape.device) == held or now.conditions, where
                now = await on.detach(assignment.name)
            assert now.state is AssignmentState.DETACHED, where
            assert on.held(shape.device) == set(), where
            assert now.conditions == (), where
            assert on.state() == before, where
            if interference.seen < at:
                break


# --- the disk refuses ----------------------------------------------------------------------------------


@few_shapes
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
async def test_a_journal_that_fails_at_any_write_of_attach_leaves_nothing_half_done(
    tmp_path: Path, shape: Shape, monkeypatch: pytest.MonkeyPatch, *, lasting: bool
) -> None:
    async with machine(tmp_path) as on:
        before = on.state()
        journal = on.core.journal
        good = journal._transaction
        writes = 0
        fail_at = 0

        def transaction(work: Callable[..., object]) -> object:
            nonlocal writes
            writes += 1
            if writes == fail_at or (lasting and 0 < fail_at < writes):
                raise OSError("the disk is full")
            return good(work)

        monkeypatch.setattr(journal, "_transaction", transaction)
        while True:
            fail_at += 1
            writes = 0
            done = await tried(on.attach(shape))
            seen, at, fail_at = writes, fail_at, 0
            if isinstance(done, HostdevError):
                assert done.reason in {"STATE_STORE_UNAVAILABLE", "ATTACH_FAILED"}, done
                assert on.held(shape.device) == set()
            else:
                assert (await on.detach(done.name)).state is AssignmentState.DETACHED
            assert on.state() == before
            fail_at = at
            if seen < at:
                break
        assert [one for one in on.core.store.assignments.values() if not one.state.closed] == []


# --- hostdevd dies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "group of 2 config", "group of 3", "reserve rest", "usb twin", "scsi"])
async def test_a_crash_at_any_call_is_all_or_nothing_after_the_restart(tmp_path: Path, name: str) -> None:
    shape = SHAPES[name]
    clock = FastClock()
    camera = Camera(tmp_path / "state", tmp_path / "pictures")
    camera.directory.mkdir()
    async with machine(camera.directory, clock, camera, kept=True) as on:
        before = on.state()
        camera.on = True
        assignment = await on.attach(shape)
        camera.take()
        attached = on.state()
        await on.detach(assignment.name)
        camera.take()
        camera.on = False
        assert on.state() == before
    clock.ahead += 60.0  # an unplug request of which nobody knows whether it was sent is sent again after 30 s
    assert len(camera.pictures) > 5
    for picture in camera.pictures:
        async with machine(picture, clock, kept=True) as on:
            if assignment.name in on.core.store.assignments:
                now = await settled(on, assignment.name)
                assert now.conditions == () or shape.device == "usb_twin_0", picture
            else:
                now = None
            state = state_of(on.sim.world)
            if now is not None and now.state is AssignmentState.ATTACHED:
                assert state == attached, picture
                assert (await on.detach(now.name)).state is AssignmentState.DETACHED, picture
                state = on.state()
            else:
                assert now is None or now.state in {AssignmentState.FAILED, AssignmentState.DETACHED}, picture
            assert state == before, picture
            assert on.held(shape.device) == set(), picture


async def test_a_crash_while_a_scope_is_added_leaves_the_scope_that_was_there(tmp_path: Path) -> None:
    request_id = "b0a7c6a8-7f1b-4bb5-9b62-0c0a3d8a9a11"
    clock = FastClock()
    camera = Camera(tmp_path / "state", tmp_path / "pictures")
    camera.directory.mkdir()
    async with machine(camera.directory, clock, camera, kept=True) as on:
        before = on.state()
        first = await on.attach(Shape("dual_0", scope=Scope.CONFIG))
        configured = on.state()
        camera.on = True
        await on.attach(Shape("dual_0", scope=Scope.LIVE), request_id=request_id)
        camera.take()
        both = on.state()
    clock.ahead += 60.0
    ends = set()
    for picture in camera.pictures:
        async with machine(picture, clock, kept=True) as on:
            now = await settled(on, first.name)
            assert now.state is AssignmentState.ATTACHED, picture
            assert now.config, picture
            assert on.state() == (both if now.live else configured), picture
            ends.add(now.live)
            again = await tried(on.attach(Shape("dual_0", scope=Scope.LIVE), request_id=request_id))
            if isinstance(again, HostdevError):
                assert again.reason == "ATTACH_FAILED", picture
                assert not now.live, picture
            else:
                assert again.live, picture
            await on.detach(first.name)
            assert on.state() == before, picture
    assert ends == {False, True}


async def test_a_host_that_rebooted_in_the_middle_gives_nothing_back_twice(tmp_path: Path) -> None:
    clock = FastClock()
    camera = Camera(tmp_path / "state", tmp_path / "pictures")
    camera.directory.mkdir()
    async with machine(camera.directory, clock, camera, kept=True) as on:
        camera.on = True
        assignment = await on.attach(Shape("dual_0", scope=Scope.LIVE))
    for picture in camera.pictures:
        async with machine(picture, clock, kept=True) as on:
            pass
        async with machine(picture, clock, kept=True) as on:
            on.sim.controls.reboot_host()
            await on.core.sync.synced.wait()
            if assignment.name in on.core.store.assignments:
                await until(on, lambda: on.assignment(assignment.name).state.closed)
            assert on.driver("dual_0") == on.driver("dual_1") == "e1000e"


async def test_close_without_grace_is_a_crash(tmp_path: Path) -> None:
    started = asyncio.Event()
    forever = asyncio.Event()

    async def hang(name: str, _arguments: Mapping[str, object]) -> None:
        if name == "attach":
            started.set()
            await forever.wait()

    async with machine(tmp_path, before_call=hang, kept=True) as on:
        before = on.state()
        task = asyncio.create_task(on.attach(Shape("dual_0")))
        await started.wait()
        await on.core.engine.close(grace_s=0.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with machine(tmp_path, kept=True) as on:
        name = next(iter(on.core.store.assignments))
        assert (await settled(on, name)).state is AssignmentState.FAILED
        assert on.state() == before
