"""`grpc.health.v1` over a real connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hostdevd.api.health import Health
from hostdevd.api.server import ADMIN, MAIN, WHOLE
from hostdevd.app import Ports, serve_ports
from hostdevd.config import Config
from hostdevd.doors import doors_of
from hostdevd.ops.clock import SystemClock
from hostdevd.sim.simulation import Simulation, simulate

SERVING, NOT_SERVING, UNKNOWN = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)


@dataclass(frozen=True)
class Served:
    address: str
    sim: Simulation
    stop: asyncio.Event
    task: asyncio.Task[None]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    clock = SystemClock()
    sim = simulate(clock, None, None)
    config = Config(listen=(f"unix:{tmp_path}/h.sock",), state_dir=tmp_path)
    ready, stop = asyncio.Event(), asyncio.Event()
    ports, doors = Ports(sim.hypervisor, sim.host), doors_of(config)
    task = asyncio.create_task(serve_ports(ports, clock, config, doors, lambda _: ready.set(), stop.wait))
    await ready.wait()
    yield Served(config.listen[0], sim, stop, task)
    stop.set()
    await task


@asynccontextmanager
async def watching(address: str, service: str) -> AsyncIterator[Any]:
    """The statuses of a watch, one per call."""
    async with grpc.aio.insecure_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        stream = health.Watch(health_pb2.HealthCheckRequest(service=service))

        async def told() -> object:
            answer = await asyncio.wait_for(stream.read(), 10)
            return answer if answer is grpc.aio.EOF else answer.status

        yield told


@pytest.mark.parametrize("service", [WHOLE, MAIN, ADMIN])
async def test_a_watch_hears_of_libvirt_and_of_the_end(served: Served, service: str) -> None:
    async with watching(served.address, service) as told:
        if (first := await told()) == NOT_SERVING:  # libvirt is being read
            first = await told()
        assert first == SERVING
        served.sim.controls.disconnect()
        assert await told() == NOT_SERVING
        served.sim.controls.reconnect()
        assert await told() == SERVING
        served.stop.set()
        assert await told() == NOT_SERVING
        assert await told() is grpc.aio.EOF
        # Nothing is waited for on the watch's account.
        await asyncio.wait_for(served.task, 1.5)


async def test_a_service_that_is_not_known(served: Served) -> None:
    async with watching(served.address, "hostdev.v1.Nobody") as told:
        assert await told() == UNKNOWN
    async with grpc.aio.insecure_channel(served.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(service="hostdev.v1.Nobody"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


# An HTTP/2 client that allows the server no byte of data: preface, SETTINGS with an initial window of 0, and one call.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


async def test_a_client_that_takes_no_bytes_keeps_nobody_else_from_being_told(served: Served) -> None:
    headers = b"".join(
        _header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", b"/grpc.health.v1.Health/Watch"),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )
    request = b"\0" + bytes(4)  # an empty message: the server as a whole
    hostile = _PREFACE + _frame(4, 0, 0, (4).to_bytes(2, "big") + bytes(4))
    hostile += _frame(1, 4, 1, headers) + _frame(0, 1, 1, request)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(served.address.removeprefix("unix:"))
        client.sendall(hostile)
        async with watching(served.address, WHOLE) as told:
            while await told() != SERVING:
                pass
            await asyncio.sleep(0.1)  # the other's call has come in by now
            served.sim.controls.disconnect()
            assert await told() == NOT_SERVING
            served.sim.controls.reconnect()
            assert await told() == SERVING
        served.stop.set()
        await asyncio.wait_for(asyncio.shield(served.task), 10)


def test_nothing_is_serving_before_it_is_said_nor_after_the_end() -> None:
    health = Health((WHOLE, MAIN))
    assert health._status(MAIN) == NOT_SERVING
    health.set({MAIN: True})
    assert (health._status(MAIN), health._status(WHOLE)) == (SERVING, NOT_SERVING)
    health.end()
    health.set({MAIN: True})
    assert health._status(MAIN) == NOT_SERVING
