"""holders: which VMs have which devices."""

from __future__ import annotations

from typing import Annotated

import typer

from hostdev.cli import watch
from hostdev.cli.output import table
from hostdev.cli.session import session_of
from hostdev.cli.words import local_time, lower, scopes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("holders")(holders)


def holders(
    context: typer.Context,
    devices: Annotated[list[str] | None, typer.Option("--device", metavar="DEVICE", help="Only of this one.")] = None,
    vms: Annotated[list[str] | None, typer.Option("--vm", metavar="VM", help="Only this VM: name or UUID.")] = None,
    follow: Annotated[bool, typer.Option("--watch", help="Go on with every change; see `watch holders`.")] = False,
) -> None:
    """List which VMs hold which devices. Running or not, whoever attached them."""
    session = session_of(context)
    if follow:
        watch.follow_holders(session, devices or (), vms or ())
        return
    found = list(session.client.list_holders(devices=devices or (), vms=vms or ()))
    session.printer.resources(
        found,
        (one.name for one in found),
        table(
            ("DEVICE", "VM", "STATE", "HOLDS", "VIA", "ROLE", "IN THE GUEST", "SINCE", "ASSIGNMENT"),
            (
                (
                    one.device,
                    one.vm.name,
                    lower(one.vm, "state"),
                    scopes(one),
                    lower(one, "via"),
                    lower(one, "role"),
                    one.guest_address,
                    local_time(one, "since"),
                    one.assignment or "none: by another tool",
                )
                for one in found
            ),
        ),
        "no VM holds a device",
    )
