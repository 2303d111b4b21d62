"""holders: which VMs have which devices."""

from __future__ import annotations

import typer

from hostdev.cli import watch
from hostdev.cli.choices import DeviceOptions, VmOptions
from hostdev.cli.filters import Follow
from hostdev.cli.naming import nothing
from hostdev.cli.output import table
from hostdev.cli.session import session_of
from hostdev.cli.words import local_time, lower, scopes


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("holders")(holders)


def holders(
    context: typer.Context,
    devices: DeviceOptions = None,
    vms: VmOptions = None,
    follow: Follow = False,
) -> None:
    """List which VMs hold which devices. Running or not, whoever attached them."""
    session = session_of(context)
    wanted = session.devices(devices)
    if follow:
        watch.follow_holders(session, wanted, vms or ())
        return
    found = list(session.client.list_holders(devices=wanted, vms=vms or ()))
    session.printer.resources(
        found,
        (one.name for one in found),
        table(
            ("DEVICE", "VM", "STATE", "HOLDS", "VIA", "ROLE", "IN THE VM", "SINCE", "ASSIGNMENT"),
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
        nothing("no VM holds a device", session.client, wanted, vms or ()),
    )
