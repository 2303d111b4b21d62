"""devices, device, eligible: what the host has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from google.protobuf.message import Message
from rich.console import RenderableType
from rich.text import Text

from hostdev.cli import watch
from hostdev.cli.choices import DeviceArgument
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
from hostdev.cli.marks import codes, verdict
from hostdev.cli.output import Cell, cell, table
from hostdev.cli.session import session_of
from hostdev.cli.words import lower, number, scopes, uses, word
from hostdev.listing import Listing
from hostdev.v1 import device_pb2, service_pb2

_COLUMNS = ("NAME", "TYPE", "DESCRIPTION", "DRIVER", "GROUP", "NUMA")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("devices")(devices)
    app.command("device")(device)
    app.command("eligible")(eligible)


def devices(
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
    """List the host's devices, assignable or not."""
    session = session_of(context)
    wanted = device_filter(
        types, ids, classes, drivers, iommu_groups, numa_nodes, session.device(parent), session.device(affected_by)
    )
    if follow:
        watch.follow_devices(session, wanted)
        return
    found = list(session.client.list_devices(wanted))
    session.printer.resources(
        found,
        (one.name for one in found),
        table(
            (*_COLUMNS, "ASSIGNABLE", "HOST USES IT"), ((*_row(one), verdict(one), Text(uses(one))) for one in found)
        ),
        "no devices",
    )


def eligible(
    context: typer.Context,
    types: Types = None,
    ids: Ids = None,
    classes: Classes = None,
    drivers: Drivers = None,
    iommu_groups: IommuGroups = None,
    numa_nodes: NumaNodes = None,
    parent: Parent = "",
    affected_by: AffectedBy = "",
    available: Annotated[bool, typer.Option("--available", help="Only what no VM holds.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also what is not eligible, with the reasons.")] = False,
    follow: Follow = False,
) -> None:
    """List what can be assigned. Also tells what the host would lose with each device."""
    session = session_of(context)
    wanted = device_filter(
        types, ids, classes, drivers, iommu_groups, numa_nodes, session.device(parent), session.device(affected_by)
    )

    def fetch() -> Listing[service_pb2.EligibleDevice]:
        return session.client.list_eligible(wanted, available_only=available, include_ineligible=everything)

    if follow:
        follow_rows(session, Rows(fetch, lambda one: one.device.name, _eligible_line), watch.device_changes(session))
        return
    found = list(fetch())
    session.printer.resources(
        found,
        (one.device.name for one in found),
        table(
            (*_COLUMNS, "ASSIGNABLE", "ALSO AFFECTED"),
            ((*_row(one.device), verdict(one.device), _affected(one)) for one in found),
        ),
        "no eligible devices; `hostdevctl eligible --all` tells why",
    )


def device(context: typer.Context, name: DeviceArgument) -> None:
    """Show one device with all that is known about it."""
    session = session_of(context)
    shown = session.client.get_device(session.device(name))
    session.printer.resource(shown, shown.name, *_sheet(shown))


def _row(shown: device_pb2.Device) -> tuple[Cell, ...]:
    return (
        shown.name,
        shown.type,
        shown.description,
        shown.driver,
        number(shown, "iommu_group"),
        number(shown, "numa_node"),
    )


def _eligible_line(shown: service_pb2.EligibleDevice) -> str:
    known = (shown.device.name, shown.device.description, verdict(shown.device).plain)
    also = f"also affected: {_affected(shown)}" if shown.affected else ""
    return "  ".join(part for part in (*known, also) if part)


def _affected(shown: service_pb2.EligibleDevice) -> str:
    return ", ".join(
        affected.name + ("" if affected.role == device_pb2.AFFECTED_DEVICE_ROLE_ENDPOINT else " (vanishes)")
        for affected in shown.affected
    )


def _sheet(shown: device_pb2.Device) -> Iterator[RenderableType]:
    yield cell(Text(shown.name, style="bold"))
    facts: list[tuple[str, Cell]] = [
        ("uid", shown.uid),
        ("description", shown.description),
        ("type", shown.type),
        ("assignable", verdict(shown)),
        ("driver", shown.driver or "none"),
        ("IOMMU group", number(shown, "iommu_group")),
        ("group", shown.group),
        ("NUMA node", number(shown, "numa_node")),
        ("parent", shown.parent),
        ("children", " ".join(shown.children)),
        ("path", shown.path),
        ("device nodes", " ".join(shown.devnodes)),
        ("host uses it", uses(shown)),
        *(
            (f"held by {held.vm.name}", f"{lower(held.vm, 'state')}, {scopes(held)}, {lower(held, 'via')}")
            for held in shown.holders
        ),
        *((word(condition, "code"), condition.message) for condition in shown.conditions),
    ]
    if (detail := shown.WhichOneof("detail")) is not None:
        facts += [(f"{detail}.{path}", value) for path, value in _flat(getattr(shown, detail))]
    for number_, other in enumerate(shown.other_capabilities):
        facts += [(f"other[{number_}].{path}", value) for path, value in _flat(other)]
    yield table(("", ""), (fact for fact in facts if fact[1]))
    if not shown.eligibility.eligible and codes(shown.eligibility):
        yield cell(Text(f"hostdevctl why {shown.name} tells what to do", style="dim"))


def _flat(message: Message) -> Iterator[tuple[str, str]]:
    """Every field that is set, by its path: `link.speed`, `mdev_types[0].id`."""
    for descriptor, value in message.ListFields():
        # By its value: descriptors of protobuf 6.30 have no `is_repeated`, those of 7 no `label`.
        repeated = not isinstance(value, (Message, str, bytes, int, float))
        values = list(value) if repeated else [value]
        if descriptor.message_type is None:
            yield descriptor.name, " ".join(str(one) for one in values)
            continue
        for index, one in enumerate(values):
            name = f"{descriptor.name}[{index}]" if repeated else descriptor.name
            for path, text in _flat(one):
                yield f"{name}.{path}", text
