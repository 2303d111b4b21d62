"""assignments, forget: the records of what was given to VMs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hostdev.cli import completing, watch
from hostdev.cli.filters import Follow
from hostdev.cli.follow import Rows, follow_rows
from hostdev.cli.naming import nothing
from hostdev.cli.output import table
from hostdev.cli.records import record_views, state
from hostdev.cli.session import session_of
from hostdev.cli.words import local_time, scopes, word
from hostdev.listing import Listing
from hostdev.v1 import assignment_pb2

_LOOK_AGAIN_S = 2.0


class State(StrEnum):
    """How far an assignment is."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DETACHED = "detached"
    ROLLING_BACK = "rolling-back"
    FAILED = "failed"

    @property
    def wire(self) -> assignment_pb2.AssignmentState.ValueType:
        """The API's value."""
        return assignment_pb2.AssignmentState.Value(f"ASSIGNMENT_STATE_{self.name}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("assignments")(assignments)
    app.command("forget")(forget)


def assignments(
    context: typer.Context,
    vm: Annotated[
        str,
        typer.Option("--vm", metavar="VM", help="Only of this VM: name or UUID.", autocompletion=completing.vms),
    ] = "",
    device: Annotated[
        str,
        typer.Option("--device", metavar="DEVICE", help="Only with this device.", autocompletion=completing.devices),
    ] = "",
    states: Annotated[list[State] | None, typer.Option("--state", help="Only in this state; may be repeated.")] = None,
    follow: Follow = False,
) -> None:
    """List assignments. Those closed within 30 days are included."""
    session = session_of(context)
    device = session.device(device)
    wanted = [one.wire for one in states or ()]

    def fetch() -> Listing[assignment_pb2.Assignment]:
        return session.client.list_assignments(vm=vm, device=device, states=wanted)

    if follow:
        # A state can change without a holder that does: its signs of life have the list asked for as well.
        rows = Rows(fetch, lambda one: one.name, _assignment_line)
        follow_rows(session, rows, watch.holder_changes(session, interval_s=_LOOK_AGAIN_S))
        return
    found = list(fetch())
    session.printer.resources(
        found,
        (one.name for one in found),
        table(
            ("NAME", "VM", "STATE", "HOLDS", "DEVICES", "CONDITIONS", "CHANGED"),
            (
                (
                    one.name,
                    one.vm.name,
                    state(one),
                    scopes(one),
                    " ".join(device.name for device in one.devices),
                    ", ".join(word(condition, "code") for condition in one.conditions),
                    local_time(one, "update_time"),
                )
                for one in found
            ),
        ),
        nothing("no assignments", session.client, [device] if device else [], [vm] if vm else []),
    )


def _assignment_line(one: assignment_pb2.Assignment) -> str:
    devices = " ".join(device.name for device in one.devices)
    conditions = ", ".join(word(condition, "code") for condition in one.conditions)
    known = (one.name, one.vm.name, word(one, "state"), scopes(one), devices, conditions)
    return "  ".join(part for part in known if part)


def forget(
    context: typer.Context,
    assignment: Annotated[
        str, typer.Argument(metavar="ASSIGNMENT", help="The assignment's name.", autocompletion=completing.assignments)
    ],
) -> None:
    """Remove an assignment's record. The assignment must not hold anything any more."""
    session = session_of(context)
    record = session.client.forget_assignment(assignment)
    session.printer.resource(record, record.name, f"forgotten: {record.name}", *record_views(record))
