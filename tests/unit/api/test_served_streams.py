"""Streams over a real connection: their end by either side, and by the death of one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd.api import server as serving
from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.api.health import Health
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.watch import Hub
from unit.api.test_lists import context_of
from unit.core.rig import Machine, machine

READER = """
import sys
import grpc
from hostdev.v1 import service_pb2, service_pb2_grpc
stub = service_pb2_grpc.HostDeviceServiceStub(grpc.insecure_channel(sys.argv[1]))
for _ in stub.WatchHolders(service_pb2.WatchHoldersRequest()):
    print("read", flush=True)
"""


@asynccontextmanager
async def served(m: Machine, directory: Path, hub: Hub) -> AsyncIterator[str]:
    server = serving.build_server(context_of(m, hub), Health(serving.SERVICES), ErrorSeam(), with_reflection=False)
    address = f"unix:{directory}/h.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(grace=None)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110  gRPC's own end of a call tells nobody
            await asyncio.sleep(0.01)


def details_of(error: grpc.aio.AioRpcError) -> tuple[str, bool]:
    """The reason, and whether it says when to try again."""
    data = dict(error.trailing_metadata() or ())[DETAILS_TRAILER]
    assert isinstance(data, bytes)
    status, info = status_pb2.Status.FromString(data), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason, any(detail.type_url.endswith("RetryInfo") for detail in status.details)


async def test_a_cancelled_watcher_frees_everything(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        hub = Hub(m.core.store, m.core.sync)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            before = len(asyncio.all_tasks())
            calls: list[Any] = [stub.WatchHolders(service_pb2.WatchHoldersRequest()) for _ in range(20)]
            for call in calls:
                await call.read()
            assert hub.watchers == 20
            for call in calls:
                call.cancel()
            await until(lambda: hub.watchers == 0)
            calls.clear()
            await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_one_watcher_too_many_is_told_when_to_try_again(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        hub = Hub(m.core.store, m.core.sync, max_watchers=1)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            first: Any = stub.WatchHolders(service_pb2.WatchHoldersRequest())
            await first.read()
            second: Any = stub.WatchDevices(service_pb2.WatchDevicesRequest())
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await second.read()
            assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details_of(refusal.value) == ("TOO_MANY_WATCHERS", True)
            first.cancel()
            await until(lambda: hub.watchers == 0)
            third: Any = stub.WatchDevices(service_pb2.WatchDevicesRequest())
            assert (await third.read()).WhichOneof("event") == "snapshot"
            third.cancel()


async def test_a_drained_watcher_gets_what_is_left_a_bookmark_and_the_reason(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        hub = Hub(m.core.store, m.core.sync)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            call: Any = stub.WatchHolders(service_pb2.WatchHoldersRequest(changes_only=True))
            assert (await call.read()).WhichOneof("event") == "bookmark"
            m.sim.controls.undefine_domain("keeper")  # it holds a device
            await until(lambda: all(one.vm.name != "keeper" for one in m.core.store.holders.values()))
            await hub.drain()
            assert hub.watchers == 0
            batch, last = await call.read(), await call.read()
            assert (batch.WhichOneof("event"), last.WhichOneof("event")) == ("change_batch", "bookmark")
            assert last.resume_token == batch.resume_token
            with pytest.raises(grpc.aio.AioRpcError) as end:
                await call.read()
            assert end.value.code() is grpc.StatusCode.UNAVAILABLE
            assert details_of(end.value) == ("SHUTTING_DOWN", True)


async def test_the_server_finds_a_dead_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = dict.fromkeys(("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"), 1000)
    assert quick.keys() <= dict(serving.OPTIONS).keys()
    monkeypatch.setattr(serving, "OPTIONS", tuple({**dict(serving.OPTIONS), **quick}.items()))
    async with machine(tmp_path) as m:
        hub = Hub(m.core.store, m.core.sync)
        async with served(m, tmp_path, hub) as address:
            environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
            reader = await asyncio.create_subprocess_exec(
                sys.executable, "-c", READER, address, stdout=asyncio.subprocess.PIPE, env=environment
            )
            assert reader.stdout is not None
            await reader.stdout.readline()
            assert hub.watchers == 1
            await asyncio.sleep(1.5)
            assert hub.watchers == 1, "a client that lives answers the server's pings"
            reader.send_signal(signal.SIGSTOP)
            try:
                await until(lambda: hub.watchers == 0)
            finally:
                reader.kill()
                await reader.communicate()
