"""Messages put together from parts that are serialized already.

Joined serializations of one message type merge (protobuf's own rule), so a list is its items' fields one after the
other, then the rest of the response. Every list and get of the API has its resource in field 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_FIELD_1 = b"\x0a"
"""The tag of field 1 with a length: its number shifted by three, and the wire type 2."""


def entry(message: bytes) -> bytes:
    """A serialized message as field 1 of the message around it."""
    size = len(message)
    prefix = bytearray(_FIELD_1)
    while size > 0x7F:  # noqa: PLR2004  seven bits a byte
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + message


def sent(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    """The serializer of a method whose handler may have made the bytes itself."""
    if serialize is None:
        return None

    def serialized(response: Any) -> bytes:
        return response if isinstance(response, bytes) else serialize(response)

    return serialized
