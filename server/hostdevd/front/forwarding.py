"""The bytes of one connection, to the gRPC server and back.

All on the service's own loop. Answers go by `splice`: the kernel moves pages from socket to socket through a pipe, and
nothing is copied (docs/benchmarks.md has the figures, beside those of the alternatives). Requests are small, and pass a
turnstile. One pipe and one buffer serve all connections, since every turn leaves them
empty; what a receiver has no room for is kept here, and nothing more is read until that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import socket
from collections.abc import Callable

from hostdevd.front.turnstile import Passage

ANSWER_BYTES = 256 * 1024
"""What a turn of the loop moves to a client at most."""
REQUEST_BYTES = 2 * 1024
"""The same to the server: some thirty calls."""
STUCK_S = 20.0
"""How often a connection is looked at on which nothing moves: if one end is gone, the other might never notice."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Pipe:
    """What bytes pass on their way from socket to socket; empty between any two turns."""

    def __init__(self) -> None:
        self.out, self.into = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # the user's pipes have all that they may: 64 KiB a turn then
            fcntl.fcntl(self.into, fcntl.F_SETPIPE_SZ, ANSWER_BYTES)
        self.buffer = memoryview(bytearray(REQUEST_BYTES))

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self.out)
        os.close(self.into)


class _Lane:
    """One direction: from a socket to another one."""

    __slots__ = ("_link", "_sink", "_source", "ended", "rest")

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        self._link = link
        self._source = source
        self._sink = sink
        self.rest = memoryview(b"")
        """What was read and could not be sent yet."""
        self.ended = False

    def listen(self) -> None:
        """Move what the source sends, unless something stands in the way."""
        if not (self.ended or self.rest):
            self._link.loop.add_reader(self._source, self._readable)

    def forget(self) -> None:
        """Have the loop call no more."""
        self.ended = True
        self._link.loop.remove_reader(self._source)
        self._link.loop.remove_writer(self._sink)

    def lost_its_source(self) -> bool:
        """Whether the sender has gone for good."""
        poll = select.poll()
        poll.register(self._source, 0)
        return bool(poll.poll(0))

    def _readable(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        self._link.loop.remove_reader(self._source)
        self.ended = True
        self._link.half_ended(self._sink)

    def _keep(self, rest: bytes) -> None:
        self.rest = memoryview(rest)
        self._link.loop.remove_reader(self._source)
        self._link.loop.add_writer(self._sink, self._writable)
        self._link.look_later()

    def _writable(self) -> None:
        try:
            self.rest = self.rest[self._sink.send(self.rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._link.lost(self._sink)
            return
        if not self.rest:
            self.rest = memoryview(b"")  # the old one would keep all that it was a part of
            self._link.loop.remove_writer(self._sink)
            self.listen()


class _Answers(_Lane):
    __slots__ = ()

    def _readable(self) -> None:
        pipe, sink = self._link.pipe, self._sink.fileno()
        try:
            count = os.splice(self._source.fileno(), pipe.into, ANSWER_BYTES, flags=_FLAGS)
        except BlockingIOError:
            return
        except OSError:  # reset: nothing more comes from there
            count = 0
        if not count:
            self._end()
            return
        try:
            while count:
                count -= os.splice(pipe.out, sink, count, flags=_FLAGS)
        except BlockingIOError:
            self._keep(os.read(pipe.out, count))
        except OSError:  # nobody receives any more
            os.read(pipe.out, count)
            self._link.lost(self._sink)


class _Requests(_Lane):
    __slots__ = ("_passage",)

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket, passage: Passage) -> None:
        super().__init__(link, source, sink)
        self._passage = passage

    def _readable(self) -> None:
        if not self._passage.is_open:
            self._link.loop.remove_reader(self._source)
            self._passage.wait(self.listen)
            return
        buffer = self._link.pipe.buffer
        try:
            count = self._source.recv_into(buffer)
        except BlockingIOError:
            return
        except OSError:  # reset: nothing more comes from there
            count = 0
        if not count:
            self._end()
            return
        read = buffer[:count]
        self._passage.passed(read)
        try:
            sent = self._sink.send(read)
        except BlockingIOError:
            sent = 0
        except OSError:  # nobody receives any more
            self._link.lost(self._sink)
            return
        if sent < count:
            self._keep(bytes(read[sent:]))


class Link:
    """A client's connection and the one to the gRPC server that belongs to it, until both have ended.

    `on_close` is called once, when both are about to be closed.
    """

    __slots__ = ("_back", "_client", "_forth", "_look", "_on_close", "_server", "loop", "pipe", "turned_away")

    def __init__(  # noqa: PLR0913  what connects all of them
        self,
        pipe: Pipe,
        client: socket.socket,
        server: socket.socket,
        passage: Passage,
        *,
        on_close: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self.pipe = pipe
        self._client = client
        self._server = server
        self._on_close: Callable[[], None] | None = on_close
        self._forth = _Requests(self, client, server, passage)
        self._back = _Answers(self, server, client)
        self._look: asyncio.TimerHandle | None = None
        self.turned_away = False
        """Whether the gRPC server was the first to end it."""
        self._forth.listen()
        self._back.listen()

    def half_ended(self, sink: socket.socket) -> None:
        """One of them sends no more: the other one is told, and may still answer."""
        self.turned_away = self.turned_away or not self._forth.ended
        if self._forth.ended and self._back.ended:
            self.close()
            return
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone before
            self.close()
        else:
            self.look_later()

    def lost(self, sink: socket.socket) -> None:
        """One of them takes nothing any more."""
        self.turned_away = self.turned_away or sink is self._server
        self.close()

    def look_later(self) -> None:
        """See in a while whether anything moves."""
        if self._look is None:
            lengths = len(self._forth.rest), len(self._back.rest)
            self._look = self.loop.call_later(STUCK_S, self._look_now, lengths)

    def _look_now(self, before: tuple[int, int]) -> None:
        self._look = None
        if self._back.ended:  # gRPC has closed, and the client has had its time to see that
            self.close()
            return
        lanes = self._forth, self._back
        if any(
            lane.rest and len(lane.rest) == length and lane.lost_its_source()
            for lane, length in zip(lanes, before, strict=True)
        ):
            self.close()
        elif any(lane.rest for lane in lanes):
            self.look_later()

    def close(self) -> None:
        """End both at once."""
        on_close, self._on_close = self._on_close, None
        if on_close is None:
            return
        for lane in (self._forth, self._back):
            lane.forget()
        if self._look is not None:
            self._look.cancel()
        on_close()  # before the name is free for somebody else
        self._server.close()
        self._client.close()
