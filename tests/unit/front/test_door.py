"""The front's door: who comes is known behind it, too many stay outside, and nothing is left of those who go."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog.testing

from hostdevd.core.caller import LOOPBACK, Proof
from hostdevd.core.limits import Limits
from hostdevd.front import door
from hostdevd.front.addresses import parse_address
from hostdevd.front.door import Front, at_read_only_socket, at_socket, by_certificate, on_loopback
from hostdevd.front.sockets import open_tcp, open_unix


@dataclass
class Behind:
    """What stands where the gRPC server does: it answers with the name that it sees, and then with what it gets."""

    path: Path
    server: asyncio.Server


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("peername").ljust(64, b"\0"))
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    path = tmp_path / "behind"
    async with await asyncio.start_unix_server(answer, path, backlog=4096) as server:
        yield Behind(path, server)


def front_at(path: Path, behind: Behind, limits: Limits | None = None) -> Front:
    front = Front(limits or Limits())
    front.open(open_unix(parse_address(f"unix:{path}"), path, mode=0o600, group=None), behind.path, at_socket)
    return front


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  descriptors tell nobody of their end
            await asyncio.sleep(0.002)


async def name_of(reader: asyncio.StreamReader) -> str:
    """The name that the server behind sees of a connection."""
    return (await reader.readexactly(64)).rstrip(b"\0").decode()


def descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]


async def test_the_name_behind_tells_who_is_in_front(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    name = await name_of(reader)
    assert not name.startswith("/")
    visitor = front.visitor(name.removeprefix("\0"))
    assert visitor is not None
    assert visitor.caller is not None
    assert (visitor.caller.proof, visitor.caller.uid, visitor.caller.pid) == (Proof.PEER, os.getuid(), os.getpid())
    assert visitor.caller.gids == tuple(dict.fromkeys((os.getgid(), *os.getgroups())))
    assert visitor.key == visitor.caller.name == f"uid:{os.getuid()}"
    assert not visitor.caller.read_only
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    await until(lambda: not front.connections)
    assert front.visitor(name.removeprefix("\0")) is None
    front.close()


async def test_the_sockets_tell_what_they_are_for(tmp_path: Path, behind: Behind) -> None:
    front = Front(Limits())
    path = tmp_path / "ro"
    front.open(open_unix(parse_address(f"unix:{path}"), path, mode=0o666, group=None), behind.path, at_read_only_socket)
    ports = []
    for recognise in (on_loopback, by_certificate):
        for listening in open_tcp(parse_address("127.0.0.1:0")):
            ports.append(listening.getsockname()[1])
            front.open(listening, behind.path, recognise)
    found = []
    for opening in (
        asyncio.open_unix_connection(path),
        *(asyncio.open_connection("127.0.0.1", port) for port in ports),
    ):
        reader, writer = await opening
        found.append(front.visitor((await name_of(reader)).removeprefix("\0")))
        writer.close()
    looking, loopback, certified = found
    assert looking is not None
    assert looking.caller is not None
    assert (looking.caller.read_only, looking.caller.uid) == (True, os.getuid())
    assert loopback is not None
    assert loopback.caller is LOOPBACK
    assert certified is not None
    assert (certified.key, certified.caller) == ("address:127.0.0.1", None)
    front.close()


async def test_too_many_of_one_user_and_of_all_stay_outside(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind, Limits(connections=3, connections_total=4))
    port, *_ = open_tcp(parse_address("127.0.0.1:0"))
    front.open(port, behind.path, on_loopback)
    inside = [await asyncio.open_unix_connection(tmp_path / "s") for _ in range(2)]
    inside.append(await asyncio.open_connection(*port.getsockname()))
    for reader, _ in inside:
        await name_of(reader)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*port.getsockname())
            assert await reader.read() == b""
            writer.close()
        assert [entry["of"] for entry in logs] == ["all"]  # told once
        inside.append(await asyncio.open_unix_connection(tmp_path / "s"))  # what is kept for that one
        await name_of(inside[-1][0])
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        assert await reader.read() == b""
        writer.close()
        assert [entry["of"] for entry in logs] == ["all", f"uid:{os.getuid()}"]
    inside.pop(0)[1].close()
    await until(lambda: front.connections == 3)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    await name_of(reader)
    for _, one in (*inside, (reader, writer)):
        one.close()
    await until(lambda: not front.connections)
    front.close()


def tcp_door(front: Front, behind: Behind) -> int:
    (listening,) = open_tcp(parse_address("127.0.0.1:0"))
    front.open(listening, behind.path, by_certificate)
    port: int = listening.getsockname()[1]
    return port


async def test_who_has_shown_no_certificate_makes_way_for_the_next(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind, Limits(connections_total=32))
    port = tcp_door(front, behind)

    async def come(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
        return reader, writer, (await name_of(reader)).removeprefix("\0")

    known = await come("127.0.0.2")
    front.begun(known[2])
    early = await come("127.0.0.3")
    with structlog.testing.capture_logs() as logs:
        flood = [await come("127.0.0.4") for _ in range(100)]
        assert front.connections == 1 + 32 // 8
        assert [entry["event"][:21] for entry in logs] == ["connections are ended"]  # told once
    for reader, _, _ in flood[:97]:
        assert await reader.read() == b""  # in turn, and of those who have most
    for one in (known, early, flood[-1]):
        one[1].write(b"hello")
        assert await one[0].readexactly(5) == b"hello"
    others = [await come(f"127.0.1.{number}") for number in range(1, 5)]
    assert front.visitor(known[2]) is not None
    assert front.visitor(early[2]) is None
    for _, writer, _ in (known, early, *flood, *others):
        writer.close()
    await until(lambda: not front.connections and not front._regulars)
    front.close()


async def test_who_fails_in_the_handshake_is_told_of(tmp_path: Path) -> None:
    async def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(64) != b"bad":
            await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(turn_away, tmp_path / "behind") as server:
        front = front_at(tmp_path / "s", Behind(tmp_path / "behind", server))
        port = tcp_door(front, Behind(tmp_path / "behind", server))

        async def come(host: str, hello: bytes) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0))
            if hello != b"bad":
                await until(lambda: front.connections)
            writer.write(hello)
            if hello == b"bad":
                assert await reader.read() == b""
            writer.close()
            await until(lambda: not front.connections)

        with structlog.testing.capture_logs() as logs:
            await come("127.0.0.2", b"good")  # it left by itself: a probe, or a client that had no question
            await come("127.0.0.2", b"")
            assert logs == []
            for host in ("127.0.0.2", "127.0.0.2", "127.0.0.3"):
                await come(host, b"bad")
        assert [entry["of"] for entry in logs] == ["address:127.0.0.2", "address:127.0.0.3"]  # each once a minute
        assert {entry["event"][:24] for entry in logs} == {"a client was turned away"}
        front.close()


async def test_a_crowd_is_told_of_as_one(tmp_path: Path, behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "_KEPT", 3)
    front = front_at(tmp_path / "s", behind)
    with structlog.testing.capture_logs() as logs:
        for number in (*range(6), 0):
            front._tell(str(number), "told", of=number)
        assert [entry["of"] for entry in logs] == [0, 1, 2, 3]  # 3 for 4 and 5 as well
        front._tell("all", "full", of="all")
        assert logs.pop()["of"] == "all"
        monkeypatch.setattr(door, "TOLD_EVERY_S", 0.0)
        front._tell("6", "told", of=6)
    assert logs[-1]["of"] == 6
    assert len(front._told_at) == 1
    front.close()


async def test_a_stranger_has_no_place_that_its_own_neighbour_could_have(tmp_path: Path, behind: Behind) -> None:
    """Where the doors are full, and where one address has all that it may."""
    front = front_at(tmp_path / "s", behind, Limits(connections=3, connections_total=64))
    port = tcp_door(front, behind)
    inside = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    names = [(await name_of(reader)).removeprefix("\0") for reader, _ in inside]
    front.begun(names[0])
    inside.append(await asyncio.open_connection("127.0.0.1", port))
    names.append((await name_of(inside[-1][0])).removeprefix("\0"))
    assert [front.visitor(name) is not None for name in names] == [True, False, True, True]
    for name in names:
        front.begun(name)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    for _, one in (*inside, (reader, writer)):
        one.close()
    front.close()


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_addresses_of_one_client_are_one(address: str, key: str) -> None:
    assert door._who_has(address) == key


def come_and_go(path: str, count: int) -> None:
    """Open connections and drop them in several ways."""
    for number in range(count):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            if number % 4 == 0:
                client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            elif number % 4 == 1:
                client.shutdown(socket.SHUT_WR)
            elif number % 4 == 2:
                client.recv(10)  # and leave the rest unread


async def test_connections_that_come_and_go_leave_nothing_behind(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind)
    before = descriptors()
    await asyncio.to_thread(come_and_go, str(tmp_path / "s"), 1000)
    await until(lambda: not front.connections and len(descriptors()) == len(before))
    await until(lambda: not front._regulars)
    front.close()


async def test_nothing_is_kept_of_an_address_that_has_gone(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind)
    port = tcp_door(front, behind)
    for number in range(1, 101):
        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.2.{number}", 0))
        writer.write(b"hello" * 2000)  # more than passes at once
        writer.close()
    await until(lambda: not front.connections)
    await until(lambda: not front._regulars)
    front.close()


async def test_calls_of_a_connection_that_has_gone_are_no_longer_counted(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    turnstile = front._connections[(await name_of(reader)).removeprefix("\0")].regular.turnstile
    for _ in range(3):
        _, goes = await asyncio.open_unix_connection(tmp_path / "s")
        goes.write(b"x" * 24 + b"\0\0\0\1\4\0\0\0\1" * 10)
        await until(lambda: turnstile._total)
        goes.close()
        await until(lambda: front.connections == 1)
        await until(lambda: not turnstile._total)  # a bit later: who comes anew each time gains nothing
    writer.close()
    await until(lambda: not front._regulars)
    front.close()


@pytest.mark.parametrize("comers", [1, 4])
async def test_without_descriptors_it_waits_and_goes_on(
    tmp_path: Path, behind: Behind, monkeypatch: pytest.MonkeyPatch, comers: int
) -> None:
    monkeypatch.setattr(door, "PAUSE_S", 0.05)
    front = front_at(tmp_path / "s", behind)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(comers)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    accepts = 0
    accept = Front._accept

    def counted(self: Front, at: door._Door) -> None:
        nonlocal accepts
        accepts += 1
        accept(self, at)

    monkeypatch.setattr(Front, "_accept", counted)
    front._loop.remove_reader(front._doors[0].listening)
    front._resume(front._doors[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 8, hard))
    taken: list[int] = []
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for _ in range(comers):
        os.close(taken.pop())  # the last one that is accepted has no way to the server
    try:
        with structlog.testing.capture_logs() as logs:
            for client in waiting:
                client.settimeout(0)
                client.connect(str(tmp_path / "s"))
            await asyncio.sleep(0.2)
            assert len(logs) == 1
            assert logs[0]["reason"] == os.strerror(errno.EMFILE)
        assert accepts <= 8  # it does not spin
        assert (front._doors[0].waiting is not None) == (comers == 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for one in taken:
            os.close(one)
    for client in waiting:
        reader, writer = await asyncio.open_unix_connection(sock=client)
        name = await name_of(reader)
        assert front.visitor(name.removeprefix("\0")) is not None
        writer.close()
    await until(lambda: not front.connections)
    front.close()


@pytest.mark.parametrize("what", ["socket", "Link"])
async def test_who_waits_for_descriptors_takes_no_place(
    tmp_path: Path, behind: Behind, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It is tried again twice a second: a place lost each time would be all of them in minutes."""
    monkeypatch.setattr("hostdevd.front.door.PAUSE_S", 0.001)
    front = front_at(tmp_path / "s", behind, Limits(connections=3, connections_total=8))
    tries = 0

    def none_left(*_: object, **__: object) -> None:
        nonlocal tries
        tries += 1
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as out_of:
        broken = none_left if what == "Link" else SimpleNamespace(**vars(socket) | {"socket": none_left})
        out_of.setattr(door, what, broken)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        await until(lambda: tries > 10)
    assert await name_of(reader)
    assert (front.connections, front._places._visitors.total(), len(front._regulars)) == (1, 1, 1)
    writer.close()
    await until(lambda: not front._regulars)
    assert front._places._visitors.total() == front._places._taken.total() == 0
    front.close()


async def test_who_is_in_stays_when_nobody_is_let_in_any_more(tmp_path: Path, behind: Behind) -> None:
    front = front_at(tmp_path / "s", behind)
    reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
    await name_of(reader)
    front.stop_accepting()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_unix_connection(tmp_path / "s")
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    front.close()
    assert await reader.read() == b""
    writer.close()
    assert front.connections == 0
