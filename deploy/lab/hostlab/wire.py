"""How the outer machine talks to the agent in the lab.

One TCP connection per request. The agent says ``h`` (so that a client knows it is not
QEMU alone that accepted), the client sends one line of JSON, then frames come back: one
byte of kind, four of length (big endian), the payload.

``o`` and ``e`` carry stdout and stderr; ``x`` is the last and carries JSON: ``{"status": int}``
or ``{"error": str}``. When the client hangs up, the agent kills what it runs for it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

HELLO, OUT, ERR, END = b"h", b"o", b"e", b"x"
_HEADER = struct.Struct(">cI")


def send(connection: socket.socket, kind: bytes, payload: bytes = b"") -> None:
    """Send one frame."""
    connection.sendall(_HEADER.pack(kind, len(payload)) + payload)


def frames(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Frames until the other side closes."""
    while True:
        header = _exactly(connection, _HEADER.size)
        if header is None:
            return
        kind, length = _HEADER.unpack(header)
        payload = _exactly(connection, length)
        if payload is None:
            return
        yield kind, payload


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return data
