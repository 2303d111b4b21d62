"""detach: take a device back from a VM."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from hostdev.cli.choices import Scope, ScopeOption, WaitOption
from hostdev.cli.output import note
from hostdev.cli.progress import waiting
from hostdev.cli.records import record_views, refuse_unfinished
from hostdev.cli.session import session_of
from hostdev.requests import DEFAULT_WAIT_S
from hostdev.v1 import assignment_pb2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("detach")(detach)


def detach(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="VM|ASSIGNMENT", help="A VM before a DEVICE; an assignment alone.")],
    device: Annotated[
        str, typer.Argument(metavar="DEVICE", help="libvirt's name of the device, or its uid.", show_default=False)
    ] = "",
    scope: ScopeOption = Scope.AUTO,
    wait_s: WaitOption = DEFAULT_WAIT_S,
) -> None:
    """Take back what was attached together. Waits for the guest to let go."""
    session = session_of(context)
    what = f"{first} to release {device}" if device else f"assignment {first} to end"
    again = f"hostdevctl detach {shlex.join([one for one in (first, device) if one])}"
    try:
        with waiting(f"waiting for {what}"):
            answer = (
                session.client.detach(vm=first, device=device, scope=scope.wire, wait_s=wait_s)
                if device
                else session.client.detach(assignment=first, scope=scope.wire, wait_s=wait_s)
            )
    except KeyboardInterrupt:
        note(f"hostdevctl: the server goes on. To wait again: {again}")
        raise
    record = answer.assignment
    session.printer.resource(answer, record.name, *record_views(record))
    refuse_unfinished(record, assignment_pb2.ASSIGNMENT_STATE_DETACHING, wait_s=wait_s, again=again)
