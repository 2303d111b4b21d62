"""Attach and detach: the whole group, both definitions, nothing left behind."""

from __future__ import annotations

import uuid

import pytest
from api import ATTACHED, DETACHED, Api, codes, eventually, refused
from google.protobuf.duration_pb2 import Duration
from hosts import Host, managed_pci

from hostdev.v1 import assignment_pb2, device_pb2, holder_pb2, service_pb2
from hostdevd.core.ports import Target

GROUPS = {
    "single": ("alpha", ("nic_single",)),
    "functions": ("alpha", ("dual_0", "dual_1")),
    "ports": ("alpha", ("twoport_0", "twoport_1")),
    "bridge": ("legacy", ("bridge_e1000", "bridge_rtl8139", "bridge_ac97")),
}
LIVE = assignment_pb2.SCOPE_LIVE
CONFIG = assignment_pb2.SCOPE_CONFIG


@pytest.mark.parametrize("shape", GROUPS)
def test_a_group_goes_to_a_running_guest_and_comes_back(host: Host, shape: str) -> None:
    api = host.api
    vm, members = GROUPS[shape]
    names = [host.roles[role] for role in members]
    drivers = {name: api.driver(name) for name in names}
    seen_before = host.guest_pci_ids(vm)

    assignment = api.attach(vm, names[0])
    assert assignment.state == ATTACHED
    assert (assignment.live, assignment.config) == (True, True)
    assert {device.name: device.original_driver for device in assignment.devices} == drivers
    assert {api.driver(name) for name in names} == {"vfio-pci"}
    holders = {holder.device: holder for holder in api.holders(vms=[vm], devices=names)}
    assert set(holders) == set(names)
    for holder in holders.values():
        assert (holder.live, holder.config) == (True, True)
        assert holder.assignment == assignment.name
        assert holder.guest_address
    assert not api.device(names[0]).eligibility.available
    if seen_before is not None:
        expected = sorted(seen_before + [api.device(name).pci.id for name in names])
        eventually(lambda: sorted(host.guest_pci_ids(vm) or []), lambda seen: seen == expected)

    done = api.detach(vm, names[0])
    assert done.state == DETACHED
    assert list(done.conditions) == []
    assert {name: api.driver(name) for name in names} == drivers
    assert api.holders(vms=[vm], devices=names) == []


def test_reserve_rest_keeps_the_others_from_host_and_guest(host: Host) -> None:
    api = host.api
    shown, reserved = host.roles["dual_0"], host.roles["dual_1"]
    assignment = api.attach("alpha", shown, group_policy=assignment_pb2.GROUP_POLICY_RESERVE_REST, scope=LIVE)
    roles = {device.name: device.role for device in assignment.devices}
    assert roles == {shown: holder_pb2.HOLDER_ROLE_VISIBLE, reserved: holder_pb2.HOLDER_ROLE_RESERVED}
    assert {api.driver(name) for name in roles} == {"vfio-pci"}
    assert api.detach(assignment=assignment.name).state == DETACHED


def test_single_only_refuses_a_group_with_others(api: Api, roles: dict[str, str]) -> None:
    with refused("GROUP_HAS_OTHER_ENDPOINTS"):
        api.attach("alpha", roles["dual_0"], group_policy=assignment_pb2.GROUP_POLICY_SINGLE_ONLY)


@pytest.mark.parametrize("role", ["usb_stick", "usb_twin_0", "usb_tablet"])
def test_a_usb_device_goes_to_a_guest_and_back(api: Api, roles: dict[str, str], role: str) -> None:
    assignment = api.attach("alpha", roles[role], scope=LIVE)
    assert assignment.state == ATTACHED
    holder = api.holders(devices=[roles[role]])[0]
    assert (holder.live, holder.config) == (True, False)
    assert api.detach("alpha", roles[role]).state == DETACHED


@pytest.mark.parametrize(("role", "by_service"), [("usb_unique", False), ("usb_twin_1", True)])
def test_a_usb_device_goes_to_both_definitions(api: Api, roles: dict[str, str], role: str, *, by_service: bool) -> None:
    assignment = api.attach("alpha", roles[role])
    assert assignment.config
    # No entry by vendor:product can tell twins apart: the service keeps that part itself.
    assert [condition.code for condition in assignment.conditions] == (
        [device_pb2.CONDITION_CODE_CONFIG_BY_SERVICE] if by_service else []
    )
    assert [(h.live, h.config) for h in api.holders(devices=[roles[role]])] == [(True, True)]
    with refused("HELD_BY_OTHER_VM"):
        api.attach("spare", roles[role])
    assert api.detach("alpha", roles[role]).state == DETACHED


@pytest.mark.parametrize("vm", ["alpha", "legacy"])
def test_a_lun_goes_to_a_guest_and_back(api: Api, roles: dict[str, str], vm: str) -> None:
    assignment = api.attach(vm, roles["lun_0"])
    assert (assignment.live, assignment.config) == (True, True)
    second = api.attach(vm, roles["lun_1"])
    held = api.holders(vms=[vm], devices=[roles["lun_0"], roles["lun_1"]])
    assert len({holder.guest_address for holder in held}) == len(held) == 2
    assert api.detach(assignment=second.name).state == DETACHED
    assert api.detach(vm, roles["lun_0"]).state == DETACHED


