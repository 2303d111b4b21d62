"""An assignment for people, and which states are no success."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from hostdev.cli.failures import UNAVAILABLE, Refusal
from hostdev.cli.output import Cell, cell, note, table
from hostdev.cli.words import lower, remedy, scopes, word
from hostdev.v1 import assignment_pb2

_STYLES = {"ATTACHED": "green", "FAILED": "red", "DETACHED": "dim"}


def state(record: assignment_pb2.Assignment) -> Text:
    """The state in its colour."""
    name = word(record, "state")
    return Text(name, style=_STYLES.get(name, "yellow"))


def record_views(record: assignment_pb2.Assignment) -> Iterator[RenderableType]:
    """All of an assignment."""
    where = f" ({scopes(record)})" if record.live or record.config else ""
    yield cell(Text.assemble(state(record), f"  {record.vm.name}, {lower(record.vm, 'state')}{where}  {record.name}"))
    yield table(
        ("  DEVICE", "ROLE", "DRIVER NOW", "DRIVER BEFORE", "IN THE VM"),
        (_device_row(device) for device in record.devices),
    )
    for condition in record.conditions:
        about = f"{condition.device}: " if condition.device and condition.device not in condition.message else ""
        yield cell(Text.assemble((word(condition, "code"), "yellow"), f": {about}{condition.message}"))
        if condition.remedy:
            yield cell(Text(f"  → {remedy(condition.remedy)}", style="italic"))


def _device_row(device: assignment_pb2.AssignmentDevice) -> tuple[Cell, ...]:
    return (
        f"  {device.name}",
        lower(device, "role"),
        device.current_driver or "none",
        device.original_driver or "-",
        device.guest_address,
    )


def refuse_failed(record: assignment_pb2.Assignment) -> None:
    """An attach that ended, or will end, without the device is a failure, as its own call would have said."""
    if record.state not in {assignment_pb2.ASSIGNMENT_STATE_FAILED, assignment_pb2.ASSIGNMENT_STATE_ROLLING_BACK}:
        return
    failure = record.failure
    undone = "" if record.state == assignment_pb2.ASSIGNMENT_STATE_FAILED else "; what was done is still being undone"
    raise Refusal(f"{failure.info.reason or 'ATTACH_FAILED'}: {failure.message}{undone}", failure.reasons)


def refuse_detached(record: assignment_pb2.Assignment) -> None:
    """A repeat may find that what it once attached was taken back since: the VM does not have it."""
    if record.state in {assignment_pb2.ASSIGNMENT_STATE_DETACHED, assignment_pb2.ASSIGNMENT_STATE_DETACHING}:
        raise Refusal(f"{record.vm.name} does not have it any more: {record.name} is {word(record, 'state')}")


def refuse_unfinished(record: assignment_pb2.Assignment, *, wait_s: float, again: str) -> None:
    """Still attaching after a wait is no success: a script must not go on. A wait of 0 asked for no more."""
    if record.state != assignment_pb2.ASSIGNMENT_STATE_ATTACHING:
        return
    said = f"still {lower(record, 'state')}; the server goes on. To wait again: {again}"
    if wait_s > 0:
        raise Refusal(said, status=UNAVAILABLE)
    note(f"hostdevctl: {said}")
