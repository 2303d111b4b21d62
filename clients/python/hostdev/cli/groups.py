"""groups, group: what can only be taken together."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from hostdev.cli import completing, watch
from hostdev.cli.explanation import explain, group_title
from hostdev.cli.filters import (
    AffectedBy,
    Classes,
    Drivers,
    Follow,
    Ids,
    IommuGroups,
    NumaNodes,
    Parent,
    Types,
    device_filter,
)
from hostdev.cli.follow import Rows, follow_rows
from hostdev.cli.marks import codes
from hostdev.cli.output import Output, table
from hostdev.cli.picture import group_by_any_name, group_picture, members
from hostdev.cli.session import session_of
from hostdev.cli.words import holding, number
from hostdev.v1 import group_pb2


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("groups")(groups)
    app.command("group")(group)


def groups(
    context: typer.Context,
    types: Types = None,
    ids: Ids = None,
    classes: Classes = None,
    drivers: Drivers = None,
    iommu_groups: IommuGroups = None,
    numa_nodes: NumaNodes = None,
    parent: Parent = "",
    affected_by: AffectedBy = "",
    follow: Follow = False,
) -> None:
    """List what can only be taken together. Options select groups by their members."""
    session = session_of(context)
    wanted = device_filter(
        types, ids, classes, drivers, iommu_groups, numa_nodes, session.device(parent), session.device(affected_by)
    )
    if follow:
        rows = Rows(lambda: session.client.list_groups(wanted), lambda one: one.uid, _group_line)
        follow_rows(session, rows, watch.device_changes(session))
        return
    found = list(session.client.list_groups(wanted))
    session.printer.resources(
        found,
        (one.uid for one in found),
        table(
            ("UID", "IOMMU GROUP", "ENDPOINTS", "ASSIGNABLE"),
            ((one.uid, number(one, "iommu_group"), _endpoints(one), group_verdict(one)) for one in found),
        ),
        "no groups",
    )


def group(
    context: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="GROUP|DEVICE", help="A group's uid, or a device in the group.", autocompletion=completing.groups
        ),
    ],
) -> None:
    """Show one group. Members, drivers, holders, what the host uses, what stands in the way."""
    session = session_of(context)
    name = session.device(name)
    shown = group_by_any_name(session.client, name)
    if session.output is not Output.TABLE:
        session.printer.resource(shown, shown.uid)
        return
    picture = group_picture(shown, members(session.client, shown), marked=name)
    session.printer.draw(picture, "", *explain(group_title(shown), shown.eligibility, shown.holders))


def _group_line(shown: group_pb2.Group) -> str:
    known = (shown.uid, group_title(shown), _endpoints(shown), group_verdict(shown).plain)
    return "  ".join(dict.fromkeys(part for part in known if part))


def group_verdict(shown: group_pb2.Group) -> Text:
    """Whether the group can be assigned now, and why not."""
    if shown.holders:
        return Text(f"held by {holding(shown.holders)}", style="yellow")
    if shown.eligibility.available:
        return Text("available", style="green")
    if shown.eligibility.eligible:
        return Text("not available", style="yellow")
    if not _endpoints(shown):
        return Text("bridges only", style="dim")
    return Text(codes(shown.eligibility) or "not eligible", style="red")


def _endpoints(shown: group_pb2.Group) -> str:
    return " ".join(one.name for one in shown.members if one.role == group_pb2.GROUP_MEMBER_ROLE_ENDPOINT)
