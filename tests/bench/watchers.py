"""Figures of the watches: memory, delay, a burst, a watcher that does not read.

The server is a process of its own (`watched`) and this one holds the clients. On a busy machine only ratios mean
anything.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from bench.rows import Row
from hostdev.v1 import service_pb2, service_pb2_grpc

ROOT = Path(__file__).parents[2]
PATHS = [str(ROOT / part) for part in ("tests", "server", "clients/python")]

CHANNELS = 10
SETTLE_S = 300.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    watchers: int = 1000
    changes: int = 200
    flood: int = 100_000
    stall_s: float = 60.0
    listeners: int = 100
    events: int = 100
    calls: int = 300


class Server:
    """The other process."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self.bare = f"{address}.bare"

    async def order(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Have something done; what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """The next answer."""
        assert self._process.stdout is not None
        found: dict[str, Any] = json.loads(await self._process.stdout.readline())
        return found


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Server, list[grpc.aio.Channel]]]:
    """A fresh server and channels to it; the bare one beside it is at `Server.bare`."""
    with tempfile.TemporaryDirectory() as directory:
        address = f"unix:{directory}/h.sock"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(ROOT / "tests/bench/watched.py"),
            address,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        )
        server = Server(process, address)
        await server.answer()
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [grpc.aio.insecure_channel(address, options) for _ in range(CHANNELS)]
        try:
            yield server, channels
        finally:
            for channel in channels:
                await channel.close()
            assert process.stdin is not None
            process.stdin.close()
            await process.wait()


def stub_of(channel: grpc.aio.Channel) -> Any:
    """The calls of one channel."""
    return service_pb2_grpc.HostDeviceServiceStub(channel)


@dataclass(slots=True)
class Client:
    """One watcher: what it has, and when which batch came."""

    call: Any
    state: dict[str, bytes] = field(default_factory=dict)
    revision: int = 0
    token: str = ""
    batches: list[tuple[float, int]] = field(default_factory=list)
    reading: asyncio.Event = field(default_factory=asyncio.Event)
    ended: str = ""
    last: bytes = b""
    """The last message with a change."""

    async def follow(self) -> None:
        """Apply what comes, while reading is on; until the stream ends."""
        self.reading.set()
        try:
            while True:
                await self.reading.wait()
                message = await self.call.read()
                if message is grpc.aio.EOF:
                    return
                self.take(message)
        except grpc.aio.AioRpcError as error:
            self.ended = error.code().name
        finally:
            self.ended = self.ended or "EOF"

    def take(self, message: Any) -> None:
        """Apply one message."""
        kind = "device" if isinstance(message, service_pb2.WatchDevicesResponse) else "holder"
        if message.WhichOneof("event") == "reset":
            self.state.clear()
        for item in getattr(message.snapshot, f"{kind}s"):
            self.state[item.name] = item.SerializeToString(deterministic=True)
        for change in message.change_batch.changes:
            item = getattr(change, kind)
            if change.kind == service_pb2.CHANGE_KIND_REMOVE:
                self.state.pop(item.name, None)
            else:
                self.state[item.name] = item.SerializeToString(deterministic=True)
        if message.change_batch.changes:
            self.batches.append((time.monotonic(), message.revision))
            self.last = message.SerializeToString()
        self.revision, self.token = message.revision, message.resume_token or self.token


