"""What observers are told of calls: how they ended as the client sees it, and nothing that clients make up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd.api.health import Health
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.server import WHOLE, build_server
from hostdevd.api.watch import Hub
from hostdevd.core.observing import Result
from unit.api.test_lists import context_of
from unit.core.rig import Machine, Shape, machine

SERVICE = "hostdev.v1.HostDeviceService"


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str, str]] = []
        self.unary: dict[str, bool] = {}
        self.more = asyncio.Event()

    @contextmanager
    def rpc(self, method: str, metadata: Mapping[str, str], result: Result, *, unary: bool) -> Iterator[None]:
        assert not isinstance(metadata.get("user-agent"), bytes)
        self.unary[method] = unary
        try:
            yield
        finally:
            self.ended.append((method.removeprefix(f"{SERVICE}/"), result.outcome, result.reason))
            self.more.set()

    async def end(self) -> tuple[str, str, str]:
        """The next call's end: the client may see it first."""
        async with asyncio.timeout(10):
            while not self.ended:
                self.more.clear()
                await self.more.wait()
        return self.ended.pop(0)


@asynccontextmanager
async def observed(m: Machine, directory: Path) -> AsyncIterator[tuple[Told, Any, grpc.aio.Channel]]:
    told, hub = Told(), Hub(m.core.store, m.core.sync)
    server = build_server(context_of(m, hub), Health((WHOLE,)), ErrorSeam(), with_reflection=True, observers=(told,))
    server.add_insecure_port(f"unix:{directory}/h.sock")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{directory}/h.sock") as channel:
            yield told, service_pb2_grpc.HostDeviceServiceStub(channel), channel
    finally:
        await server.stop(grace=None)


async def test_calls_end_as_their_clients_see_it(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, observed(m, tmp_path) as (told, stub, channel):
        await stub.GetHost(service_pb2.GetHostRequest())
        assert await told.end() == ("GetHost", "OK", "")
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetDevice(service_pb2.GetDeviceRequest(device="nothing"))
        assert await told.end() == ("GetDevice", "NOT_FOUND", "DEVICE_NOT_FOUND")
        raw: Any = channel.unary_unary(f"/{SERVICE}/GetDevice")
        with pytest.raises(grpc.aio.AioRpcError):
            await raw(b"\xff\xff")
        assert await told.end() == ("GetDevice", "INVALID_ARGUMENT", "INVALID_FIELD")


async def test_what_clients_make_up_is_one_method(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, observed(m, tmp_path) as (told, _, channel):
        for name in ("/made.Up/Method", f"/{SERVICE}/NoSuchMethod"):
            call: Any = channel.unary_unary(name)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert await told.end() == ("unknown", "UNIMPLEMENTED", "")
        assert told.unary == {"unknown": False}


async def test_who_goes_away_is_told_and_so_is_whose_time_is_up(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, observed(m, tmp_path) as (told, stub, _):
        watch: Any = stub.WatchHolders(service_pb2.WatchHoldersRequest())
        await watch.read()
        watch.cancel()
        assert await told.end() == ("WatchHolders", "CANCELLED", "")
        assert told.unary[f"{SERVICE}/WatchHolders"] is False
        attached = await m.attach(Shape("nic_single"))
        m.sim.controls.set_guest_behaviour("alpha", "never")
        detach = service_pb2.DetachRequest(assignment=attached.name, wait=Duration(seconds=5))
        late: Any = stub.WatchDevices(service_pb2.WatchDevicesRequest(), timeout=0.1)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in late:
                pass
        assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await told.end() == ("WatchDevices", "CANCELLED", "")
        waiting = asyncio.ensure_future(stub.Detach(detach))
        await asyncio.sleep(0.05)
        waiting.cancel()
        assert (await told.end())[:2] == ("Detach", "CANCELLED")


async def test_a_stream_in_both_directions_is_told_too(tmp_path: Path) -> None:
    async with machine(tmp_path) as m, observed(m, tmp_path) as (told, _, channel):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        assert [len(one.list_services_response.service) async for one in answers] == [4]
        method, code, _ = await told.end()
        assert (method, code) == ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "OK")