def test_a_shut_off_vm_gets_only_configuration(api: Api, roles: dict[str, str]) -> None:
    driver = api.driver(roles["nic_single"])
    assignment = api.attach("spare", roles["nic_single"])
    assert (assignment.live, assignment.config) == (False, True)
    assert api.driver(roles["nic_single"]) == driver
    with refused("SCOPE_UNAVAILABLE"):
        api.attach("spare", roles["switch_0"], scope=LIVE)
    assert api.detach(assignment=assignment.name).state == DETACHED


def test_a_transient_vm_gets_only_the_live_device(api: Api, roles: dict[str, str]) -> None:
    assignment = api.attach("brief", roles["nic_single"])
    assert (assignment.live, assignment.config) == (True, False)
    with refused("SCOPE_UNAVAILABLE"):
        api.attach("brief", roles["switch_0"], scope=CONFIG)
    assert api.detach(assignment=assignment.name).state == DETACHED


def test_a_device_in_a_shut_off_vms_configuration_is_held(api: Api, roles: dict[str, str]) -> None:
    assignment = api.attach("spare", roles["dual_0"])
    for role in ("dual_0", "dual_1"):
        with refused("HELD_BY_OTHER_VM") as caught:
            api.attach("alpha", roles[role])
        assert caught[0].info.metadata["vm_name"] == "spare"
        assert caught[0].info.metadata["vm_uuid"] == assignment.vm.uuid
        assert not api.device(roles[role]).eligibility.available
    api.detach(assignment=assignment.name)


def test_the_other_scope_extends_an_assignment(api: Api, roles: dict[str, str]) -> None:
    name = roles["nic_single"]
    assignment = api.attach("alpha", name, scope=LIVE)
    with refused("ALREADY_ATTACHED"):
        api.attach("alpha", name, scope=LIVE)
    extended = api.attach("alpha", name, scope=CONFIG)
    assert extended.name == assignment.name
    assert (extended.live, extended.config) == (True, True)
    half = api.detach("alpha", name, scope=LIVE)
    assert half.state == ATTACHED
    assert (half.live, half.config) == (False, True)
    assert api.driver(name) == assignment.devices[0].original_driver
    assert api.detach("alpha", name).state == DETACHED


def test_a_dry_run_plans_and_changes_nothing(api: Api, roles: dict[str, str]) -> None:
    before = api.driver(roles["dual_0"])
    plan = api.plan("alpha", roles["dual_0"])
    kinds = [assignment_pb2.PlanStepKind.Name(step.kind).removeprefix("PLAN_STEP_KIND_") for step in plan.steps]
    assert kinds == ["ATTACH_CONFIG"] * 2 + ["HOST_DETACH"] * 2 + ["ATTACH_LIVE"] * 2 + ["VERIFY"] * 2
    assert roles["dual_1"] in {item.name for item in plan.affected}
    assert any("disappears" in effect.message for effect in plan.side_effects)
    assert list(plan.blockers) == []
    assert api.driver(roles["dual_0"]) == before
    assert api.holders(devices=[roles["dual_0"]]) == []


def test_a_dry_run_tells_every_blocker_and_a_real_call_gives_the_same(api: Api, roles: dict[str, str]) -> None:
    blockers = codes(api.plan("alpha", roles["ich9_sata"]).blockers)
    assert "GROUP_MEMBER_INELIGIBLE" in blockers
    with refused("DEVICE_NOT_ELIGIBLE") as caught:
        api.attach("alpha", roles["ich9_sata"])
    assert codes(caught[0].reasons) == blockers


def test_expected_affected_must_be_what_is_affected(api: Api, roles: dict[str, str]) -> None:
    wrong = service_pb2.ExpectedAffected(uids=[api.device(roles["dual_1"]).uid])
    with refused("AFFECTED_SET_CHANGED"):
        api.attach("alpha", roles["dual_0"], expected_affected=wrong)
    right = service_pb2.ExpectedAffected(uids=[item.uid for item in api.plan("alpha", roles["dual_0"]).affected])
    assert api.plan("alpha", roles["dual_0"], expected_affected=right).steps


def test_a_request_id_makes_attach_repeatable(api: Api, roles: dict[str, str]) -> None:
    request_id = str(uuid.uuid4())
    first = api.attach("alpha", roles["nic_single"], request_id=request_id)
    assert first.name == request_id
    assert api.attach("alpha", roles["nic_single"], request_id=request_id).name == request_id
    with refused("REQUEST_ID_REUSED"):
        api.attach("alpha", roles["switch_0"], request_id=request_id)
    api.detach(assignment=request_id)
    assert api.attach("alpha", roles["nic_single"], request_id=request_id).state == DETACHED
    assert api.detach(assignment=request_id).state == DETACHED


