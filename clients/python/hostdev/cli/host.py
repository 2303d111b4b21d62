"""host: is the host fit for assigning devices."""

from __future__ import annotations

import typer
from rich.console import RenderableType
from rich.text import Text

from hostdev.cli.output import table
from hostdev.cli.session import session_of
from hostdev.cli.words import local_time, word
from hostdev.v1 import host_pb2

_STYLES = {"PASS": "green", "WARN": "yellow", "FAIL": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("host")(host)


def host(context: typer.Context) -> None:
    """Show the host, and whether it is fit for assigning devices."""
    session = session_of(context)
    shown = session.client.get_host()
    session.printer.resource(shown, shown.name, *host_sheet(shown))


def host_sheet(shown: host_pb2.Host) -> list[RenderableType]:
    """The host and its checks for people; `hostdevd check` shows it too."""
    facts = (
        ("host", f"{shown.name} ({shown.uuid})" if shown.uuid else shown.name),
        ("hypervisor", f"{shown.hypervisor} {shown.hypervisor_version}".strip()),
        ("libvirt", f"{shown.libvirt_version} at {shown.connection_uri}"),
        ("hostdevd", shown.service_version),
        ("in step with libvirt", local_time(shown, "synced_time") or "not yet"),
    )
    checks = table(
        ("", "CHECK", "FOUND", "WHAT TO DO"),
        (
            (
                Text(status := word(check, "status"), style=_STYLES.get(status, "")),
                word(check, "code"),
                check.message,
                check.remedy,
            )
            for check in shown.checks
        ),
    )
    return [table(("", ""), facts), "", checks]
