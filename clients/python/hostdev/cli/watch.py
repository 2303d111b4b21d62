"""watch: every change, one line each, as it comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, TypeVar

import typer

from hostdev.cli.choices import DeviceOptions, VmOptions
from hostdev.cli.filters import (
    AffectedBy,
    Classes,
    Drivers,
    Ids,
    IommuGroups,
    NumaNodes,
    Parent,
    Types,
    device_filter,
)
from hostdev.cli.follow import tell_interruption
from hostdev.cli.marks import verdict
from hostdev.cli.output import Output, json_line, note
from hostdev.cli.session import Session, session_of
from hostdev.cli.words import local_time, lower, plain, scopes
from hostdev.progress import DEFAULT_BOOKMARK_INTERVAL_S, Patience
from hostdev.v1 import device_pb2, holder_pb2, service_pb2

Message = TypeVar("Message", service_pb2.WatchHoldersResponse, service_pb2.WatchDevicesResponse)

ResumeOption = Annotated[
    str, typer.Option("--resume", metavar="TOKEN", help="Go on after this resume token, of an earlier message.")
]
ChangesOnlyOption = Annotated[bool, typer.Option("--changes-only", help="From now on, without what is there already.")]
IntervalOption = Annotated[
    float,
    typer.Option(
        "--bookmark-interval", metavar="SECONDS", min=1, max=300, help="How often the server shows that it lives."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    watching = typer.Typer(
        invoke_without_command=True, help="Follow every change as it comes. Without a command: of the holders."
    )
    watching.callback()(watch)
    watching.command("holders")(holders)
    watching.command("devices")(devices)
    app.add_typer(watching, name="watch")


def watch(context: typer.Context) -> None:
    """Without a command: follow the holders."""
    if context.invoked_subcommand is None:
        follow_holders(session_of(context), (), ())


def holders(
    context: typer.Context,
    wanted_devices: DeviceOptions = None,
    vms: VmOptions = None,
    resume: ResumeOption = "",
    changes_only: ChangesOnlyOption = False,
    interval_s: IntervalOption = DEFAULT_BOOKMARK_INTERVAL_S,
) -> None:
    """Follow who holds what."""
    session = session_of(context)
    follow_holders(
        session,
        session.devices(wanted_devices),
        vms or (),
        resume=resume,
        changes_only=changes_only,
        interval_s=interval_s,
    )


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
    resume: ResumeOption = "",
    changes_only: ChangesOnlyOption = False,
    interval_s: IntervalOption = DEFAULT_BOOKMARK_INTERVAL_S,
) -> None:
    """Follow the devices."""
    session = session_of(context)
    wanted = device_filter(
        types, ids, classes, drivers, iommu_groups, numa_nodes, session.device(parent), session.device(affected_by)
    )
    follow_devices(session, wanted, resume=resume, changes_only=changes_only, interval_s=interval_s)


def follow_holders(
    session: Session,
    wanted_devices: Iterable[str],
    vms: Iterable[str],
    *,
    resume: str = "",
    changes_only: bool = False,
    interval_s: float = DEFAULT_BOOKMARK_INTERVAL_S,
) -> None:
    """Print holders as they change, until interrupted."""
    messages = session.client.watch_holders(
        devices=wanted_devices,
        vms=vms,
        resume_token=resume,
        changes_only=changes_only,
        patience=Patience(interval_s, interrupted=tell_interruption),
    )
    _print(session, messages, _holder_lines)


def follow_devices(
    session: Session,
    wanted: device_pb2.DeviceFilter,
    *,
    resume: str = "",
    changes_only: bool = False,
    interval_s: float = DEFAULT_BOOKMARK_INTERVAL_S,
) -> None:
    """Print devices as they change, until interrupted."""
    messages = session.client.watch_devices(
        wanted,
        resume_token=resume,
        changes_only=changes_only,
        patience=Patience(interval_s, interrupted=tell_interruption),
    )
    _print(session, messages, _device_lines)


def device_changes(session: Session) -> Callable[[str], Iterator[service_pb2.WatchDevicesResponse]]:
    """A watch of all devices that begins at a token, for those who only want to know that something has changed."""
    patience = Patience(interrupted=tell_interruption)

    def begin(token: str) -> Iterator[service_pb2.WatchDevicesResponse]:
        messages = session.client.watch_devices(resume_token=token, patience=patience)
        return (message for message in messages if message.WhichOneof("event") != "bookmark")

    return begin


def holder_changes(
    session: Session, *, interval_s: float
) -> Callable[[str], Iterator[service_pb2.WatchHoldersResponse]]:
    """The same of all holders, with a sign of life at every interval."""
    patience = Patience(interval_s, interrupted=tell_interruption)
    return lambda token: session.client.watch_holders(resume_token=token, patience=patience)


def _print(session: Session, messages: Iterator[Message], lines: Callable[[Message, Output], Iterator[str]]) -> None:
    token = ""
    try:
        for message in messages:
            if session.output is Output.JSON:
                json_line(message)
            else:
                for text in lines(message, session.output):
                    print(plain(text), flush=True)
            token = message.resume_token or token
    except KeyboardInterrupt:
        if token and sys.stderr.isatty():
            note(f"\nto go on from here: --resume {token}")
        raise


def _holder_lines(message: service_pb2.WatchHoldersResponse, output: Output) -> Iterator[str]:
    changes = message.change_batch.changes
    if output is Output.NAME:
        yield from (one.name for one in message.snapshot.holders)
        yield from (change.holder.name for change in changes)
        return
    yield from (f"=  {_holder(one)}" for one in message.snapshot.holders)
    for change in changes:
        yield f"{_sign(change)}  {_holder(change.holder)}  {_origin(change)}"
    yield from _reset(message)


def _device_lines(message: service_pb2.WatchDevicesResponse, output: Output) -> Iterator[str]:
    changes = message.change_batch.changes
    if output is Output.NAME:
        yield from (one.name for one in message.snapshot.devices)
        yield from (change.device.name for change in changes)
        return
    yield from (f"=  {_device(one)}" for one in message.snapshot.devices)
    for change in changes:
        yield f"{_sign(change)}  {_device(change.device)}  {_origin(change)}"
    yield from _reset(message)


def _holder(holder: holder_pb2.Holder) -> str:
    guest = f" at {holder.guest_address}" if holder.guest_address else ""
    reserved = ", reserved" if holder.role == holder_pb2.HOLDER_ROLE_RESERVED else ""
    held = f"{lower(holder.vm, 'state')}, {scopes(holder)}{reserved}"
    return f"{holder.device}  {holder.vm.name} ({held}){guest}"


def _device(device: device_pb2.Device) -> str:
    known = (device.name, device.type, device.description, f"[{device.driver or 'no driver'}]", verdict(device).plain)
    return "  ".join(part for part in known if part)


def _sign(change: service_pb2.HolderChange | service_pb2.DeviceChange) -> str:
    return "-" if change.kind == service_pb2.CHANGE_KIND_REMOVE else "+"


def _origin(change: service_pb2.HolderChange | service_pb2.DeviceChange) -> str:
    return f"{local_time(change, 'time')} {lower(change, 'source')}"


def _reset(message: service_pb2.WatchHoldersResponse | service_pb2.WatchDevicesResponse) -> Iterator[str]:
    if message.WhichOneof("event") == "reset":
        yield f"!  {lower(message.reset, 'reason')}: forget the lines above, all that is there follows"
