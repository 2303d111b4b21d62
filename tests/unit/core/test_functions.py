"""SetVirtualFunctions: what it refuses, who waits for whom, and what is told when it goes wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from hostdevd.audit_reader import rows
from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import PciFacts
from hostdevd.core.ports import FunctionsError, FunctionsFault
from hostdevd.sim.functions import set_count
from unit.core.rig import Machine, Shape, machine, until

PF = "nvme_sriov"
VF = "pci_0000_0b_00_1"
ADDRESS = PciAddress.parse("0000:0b:00.0")


@pytest.fixture
async def m(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path) as running:
        yield running


class Driver:
    """The device's driver: it makes functions when it may go on."""

    def __init__(self, m: Machine) -> None:
        self.asked: list[int] = []
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        m.sim.host.before_functions = self

    async def __call__(self, address: PciAddress, count: int) -> None:
        assert address == ADDRESS
        self.asked.append(count)
        self.begun.set()
        await self.may_go_on.wait()


def vfs(m: Machine) -> list[str]:
    nodes = (view.node for view in m.core.store.devices.values())
    return [node.name for node in nodes if isinstance(node.facts, PciFacts) and node.facts.phys_function == ADDRESS]


async def set_to(m: Machine, count: int, device: str = PF, wait_s: float = 30.0) -> tuple[str, ...]:
    """The addresses that the answer shows."""
    view = await m.core.admin.set_functions(m.name(device), count, asyncio.get_running_loop().time() + wait_s)
    facts = view.node.facts
    assert isinstance(facts, PciFacts)
    return tuple(map(str, facts.virt_functions))


def rows_of(directory: Path) -> dict[int, Mapping[str, Any]]:
    """The audit log, by the rows' numbers."""
    return {row["id"]: row for row in rows(directory, after=0, since=0, until=math.inf)}


async def refused(doing: Awaitable[object]) -> HostdevError:
    with pytest.raises(HostdevError) as caught:
        await doing
    return caught.value


async def test_they_come_and_go_and_the_answer_has_them(m: Machine) -> None:
    assert await set_to(m, 4) == tuple(f"0000:0b:00.{number}" for number in (1, 2, 3, 4))
    assert len(vfs(m)) == 4
    assert {m.core.store.devices[name].eligibility.available for name in vfs(m)} == {True}
    assert await set_to(m, 1) == ("0000:0b:00.1",)
    assert await set_to(m, 0) == ()
    assert vfs(m) == []
    assert m.core.store.devices[m.name(PF)].eligibility.eligible


async def test_the_lines_of_one_call_carry_one_id_and_the_number_of_its_row(m: Machine, tmp_path: Path) -> None:
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        await set_to(m, 4)
        await set_to(m, 1)
    lines = [line for line in logs if line["event"] == "virtual functions were set"]
    assert [line["operation"] for line in lines] == ["SetVirtualFunctions"] * 2
    assert lines[0]["work"] != lines[1]["work"]
    rows = rows_of(tmp_path)
    assert [rows[line["audit"]]["outcome"] for line in lines] == ["ACCEPTED"] * 2
    assert [rows[line["audit"]]["devices"][0]["name"] for line in lines] == [m.name(PF)] * 2
    assert lines[0]["audit"] != lines[1]["audit"]
    # What the callers' own turns log afterwards is not the work's.
    assert structlog.contextvars.get_contextvars() == {}


async def test_a_refusal_and_a_fault_carry_the_id_too(m: Machine, tmp_path: Path) -> None:
    async def broken(_: PciAddress, count: int) -> None:
        if count == 3:
            raise RuntimeError("a fault")
        raise FunctionsError(FunctionsFault.FAILED, "sysfs: No space left on device")

    m.sim.host.before_functions = broken
    with structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        await refused(set_to(m, 4))
        with pytest.raises(RuntimeError):
            await set_to(m, 3)
    told = {line["event"]: line for line in logs if "work" in line}
    assert {"virtual functions were not set", "work on the host's devices failed"} <= told.keys()
    rows = rows_of(tmp_path)
    assert all(rows[line["audit"]]["method"] == line["operation"] == "SetVirtualFunctions" for line in told.values())
    assert len({line["work"] for line in told.values()}) == 2


async def test_a_function_is_the_same_device_when_it_is_made_again(m: Machine) -> None:
    uid = m.core.store.devices[VF].uid
    await set_to(m, 0)
    await set_to(m, 3)
    assert m.core.store.devices[VF].uid == uid


