"""plan, attach: give a device to a VM, after looking at what goes with it."""

from __future__ import annotations

import shlex
import sys
import uuid
from collections.abc import Sequence
from typing import Annotated

import typer

from hostdev.cli.choices import DeviceArgument, GroupPolicy, PolicyOption, Scope, ScopeOption, VmArgument, WaitOption
from hostdev.cli.failures import Refusal
from hostdev.cli.output import Output, Printer, note
from hostdev.cli.picture import group_of, group_picture, members
from hostdev.cli.plans import endpoints, losses, plan_views
from hostdev.cli.progress import waiting
from hostdev.cli.records import record_views, refuse_detached, refuse_failed, refuse_unfinished
from hostdev.cli.session import Session, session_of
from hostdev.cli.words import word
from hostdev.errors import HostdevApiError
from hostdev.requests import DEFAULT_WAIT_S
from hostdev.v1 import assignment_pb2, service_pb2


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("plan")(plan)
    app.command("attach")(attach)


def plan(
    context: typer.Context,
    vm: VmArgument,
    device: DeviceArgument,
    group_policy: PolicyOption = GroupPolicy.WHOLE_GROUP,
    scope: ScopeOption = Scope.AUTO,
) -> None:
    """Show what attaching would do. With something in the way the exit status is 1."""
    session = session_of(context)
    device = session.device(device)
    planned = session.client.attach(
        vm, device, group_policy=group_policy.wire, scope=scope.wire, validate_only=True
    ).plan
    if session.output is Output.NAME:
        for affected in planned.affected:
            session.printer.resource(affected, affected.name)
    else:
        session.printer.resource(planned, "", *plan_views(planned))
    if planned.blockers:
        codes = ", ".join(dict.fromkeys(word(reason, "code") for reason in planned.blockers))
        raise Refusal(f"{codes}: {vm} would not get {device}")


def attach(
    context: typer.Context,
    vm: VmArgument,
    device: DeviceArgument,
    group_policy: PolicyOption = GroupPolicy.WHOLE_GROUP,
    scope: ScopeOption = Scope.AUTO,
    wait_s: WaitOption = DEFAULT_WAIT_S,
    request_id: Annotated[
        str, typer.Option("--request-id", metavar="UUID", help="Makes the attach safe to repeat; names the assignment.")
    ] = "",
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect",
            metavar="UID,...",
            help="All that the host may lose beside the device; another set is refused. Part of what a repeat repeats.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the rest of the group without asking.")] = False,
) -> None:
    """Give a device to a VM. Asks first when more than the device is taken from the host."""
    session = session_of(context)
    device = session.device(device)
    expected = None if expect is None else [uid for uid in expect.split(",") if uid]
    planned = _agreed(session, vm, device, group_policy, scope, request_id=request_id, yes=yes)
    if planned is not None and expected is None and not request_id:
        # What was shown is what happens: another set is refused. With an id of the caller's the line itself is
        # the request: a repeat could not know the set any more, and the server would take it for another one.
        expected = [affected.uid for affected in planned.affected]
    request_id = request_id or str(uuid.uuid4())
    again = _again(vm, device, group_policy, scope, expected, request_id)
    try:
        with waiting(f"attaching {device} to {vm}"):
            answer = session.client.attach(
                vm,
                device,
                group_policy=group_policy.wire,
                scope=scope.wire,
                expected_affected=expected,
                request_id=request_id,
                wait_s=wait_s,
            )
    except KeyboardInterrupt:
        note(f"hostdevctl: the server goes on. To wait again: {again}")
        raise
    except HostdevApiError as error:
        if error.unreachable and not error.reason:
            note(f"hostdevctl: the attach may be under way. To join it: {again}")
        raise
    _show(session, answer)
    refuse_failed(answer.assignment)
    refuse_detached(answer.assignment)
    refuse_unfinished(answer.assignment, wait_s=wait_s, again=again)


def _agreed(
    session: Session, vm: str, device: str, group_policy: GroupPolicy, scope: Scope, *, request_id: str, yes: bool
) -> assignment_pb2.Plan | None:
    """What will happen, looked at and agreed to; None where an earlier call with this id has begun it."""
    if request_id and _has_begun(session, request_id):
        return None
    try:
        planned = _looked_at(session, vm, device, group_policy, scope)
    except HostdevApiError as error:
        if request_id and error.reason == "ALREADY_ATTACHED":
            return None  # by this very request, perhaps: one that extended an assignment did not name it
        raise
    if endpoints(planned) and not yes:
        _confirm(session, vm, device, planned)
        _compare(planned, _looked_at(session, vm, device, group_policy, scope))
    return planned


def _again(
    vm: str, device: str, group_policy: GroupPolicy, scope: Scope, expected: Sequence[str] | None, request_id: str
) -> str:
    """The line that asks for the very same again: whatever differs, the server takes for another request."""
    words = ["hostdevctl", "attach", vm, device]
    if group_policy is not GroupPolicy.WHOLE_GROUP:
        words += ["--group-policy", group_policy.value]
    if scope is not Scope.AUTO:
        words += ["--scope", scope.value]
    if expected is not None:
        words += ["--expect", ",".join(expected)]
    return shlex.join([*words, "--request-id", request_id])


def _looked_at(session: Session, vm: str, device: str, group_policy: GroupPolicy, scope: Scope) -> assignment_pb2.Plan:
    """What the attach would do, where nothing is in its way."""
    planned = session.client.attach(
        vm, device, group_policy=group_policy.wire, scope=scope.wire, validate_only=True
    ).plan
    if planned.blockers:
        first = planned.blockers[0]
        raise Refusal(f"{word(first, 'code')}: {first.message}", planned.blockers)
    return planned


def _compare(shown: assignment_pb2.Plan, now: assignment_pb2.Plan) -> None:
    """Thinking about the question takes time; what was agreed to is no longer what is there."""
    if {one.uid for one in shown.affected} != {one.uid for one in now.affected}:
        raise Refusal("AFFECTED_SET_CHANGED: the host would lose other devices by now; look again")


def _show(session: Session, answer: service_pb2.AttachResponse) -> None:
    record = answer.assignment
    remarks = assignment_pb2.Plan(side_effects=answer.plan.side_effects)
    session.printer.resource(answer, record.name, *record_views(record), *losses(remarks))


def _confirm(session: Session, vm: str, device: str, planned: assignment_pb2.Plan) -> None:
    """Ask whether to take more than was named; anything but yes ends here with status 1."""
    others = endpoints(planned)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refusal(
            f"attaching {device} to {vm} also takes {', '.join(others)} from the host; confirm with --yes, or choose "
            "another --group-policy"
        )
    group = group_of(session.client, device)
    beside = Printer(stream=sys.stderr)
    if group is not None:
        known = members(session.client, group)
        named = next((one.name for one in known.devices.values() if device in {one.name, one.uid}), device)
        beside.draw(group_picture(group, known, marked=named))
    beside.draw(*losses(planned))
    try:
        agreed = typer.confirm(f"Take {', '.join([device, *others])} from the host for {vm}?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not agreed:
        raise Refusal("not confirmed, nothing was changed")


def _has_begun(session: Session, request_id: str) -> bool:
    """Whether an earlier call with this id has begun: a dry run of what has would be refused."""
    try:
        session.client.get_assignment(request_id)
    except HostdevApiError as error:
        if error.reason == "ASSIGNMENT_NOT_FOUND":
            return False
        raise
    return True
