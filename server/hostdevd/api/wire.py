"""Messages put together from parts that are serialized already.

Joined serializations of one message type merge (protobuf's own rule), so a list is its items' fields one after the
other, then the rest of the response. Every list and get of the API has its resource in field 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _tag(number: int) -> int:
    """The tag of a field with a length: its number, up to 15, shifted by three, and the wire type 2."""
    return number << 3 | 2


def entry(message: bytes, number: int = 1) -> bytes:
    """A serialized message as a field of the message around it."""
    size = len(message)
    prefix = bytearray((_tag(number),))
    while size > 0x7F:  # noqa: PLR2004  seven bits a byte
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + message


def moved(field_1: bytes, number: int) -> bytes:
    """An `entry` of field 1 as another field."""
    return bytes((_tag(number),)) + field_1[1:]


def sent(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """The serializer of a method whose handler may have made the bytes itself."""
    if serialize is None:
        return None

    def serialized(response: Any) -> bytes:
        return response if isinstance(response, bytes) else serialize(response)

    return serialized
