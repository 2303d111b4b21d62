"""Plans: blockers in the order of the API, the guest's slots and controllers, scopes, and what is expected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import Domain, GuestHardware, NodeDevice, PciFacts
from hostdevd.core.plan import AttachPlan, AttachRequest, StepKind
from hostdevd.core.planner import blocked, plan_attach
from hostdevd.core.ports import IdentityFacts
from unit.core.made import HARDWARE, domain, entry, lun, mdev, pci, store, usb

NIC = pci("01:00.0")


def conventional(device: NodeDevice) -> NodeDevice:
    assert isinstance(device.facts, PciFacts)
    return replace(device, facts=replace(device.facts, express=False))


def plan(request: AttachRequest, *devices: NodeDevice, domains: tuple[Domain, ...]) -> AttachPlan:
    found = store()
    with found.change(ChangeSource.EVENT):
        found.put_devices(devices)
        found.put_domains(domains)
    return plan_attach(found, request)


def blockers(request: AttachRequest, *devices: NodeDevice, domains: tuple[Domain, ...]) -> list[str]:
    return [one.code for one in plan(request, *devices, domains=domains).plan.blockers]


def guest(**hardware: Any) -> Domain:
    return domain("vm", (), (), replace(HARDWARE, **hardware))


def test_steps_are_configuration_unbinding_giving_and_looking() -> None:
    mate = pci("01:00.1")
    found = plan(AttachRequest("vm", NIC.name, GroupPolicy.RESERVE_REST), NIC, mate, domains=(guest(),))
    kinds = [(step.kind, step.device) for step in found.plan.steps]
    assert kinds == [
        (StepKind.ATTACH_CONFIG, NIC.name),
        (StepKind.ATTACH_CONFIG, mate.name),
        (StepKind.HOST_DETACH, NIC.name),
        (StepKind.HOST_DETACH, mate.name),
        (StepKind.ATTACH_LIVE, mate.name),  # the reserved one first: the group must be viable
        (StepKind.ATTACH_LIVE, NIC.name),
        (StepKind.VERIFY, NIC.name),
        (StepKind.VERIFY, mate.name),
    ]


@pytest.mark.parametrize(
    ("device", "hardware", "code"),
    [
        (NIC, {"free_pcie_slots": 0}, ["GUEST_HAS_NO_SLOT"]),
        (NIC, {"free_pci_slots": 0}, []),
        (conventional(NIC), {"free_pci_slots": 0}, ["GUEST_HAS_NO_SLOT"]),
        (conventional(NIC), {"free_pcie_slots": 0}, []),
        (NIC, {"pcie": False, "free_pcie_slots": 0}, []),
        (mdev("mdev", "gone"), {"free_pcie_slots": 0}, ["GUEST_HAS_NO_SLOT"]),
        (usb("stick", 5), {"usb_controller": False}, ["GUEST_HAS_NO_CONTROLLER"]),
        (lun("lun"), {"scsi_controllers": ()}, ["GUEST_HAS_NO_CONTROLLER"]),
    ],
)
def test_what_a_running_guest_lacks_is_a_blocker(
    device: NodeDevice, hardware: dict[str, object], code: list[str]
) -> None:
    assert blockers(AttachRequest("vm", device.name), device, domains=(guest(**hardware),)) == code


def test_a_definition_grows_slots_but_no_controllers() -> None:
    off = domain("vm", None, (), GuestHardware("pc-q35-7.2", pcie=True))
    assert blockers(AttachRequest("vm", NIC.name), NIC, domains=(off,)) == []
    assert blockers(AttachRequest("vm", "lun"), lun("lun"), domains=(off,)) == ["GUEST_HAS_NO_CONTROLLER"]


def test_a_saved_state_is_a_blocker() -> None:
    saved = domain("vm", None, (), managed_save=True)
    assert blockers(AttachRequest("vm", NIC.name), NIC, domains=(saved,)) == ["MANAGED_SAVE_PRESENT"]


@pytest.mark.parametrize(
    ("scope", "live", "config", "expected"),
    [
        (Scope.AUTO, True, True, (True, True)),
        (Scope.AUTO, False, True, (False, True)),
        (Scope.AUTO, True, False, (True, False)),
        (Scope.LIVE, True, True, (True, False)),
        (Scope.CONFIG, True, True, (False, True)),
        (Scope.LIVE_AND_CONFIG, True, True, (True, True)),
        (Scope.LIVE, False, True, None),
        (Scope.CONFIG, True, False, None),
        (Scope.LIVE_AND_CONFIG, False, True, None),
    ],
)
def test_scopes(scope: Scope, live: bool, config: bool, expected: tuple[bool, bool] | None) -> None:  # noqa: FBT001
    vm = domain("vm", () if live else None, () if config else None)
    found = plan(AttachRequest("vm", NIC.name, scope=scope), NIC, domains=(vm,))
    if expected is None:
        assert [one.code for one in found.plan.blockers] == ["SCOPE_UNAVAILABLE"]
    else:
        assert (found.live, found.config) == expected
        assert found.plan.blockers == ()


def test_blockers_stand_in_the_order_of_the_api_and_the_first_is_the_error() -> None:
    mate = pci("01:00.1", class_code=0x070000)
    other = domain("other", None, (entry(PciAddress.parse("0000:01:00.1")),))
    vm = domain("vm", None, (), managed_save=True)
    request = AttachRequest("vm", NIC.name, GroupPolicy.SINGLE_ONLY, Scope.LIVE_AND_CONFIG)
    found = plan(request, NIC, mate, domains=(vm, other))
    assert [one.code for one in found.plan.blockers] == [
        "HELD_BY_OTHER_VM",
        "GROUP_MEMBER_INELIGIBLE",
        "GROUP_HAS_OTHER_ENDPOINTS",
        "SCOPE_UNAVAILABLE",
        "MANAGED_SAVE_PRESENT",
    ]
    error = blocked(found)
    assert (error.reason, error.metadata["vm_name"]) == ("HELD_BY_OTHER_VM", "other")
    without = plan(request, NIC, mate, domains=(vm,))
    assert blocked(without).reason == "DEVICE_NOT_ELIGIBLE"


def test_what_is_held_in_every_scope_is_attached_already() -> None:
    at = entry(PciAddress.parse("0000:01:00.0"))
    both, live = domain("vm", (at,), (at,)), domain("vm", (at,), ())
    with pytest.raises(HostdevError) as refused:
        plan(AttachRequest("vm", NIC.name), NIC, domains=(both,))
    assert refused.value.reason == "ALREADY_ATTACHED"
    found = plan(AttachRequest("vm", NIC.name), NIC, domains=(live,))
    assert (found.live, found.config) == (False, True)


def test_a_twin_gets_no_entry_in_the_configuration() -> None:
    found = plan(AttachRequest("vm", "a"), usb("a", 5), usb("b", 6), domains=(guest(),))
    assert [device.config_by_service for device in found.devices] == [True]
    found = plan(AttachRequest("vm", "a"), usb("a", 5), usb("b", 6, product=2), domains=(guest(),))
    assert [device.config_by_service for device in found.devices] == [False]


def test_a_uid_that_two_present_devices_may_be_is_ambiguous() -> None:
    found = store({"a": IdentityFacts(path="1", serial="S"), "b": IdentityFacts(path="2", serial="S")})
    found.identities.resolve(DeviceGraph([usb("gone", 3)]), ["gone"], lambda _: IdentityFacts(path="3", serial="S"))
    uid = found.identities.uid("gone")
    found.identities.forget(["gone"])
    with found.change(ChangeSource.EVENT):
        found.put_devices([usb("a", 5), usb("b", 6)])
        found.put_domains([guest()])
    with pytest.raises(HostdevError) as refused:
        plan_attach(found, AttachRequest("vm", uid))
    assert refused.value.reason == "AMBIGUOUS_DEVICE"
    assert refused.value.metadata["candidates"] == "a,b"
    assert [(one.code, one.subject) for one in refused.value.reasons] == [
        ("AMBIGUOUS_DEVICE", "a"),
        ("AMBIGUOUS_DEVICE", "b"),
    ]


def test_expected_affected_must_be_all_of_them() -> None:
    mate = pci("01:00.1")
    for expected in (frozenset[str](), frozenset({"dev-other"}), frozenset({mate.name, NIC.name})):
        with pytest.raises(HostdevError) as refused:
            plan(AttachRequest("vm", NIC.name, expected_affected=expected), NIC, mate, domains=(guest(),))
        assert refused.value.reason == "AFFECTED_SET_CHANGED"
    right = AttachRequest("vm", NIC.name, expected_affected=frozenset({mate.name}))
    assert plan(right, NIC, mate, domains=(guest(),)).plan.blockers == ()


def test_what_is_expected_and_not_lost_is_told_back_as_it_was_written() -> None:
    other = pci("02:00.0", group=7)
    request = AttachRequest("vm", NIC.name, expected_affected=frozenset({other.name}))
    with pytest.raises(HostdevError) as refused:
        plan(request, NIC, other, domains=(guest(),))
    assert refused.value.metadata == {"missing": other.name, "unexpected": "", "device": NIC.name}


@pytest.mark.parametrize(("vm", "device", "code"), [("x", NIC.name, "VM_NOT_FOUND"), ("vm", "x", "DEVICE_NOT_FOUND")])
def test_what_is_not_there_is_not_found(vm: str, device: str, code: str) -> None:
    with pytest.raises(HostdevError) as refused:
        plan(AttachRequest(vm, device), NIC, domains=(guest(),))
    assert refused.value.reason == code
