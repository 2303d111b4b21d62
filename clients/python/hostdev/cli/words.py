"""API values as people read them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from hostdev.v1 import assignment_pb2, device_pb2, holder_pb2

_VALUE = re.compile(r"(?<=--scope )[A-Z_]+|\b(LIVE_AND_CONFIG|WHOLE_GROUP|RESERVE_REST|SINGLE_ONLY)\b")
_OPTIONS = (
    (re.compile(r"(?:the )?scope (AUTO|LIVE_AND_CONFIG|LIVE|CONFIG)\b"), "--scope"),
    (re.compile(r"(?:the )?group policy (WHOLE_GROUP|RESERVE_REST|SINGLE_ONLY)\b"), "--group-policy"),
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def word(message: Message, field: str) -> str:
    """The name of an enum field's value without its prefix: `ATTACHED`; `UNSPECIFIED` for an unknown one."""
    enum = message.DESCRIPTOR.fields_by_name[field].enum_type
    if enum is None:
        raise TypeError(f"{field} of {message.DESCRIPTOR.name} is no enum")
    value = enum.values_by_number.get(getattr(message, field), enum.values_by_number[0])
    return value.name.removeprefix(_CAMEL.sub("_", enum.name).upper() + "_")


def remedy(text: str) -> str:
    """What the server advises, with hostdevctl's options where it names values of the API."""
    for pattern, option in _OPTIONS:
        text = pattern.sub(rf"{option} \1", text)
    return _VALUE.sub(lambda found: _option_value(found[0]), text)


def _option_value(name: str) -> str:
    return name.lower().replace("_", "-")


def lower(message: Message, field: str) -> str:
    """The same for running text: `shut off`."""
    return word(message, field).lower().replace("_", " ")


def plain(text: str) -> str:
    """Text without control characters: descriptions come from devices, and a terminal obeys what it is sent."""
    return "".join(
        character if unicodedata.category(character) not in {"Cc", "Cf", "Cs"} else f"\\x{ord(character):02x}"
        for character in text
    )


def local_time(message: Message, field: str) -> str:
    """A time in this machine's time zone, to the second; nothing when it is absent."""
    if not message.HasField(field):
        return ""
    moment: Timestamp = getattr(message, field)
    return moment.ToDatetime(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def scopes(held: holder_pb2.Holder | assignment_pb2.Assignment) -> str:
    """`live`, `config`, both, or `-`."""
    return "+".join(name for name, holds in (("live", held.live), ("config", held.config)) if holds) or "-"


def holding(holders: Iterable[holder_pb2.Holder]) -> str:
    """The names of the VMs, each once."""
    return ", ".join(dict.fromkeys(holder.vm.name for holder in holders))


def uses(device: device_pb2.Device) -> str:
    """What the host uses a device for: `MOUNT /boot, SWAP`."""
    return ", ".join(f"{word(use, 'kind')} {use.detail}".strip() for use in device.host_uses)


def number(message: Message, field: str) -> str:
    """An optional number, or nothing when it is absent."""
    return str(getattr(message, field)) if message.HasField(field) else ""


def affected_word(affected: device_pb2.AffectedDevice) -> str:
    """What happens to an affected device."""
    endpoint = affected.role == device_pb2.AFFECTED_DEVICE_ROLE_ENDPOINT
    return "taken with its group" if endpoint else "vanishes from the host"
