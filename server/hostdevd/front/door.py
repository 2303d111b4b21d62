"""The front: accepts on the public sockets, learns who comes, and passes the bytes on to the gRPC server.

gRPC tells nothing of who is at the other end of a unix socket. So the server listens on private ones, in a directory
that only this service may enter, and the front binds its end of each connection there to a random name before it
connects: that name is what `context.peer()` shows, and `callers` says who it is. Whoever reaches a private socket in
another way has no such name.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hostdevd.core.caller import LOOPBACK, Caller
from hostdevd.core.limits import Limits
from hostdevd.front.forwarding import Link, Pipe
from hostdevd.front.peers import peer_of
from hostdevd.front.places import NoPlaceError, Place, Places, Strangers
from hostdevd.front.turnstile import LOST_S, EncryptedTurnstile, Passage, Pulse, Turnstile

log = structlog.get_logger()

ACCEPTED_A_TURN = 16
PAUSE_S = 0.5
"""How long nothing is accepted after there was no descriptor for it."""
HANDSHAKE_S = 15.0
"""A handshake that fails has failed by then: gRPC gives it ten seconds (`api/server.py`)."""
TOLD_EVERY_S = 60.0
"""How often the log says the same of the same visitor."""
_KEPT = 1024
"""Of how many visitors the log tells within that time; all others are told of as if they were one."""
_OF_ALL = frozenset({"", "all", "strangers"})
"""What the log tells that is of no one visitor."""
_STRANGERS = 8
"""One connection in so many may be one by TLS that has not shown yet who it is from."""
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
    return Visitor(f"address:{_who_has(connection.getpeername()[0])}", None)


def _who_has(address: str) -> str:
    """What one client may have all of: an address of IPv4, and the last 64 bits of one of IPv6."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((int(found), 64), strict=False))
        found = found.ipv4_mapped
    return str(found)


def _without_delay(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_KEPT_PLACES: dict[Recognise, int] = {at_socket: 4, at_read_only_socket: 8, on_loopback: 8, by_certificate: 8}
"""One place in so many is kept for each kind of door that there is. Most for the one that not everybody reaches."""


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
    """All connections of one visitor, and those that have just ended."""

    turnstile: Turnstile
    names: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Connection:
    visitor: Visitor
    place: Place
    regular: _Regular
    passage: Passage
    link: Link
    came: float


class Front:
    """All public sockets of the service, on the loop that makes it; `close` ends everything."""

    def __init__(self, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = Pipe()
        self._doors: list[_Door] = []
        self._connections: dict[str, _Connection] = {}
        self._places = Places(limits.connections, limits.connections_total)
        self._strangers = Strangers(max(1, limits.connections_total // _STRANGERS))
        self._regulars: dict[str, _Regular] = {}
        self._pulse = Pulse()
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
        """The service has begun a call of this connection. Under TLS the client has shown its certificate before."""
        self._pulse.beats += 1
        found = self._connections.get(name)
        if found is not None:
            self._strangers.known(found.visitor.key, name)
            found.regular.turnstile.begun(found.passage)

    def open(self, listening: socket.socket, target: Path, recognise: Recognise) -> None:
        """Accept at a socket from now on; the front closes it. `target` is the private socket behind it."""
        self._places.keep(recognise, _KEPT_PLACES[recognise])
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
        self._tell(
            "", "no connection can be accepted; it is tried again", reason=error.strerror, connections=self.connections
        )
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
        place = self._place(door, visitor)
        if place is None:
            client.close()
            return
        name = f"hostdevd-{secrets.token_hex(16)}"
        with ExitStack() as undone:  # out of descriptors or memory all of it is tried again, twice a second
            undone.callback(self._places.leave, place)
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            undone.callback(server.close)
            server.bind(f"\0{name}")
            server.connect(door.target)
            regular = self._regular(visitor)
            regular.names.add(name)
            passage = regular.turnstile.passage()
            undone.callback(self._forget, visitor, regular, passage, name)
            undone.callback(self._loop.remove_reader, client)
            link = Link(self._pipe, client, server, passage, on_close=lambda: self._ended(name), loop=self._loop)
            undone.pop_all()
        self._connections[name] = _Connection(visitor, place, regular, passage, link, self._loop.time())
        if visitor.caller is None:
            self._strangers.came(visitor.key, name)

    def _place(self, door: _Door, visitor: Visitor) -> Place | None:
        """A place, if need be that of a stranger, who goes for another one; None: it was told that there is none."""
        is_stranger = visitor.caller is None
        try:
            try:
                place = self._places.take(door.recognise, visitor.key)
            except NoPlaceError as full:
                if not (is_stranger and self._send_away(self._strangers.first_to_go(full.of))):
                    raise
                place = self._places.take(door.recognise, visitor.key)
        except NoPlaceError as full:
            event = "connections are refused: there are too many"
            self._tell(full.of or "all", event, of=full.of or "all", connections=self.connections)
            return None
        if is_stranger and self._strangers.is_full:  # not before: who is refused makes nobody go
            self._send_away(self._strangers.first_to_go())
        return place

    def _send_away(self, name: str | None) -> bool:
        if name is None:
            return False
        event = "connections are ended for new ones: they have not shown who they are from"
        self._tell("strangers", event, connections=self.connections)
        self._connections[name].link.close()
        return True

    def _regular(self, visitor: Visitor) -> _Regular:
        found = self._regulars.get(visitor.key)
        if found is None:
            encrypted = visitor.caller is None
            turnstile = EncryptedTurnstile(self._loop, self._pulse) if encrypted else Turnstile(self._loop)
            found = self._regulars[visitor.key] = _Regular(turnstile)
        return found

    def _tell(self, about: str, event: str, **facts: object) -> None:
        now = self._loop.time()
        if len(self._told_at) >= _KEPT and about not in {*self._told_at, *_OF_ALL}:
            self._told_at = {one: at for one, at in self._told_at.items() if now - at < TOLD_EVERY_S}
            if len(self._told_at) >= _KEPT:
                about = "others"
        if now - self._told_at.get(about, -TOLD_EVERY_S) < TOLD_EVERY_S:
            return
        self._told_at[about] = now
        log.warning(event, **facts)

    def _ended(self, name: str) -> None:
        connection = self._connections.pop(name)
        self._places.leave(connection.place)
        was_stranger = self._strangers.known(connection.visitor.key, name)
        is_young = self._loop.time() - connection.came < HANDSHAKE_S
        if was_stranger and is_young and connection.link.turned_away and self._doors:
            # gRPC itself says nothing of a handshake that fails.
            event = (
                "a client was turned away before its first call: no TLS, or no certificate that is trusted and valid"
            )
            self._tell(f"TLS {connection.visitor.key}", event, of=connection.visitor.key)
        if connection.regular.turnstile.has_pending(connection.passage):
            # Not at once: the service may still begin them, and who comes again and again would pass any number.
            self._loop.call_later(
                LOST_S, self._forget, connection.visitor, connection.regular, connection.passage, name
            )
        else:
            self._forget(connection.visitor, connection.regular, connection.passage, name)

    def _forget(self, visitor: Visitor, regular: _Regular, passage: Passage, name: str) -> None:
        regular.names.discard(name)
        regular.turnstile.left(passage)
        if not regular.names:  # whoever waits there waits for nothing
            regular.turnstile.close()
            del self._regulars[visitor.key]
