"""assignments, forget: the records of what was given to VMs."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hostdev.cli.output import table
from hostdev.cli.records import record_views, state
from hostdev.cli.session import session_of
from hostdev.cli.words import local_time, scopes, word
from hostdev.v1 import assignment_pb2


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
    vm: Annotated[str, typer.Option("--vm", metavar="VM", help="Only of this VM: name or UUID.")] = "",
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="Only with this device.")] = "",
    states: Annotated[list[State] | None, typer.Option("--state", help="Only in this state; may be repeated.")] = None,
) -> None:
    """List assignments. Those closed within 30 days are included."""
    session = session_of(context)
    found = list(session.client.list_assignments(vm=vm, device=device, states=[wanted.wire for wanted in states or ()]))
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
        "no assignments",
    )


def forget(
    context: typer.Context,
    assignment: Annotated[str, typer.Argument(metavar="ASSIGNMENT", help="The assignment's name.")],
) -> None:
    """Remove an assignment's record. The assignment must not hold anything any more."""
    session = session_of(context)
    record = session.client.forget_assignment(assignment)
    session.printer.resource(record, record.name, f"forgotten: {record.name}", *record_views(record))
