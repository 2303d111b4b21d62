"""What every call passes: requests that cannot be read, and clients that do not read."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import service_pb2
from hostdevd.api import watch as watching
from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.watch import Hub
from hostdevd.core.past import Lives

METHOD = "hostdev.v1.Test"


@asynccontextmanager
async def served(directory: Path, seam: ErrorSeam, **handlers: Any) -> AsyncIterator[str]:
    server = grpc.aio.server(interceptors=(seam,))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD, handlers),))
    address = f"unix:{directory}/s.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


def reason_of(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    for key, value in error.trailing_metadata():
        if key == DETAILS_TRAILER:
            assert isinstance(value, bytes)
            status.ParseFromString(value)
    assert status.details[0].Unpack(info)
    return info


def open_channel(address: str) -> Any:
    return grpc.aio.insecure_channel(address)


async def read_all(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@dataclass
class Flood:
    """A watch whose snapshot is more than a connection takes without a reader."""

    hub: Hub
    handlers: set[asyncio.Task[Any]] = field(default_factory=set)

    async def _stream(self, request: Any, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.handlers.add(task)
        kind: Any = watching.Kind(
            name="devices",
            history=lambda: None,  # type: ignore[arg-type,return-value]
            response=service_pb2.WatchDevicesResponse,
            item=lambda _: bytes(1024 * 1024),
            change=None,  # type: ignore[arg-type]
        )
        feed: Any = SimpleNamespace(snapshot=lambda: range(64))
        sight: Any = SimpleNamespace(view="")
        told = watching.Told(sight, kind, feed, same=None)
        await watching.watch(self.hub, lambda: sight, lambda _: told, request, context)

    def handler(self) -> Any:
        decode = service_pb2.WatchDevicesRequest.FromString
        return grpc.unary_stream_rpc_method_handler(self._stream, request_deserializer=decode)


@pytest.fixture
def flood() -> Flood:
    store: Any = SimpleNamespace(on_commit=[], lives=Lives("0" * 32, "0" * 16), revision=1)
    return Flood(Hub(store, cast("Any", SimpleNamespace(first_sync=True, synced_time=None))))


async def test_a_client_that_does_not_read_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flood: Flood
) -> None:
    monkeypatch.setattr(watching, "WRITE_LIMIT_S", 0.3)
    hub = flood.hub
    async with served(tmp_path, ErrorSeam(), Watch=flood.handler()) as address, open_channel(address) as channel:
        call = channel.unary_stream(f"/{METHOD}/Watch")(b"")
        await call.read()
        assert hub.watchers == 1
        (task,) = flood.handlers
        begun = time.monotonic()
        await asyncio.wait({task}, timeout=0.8)
        assert not task.done()
        assert hub.watchers == 1, "its place is free while it is still there"
        await asyncio.wait({task}, timeout=10)
        assert task.done()
        assert time.monotonic() - begun > 1.0, "the status was not stuck: the test proves nothing"
        await asyncio.sleep(0)
        assert hub.watchers == 0
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await asyncio.wait_for(read_all(call), 10)


async def test_a_watcher_that_is_cancelled_behind_a_stuck_write_is_gone(tmp_path: Path, flood: Flood) -> None:
    async with served(tmp_path, ErrorSeam(), Watch=flood.handler()) as address, open_channel(address) as channel:
        call = channel.unary_stream(f"/{METHOD}/Watch")(b"")
        await call.read()
        (task,) = flood.handlers
        await asyncio.wait({task}, timeout=0.5)
        assert not task.done()
        with structlog.testing.capture_logs() as logs:
            call.cancel()
            await asyncio.wait({task}, timeout=10)  # of the 30 seconds that the write itself may take
            assert task.done()
            await asyncio.sleep(0)
        assert flood.hub.watchers == 0
        assert logs == [], "that a client goes is no fault of the service's"


async def test_what_waits_at_shutdown_is_told_so(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def wait(request: Any, context: Any) -> bytes:  # noqa: ARG001
        begun.set()
        await asyncio.Event().wait()
        return b""

    seam = ErrorSeam()
    handler: Any = grpc.unary_unary_rpc_method_handler(wait)
    async with served(tmp_path, seam, Wait=handler) as address, open_channel(address) as channel:
        waiting = channel.unary_unary(f"/{METHOD}/Wait")(b"")
        await begun.wait()
        seam.close()
        late = channel.unary_unary(f"/{METHOD}/Wait")(b"")
        for call in (waiting, late):
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(failure.value).reason == "SHUTTING_DOWN"
    assert not seam._calls
