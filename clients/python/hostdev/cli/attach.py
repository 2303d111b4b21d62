"""plan, attach: give a device to a VM, after looking at what goes with it."""

from __future__ import annotations

import shlex
import sys
import time
import uuid
from typing import Annotated

import typer

from hostdev.cli.choices import DeviceArgument, GroupPolicy, PolicyOption, Scope, ScopeOption, VmArgument, WaitOption
from hostdev.cli.failures import Refusal
from hostdev.cli.output import Output, Printer, note
from hostdev.cli.picture import group_of, group_picture, members
from hostdev.cli.plans import endpoints, losses, plan_views
from hostdev.cli.progress import waiting
from hostdev.cli.records import record_views, refuse_failed, refuse_unfinished
from hostdev.cli.session import Session, session_of
from hostdev.cli.words import word
from hostdev.errors import HostdevApiError
from hostdev.requests import DEFAULT_WAIT_S
from hostdev.v1 import assignment_pb2, service_pb2

_POLL_S = 0.5
_UNDER_WAY = frozenset({assignment_pb2.ASSIGNMENT_STATE_ATTACHING, assignment_pb2.ASSIGNMENT_STATE_ROLLING_BACK})


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
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the rest of the group without asking.")] = False,
) -> None:
    """Give a device to a VM. Asks first when more than the device is taken from the host."""
    session = session_of(context)
    again = f"hostdevctl attach {shlex.quote(vm)} {shlex.quote(device)} --request-id "
    if request_id and (begun := _begun(session, request_id, vm, device)) is not None:
        record = _join(session, begun, wait_s)
        session.printer.resource(record, record.name, *record_views(record))
        _finish(record, wait_s, again + request_id)
        return
    request_id = request_id or str(uuid.uuid4())
    planned = session.client.attach(
        vm, device, group_policy=group_policy.wire, scope=scope.wire, validate_only=True
    ).plan
    if planned.blockers:
        first = planned.blockers[0]
        raise Refusal(f"{word(first, 'code')}: {first.message}", planned.blockers)
    if endpoints(planned) and not yes:
        _confirm(session, vm, device, planned)
    try:
        with waiting(f"attaching {device} to {vm}"):
            answer = session.client.attach(
                vm,
                device,
                group_policy=group_policy.wire,
                scope=scope.wire,
                # What was shown is what happens: another set is refused.
                expected_affected=[affected.uid for affected in planned.affected],
                request_id=request_id,
                wait_s=wait_s,
            )
    except KeyboardInterrupt:
        note(f"hostdevctl: the server goes on. To wait again: {again}{request_id}")
        raise
    except HostdevApiError as error:
        if error.unreachable and not error.reason:
            note(f"hostdevctl: the attach may be under way. To join it: {again}{request_id}")
        raise
    _show(session, answer)
    _finish(answer.assignment, wait_s, again + request_id)


def _show(session: Session, answer: service_pb2.AttachResponse) -> None:
    record = answer.assignment
    remarks = assignment_pb2.Plan(side_effects=answer.plan.side_effects)
    session.printer.resource(answer, record.name, *record_views(record), *losses(remarks))


def _finish(record: assignment_pb2.Assignment, wait_s: float, again: str) -> None:
    refuse_failed(record)
    refuse_unfinished(record, assignment_pb2.ASSIGNMENT_STATE_ATTACHING, wait_s=wait_s, again=again)


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


def _begun(session: Session, request_id: str, vm: str, device: str) -> assignment_pb2.Assignment | None:
    """The assignment of an earlier call with this id.

    A dry run of what has begun already would be refused, so a repeat is told apart before it.
    """
    try:
        record = session.client.get_assignment(request_id)
    except HostdevApiError as error:
        if error.reason == "ASSIGNMENT_NOT_FOUND":
            return None
        raise
    taken = {name for one in record.devices for name in (one.name, one.uid)}
    if vm not in {record.vm.name, record.vm.uuid} or device not in taken:
        raise Refusal(f"REQUEST_ID_REUSED: {request_id} is the attach of other devices, or to another VM")
    return record


def _join(session: Session, record: assignment_pb2.Assignment, wait_s: float) -> assignment_pb2.Assignment:
    """The assignment once it is settled, or as it is after `wait_s` seconds."""
    until = time.monotonic() + wait_s
    with waiting(f"{record.vm.name}: {word(record, 'state').lower()}"):
        while record.state in _UNDER_WAY and (left := until - time.monotonic()) > 0:
            time.sleep(min(_POLL_S, left))
            record = session.client.get_assignment(record.name)
    return record
