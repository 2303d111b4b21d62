"""The public sockets, and behind them the private ones of the gRPC server.

What can go wrong does so before a server is there; `open` lets callers in, once there is somebody to answer.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from hostdevd.api.callers import Callers
from hostdevd.api.certificates import Certificates
from hostdevd.api.identification import Identification
from hostdevd.core.limits import Counts, Limits
from hostdevd.front.addresses import Address
from hostdevd.front.door import (
    Front,
    Recognise,
    at_read_only_socket,
    at_socket,
    by_certificate,
    on_loopback,
)
from hostdevd.front.doors import Doors
from hostdevd.front.sockets import open_tcp, open_unix, private_directory

_PLAIN = "plain"
_TLS = "tls"


@dataclass(frozen=True, slots=True)
class _Bound:
    """What one address has: its sockets, and what the front does with who comes there."""

    address: Address
    sockets: tuple[socket.socket, ...]
    target: Path
    recognise: Recognise

    @property
    def shown(self) -> str:
        return self.address.shown(0 if self.address.path is not None else self.sockets[0].getsockname()[1])


class Listeners:
    """Every address of the service. `private` is the directory of the gRPC server's own sockets.

    `ListenError` when the certificates are no good.
    """

    def __init__(self, doors: Doors, limits: Limits, private: Path) -> None:
        self._doors = doors
        self._private = private
        self._bound: list[_Bound] = []
        self._certificates = Certificates(doors.tls) if doors.tls is not None else None
        self._front = Front(limits)
        self.counts = Counts(limits, time.monotonic)
        callers = Callers(self._front.visitor, doors.trust_domain)
        self.identification = Identification(callers, self._front.begun, self.counts)
        """What each call of the server must pass."""

    def certificate_ends(self) -> Mapping[str, float]:
        """When the certificates in force end (`Certificates.ends`); nothing without TLS. For any thread."""
        return self._certificates.ends if self._certificates is not None else {}

    def bind(self) -> None:
        """Take all addresses; `ListenError` when one cannot be had. Who connects now waits until `open`."""
        for address in self._doors.addresses:
            self._bind(address, self._doors.mode, at_socket)
        if self._doors.read_only is not None:
            self._bind(self._doors.read_only, self._doors.read_only_mode, at_read_only_socket)

    def serve(self, server: grpc.aio.Server) -> None:
        """Have a server listen behind them."""
        if any(not address.tls for address in self._doors.all):
            server.add_insecure_port(f"unix:{self._private / _PLAIN}")
        if self._certificates is not None:
            server.add_secure_port(f"unix:{self._private / _TLS}", self._certificates.credentials())

    def _bind(self, address: Address, mode: int, at_path: Recognise) -> None:
        if address.path is not None:
            sockets = [open_unix(address, address.path, mode=mode, group=self._doors.group)]
            recognise = at_path
        else:
            sockets = open_tcp(address)
            recognise = by_certificate if address.tls else on_loopback
        target = self._private / (_TLS if address.tls else _PLAIN)
        self._bound.append(_Bound(address, tuple(sockets), target, recognise))

    def open(self, announce: Callable[[str], None]) -> None:
        """Let callers in, and say where."""
        for bound in self._bound:
            for listening_at in bound.sockets:
                self._front.open(listening_at, bound.target, bound.recognise)
        for bound in self._bound:
            announce(bound.shown)

    def stop_accepting(self) -> None:
        """Let nobody in any more; who is in stays."""
        self._front.stop_accepting()
        for bound in self._bound:
            for listening_at in bound.sockets:
                listening_at.close()

    def close(self) -> None:
        """End all connections."""
        self.stop_accepting()
        self._front.close()


@asynccontextmanager
async def listening(doors: Doors, limits: Limits) -> AsyncIterator[Listeners]:
    """All addresses, taken, with a private directory, until the block ends. `ListenError` where that cannot be."""
    with private_directory(doors.first_path) as private, closing(Listeners(doors, limits, private)) as listeners:
        listeners.bind()
        yield listeners
