"""why: what stands in the way of assigning a device, and what to do about it."""

from __future__ import annotations

from typing import Annotated

import typer

from hostdev.cli import completing
from hostdev.cli.choices import DEVICE_HELP
from hostdev.cli.explanation import explain, group_title
from hostdev.cli.output import Output
from hostdev.cli.picture import around, device_picture, group_by_any_name, group_of, group_picture, members
from hostdev.cli.session import Session, session_of
from hostdev.errors import HostdevApiError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("why")(why)


def why(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE", help=f"{DEVICE_HELP[:-1]}; a group's uid, too.", autocompletion=completing.groups
        ),
    ],
) -> None:
    """Tell why a device cannot be assigned. All reasons, with what to do; or who has it; or that it can be."""
    session = session_of(context)
    name = session.device(name)
    try:
        device = session.client.get_device(name)
    except HostdevApiError as error:
        if error.reason != "DEVICE_NOT_FOUND":
            raise
        _why_group(session, name)
        return
    if session.output is not Output.TABLE:
        session.printer.resource(device, device.name)
        return
    group = group_of(session.client, device.uid or device.name)
    known = around(session.client, device)
    holders = [*device.holders, *((held for held in group.holders if held.uid != device.uid) if group else ())]
    session.printer.draw(
        *explain(device.name, device.eligibility, holders),
        "",
        group_picture(group, known, marked=device.name) if group else device_picture(device, known),
    )


def _why_group(session: Session, name: str) -> None:
    group = group_by_any_name(session.client, name)
    if session.output is not Output.TABLE:
        session.printer.resource(group, group.uid)
        return
    known = members(session.client, group)
    session.printer.draw(
        *explain(group_title(group), group.eligibility, group.holders), "", group_picture(group, known)
    )
