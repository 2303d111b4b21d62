"""The bytes of a connection: all of them in order, few of them here at a time, and an end for every way of ending."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from hostdevd.front import forwarding, turnstile
from hostdevd.front.forwarding import ANSWER_BYTES, Link, Pipe
from hostdevd.front.turnstile import MOST_PENDING, Passage, Turnstile

MUCH = os.urandom(4 * 1024 * 1024)


@dataclass
class Ends:
    """What lies on both sides of a link."""

    client: socket.socket
    server: socket.socket
    inner: tuple[socket.socket, socket.socket]
    link: Link
    turnstile: Turnstile
    passage: Passage
    closed: list[bool] = field(default_factory=list)

    @property
    def is_closed(self) -> bool:
        return [one.fileno() for one in self.inner] == [-1, -1] and self.closed == [True]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    with pytest.raises(BlockingIOError):  # every turn leaves it empty
        os.read(made.out, 1)
    made.close()


@pytest.fixture
async def ends(pipe: Pipe) -> AsyncIterator[Ends]:
    (client, inner_client), (server, inner_server) = socket.socketpair(), socket.socketpair()
    for one in (client, server, inner_client, inner_server):
        one.settimeout(0)
    loop, closed = asyncio.get_running_loop(), list[bool]()
    gate = Turnstile(loop)
    passage = gate.passage()
    link = Link(pipe, inner_client, inner_server, passage, on_close=lambda: closed.append(True), loop=loop)
    yield Ends(client, server, (inner_client, inner_server), link, gate, passage, closed)
    gate.close()
    link.close()
    client.close()
    server.close()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110  descriptors tell nobody of their end
            await asyncio.sleep(0.001)


async def received(at: socket.socket, count: int) -> bytes:
    loop, found = asyncio.get_running_loop(), bytearray()
    while len(found) < count and (part := await loop.sock_recv(at, count - len(found))):
        found += part
    return bytes(found)


async def test_everything_arrives_both_ways_at_once(ends: Ends) -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        answers, requests, *_ = await asyncio.gather(
            received(ends.client, len(MUCH)),
            received(ends.server, len(MUCH) // 4),
            loop.sock_sendall(ends.server, MUCH),
            loop.sock_sendall(ends.client, MUCH[: len(MUCH) // 4]),
        )
    assert answers == MUCH
    assert requests == MUCH[: len(MUCH) // 4]
    ends.link.close()
    assert ends.is_closed


async def test_whoever_does_not_read_stops_the_sender_and_no_more_than_a_turn_is_kept(ends: Ends) -> None:
    sent, tries = 0, 0
    while tries < 50:
        try:
            sent += ends.server.send(MUCH[sent : sent + 65536])
            tries = 0
        except BlockingIOError:
            tries += 1
            await asyncio.sleep(0.001)
    buffers = sum(end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for end in (ends.server, ends.inner[0]))
    assert sent < 2 * buffers + ANSWER_BYTES < len(MUCH)
    assert 0 < len(ends.link._back.rest) <= ANSWER_BYTES
    assert await received(ends.client, sent) == MUCH[:sent]
    await until(lambda: not ends.link._back.rest)
    ends.server.send(b"on")
    assert await received(ends.client, 2) == b"on"
    ends.link.close()


async def test_one_side_may_end_and_still_be_answered(ends: Ends) -> None:
    ends.client.send(b"question")
    ends.client.shutdown(socket.SHUT_WR)
    assert await received(ends.server, 100) == b"question"  # and then its end
    ends.server.send(b"answer")
    assert await received(ends.client, 6) == b"answer"
    assert not ends.closed
    ends.server.close()
    await until(lambda: ends.is_closed)
    assert await received(ends.client, 1) == b""


@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_abrupt_end_of_one_is_the_end_of_the_other(ends: Ends, side: str) -> None:
    goes, stays = (ends.client, ends.server) if side == "client" else (ends.server, ends.client)
    stays.send(b"never read")
    await asyncio.sleep(0.01)
    goes.close()  # with something unread, which is a reset
    assert await received(stays, 1) == b""
    stays.close()
    await until(lambda: ends.is_closed)


async def test_what_was_sent_before_the_end_arrives(ends: Ends) -> None:
    ends.server.settimeout(None)
    sending = asyncio.create_task(asyncio.to_thread(ends.server.sendall, MUCH))
    got = await received(ends.client, 1000)
    got += await received(ends.client, len(MUCH) - 1000)
    await sending
    ends.server.close()
    assert got + await received(ends.client, 1) == MUCH
    ends.client.close()
    await until(lambda: ends.is_closed)


async def test_a_server_that_gave_up_a_client_that_does_not_read_is_noticed(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "STUCK_S", 0.05)
    while not ends.link._back.rest:
        try:
            ends.server.send(MUCH[:65536])
        except BlockingIOError:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.15)
    assert not ends.closed  # stuck, but somebody waits for it
    ends.server.close()
    await until(lambda: ends.is_closed)


async def test_a_client_that_stays_after_the_servers_end_is_let_go(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "STUCK_S", 0.05)
    ends.server.close()
    await until(lambda: ends.is_closed)
    assert await received(ends.client, 1) == b""


def calls(count: int) -> bytes:
    """Frames of HTTP/2 that begin so many calls."""
    return b"\0\0\0\1\4\0\0\0\1" * count


async def test_a_flood_waits_in_its_senders_buffers(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile, "LOST_S", 10.0)  # none is lost here, however slow this machine is
    sent = b"x" * 24 + calls(1000)
    await asyncio.get_running_loop().sock_sendall(ends.client, sent)
    came = await received(ends.server, forwarding.REQUEST_BYTES)
    await asyncio.sleep(0.01)
    with pytest.raises(BlockingIOError):
        ends.server.recv(1)
    begun = 0
    while len(came) < len(sent):
        ends.turnstile.begun(ends.passage)
        begun += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            came += ends.server.recv(65536)
        except BlockingIOError:
            continue
        assert (len(came) - 24) / 9 - begun <= MOST_PENDING + forwarding.REQUEST_BYTES / 9
    assert came == sent


async def test_a_link_that_ends_while_it_waits_leaves_nothing_behind(ends: Ends) -> None:
    ends.client.send(b"x" * 24 + calls(500))
    await until(lambda: not ends.turnstile.is_open)
    await asyncio.sleep(0.01)
    ends.link.close()
    ends.link.close()
    assert ends.is_closed
    for _ in range(500):
        ends.turnstile.begun(ends.passage)
    assert not ends.turnstile.has_pending(ends.passage)
