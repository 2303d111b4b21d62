"""The guest's pre-flight (rules.md, Attach 2 and Detach 4): every rule, and all that holds at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress
from hostdevd.core.assignments import AssignmentState, GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource
from hostdevd.core.kernels import lets_go_one_by_one
from hostdevd.core.letting_go import blocked_detach, detach_blockers
from hostdevd.core.model import Bar, Domain, DomainDef, GuestHardware, HolderRole, NodeDevice, PciFacts, ScsiController
from hostdevd.core.plan import AttachPlan, AttachRequest
from hostdevd.core.planner import blocked, plan_attach
from hostdevd.core.release import DetachRequest, find_holding, plan_detach
from hostdevd.core.store import Senses, Store
from unit.core.made import HARDWARE, domain, entry, lun, mdev, pci, store, usb
from unit.core.rig import Shape, machine, until

NIC, MATE = pci("01:00.0"), pci("01:00.1")
GIB = 1 << 30
Q35 = replace(HARDWARE, arch="x86_64", acpi=True, hypervisor="kvm", memory_bytes=4 * GIB)
PC = replace(Q35, machine="pc-i440fx-7.2", pcie=False, free_pcie_slots=0)
NO_ACPI = "HOTPLUG_UNSUPPORTED"


def host(
    *devices: NodeDevice,
    domains: tuple[Domain, ...],
    kernel: str = "6.1.0",
    bars: tuple[Bar, ...] = (),
    sg: bool = True,
) -> Store:
    made = store()
    senses: Senses = replace(
        made._senses, kernel_release=lambda: kernel, bars=lambda _: bars, has_generic_node=lambda _: sg
    )
    made._senses = senses
    with made.change(ChangeSource.EVENT):
        made.put_devices(devices)
        made.put_domains(domains)
    return made


def plan(device: NodeDevice, vm: Domain, *others: NodeDevice, **kwargs: Any) -> AttachPlan:
    about = {key: kwargs.pop(key) for key in ("kernel", "bars", "sg") if key in kwargs}
    request = AttachRequest(vm.vm.name, device.name, **kwargs)
    return plan_attach(host(device, *others, domains=(vm,), **about), request)


def codes(device: NodeDevice, vm: Domain, *others: NodeDevice, **kwargs: Any) -> list[str]:
    return [one.code for one in plan(device, vm, *others, **kwargs).plan.blockers]


def running(hardware: GuestHardware = Q35, **changes: Any) -> Domain:
    return domain("vm", (), (), replace(hardware, **changes))


def off(hardware: GuestHardware = Q35, **changes: Any) -> Domain:
    return domain("vm", None, (), replace(hardware, **changes))


def conventional(device: NodeDevice) -> NodeDevice:
    assert isinstance(device.facts, PciFacts)
    return replace(device, facts=replace(device.facts, express=False))


# --- hotplug -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hardware", "blocked"),
    [
        (Q35, False),
        (replace(Q35, acpi=False), True),
        (PC, False),
        (replace(PC, acpi=False), True),
        # Its root ports tell the guest themselves, as hardware does, up to version 6.0.
        (replace(Q35, acpi=False, machine="pc-q35-6.0"), False),
        (replace(Q35, acpi=False, machine="pc-q35-6.1"), True),
        (replace(Q35, acpi=False, machine="pc-q35-10.0"), True),
        (replace(Q35, acpi=False, machine="pc-q35-rhel9.2.0"), True),
        # Elsewhere ACPI is not asked.
        (replace(Q35, acpi=False, machine="virt-7.2", arch="aarch64"), False),
        (replace(Q35, acpi=False, machine="pseries-7.2", arch="ppc64le", pcie=False), False),
        # A definition that does not say what it is is not judged.
        (HARDWARE, False),
    ],
)
def test_a_running_x86_guest_takes_pci_devices_only_with_acpi(
    hardware: GuestHardware,
    blocked: bool,  # noqa: FBT001
) -> None:
    assert codes(NIC, running(hardware)) == ([NO_ACPI] if blocked else [])
    assert codes(mdev("mdev", "gone"), running(hardware)) == ([NO_ACPI] if blocked else [])


def test_what_needs_no_pci_hotplug_needs_no_acpi() -> None:
    assert codes(usb("stick", 5), running(acpi=False)) == []
    assert codes(lun("lun"), running(acpi=False)) == []
    assert codes(NIC, running(acpi=False), scope=Scope.CONFIG) == []
    assert codes(NIC, off(acpi=False)) == []


@pytest.mark.parametrize("machine", ["microvm", "isapc"])
def test_a_machine_without_pci_takes_none_live_and_none_in_its_configuration(machine: str) -> None:
    bare = GuestHardware(machine, arch="x86_64")
    assert codes(NIC, running(bare), scope=Scope.LIVE) == ["HOTPLUG_UNSUPPORTED"]
    assert codes(NIC, off(bare)) == ["GUEST_HAS_NO_SLOT"]


# --- slots -------------------------------------------------------------------------------------------


def test_a_group_needs_slots_of_each_kind_and_reserved_members_need_none() -> None:
    others = (MATE, conventional(pci("01:00.2")), conventional(pci("01:00.3")))
    assert codes(NIC, running(free_pcie_slots=2, free_pci_slots=2), *others) == []
    assert codes(NIC, running(free_pcie_slots=1, free_pci_slots=1), *others) == ["GUEST_HAS_NO_SLOT"] * 2
    reserved = codes(NIC, running(free_pcie_slots=1, free_pci_slots=0), *others, group_policy=GroupPolicy.RESERVE_REST)
    assert reserved == []


def test_a_virtual_function_takes_one_express_slot() -> None:
    vf = pci("02:10.0", group=9, pf="02:00.0")
    assert codes(vf, running(free_pcie_slots=0)) == ["GUEST_HAS_NO_SLOT"]
    assert codes(vf, running(free_pcie_slots=1)) == []


def test_a_definition_grows_ports_while_it_has_bus_numbers() -> None:
    assert codes(NIC, off(free_pcie_slots=0, spare_buses=1)) == []
    assert codes(NIC, off(free_pcie_slots=0, spare_buses=1), MATE) == ["GUEST_HAS_NO_SLOT"]
    # A bridge and the port that it stands in.
    assert codes(conventional(NIC), off(free_pci_slots=0, spare_buses=1)) == ["GUEST_HAS_NO_SLOT"]
    assert codes(conventional(NIC), off(PC, free_pci_slots=0, spare_buses=1)) == []


def test_a_running_guest_needs_a_free_usb_port() -> None:
    stick = usb("stick", 5)
    assert codes(stick, running(free_usb_ports=0)) == ["GUEST_HAS_NO_SLOT"]
    assert codes(stick, running(free_usb_ports=1)) == []
    assert codes(stick, running(free_usb_ports=None)) == []
    # A definition gets a hub.
    assert codes(stick, off(free_usb_ports=0)) == []


# --- SCSI --------------------------------------------------------------------------------------------


def test_a_lun_needs_a_generic_node_on_the_host() -> None:
    found = plan(lun("lun"), running(), sg=False)
    (reason,) = found.plan.blockers
    assert (reason.code, reason.subject) == ("HYPERVISOR_UNSUPPORTED", "lun")
    assert "modprobe sg" in reason.remedy
    assert codes(lun("lun"), off(), sg=False) == ["HYPERVISOR_UNSUPPORTED"]
    assert codes(NIC, running(), sg=False) == []


def test_a_lun_needs_a_free_unit_of_a_controller_that_both_definitions_have() -> None:
    full = (ScsiController(0, "virtio-scsi", frozenset((0, 0, unit) for unit in range(256))),)
    assert codes(lun("lun"), running(scsi_controllers=full)) == ["GUEST_HAS_NO_CONTROLLER"]
    vm = running()
    assert vm.live is not None
    elsewhere = replace(Q35, scsi_controllers=(ScsiController(1, "virtio-scsi"),))
    apart = replace(vm, config=DomainDef((), elsewhere))
    assert codes(lun("lun"), apart) == ["GUEST_HAS_NO_CONTROLLER"]
    # In its other definition it has a place, and gets the same.
    there = replace(vm, live=replace(vm.live, entries=(entry(ScsiAddress(2, 0, 0, 0), "ua-x"),)))
    assert codes(lun("lun"), replace(there, config=DomainDef((), elsewhere))) == []


# --- the hypervisor ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "blocked"), [("kvm", False), ("qemu", False), ("xen", True), ("lxc", True)])
def test_devices_go_to_guests_of_qemu_with_kvm_or_without(kind: str, blocked: bool) -> None:  # noqa: FBT001
    expected = ["HYPERVISOR_UNSUPPORTED"] if blocked else []
    assert codes(NIC, running(hypervisor=kind)) == expected
    assert codes(usb("stick", 5), off(hypervisor=kind)) == expected


def test_all_blockers_come_at_once_in_the_order_of_the_api() -> None:
    hardware = replace(PC, acpi=False, free_pci_slots=0, hypervisor="xen")
    found = plan(NIC, domain("vm", (), None, hardware), scope=Scope.LIVE_AND_CONFIG)
    assert [one.code for one in found.plan.blockers] == [
        "SCOPE_UNAVAILABLE",
        "GUEST_HAS_NO_SLOT",
        "HOTPLUG_UNSUPPORTED",
        "HYPERVISOR_UNSUPPORTED",
    ]
    assert blocked(found).reason == "SCOPE_UNAVAILABLE"
    assert len(blocked(found).reasons) == 4


# --- memory: told, never refused ---------------------------------------------------------------------


def warnings(device: NodeDevice, vm: Domain, *others: NodeDevice, **kwargs: Any) -> list[str]:
    found = plan(device, vm, *others, **kwargs).plan
    assert found.blockers == ()
    return [one.message for one in found.side_effects if "hard_limit" in one.message or "BARs" in one.message]


@pytest.mark.parametrize(
    ("limit", "words"),
    [(None, ""), (5 * GIB, ""), (5 * GIB - 1, "may fail"), (4 * GIB, "may fail"), (4 * GIB - 1, "will fail")],
)
def test_a_hard_limit_below_the_memory_and_1_gib_is_warned_of(limit: int | None, words: str) -> None:
    told = warnings(NIC, running(hard_limit_bytes=limit))
    assert len(told) == bool(words)
    assert all(words in text and "<hard_limit> to 5 GiB or more" in text for text in told)
    assert warnings(usb("stick", 5), running(hard_limit_bytes=limit)) == []


def test_with_a_virtual_iommu_every_device_pins_for_itself() -> None:
    guest = running(hard_limit_bytes=5 * GIB, iommu=True)
    assert warnings(NIC, guest) == []
    (told,) = warnings(NIC, guest, MATE)
    assert "9 GiB or more" in told


@pytest.mark.parametrize(
    ("hardware", "size", "warned"),
    [
        (Q35, 32 * GIB, False),
        (Q35, 64 * GIB, True),
        (PC, 2 * GIB, False),
        (PC, 4 * GIB, True),
        (replace(Q35, hole64_bytes=128 * GIB), 64 * GIB, False),
        (replace(Q35, hole64_bytes=1 * GIB), 2 * GIB, True),
        # What is small finds room below 4 GiB.
        (replace(Q35, hole64_bytes=0), GIB // 8, False),
        # Windows of other machines are not known.
        (replace(Q35, arch="aarch64", machine="virt-9.2"), 512 * GIB, False),
    ],
)
def test_bars_larger_than_the_guests_window_are_warned_of(
    hardware: GuestHardware,
    size: int,
    warned: bool,  # noqa: FBT001
) -> None:
    bars = (Bar(size, wide=True), Bar(GIB))
    for vm in (running(hardware), off(hardware)):
        assert len(warnings(NIC, vm, bars=bars)) == warned


def test_what_the_guest_has_already_takes_room_too_and_what_is_reserved_takes_none() -> None:
    bars = (Bar(20 * GIB, wide=True),)
    other = pci("07:00.0", group=7)
    held = domain("vm", (entry(PciAddress.parse("0000:07:00.0")),), (), Q35)
    (told,) = warnings(NIC, held, other, bars=bars)
    assert "40 GiB" in told
    assert "to 64 GiB" in told
    assert warnings(NIC, running(), MATE, bars=bars, group_policy=GroupPolicy.RESERVE_REST) == []


# --- detach ------------------------------------------------------------------------------------------


def detach(vm: Domain, *devices: NodeDevice, kernel: str = "6.1.0", scope: Scope = Scope.AUTO) -> list[str]:
    made = host(*devices, domains=(vm,), kernel=kernel)
    holding = find_holding(made, DetachRequest(vm=vm.vm.name, device=devices[0].name, scope=scope))
    found = replace(plan_detach(made, holding), blockers=tuple(detach_blockers(made, holding)))
    if found.blockers:
        error = blocked_detach(holding, found, kernel)
        assert (error.reason, error.metadata["vm_name"]) == (found.blockers[0].code, vm.vm.name)
    return [one.code for one in found.blockers]


def with_group(*, managed: bool, hardware: GuestHardware = Q35) -> Domain:
    both = tuple(entry(PciAddress.parse(f"0000:01:00.{one}"), f"ua-{one}", managed=managed) for one in range(2))
    return domain("vm", both, both, hardware)


@pytest.mark.parametrize(
    ("kernel", "refused"),
    [
        ("6.1.0-18-amd64", False),
        ("5.19.0", False),
        ("5.18.19-arch1", True),
        ("5.4.0-150-generic", True),
        # Back-ports do not show.
        ("5.14.0-284.el9.x86_64", True),
        ("", True),
        ("next", True),
    ],
)
def test_a_group_started_from_config_stays_while_the_guest_runs_on_kernels_before_5_19(
    kernel: str,
    refused: bool,  # noqa: FBT001
) -> None:
    assert lets_go_one_by_one(kernel) is not refused
    expected = ["HOTPLUG_UNSUPPORTED"] if refused else []
    assert detach(with_group(managed=True), NIC, MATE, kernel=kernel) == expected
    assert detach(with_group(managed=True), NIC, MATE, kernel=kernel, scope=Scope.CONFIG) == []


def test_what_hostdevd_plugged_itself_and_what_stands_alone_goes_on_any_kernel() -> None:
    assert detach(with_group(managed=False), NIC, MATE, kernel="5.10.0") == []
    alone = entry(PciAddress.parse("0000:01:00.0"), "ua-0")
    assert detach(domain("vm", (alone,), (), Q35), NIC, kernel="5.10.0") == []
    assert detach(domain("vm", (alone,), (), Q35), NIC, MATE, kernel="5.10.0") == []
    assert detach(domain("vm", None, (alone,), Q35), NIC, kernel="5.10.0") == []


def test_a_guest_that_cannot_hear_of_it_is_not_asked_to_let_go() -> None:
    deaf = replace(Q35, acpi=False)
    assert detach(with_group(managed=False, hardware=deaf), NIC, MATE) == ["HOTPLUG_UNSUPPORTED"]
    both = detach(with_group(managed=True, hardware=deaf), NIC, MATE, kernel="5.10.0")
    assert both == ["HOTPLUG_UNSUPPORTED"] * 2
    device = mdev("mdev", "gone")
    assert device.facts is not None
    held = entry(MdevUuid("4b20d080-1b54-4048-85b3-a6a62d165c01"))
    assert detach(domain("vm", (held,), (), deaf), device) == ["HOTPLUG_UNSUPPORTED"]
    # A reserved function never was in the guest.
    reserved = replace(entry(PciAddress.parse("0000:01:00.0")), role=HolderRole.RESERVED)
    assert detach(domain("vm", (reserved,), (), deaf), NIC) == []


async def test_a_refused_detach_touches_nothing_and_ends_with_the_vm(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        made = await m.attach(Shape("dual_0", "spare"))
        m.sim.controls.start_domain("spare")
        await until(m, lambda: m.assignment(made.name).live)
        extras = m.sim.world.extras
        m.sim.world.extras = replace(extras, host=replace(extras.host, kernel="5.15.0-91-generic"))
        before = m.state()
        request = DetachRequest(made.name)
        dry = await m.core.engine.detach(request, caller="test", validate_only=True, wait_s=1.0)
        assert [one.code for one in dry.plan.blockers] == ["HOTPLUG_UNSUPPORTED"]
        with pytest.raises(HostdevError) as refused:
            await m.detach(made.name)
        assert refused.value.reason == "HOTPLUG_UNSUPPORTED"
        assert refused.value.metadata["kernel"] == "5.15.0-91-generic"
        assert refused.value.metadata["assignment"] == made.name
        assert m.state() == before
        m.sim.controls.destroy_domain("spare")
        await until(m, lambda: not m.assignment(made.name).live)
        assert (await m.detach(made.name)).state is AssignmentState.DETACHED
        assert (m.driver("dual_0"), m.driver("dual_1")) == ("e1000e", "e1000e")