def test_a_call_that_does_not_wait_is_finished_without_its_caller(api: Api, roles: dict[str, str]) -> None:
    request = service_pb2.AttachRequest(vm="alpha", device=roles["nic_single"], wait=Duration())
    started = api.stub.Attach(request).assignment
    assert started.state in {assignment_pb2.ASSIGNMENT_STATE_ATTACHING, ATTACHED}
    get = service_pb2.GetAssignmentRequest(name=started.name)
    eventually(lambda: api.stub.GetAssignment(get).assignment, lambda now: now.state == ATTACHED)
    with refused("ASSIGNMENT_IN_USE"):
        api.stub.ForgetAssignment(service_pb2.ForgetAssignmentRequest(name=started.name))
    api.detach(assignment=started.name)
    api.stub.ForgetAssignment(service_pb2.ForgetAssignmentRequest(name=started.name))
    with refused("ASSIGNMENT_NOT_FOUND"):
        api.stub.GetAssignment(get)


@pytest.mark.parametrize(
    ("arguments", "reason", "field"),
    [
        ({"vm": "no-such-vm"}, "VM_NOT_FOUND", None),
        ({"device": "pci_0000_ff_1f_7"}, "DEVICE_NOT_FOUND", None),
        ({"vm": ""}, "INVALID_FIELD", "vm"),
        ({"device": "x" * 300}, "INVALID_FIELD", "device"),
        ({"device": "a\nb"}, "INVALID_FIELD", "device"),
        ({"request_id": "not-a-uuid"}, "INVALID_FIELD", "request_id"),
        ({"scope": 77}, "INVALID_FIELD", "scope"),
        ({"group_policy": 77}, "INVALID_FIELD", "group_policy"),
    ],
)
def test_a_bad_attach_is_refused_with_its_reason(
    api: Api, roles: dict[str, str], arguments: dict[str, object], reason: str, field: str | None
) -> None:
    given = {"vm": "alpha", "device": roles["nic_single"]} | arguments
    with refused(reason) as caught:
        api.attach(str(given.pop("vm")), str(given.pop("device")), **given)
    assert caught[0].fields == ([field] if field else [])


def test_detaching_what_is_not_held_is_refused(api: Api, roles: dict[str, str]) -> None:
    with refused("NOT_HELD_BY_VM"):
        api.detach("alpha", roles["nic_single"])
    with refused("ASSIGNMENT_NOT_FOUND"):
        api.detach(assignment=str(uuid.uuid4()))
    with refused("INVALID_FIELD"):
        api.detach()


def test_what_virsh_attached_is_held_and_can_be_detached(host: Host) -> None:
    api, name = host.api, host.roles["nic_single"]
    driver = api.driver(name)
    spec = managed_pci(api, name, "ua-by-hand")
    host.virsh_attach("alpha", spec, Target.LIVE)
    held = eventually(lambda: api.holders(devices=[name]), bool)
    assert [(holder.vm.name, holder.live, holder.config) for holder in held] == [("alpha", True, False)]
    assert not held[0].HasField("assignment")
    with refused("HELD_BY_OTHER_VM"):
        api.attach("legacy", name)
    done = api.detach("alpha", name)
    assert done.state == DETACHED
    assert api.driver(name) == driver


def test_what_virsh_put_into_a_shut_off_vm_is_held(host: Host) -> None:
    api, name = host.api, host.roles["switch_0"]
    host.virsh_attach("spare", managed_pci(api, name, "ua-by-hand"), Target.CONFIG)
    with refused("HELD_BY_OTHER_VM") as caught:
        api.attach("alpha", name)
    assert caught[0].info.metadata["vm_name"] == "spare"
    assert api.detach("spare", name).state == DETACHED


def test_what_virsh_takes_away_closes_the_assignment(host: Host) -> None:
    api, name = host.api, host.roles["nic_single"]
    driver = api.driver(name)
    assignment = api.attach("alpha", name, scope=LIVE)
    alias = api.holders(devices=[name])[0].alias
    host.virsh_detach("alpha", alias, Target.LIVE)
    get = service_pb2.GetAssignmentRequest(name=assignment.name)
    eventually(lambda: api.stub.GetAssignment(get).assignment.state, lambda state: state == DETACHED)
    eventually(lambda: api.driver(name), lambda now: now == driver)


def test_a_configured_group_starts_with_its_vm_and_comes_back_when_it_stops(host: Host) -> None:
    api = host.api
    names = [host.roles["dual_0"], host.roles["dual_1"]]
    drivers = [api.driver(name) for name in names]
    assignment = api.attach("spare", names[0])
    host.virsh_start("spare")
    get = service_pb2.GetAssignmentRequest(name=assignment.name)
    eventually(lambda: api.stub.GetAssignment(get).assignment.live, bool)
    assert {api.driver(name) for name in names} == {"vfio-pci"}
    host.virsh_destroy("spare")
    eventually(lambda: api.stub.GetAssignment(get).assignment.live, lambda live: not live)
    eventually(lambda: [api.driver(name) for name in names], lambda now: now == drivers)
    assert api.detach(assignment=assignment.name).state == DETACHED