@asynccontextmanager
async def watching(
    channels: list[grpc.aio.Channel], count: int, rpc: str = "WatchHolders"
) -> AsyncIterator[list[Client]]:
    """So many watchers, each with its snapshot."""
    request = getattr(service_pb2, f"{rpc}Request")()
    clients = [Client(getattr(stub_of(channels[n % len(channels)]), rpc)(request)) for n in range(count)]
    tasks = [asyncio.create_task(client.follow()) for client in clients]
    try:
        await caught_up(clients, 0)
        yield clients
    finally:
        for client in clients:
            client.call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def caught_up(clients: list[Client], revision: int) -> None:
    """Until all have this revision, or at least a token."""
    async with asyncio.timeout(SETTLE_S):
        while not all(client.token and client.revision >= revision for client in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def truth(channel: grpc.aio.Channel, kind: str = "holder") -> dict[str, bytes]:
    """What the list says now."""
    stub = stub_of(channel)
    if kind == "device":
        items = (await stub.ListDevices(service_pb2.ListDevicesRequest(page_size=1000))).devices
    else:
        items = (await stub.ListHolders(service_pb2.ListHoldersRequest(page_size=1000))).holders
    return {item.name: item.SerializeToString(deterministic=True) for item in items}


async def unary_p50_s(channel: grpc.aio.Channel, calls: int) -> float:
    """The median of a small call."""
    stub, took = stub_of(channel), []
    for _ in range(calls):
        begun = time.perf_counter()
        await stub.GetDevice(service_pb2.GetDeviceRequest(device="pci_0000_01_00_0"))
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


async def many(size: Size) -> dict[str, Any]:
    """S8: idle watchers, then changes for all of them."""
    async with running() as (server, channels):
        for channel in channels:
            await unary_p50_s(channel, 1)
        alone = await unary_p50_s(channels[0], size.calls)
        before = (await server.order("look"))["rss_kib"]
        async with watching(channels, size.watchers) as clients:
            idle = (await server.order("look"))["rss_kib"]
            beside = await unary_p50_s(channels[0], size.calls)
            changed = await server.order("change", count=size.changes, pause_s=0.01)
            await caught_up(clients, changed["revision"])
            wanted, after = await truth(channels[0]), (await server.order("look"))["rss_kib"]
            equal = sum(client.state == wanted for client in clients)
        return {
            "watchers": size.watchers,
            "idle watchers cost MiB": (idle - before) / 1024,
            "unary p50 with them / without": beside / alone,
            "changes": size.changes,
            "after the changes MiB": (after - before) / 1024,
            "end equal": equal,
        }


async def stalled(size: Size) -> dict[str, Any]:
    """A watcher that stops reading while much changes, against the same changes with one that reads."""
    grown = {}
    found: dict[str, Any] = {"flood of changes": size.flood, "stall s": size.stall_s}
    for stalls in (False, True):
        async with running() as (server, channels), watching(channels, 1) as (client,):
            await server.order("change", count=200)
            before = (await server.order("look"))["rss_kib"]
            if stalls:
                client.reading.clear()
            begun = time.monotonic()
            changed = await server.order("change", count=size.flood)
            if stalls:
                await asyncio.sleep(max(size.stall_s - (time.monotonic() - begun), 0.0))
            grown[stalls] = (await server.order("look"))["rss_kib"] - before
            if not stalls:
                continue
            found["longest turn of the loop ms"] = changed["longest_s"] * 1000
            client.reading.set()
            while client.revision < changed["revision"] and not client.ended:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if client.ended:  # its token must work
                found["was ended with, and resumed"] = client.ended
                request = service_pb2.WatchHoldersRequest(resume_token=client.token)
                client.call = stub_of(channels[1]).WatchHolders(request)
                while client.revision < changed["revision"]:
                    client.take(await client.call.read())
            found["ends equal"] = client.state == await truth(channels[2])
    found["stalled watcher costs MiB"] = (grown[True] - grown[False]) / 1024
    found["history of the changes MiB"] = grown[False] / 1024
    return found


async def delay(size: Size) -> dict[str, Any]:
    """S7: from a plain callback in the server to the messages of all watchers; the same through a bare server."""
    async with running() as (server, channels):
        async with watching(channels, size.listeners) as clients:
            told = await server.order("events", count=5, gap_s=0.15)
            await caught_up(clients, told["revision"])
            for client in clients:
                client.batches.clear()
            told = await server.order("events", count=size.events, gap_s=0.15)
            await caught_up(clients, told["revision"])
            heard = dict(enumerate(told["heard"], told["revision"] - size.events + 1))
            ours = [at - heard[revision] for client in clients for at, revision in client.batches]
        bare = await bare_delay(server, size, clients[0].last)
    return {
        f"event to each of {size.listeners} watchers, p50 ms": _percentile(ours, 50) * 1000,
        f"event to each of {size.listeners} watchers, p99 ms": _percentile(ours, 99) * 1000,
        "the same bytes through a bare grpc.aio server, p50 ms": _percentile(bare, 50) * 1000,
        "the same bytes through a bare grpc.aio server, p99 ms": _percentile(bare, 99) * 1000,
        "event to watchers, p50 / bare": _percentile(ours, 50) / _percentile(bare, 50),
    }


async def bare_delay(server: Server, size: Size, message: bytes) -> list[float]:
    """The delays of `delay` where the server does nothing but write the same message."""
    parse = service_pb2.WatchHoldersResponse.FromString
    arrived: list[list[float]] = [[] for _ in range(size.listeners)]
    own = (("grpc.use_local_subchannel_pool", 1),)
    channels = [grpc.aio.insecure_channel(server.bare, own) for _ in range(CHANNELS)]

    async def listen(number: int) -> None:
        call: Any = channels[number % len(channels)].unary_stream("/bare.Bare/Watch", response_deserializer=parse)
        async for answer in call(b""):
            for change in answer.change_batch.changes:
                change.holder.SerializeToString(deterministic=True)
            arrived[number].append(time.monotonic())

    tasks = [asyncio.create_task(listen(number)) for number in range(size.listeners)]
    try:
        async with asyncio.timeout(SETTLE_S):
            while (await server.order("look"))["bare"] < size.listeners:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            told = await server.order("bare_events", count=size.events, gap_s=0.15, message=message.hex())
            while any(len(one) < size.events for one in arrived):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
    return [at - heard for one in arrived for at, heard in zip(one, told["heard"], strict=True)]


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]


async def burst() -> dict[str, Any]:
    """S11: many devices at once."""
    async with running() as (server, channels), watching(channels, 10, "WatchDevices") as clients:
        begun = time.monotonic()
        told = await server.order("burst")
        await caught_up(clients, told["revision"])
        gaps = [later - earlier for one in clients for (earlier, _), (later, _) in pairwise(one.batches)]
        wanted = await truth(channels[0], "device")
        return {
            "burst: first batch after ms": max(one.batches[0][0] - begun for one in clients) * 1000,
            "burst: batches": max(len(one.batches) for one in clients),
            "burst: shortest gap as received, ms": min(gaps, default=0.0) * 1000,
            "burst: end equal": sum(one.state == wanted for one in clients),
        }


async def measure(size: Size) -> dict[str, Any]:
    """All figures."""
    return {**await many(size), **await delay(size), **await burst(), **await stalled(size)}


_BARS = {
    "idle watchers cost MiB": ("S8", 40),
    "unary p50 with them / without": ("S8", 1.3),
    "stalled watcher costs MiB": ("S8", 1),
}
_GROUPS = {"event": "S7", "the same": "S7", "burst": "S11"}


def rows(found: dict[str, Any]) -> Iterator[Row]:
    """The figures with their bars."""
    for name, value in found.items():
        number = next((group for start, group in _GROUPS.items() if name.startswith(start)), "S8")
        bar = 3 if name.startswith("event to each") and "p99" in name else _BARS.get(name, ("", None))[1]
        yield Row(number, name, value, bar)
