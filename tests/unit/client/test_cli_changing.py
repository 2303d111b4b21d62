"""plan, attach, detach and the like, without a terminal, against the fake server."""

from __future__ import annotations

import json
import shlex

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2

from hostdev.v1 import assignment_pb2, device_pb2, service_pb2
from unit.client import fake_host
from unit.client.fake_host import ASSIGNMENT, GPU, NIC, SOUND
from unit.client.fake_server import HELD, FakeHostdevd, Refused, error_info
from unit.client.outcome import Outcome, Run

REQUEST = "99999999-2222-4333-8444-555555555555"


def attaches(server: FakeHostdevd) -> list[service_pb2.AttachRequest]:
    return server.asked(service_pb2.AttachRequest)


def test_plan_shows_steps_losses_and_side_effects(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("plan", "web", GPU, "--group-policy", "reserve-rest", "--scope", "live-and-config")
    assert shown.status == 0
    for text in ("take it from its host driver", f"{SOUND}  pci  taken with its group", "The memory of web is pinned."):
        assert text in shown.out
    (request,) = attaches(server)
    assert request.validate_only
    assert request.group_policy == assignment_pb2.GROUP_POLICY_RESERVE_REST
    assert request.scope == assignment_pb2.SCOPE_LIVE_AND_CONFIG


def test_plan_with_blockers_shows_them_and_is_1(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.plan.blockers.append(HELD)
    shown = hostdevctl("plan", "web", GPU)
    assert shown.status == 1
    assert "HELD_BY_OTHER_VM  db holds it" in shown.out
    assert "→ Detach it from db first." in shown.out
    assert shown.err == f"hostdevctl: HELD_BY_OTHER_VM: web would not get {GPU}\n"
    assert json.loads(hostdevctl("plan", "web", GPU, "-o", "json").out) == MessageToDict(server.plan)


def test_attach_that_takes_more_needs_yes_without_a_terminal(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("attach", "web", GPU)
    assert (shown.status, shown.out) == (1, "")
    assert f"also takes {SOUND}" in shown.err
    assert "--yes" in shown.err
    assert all(request.validate_only for request in attaches(server))


def test_attach_does_what_the_dry_run_showed(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("attach", "web", GPU, "--yes", "--wait", "5")
    assert shown.status == 0
    assert shown.out.startswith("ATTACHED  web")
    dry, real = attaches(server)
    assert (dry.validate_only, real.validate_only) == (True, False)
    assert list(real.expected_affected.uids) == [fake_host.uid(SOUND)]
    assert real.wait.seconds == 5
    assert (dry.vm, dry.device, dry.scope) == (real.vm, real.device, real.scope)


def test_with_an_id_of_the_callers_the_line_alone_says_what_is_asked(server: FakeHostdevd, hostdevctl: Run) -> None:
    line = ("attach", "web", GPU, "--yes", "--request-id", REQUEST)
    assert hostdevctl(*line).status == 0
    assert hostdevctl(*line, "--expect", "").status == 0
    _, without, _, with_none = attaches(server)
    assert without.request_id == REQUEST
    assert not without.HasField("expected_affected")
    assert with_none.HasField("expected_affected")
    assert not with_none.expected_affected.uids


def test_attach_of_a_device_alone_does_not_ask(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.plan.ClearField("affected")
    assert hostdevctl("attach", "web", GPU).status == 0
    assert attaches(server)[1].HasField("expected_affected")


def test_attach_as_json_is_the_response(hostdevctl: Run) -> None:
    answer = json.loads(hostdevctl("attach", "web", GPU, "--yes", "-o", "json").out)
    assert answer["assignment"]["state"] == "ASSIGNMENT_STATE_ATTACHED"
    assert hostdevctl("attach", "web", GPU, "-y", "--request-id", REQUEST, "-o", "name").out == REQUEST + "\n"


def test_attach_stops_at_blockers_with_their_remedies(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.plan.blockers.append(HELD)
    expected = "hostdevctl: HELD_BY_OTHER_VM: db holds it\n    → Detach it from db first.\n"
    assert hostdevctl("attach", "web", GPU, "--yes") == Outcome(1, "", expected)
    assert len(attaches(server)) == 1


def test_errors_tell_reasons_remedies_and_fields(server: FakeHostdevd, hostdevctl: Run) -> None:
    bad = error_details_pb2.BadRequest.FieldViolation(field="vm", description="is empty")
    server.refusals["Attach"] = Refused(
        grpc.StatusCode.FAILED_PRECONDITION,
        "cannot be assigned",
        error_info("DEVICE_NOT_ELIGIBLE"),
        fake_host.ROOT_DISK,
        error_details_pb2.BadRequest(field_violations=[bad]),
    )
    assert hostdevctl("attach", "web", GPU).err.splitlines() == [
        "hostdevctl: DEVICE_NOT_ELIGIBLE: cannot be assigned",
        f"  HOST_IN_USE: {fake_host.DISK} is mounted at /",
        "    → Unmount it first.",
        "  vm: is empty",
    ]


def test_an_attach_that_is_not_there_in_time_is_3_and_says_how_to_go_on(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.attached = assignment_pb2.ASSIGNMENT_STATE_ATTACHING
    late = hostdevctl("attach", "web", GPU, "--yes", "--request-id", REQUEST)
    assert late.status == 3
    assert f"hostdevctl attach web {GPU} --request-id {REQUEST}" in late.err
    assert hostdevctl("attach", "web", GPU, "--yes", "--wait", "0").status == 0


def test_an_attach_that_is_rolled_back_is_1(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.attached = assignment_pb2.ASSIGNMENT_STATE_ROLLING_BACK
    shown = hostdevctl("attach", "web", GPU, "--yes")
    assert shown.status == 1
    assert "still being undone" in shown.err


def test_a_repeat_is_the_same_attach_again_without_a_dry_run_or_a_question(
    server: FakeHostdevd, hostdevctl: Run
) -> None:
    shown = hostdevctl(
        "attach", "web", GPU, "--request-id", ASSIGNMENT, "--wait", "7", "--scope", "live", "--expect", "a,b"
    )
    assert shown.status == 0
    assert shown.out.startswith("ATTACHED")
    (real,) = attaches(server)
    assert not real.validate_only
    assert (real.vm, real.device, real.request_id, real.wait.seconds) == ("web", GPU, ASSIGNMENT, 7)
    assert real.scope == assignment_pb2.SCOPE_LIVE
    assert list(real.expected_affected.uids) == ["a", "b"]


def test_a_repeat_tells_what_the_server_says_of_it(server: FakeHostdevd, hostdevctl: Run) -> None:
    reused = Refused(grpc.StatusCode.INVALID_ARGUMENT, "it is another request", error_info("REQUEST_ID_REUSED"))
    server.refusals["Attach"] = reused
    shown = hostdevctl("attach", "web", GPU, "--request-id", ASSIGNMENT)
    assert (shown.status, shown.out, shown.err) == (1, "", "hostdevctl: REQUEST_ID_REUSED: it is another request\n")


@pytest.mark.parametrize("state", ["DETACHED", "DETACHING"])
def test_a_repeat_of_what_was_taken_back_since_is_1(server: FakeHostdevd, hostdevctl: Run, state: str) -> None:
    server.attached = assignment_pb2.AssignmentState.Value(f"ASSIGNMENT_STATE_{state}")
    shown = hostdevctl("attach", "web", GPU, "--request-id", ASSIGNMENT)
    assert (shown.status, shown.err) == (
        1,
        f"hostdevctl: web does not have it any more: {ASSIGNMENT} is {state}\n",
    )


def test_the_line_to_go_on_with_is_the_same_request(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.attached = assignment_pb2.ASSIGNMENT_STATE_ATTACHING
    late = hostdevctl("attach", "web", GPU, "--yes", "--scope", "live", "--group-policy", "reserve-rest")
    first = attaches(server)[1]
    server.assignments = [fake_host.assignment(assignment_pb2.ASSIGNMENT_STATE_ATTACHING, first.request_id)]
    hostdevctl(*shlex.split(late.err.partition("To wait again: hostdevctl ")[2]))
    assert attaches(server)[2:] == [first]


def test_detach_by_vm_and_device_or_by_assignment(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("detach", "web", GPU, "--scope", "live", "--wait", "3")
    assert shown.status == 0
    assert shown.out.startswith("DETACHED")
    assert "nouveau" in shown.out
    assert hostdevctl("detach", ASSIGNMENT, "-o", "name").out == ASSIGNMENT + "\n"
    by_vm, by_name = server.asked(service_pb2.DetachRequest)
    assert (by_vm.vm, by_vm.device, by_vm.assignment) == ("web", GPU, "")
    assert (by_vm.scope, by_vm.wait.seconds) == (assignment_pb2.SCOPE_LIVE, 3)
    assert (by_name.vm, by_name.device, by_name.assignment) == ("", "", ASSIGNMENT)


def test_a_guest_that_has_not_let_go_is_told_and_no_failure(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.detached = assignment_pb2.ASSIGNMENT_STATE_DETACHING
    shown = hostdevctl("detach", "web", GPU)
    assert shown.status == 0
    assert shown.out.startswith("DETACHING  web")
    assert shown.err == (
        f"hostdevctl: web has not let go yet; the server goes on. To wait again: hostdevctl detach web {GPU}\n"
    )


def test_detach_of_a_failed_assignment_is_done(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.detached = assignment_pb2.ASSIGNMENT_STATE_FAILED
    assert hostdevctl("detach", ASSIGNMENT).status == 0


def test_detach_shows_a_driver_that_did_not_come_back(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.conditions = [
        assignment_pb2.AssignmentCondition(
            code=device_pb2.CONDITION_CODE_DRIVER_NOT_RESTORED,
            device=GPU,
            message="bound to nothing",
            remedy="Bind it by hand.",
        )
    ]
    shown = hostdevctl("detach", "web", GPU)
    assert shown.status == 0
    assert f"DRIVER_NOT_RESTORED: {GPU}: bound to nothing\n  → Bind it by hand." in shown.out


def test_forget(server: FakeHostdevd, hostdevctl: Run) -> None:
    assert hostdevctl("forget", ASSIGNMENT).out.startswith(f"forgotten: {ASSIGNMENT}")
    assert server.asked(service_pb2.ForgetAssignmentRequest)[0].name == ASSIGNMENT


def test_virtual_functions_and_mediated_devices(server: FakeHostdevd, hostdevctl: Run) -> None:
    assert hostdevctl("vf", "set", NIC, "0").status == 0
    assert server.asked(service_pb2.SetVirtualFunctionsRequest)[0].HasField("count")
    made = hostdevctl("mdev", "create", GPU, "nvidia-35", "--uuid", REQUEST, "--attribute", "a=b=c", "--persistent")
    assert (made.status, made.out) == (0, f"made mdev_1 ({REQUEST})\n")
    request = server.asked(service_pb2.CreateMediatedDeviceRequest)[0]
    assert (request.parent, request.type_id, dict(request.attributes)) == (GPU, "nvidia-35", {"a": "b=c"})
    assert request.persistent
