"""The front: accepts on the public sockets, learns who comes, and passes the bytes on to the gRPC server.

gRPC tells nothing of who is at the other end of a unix socket. So the server listens on private ones, in a directory
that only this service may enter, and the front binds its end of each connection there to a random name before it
connects: that name is what `context.peer()` shows, and `callers` says who it is. Whoever reaches a private socket in
another way has no such name.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hostdevd.core.caller import LOOPBACK, Caller
from hostdevd.core.limits import Limits
from hostdevd.front.forwarding import Link, Pipe
from hostdevd.front.peers import peer_of
from hostdevd.front.turnstile import Turnstile

log = structlog.get_logger()

ACCEPTED_A_TURN = 16
PAUSE_S = 0.5
"""How long nothing is accepted after there was no descriptor for it."""
TOLD_EVERY_S = 60.0
"""How often the log says the same of the same visitor."""
_KEPT = 1024
"""Of those who are gone; what is known of them is forgotten when that makes no difference."""
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN})


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who comes: the key that its connections are counted by, and the caller where the connection itself tells."""

    key: str
    caller: Caller | None


Recognise = Callable[[socket.socket], Visitor]
"""Finds out who is at the other end of a fresh connection. OSError: it cannot be told."""


def at_socket(connection: socket.socket) -> Visitor:
    """Somebody at the unix socket."""
    peer = peer_of(connection, read_only=False)
    return Visitor(peer.name, peer)


def at_read_only_socket(connection: socket.socket) -> Visitor:
    """Somebody at the one that is for looking only."""
    peer = peer_of(connection, read_only=True)
    return Visitor(peer.name, peer)


def on_loopback(connection: socket.socket) -> Visitor:
    """Somebody on this machine, whoever it is."""
    _without_delay(connection)
    return Visitor(LOOPBACK.name, LOOPBACK)


def by_certificate(connection: socket.socket) -> Visitor:
    """Somebody whose certificate will tell; until then, an address."""
    _without_delay(connection)
    return Visitor(f"address:{connection.getpeername()[0]}", None)


def _without_delay(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@dataclass(slots=True, eq=False)
class _Door:
    """A public socket, and where its connections go. `waiting` was accepted, and there was nothing left for it."""

    listening: socket.socket
    target: str
    recognise: Recognise
    paused: asyncio.TimerHandle | None = None
    waiting: socket.socket | None = None


@dataclass(slots=True, eq=False)
class _Regular:
    """All connections of one visitor."""

    turnstile: Turnstile
    names: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Connection:
    visitor: Visitor
    regular: _Regular
    link: Link


class Front:
    """All public sockets of the service, on the loop that makes it; `close` ends everything."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._pipe = Pipe()
        self._doors: list[_Door] = []
        self._connections: dict[str, _Connection] = {}
        self._regulars: dict[str, _Regular] = {}
        self._told_at: dict[str, float] = {}

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def visitor(self, name: str) -> Visitor | None:
        """Who is behind a name that a private socket's peer has; None: nobody who came through here."""
        found = self._connections.get(name)
        return found.visitor if found is not None else None

    def begun(self, name: str) -> None:
        """The service has begun a call of this connection."""
        found = self._connections.get(name)
        if found is not None:
            found.regular.turnstile.begun()

    def open(self, listening: socket.socket, target: Path, recognise: Recognise) -> None:
        """Accept at a socket from now on; the front closes it. `target` is the private socket behind it."""
        door = _Door(listening, str(target), recognise)
        self._doors.append(door)
        self._resume(door)

    def stop_accepting(self) -> None:
        """Let nobody in any more; who is in stays."""
        for door in self._doors:
            if door.paused is not None:
                door.paused.cancel()
            if door.waiting is not None:
                door.waiting.close()
            self._loop.remove_reader(door.listening)
            door.listening.close()
        self._doors.clear()

    def close(self) -> None:
        """End everything."""
        self.stop_accepting()
        for connection in tuple(self._connections.values()):
            connection.link.close()
        for regular in self._regulars.values():
            regular.turnstile.close()
        self._pipe.close()

    def _resume(self, door: _Door) -> None:
        door.paused = None
        self._loop.add_reader(door.listening, self._accept, door)
        if door.waiting is not None:  # and perhaps nobody else, whom the loop would tell of
            self._accept(door)

    def _pause(self, door: _Door, error: OSError) -> None:
        """Leave the next ones in the backlog: to try again at once would be all that the service does."""
        self._tell("", "no connection can be accepted; it is tried again", reason=error.strerror)
        self._loop.remove_reader(door.listening)
        door.paused = self._loop.call_later(PAUSE_S, self._resume, door)

    def _accept(self, door: _Door) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                client = door.waiting or door.listening.accept()[0]
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(door, error)
                    return
                continue  # it has gone before it was let in
            door.waiting = None
            try:
                self._let_in(door, client)
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    door.waiting = client
                    self._pause(door, error)
                    return
                client.close()  # the same

    def _let_in(self, door: _Door, client: socket.socket) -> None:
        client.settimeout(0)
        visitor = door.recognise(client)
        regular = self._regular(visitor.key)
        if self._is_full(visitor.key, regular):
            client.close()
            return
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        name = f"hostdevd-{secrets.token_hex(16)}"
        try:
            server.bind(f"\0{name}")
            server.connect(door.target)
        except OSError:
            server.close()
            raise
        regular.names.add(name)
        link = Link(
            self._pipe,
            client,
            server,
            regular.turnstile,
            encrypted=visitor.caller is None,
            on_close=lambda: self._ended(name),
            loop=self._loop,
        )
        self._connections[name] = _Connection(visitor, regular, link)

    def _regular(self, key: str) -> _Regular:
        found = self._regulars.get(key)
        if found is None:
            if len(self._regulars) >= _KEPT:
                self._regulars = {
                    name: one for name, one in self._regulars.items() if one.names or not one.turnstile.is_unused
                }
            found = self._regulars[key] = _Regular(Turnstile(self._loop))
        return found

    def _is_full(self, key: str, regular: _Regular) -> bool:
        if len(self._connections) >= self._limits.connections_total:
            who = "all"
        elif len(regular.names) >= self._limits.connections:
            who = key
        else:
            return False
        self._tell(who, "connections are refused: there are too many", of=who)
        return True

    def _tell(self, about: str, event: str, **facts: object) -> None:
        now = self._loop.time()
        if now - self._told_at.get(about, -TOLD_EVERY_S) < TOLD_EVERY_S:
            return
        if len(self._told_at) >= _KEPT:
            self._told_at.clear()
        self._told_at[about] = now
        log.warning(event, connections=self.connections, **facts)

    def _ended(self, name: str) -> None:
        self._connections.pop(name).regular.names.discard(name)
