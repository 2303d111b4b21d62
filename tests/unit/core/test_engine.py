"""Attach and detach beside others: two callers, other tools, guests that refuse or stop, VMs that start."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import Assignment, AssignmentState, GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import ConditionCode, HostUseKind
from hostdevd.core.ports import HostdevSpec, HypervisorError, Target
from hostdevd.core.upkeep import KEEP_CLOSED_S
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.rig import FastClock, Machine, Shape, machine, until

ATTACHED, DETACHED, FAILED = AssignmentState.ATTACHED, AssignmentState.DETACHED, AssignmentState.FAILED


def conditions(assignment: Assignment) -> set[ConditionCode]:
    return {condition.code for condition in assignment.conditions}


def reason(result: Assignment | BaseException) -> str:
    assert isinstance(result, HostdevError), result
    return result.reason


async def state(on: Machine, name: str, *wanted: AssignmentState) -> Assignment:
    await until(on, lambda: on.assignment(name).state in wanted)
    return on.assignment(name)


# --- two callers -------------------------------------------------------------------------------------


async def test_of_two_clients_that_race_for_a_group_exactly_one_wins(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        shapes = Shape("dual_0", "alpha"), Shape("dual_1", "deaf")
        results = await asyncio.gather(*(on.attach(shape) for shape in shapes), return_exceptions=True)
        won = [result for result in results if isinstance(result, Assignment)]
        lost = [result for result in results if isinstance(result, HostdevError)]
        assert len(won) == len(lost) == 1
        assert lost[0].reason in {"OPERATION_IN_PROGRESS", "HELD_BY_OTHER_VM"}
        assert lost[0].metadata["vm_name"] == won[0].vm.name


async def test_one_request_sent_twice_at_once_is_one_attach(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        request_id = str(uuid.uuid4())
        first, second = await asyncio.gather(
            on.attach(Shape("nic_single"), request_id), on.attach(Shape("nic_single"), request_id)
        )
        assert first == second
        assert first.name == request_id
        again = await asyncio.gather(
            on.attach(Shape("switch_0"), request_id),
            on.attach(Shape("nic_single"), request_id, caller="another"),
            return_exceptions=True,
        )
        assert [reason(one) for one in again] == ["REQUEST_ID_REUSED"] * 2


async def test_a_failure_is_repeated_and_a_refusal_is_not_remembered(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        request_id = str(uuid.uuid4())
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("nic_single", "spare", scope=Scope.LIVE), request_id)
        assert refused.value.reason == "SCOPE_UNAVAILABLE"
        on.sim.controls.fail_next("attach", text="no")
        for _ in range(2):
            with pytest.raises(HostdevError) as failed:
                await on.attach(Shape("nic_single"), request_id)
            assert failed.value.reason == "ATTACH_FAILED"
        assert on.assignment(request_id).state is FAILED


async def test_an_extension_without_a_request_id_leaves_the_first_request_its_own(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        request_id = str(uuid.uuid4())
        shape = Shape("nic_single", scope=Scope.LIVE)
        await on.attach(shape, request_id)
        extended = await on.attach(Shape("nic_single", scope=Scope.CONFIG))
        assert extended.name == request_id
        assert (await on.attach(shape, request_id)).config


async def test_a_caller_that_gives_up_stops_nothing(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        request_id = str(uuid.uuid4())
        call = asyncio.create_task(on.attach(Shape("dual_0"), request_id))
        await until(on, lambda: request_id in on.core.store.assignments)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await state(on, request_id, ATTACHED)).live


async def test_a_call_that_does_not_wait_returns_the_durable_intent(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        begun = await on.attach(Shape("dual_0"), wait_s=0.0)
        assert begun.state is AssignmentState.ATTACHING
        with pytest.raises(HostdevError) as refused:
            await on.detach(begun.name)
        assert refused.value.reason == "OPERATION_IN_PROGRESS"
        await state(on, begun.name, ATTACHED)
        ending = asyncio.gather(on.detach(begun.name), on.detach(vm="alpha", device="dual_1"))
        assert [one.state for one in await ending] == [DETACHED] * 2


async def test_one_group_operation_is_one_batch_of_holders(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        history = on.core.store.holder_history
        for work in (on.attach(Shape("bridge_e1000", "legacy")), on.detach(vm="legacy", device="bridge_e1000")):
            start = on.core.store.revision
            await work
            batches = history.since(start)
            assert [len(batch.changes) for batch in batches] == [3]
            assert {change.source for change in batches[0].changes} == {ChangeSource.OPERATION}


# --- libvirt is away -----------------------------------------------------------------------------------


async def test_while_libvirt_is_away_nothing_is_begun(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single"))
        on.sim.controls.disconnect()
        for work in (on.attach(Shape("dual_0")), on.detach(held.name)):
            with pytest.raises(HostdevError) as refused:
                await work
            assert refused.value.reason == "LIBVIRT_DISCONNECTED"
            assert refused.value.retry_after_s


# --- guests --------------------------------------------------------------------------------------------


async def test_a_guest_that_refuses_keeps_the_device_until_it_lets_go(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("dual_0", "stubborn"))
        with pytest.raises(HostdevError) as refused:
            await on.detach(held.name)
        assert refused.value.reason == "DETACH_REJECTED_BY_GUEST"
        kept = on.assignment(held.name)
        assert kept.state is ATTACHED
        assert conditions(kept) == {ConditionCode.DETACH_REJECTED}
        assert (kept.live, kept.config) == (True, True)
        on.sim.controls.set_guest_behaviour("stubborn")
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (DETACHED, ())


async def test_a_guest_that_never_answers_is_asked_once_and_its_stop_ends_the_detach(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def note(name: str, _arguments: Mapping[str, object]) -> None:
        if name == "detach":
            asked.set()

    async with machine(tmp_path, before_call=note) as on:
        held = await on.attach(Shape("nic_single", "deaf"))
        waiting = await on.detach(held.name, wait_s=0.0)
        await asked.wait()
        assert waiting.state is AssignmentState.DETACHING
        again = await on.detach(vm="deaf", device="nic_single", wait_s=0.0)
        assert again.name == held.name
        on.sim.controls.destroy_domain("deaf")
        done = await state(on, held.name, DETACHED)
        assert done.conditions == ()
        assert on.driver("nic_single") == "e1000e"
        assert on.sim.hypervisor.call_counts()["detach"] == 2  # live once, configuration once


async def test_an_unanswered_request_is_sent_again_only_when_asked_again_after_30_s(tmp_path: Path) -> None:
    clock = FastClock(factor=1.0)
    async with machine(tmp_path, clock) as on:
        held = await on.attach(Shape("nic_single", "deaf", scope=Scope.LIVE))
        await on.detach(held.name, wait_s=0.0)
        counts = on.sim.hypervisor.call_counts
        await on.detach(held.name, wait_s=0.05)
        assert counts()["detach"] == 1
        on.sim.controls.set_guest_behaviour("deaf")
        clock.ahead += 31.0
        await on.detach(held.name, wait_s=0.05)
        assert counts()["detach"] == 2


async def test_a_guest_that_keeps_what_failed_is_asked_until_it_lets_go(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        before = on.state()
        on.sim.controls.fail_next("attach", nth=4, text="no", domain="stubborn")
        begun = await on.attach(Shape("dual_0", "stubborn"), wait_s=0.0)
        await state(on, begun.name, AssignmentState.ROLLING_BACK)
        assert on.held("dual_0") == {("stubborn", True, True)}
        on.sim.controls.set_guest_behaviour("stubborn")
        ended = await state(on, begun.name, FAILED)
        assert ended.failure is not None
        assert on.state() == before


async def test_a_vm_that_stops_gives_the_whole_group_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        live = await on.attach(Shape("dual_0", "brief"))
        on.sim.controls.destroy_domain("brief")
        done = await state(on, live.name, DETACHED)
        assert done.conditions == ()
        assert on.driver("dual_0") == on.driver("dual_1") == "e1000e"


async def test_a_function_that_its_operator_bound_to_vfio_stays_there(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.bind_to_vfio(on.name("dual_0"))
        held = await on.attach(Shape("dual_0"))
        assert (await on.detach(held.name)).conditions == ()
        assert (on.driver("dual_0"), on.driver("dual_1")) == ("vfio-pci", "e1000e")


async def test_what_was_given_to_vfio_between_the_scopes_is_not_taken_from_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", scope=Scope.CONFIG))
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        await on.attach(Shape("nic_single", scope=Scope.LIVE))
        await on.detach(held.name)
        assert on.driver("nic_single") == "vfio-pci"


async def test_a_mount_between_plan_and_unbind_stops_the_attach(tmp_path: Path) -> None:
    on: Machine

    async def mount(name: str, arguments: Mapping[str, object]) -> None:
        if name == "attach" and arguments["target"] is Target.CONFIG:
            on.sim.controls.add_use(on.name("dual_1"), HostUseKind.DEFAULT_ROUTE, "192.0.2.1")

    async with machine(tmp_path, before_call=mount) as on:
        with pytest.raises(HostdevError) as failed:
            await on.attach(Shape("dual_0"))
        assert failed.value.metadata["step"] == "HOST_DETACH"
        assert on.driver("dual_0") == on.driver("dual_1") == "e1000e"


async def test_a_device_that_vanishes_in_the_middle_fails_the_attach(tmp_path: Path) -> None:
    on: Machine

    async def pull(name: str, _arguments: Mapping[str, object]) -> None:
        if name == "nodedev_detach" and on.sim.world.kernel.visible(on.name("nic_single")):
            on.sim.controls.unplug_device(on.name("nic_single"))
            await asyncio.sleep(0.01)

    async with machine(tmp_path, before_call=pull) as on:
        with pytest.raises(HostdevError) as failed:
            await on.attach(Shape("nic_single"))
        assert failed.value.reason == "ATTACH_FAILED"
        ended = on.assignment(failed.value.metadata["assignment"])
        assert (ended.state, conditions(ended)) == (FAILED, {ConditionCode.DEVICE_MISSING})


# --- other tools ---------------------------------------------------------------------------------------


def by_hand(on: Machine, role: str, alias: str, *, managed: bool = True) -> str:
    address = getattr(on.node(role).facts, "address", None)
    assert isinstance(address, PciAddress)
    return build_hostdev(HostdevSpec(alias, address, managed=managed))


async def test_undoing_an_added_scope_leaves_what_another_tool_attached(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.virsh_attach("alpha", by_hand(on, "nic_single", "ua-by-hand"), Target.LIVE)
        on.sim.controls.fail_next("attach", text="no")
        with pytest.raises(HostdevError):
            await on.attach(Shape("nic_single"))
        assert on.held("nic_single") == {("alpha", True, False)}
        held = await on.attach(Shape("nic_single"))
        await until(on, lambda: on.assignment(held.name).live)
        assert {holder.assignment for holder in on.core.store.holders_of(on.name("nic_single"))} == {held.name}
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (DETACHED, ())
        assert on.driver("nic_single") == "e1000e"


async def test_nothing_is_given_back_while_another_guest_has_a_member_of_the_group(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("dual_0", "brief", policy=GroupPolicy.RESERVE_REST))
        on.sim.controls.destroy_domain("brief")
        on.sim.controls.virsh_attach("alpha", by_hand(on, "dual_1", "ua-by-hand", managed=False), Target.LIVE)
        done = await state(on, held.name, DETACHED)
        assert conditions(done) == {ConditionCode.DRIVER_NOT_RESTORED}
        assert on.driver("dual_0") == "vfio-pci"


async def test_a_member_taken_away_splits_the_group_until_it_is_detached(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("dual_0", scope=Scope.LIVE))
        on.sim.controls.virsh_detach("alpha", held.devices[1].alias, Target.LIVE)
        await until(on, lambda: conditions(on.assignment(held.name)) == {ConditionCode.GROUP_SPLIT})
        on.sim.controls.fail_next("attach", text="no")
        with pytest.raises(HostdevError) as failed:
            await on.attach(Shape("dual_0", scope=Scope.LIVE))
        assert failed.value.reason == "ATTACH_FAILED"
        assert on.held("dual_0") == {("alpha", True, False)}
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (DETACHED, ())
        assert on.driver("dual_1") == "e1000e"


async def test_an_assigned_device_that_vanishes_is_told_and_can_be_detached(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("usb_stick", "spare"))
        on.sim.controls.unplug_device(on.name("usb_stick"))
        await until(on, lambda: conditions(on.assignment(held.name)) == {ConditionCode.DEVICE_MISSING})
        on.sim.controls.replug(on.name("usb_stick"))
        await until(on, lambda: on.assignment(held.name).conditions == ())
        on.sim.controls.unplug_device(on.name("usb_stick"))
        assert (await on.detach(held.name)).state is DETACHED


async def test_an_undefined_vm_closes_its_assignment(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single", "spare"))
        on.sim.controls.undefine_domain("spare")
        await state(on, held.name, DETACHED)
        assert (await on.core.engine.forget(held.name)).name == held.name


# --- configuration kept by the service -------------------------------------------------------------------


async def test_a_twin_in_the_configuration_is_kept_by_the_service(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("usb_twin_0", "spare"))
        assert (held.live, held.config) == (False, True)
        assert conditions(held) == {ConditionCode.CONFIG_BY_SERVICE}
        assert on.held("usb_twin_0") == {("spare", False, True)}
        holder = on.core.store.holders_of(on.name("usb_twin_0"))[0]
        assert holder.assignment == held.name
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("usb_twin_0", "alpha"))
        assert refused.value.reason == "HELD_BY_OTHER_VM"
        on.sim.controls.start_domain("spare")
        await until(on, lambda: on.assignment(held.name).live)
        assert on.held("usb_twin_0") == {("spare", True, True)}
        on.sim.controls.destroy_domain("spare")
        await until(on, lambda: not on.assignment(held.name).live)
        assert on.assignment(held.name).config
        done = await on.detach(held.name)
        assert (done.state, done.conditions) == (DETACHED, ())
        assert on.held("usb_twin_0") == set()


async def test_what_was_detached_from_a_running_guest_is_not_attached_to_it_again(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("usb_twin_0"))
        assert (held.live, held.config) == (True, True)
        half = await on.detach(held.name, scope=Scope.LIVE)
        assert (half.state, half.live, half.config) == (ATTACHED, False, True)
        on.sim.controls.reboot_domain("alpha")
        await on.core.engine._upkeep.compare_named(held.name)
        assert not on.assignment(held.name).live
        on.sim.controls.destroy_domain("alpha")
        on.sim.controls.start_domain("alpha")
        await until(on, lambda: on.assignment(held.name).live)


async def test_a_vm_that_started_while_the_service_was_away_gets_its_twin(tmp_path: Path) -> None:
    async with machine(tmp_path, kept=True) as on:
        held = await on.attach(Shape("usb_twin_0", "spare"))
        await on.core.engine.close(grace_s=0.0)
        on.sim.controls.start_domain("spare")
    async with machine(tmp_path, kept=True) as on:
        await until(on, lambda: on.assignment(held.name).live)


async def test_a_vm_that_starts_without_its_twin_says_so(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("usb_twin_0", "spare"))
        on.sim.controls.fail_next("attach", text="no")
        on.sim.controls.start_domain("spare")
        both = {ConditionCode.CONFIG_BY_SERVICE, ConditionCode.CONFIG_DIVERGED}
        await until(on, lambda: conditions(on.assignment(held.name)) == both)
        assert on.held("usb_twin_0") == {("spare", False, True)}
        on.sim.controls.destroy_domain("spare")
        await until(on, lambda: conditions(on.assignment(held.name)) == {ConditionCode.CONFIG_BY_SERVICE})


# --- upkeep --------------------------------------------------------------------------------------------


async def test_old_records_are_forgotten(tmp_path: Path) -> None:
    clock = FastClock()
    async with machine(tmp_path, clock) as on:
        old = await on.attach(Shape("nic_single"), str(uuid.uuid4()))
        await on.detach(old.name)
        held = await on.attach(Shape("nic_single"), str(uuid.uuid4()))
        clock.ahead += KEEP_CLOSED_S + 60.0
        await until(on, lambda: old.name not in on.core.store.assignments)
        assert old.name not in on.core.engine._requests
        assert held.name in on.core.engine._requests
    async with machine(tmp_path, clock) as on:
        assert set(on.core.store.assignments) == {held.name}


async def test_an_end_that_could_not_be_written_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, kept=True) as on:
        journal = on.core.journal
        good, full = journal._transaction, True

        def transaction(work: Callable[..., object]) -> object:
            if full and on.core.store.assignments and "save" in work.__qualname__:
                raise OSError("the disk is full")
            return good(work)

        monkeypatch.setattr(journal, "_transaction", transaction)
        held = await on.attach(Shape("nic_single"))
        assert held.state is ATTACHED
        full = False
        await on.core.engine._operations.save_again()
    async with machine(tmp_path, kept=True) as on:
        assert on.assignment(held.name).state is ATTACHED


async def test_a_fault_of_ours_in_the_middle_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as on:
        before = on.state()

        def broken(*_: object) -> bool:
            raise ZeroDivisionError

        monkeypatch.setattr("hostdevd.core.giving.live_order", broken)
        with pytest.raises(HostdevError) as failed:
            await on.attach(Shape("dual_0"))
        assert failed.value.reason == "ATTACH_FAILED"
        assert on.state() == before


async def test_a_read_that_fails_refuses_the_call(tmp_path: Path) -> None:
    async def broken(name: str, _arguments: Mapping[str, object]) -> None:
        if name == "domains" and failing:
            raise HypervisorError(1, "cannot list")

    failing = False
    async with machine(tmp_path, before_call=broken) as on:
        failing = True
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("dual_0"))
        assert refused.value.reason == "LIBVIRT_DISCONNECTED"
