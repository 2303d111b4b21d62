"""vf set, mdev create, mdev delete: make and remove virtual functions and mediated devices."""

from __future__ import annotations

from typing import Annotated

import typer

from hostdev.cli import completing
from hostdev.cli.choices import DeviceArgument
from hostdev.cli.output import Output, line
from hostdev.cli.progress import waiting
from hostdev.cli.session import session_of

PATIENCE_S = 86_400.0
"""As long as a driver takes: who does not want to wait interrupts, and the server goes on."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    functions = typer.Typer(no_args_is_help=True, help="SR-IOV virtual functions.")
    functions.command("set")(set_functions)
    app.add_typer(functions, name="vf")
    mediated = typer.Typer(no_args_is_help=True, help="Mediated devices.")
    mediated.command("create")(create)
    mediated.command("delete")(delete)
    app.add_typer(mediated, name="mdev")


def set_functions(
    context: typer.Context,
    device: DeviceArgument,
    count: Annotated[int, typer.Argument(metavar="COUNT", min=0, max=65535, help="How many; 0 removes all.")],
) -> None:
    """Set how many virtual functions a physical one has."""
    session = session_of(context)
    device = session.device(device)
    with waiting(f"setting {device} to {count} virtual functions"):
        function = session.client.set_virtual_functions(device, count, timeout_s=PATIENCE_S)
    now = len(function.pci.virt_functions.addresses)
    session.printer.resource(function, function.name, f"{function.name} has {now} virtual functions")


def create(
    context: typer.Context,
    parent: Annotated[
        str, typer.Argument(metavar="PARENT", help="The device that makes it.", autocompletion=completing.devices)
    ],
    type_id: Annotated[str, typer.Argument(metavar="TYPE", help="One of the parent's types; see `device PARENT`.")],
    mdev_uuid: Annotated[
        str | None, typer.Option("--uuid", metavar="UUID", help="The UUID that it shall have.")
    ] = None,
    attributes: Annotated[
        list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="An attribute of the vendor's.")
    ] = None,
    persistent: Annotated[bool, typer.Option("--persistent", help="There again after a reboot.")] = False,
) -> None:
    """Make a mediated device."""
    session = session_of(context)
    parent = session.device(parent)
    with waiting(f"making a mediated device on {parent}"):
        device = session.client.create_mediated_device(
            parent,
            type_id,
            mdev_uuid=mdev_uuid,
            attributes=dict(map(_pair, attributes or ())),
            persistent=persistent,
            timeout_s=PATIENCE_S,
        )
    session.printer.resource(device, device.name, f"made {device.name} ({device.mdev.uuid})")


def delete(context: typer.Context, device: DeviceArgument) -> None:
    """Remove a mediated device."""
    session = session_of(context)
    device = session.device(device)
    session.client.delete_mediated_device(device)
    match session.output:
        case Output.TABLE:
            line(f"removed {device}")
        case Output.JSON:
            line("{}")
        case Output.NAME:
            line(device)


def _pair(attribute: str) -> tuple[str, str]:
    name, separator, value = attribute.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"{attribute!r} is not NAME=VALUE", param_hint="--attribute")
    return name, value
