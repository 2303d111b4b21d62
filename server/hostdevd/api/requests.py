"""Reading requests: every field is checked, and what is wrong is named."""

from __future__ import annotations

import unicodedata
import uuid
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from hostdevd.core.errors import HostdevError, disconnected, invalid_field
from hostdevd.core.model import HypervisorInfo

MAX_NAME_CHARS = 256
MAX_LIST = 1000
BEFORE_DEADLINE_S = 0.5
"""A call that waits returns this long before its caller gives up, so that the answer arrives."""

E = TypeVar("E", bound=StrEnum)


def text(field: str, value: str, *, required: bool = False, limit: int = MAX_NAME_CHARS) -> str:
    """A name: not too long, no control characters, not empty where it is required."""
    if not value:
        if required:
            raise invalid_field(field, "must be given")
        return value
    if len(value) > limit:
        raise invalid_field(field, f"must have at most {limit} characters")
    # What can be printed has no such character; what cannot is looked at closer, since odd spaces are allowed.
    if not value.isprintable() and any(unicodedata.category(char).startswith("C") for char in value):
        raise invalid_field(field, "must not have control characters")
    return value


def texts(field: str, values: Any) -> tuple[str, ...]:
    """A list of names, none of them empty."""
    if len(values) > MAX_LIST:
        raise invalid_field(field, f"must have at most {MAX_LIST} entries")
    return tuple(text(f"{field}[{index}]", value, required=True) for index, value in enumerate(values))


def enum(field: str, wrapper: Any, value: int, prefix: str, kind: type[E], default: E) -> E:  # noqa: PLR0913, PLR0917
    """An enum's value of the API as the core's; unspecified is the default, an unknown number is refused."""
    if value == 0:
        return default
    if value not in wrapper.values():
        raise invalid_field(field, f"has no value {value}")
    name: str = wrapper.Name(value)
    return kind(name.removeprefix(prefix))


def duration_s(field: str, value: Duration, *, low: float, high: float) -> float:
    """A duration in seconds within bounds."""
    if not -999_999_999 <= value.nanos <= 999_999_999:  # noqa: PLR2004  the well-known type's own bounds
        raise invalid_field(field, "has nanos out of range")
    seconds: float = value.seconds + value.nanos / 1e9
    if not low <= seconds <= high:
        raise invalid_field(field, f"must be from {low:g}s to {high:g}s")
    return seconds


def request_id(value: str) -> str:
    """A UUID in lower case, or empty."""
    if not value:
        return ""
    try:
        return str(uuid.UUID(text("request_id", value)))
    except ValueError:
        raise invalid_field("request_id", "must be a UUID") from None


def check_host(given: str, info: HypervisorInfo | None) -> None:
    """The guard of every request: empty, or the served host's name or UUID, which only libvirt can tell."""
    if not given:
        return
    text("host", given)
    if info is None:
        raise disconnected("it has not told yet which host this is")
    if given != info.name and given.lower() != info.uuid.lower():
        raise HostdevError(
            "HOST_NOT_FOUND",
            f"this service does not serve the host {given}",
            metadata={"host": given, "served": info.name},
            resource=("host", given),
        )