async def test_what_is_so_already_is_left_alone_even_while_it_is_used(m: Machine) -> None:
    driver = Driver(m)
    await m.attach(Shape(VF))
    assert len(await set_to(m, 2)) == 2
    assert driver.asked == []


@pytest.mark.parametrize("scope", [Scope.LIVE, Scope.CONFIG])
async def test_a_held_one_keeps_the_number_and_the_error_names_it_and_its_vm(m: Machine, scope: Scope) -> None:
    await m.attach(Shape(VF, scope=scope))
    error = await refused(set_to(m, 0))
    assert error.reason == "VFS_IN_USE"
    assert error.metadata["functions"] == VF
    assert error.metadata["vm_name"] == "alpha"
    (reason,) = error.reasons
    assert (reason.code, reason.subject) == ("HELD_BY_OTHER_VM", "alpha")
    assert VF in reason.message
    assert len(vfs(m)) == 2
    await m.detach(vm="alpha", device=VF)
    assert await set_to(m, 0) == ()


async def test_one_of_a_shut_off_vm_counts_as_held(m: Machine) -> None:
    await m.attach(Shape(VF, vm="spare"))
    assert (await refused(set_to(m, 4))).metadata["vm_name"] == "spare"


async def test_what_the_host_uses_keeps_the_number(m: Machine) -> None:
    error = await refused(set_to(m, 0, "nic_pf"))
    assert error.reason == "VFS_IN_USE"
    assert {reason.code for reason in error.reasons} == {"HOST_IN_USE"}
    assert error.metadata["functions"] == "pci_0000_17_10_0,pci_0000_17_10_2"
    assert "vm_name" not in error.metadata
    m.sim.controls.destroy_network("vf-pool")
    assert await set_to(m, 0, "nic_pf") == ()
    assert len(await set_to(m, 7, "nic_pf")) == 7


async def test_one_that_is_bound_for_a_vm_to_come_keeps_the_number(m: Machine) -> None:
    m.sim.controls.bind_to_vfio(VF)
    error = await refused(set_to(m, 4))
    assert [(reason.code, reason.subject) for reason in error.reasons] == [("VFS_IN_USE", VF)]
    assert error.metadata["functions"] == VF


async def test_a_device_that_a_vm_has_gets_none(m: Machine) -> None:
    await set_to(m, 0)
    await m.attach(Shape(PF, vm="spare"))
    error = await refused(set_to(m, 2))
    assert (error.reason, error.metadata["vm_name"]) == ("HELD_BY_OTHER_VM", "spare")


@pytest.mark.parametrize(
    ("device", "count", "field"), [(PF, 5, "count"), ("nic_single", 1, "device"), ("usb_stick", 0, "device")]
)
async def test_what_no_repeat_would_make_right_names_the_field(m: Machine, device: str, count: int, field: str) -> None:
    error = await refused(set_to(m, count, device))
    assert (error.reason, [one.field for one in error.fields]) == ("INVALID_FIELD", [field])
    assert (count != 5) or "at most 4" in error.message


async def test_an_unknown_device(m: Machine) -> None:
    assert (await refused(set_to(m, 1, "pci_0000_ff_00_0"))).reason == "DEVICE_NOT_FOUND"


async def test_without_libvirt_nothing_is_done(m: Machine) -> None:
    driver = Driver(m)
    m.sim.controls.disconnect()
    assert (await refused(set_to(m, 0))).reason == "LIBVIRT_DISCONNECTED"
    assert driver.asked == []


# --- one at a time -----------------------------------------------------------------------------------


async def test_who_does_not_wait_is_told_that_it_goes_on_and_a_repeat_joins_it(m: Machine) -> None:
    driver = Driver(m)
    error = await refused(set_to(m, 4, wait_s=0.05))
    assert (error.reason, error.metadata["operation"]) == ("OPERATION_IN_PROGRESS", "SetVirtualFunctions")
    assert error.retry_after_s
    again = asyncio.create_task(set_to(m, 4))
    await asyncio.sleep(0.02)
    assert not again.done()
    driver.may_go_on.set()
    assert len(await again) == 4
    assert driver.asked == [4]


async def test_another_number_has_to_wait_its_turn(m: Machine) -> None:
    driver = Driver(m)
    first = asyncio.create_task(set_to(m, 4))
    await driver.begun.wait()
    assert (await refused(set_to(m, 3))).reason == "OPERATION_IN_PROGRESS"
    driver.may_go_on.set()
    await first
    assert len(await set_to(m, 3)) == 3


@pytest.mark.parametrize("device", [VF, PF])
async def test_an_attach_meanwhile_is_refused(m: Machine, device: str) -> None:
    driver = Driver(m)
    setting = asyncio.create_task(set_to(m, 0))
    await driver.begun.wait()
    error = await refused(m.attach(Shape(device)))
    assert (error.reason, error.metadata["device"]) == ("OPERATION_IN_PROGRESS", m.name(PF))
    driver.may_go_on.set()
    await setting
    assert m.driver("nvme_sriov") == "nvme"


async def test_it_is_refused_while_one_is_being_attached(tmp_path: Path) -> None:
    attaching, may_go_on = asyncio.Event(), asyncio.Event()

    async def stop_in_attach(call: str, _: object) -> None:
        if call == "attach":
            attaching.set()
            await may_go_on.wait()

    async with machine(tmp_path, before_call=stop_in_attach) as m:
        attach = asyncio.create_task(m.attach(Shape(VF)))
        await attaching.wait()
        error = await refused(set_to(m, 0))
        assert (error.reason, error.metadata["vm_name"]) == ("OPERATION_IN_PROGRESS", "alpha")
        may_go_on.set()
        assert (await attach).state is AssignmentState.ATTACHED


async def test_a_stop_of_the_service_ends_the_waiting_and_not_the_work(m: Machine) -> None:
    driver = Driver(m)
    setting = asyncio.create_task(set_to(m, 4))
    await driver.begun.wait()
    await m.core.admin.close(grace_s=0.0)
    assert (await refused(setting)).reason == "SHUTTING_DOWN"


# --- what goes wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (FunctionsFault.NO_HELPER, "FEATURE_DISABLED"),
        (FunctionsFault.NOT_ALLOWED, "BROKER_NOT_AUTHORIZED"),
        (FunctionsFault.IN_USE, "VFS_IN_USE"),
        (FunctionsFault.FAILED, "HYPERVISOR_UNSUPPORTED"),
    ],
)
async def test_the_helpers_refusals_are_told_with_its_text(m: Machine, fault: FunctionsFault, reason: str) -> None:
    async def refuse(_: PciAddress, __: int) -> None:
        raise FunctionsError(fault, "its own words")

    m.sim.host.before_functions = refuse
    error = await refused(set_to(m, 4))
    assert error.reason == reason
    assert error.metadata["why"] == "its own words"
    assert "its own words" in error.message
    assert error.metadata.get("count_now") == ("2" if fault is FunctionsFault.FAILED else None)


async def test_a_failure_half_way_tells_what_there_is_and_so_do_the_lists(m: Machine) -> None:
    async def remove_all(address: PciAddress, _: int) -> None:
        m.sim.host.before_functions = None
        set_count(m.sim.world, address, 0)
        raise FunctionsError(FunctionsFault.FAILED, "the kernel refused")

    m.sim.host.before_functions = remove_all
    error = await refused(set_to(m, 4))
    assert error.metadata["count_now"] == "0"
    await until(m, lambda: not vfs(m))
    assert len(await set_to(m, 4)) == 4


async def test_functions_of_which_libvirt_tells_no_event_are_found(m: Machine) -> None:
    m.sim.hypervisor.deaf = True
    assert len(await set_to(m, 4)) == 4


async def test_somebody_who_sets_another_number_meanwhile_is_not_waited_for(m: Machine) -> None:
    async def other(address: PciAddress, count: int) -> None:
        m.sim.host.before_functions = None
        set_count(m.sim.world, address, count)
        asyncio.get_running_loop().call_soon(set_count, m.sim.world, address, 1)

    m.sim.host.before_functions = other
    error = await refused(set_to(m, 4))
    assert error.reason == "OPERATION_IN_PROGRESS"
    assert len(await set_to(m, 1)) == 1


async def test_a_restart_finds_them_as_they_were_left(tmp_path: Path) -> None:
    async with machine(tmp_path, kept=True) as m:
        await set_to(m, 3)
    async with machine(tmp_path, kept=True) as m:
        assert len(vfs(m)) == 3
        assert await set_to(m, 0) == ()
