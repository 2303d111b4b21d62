"""A service with roles over a real connection, and callers who say themselves who they are."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import error_pb2, service_pb2_grpc
from hostdevd.api import server as serving
from hostdevd.api.context import Context
from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.api.health import Health
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.watch import Hub
from hostdevd.core.audit_file import read_rows
from hostdevd.core.caller import UNKNOWN, Caller, Proof
from hostdevd.core.roles import Names, Roles, parse_roles
from unit.api.test_lists import context_of, no_checks
from unit.core.rig import Machine

UIDS = {"root": 0, "alice": 1, "bob": 2, "carol": 3, "mallory": 9}
ROLES = """
[[rule]]
name = "all of it"
role = "admin"
identities = "user:root"

[[rule]]
name = "network cards for alpha"
role = "operator"
identities = "user:alice"
vms = "alpha"
devices = {class = "02"}

[[rule]]
name = "the same, to look at"
role = "viewer"
identities = "user:bob"
vms = "alpha"
devices = {class = "02"}

[[rule]]
name = "all machines, by driver"
role = "operator"
identities = "user:carol"
devices = {driver = "e1000e"}
"""


def roles(text: str) -> Roles:
    return parse_roles(tomllib.loads(text), Names(UIDS.__getitem__, UIDS.__getitem__))


def identify(rpc: Any) -> Caller:
    """Who the metadata say it is."""
    name = dict(rpc.invocation_metadata() or ()).get("as")
    if name is None:
        return UNKNOWN
    return Caller(Proof.PEER, uid=UIDS[name], gids=(UIDS[name], 100), pid=4711)


@dataclass
class Served:
    """A running service; `stub(name)` calls as somebody, nobody with an empty name."""

    machine: Machine
    context: Context
    address: str
    channel: grpc.aio.Channel

    def stub(self, name: str) -> Any:
        return As(service_pb2_grpc.HostDeviceServiceStub(self.channel), name)

    def admin(self, name: str) -> Any:
        return As(service_pb2_grpc.HostDeviceAdminServiceStub(self.channel), name)

    def put(self, text: str) -> None:
        """Read the roles again."""
        self.context.access.put(roles(text))

    async def rows(self) -> list[dict[str, Any]]:
        """The audit log, with what is still to be written."""
        await self.context.audit._write()
        return await rows_of(self.machine)


async def rows_of(m: Machine) -> list[dict[str, Any]]:
    journal = m.core.journal

    def read() -> list[dict[str, Any]]:
        assert journal._db is not None
        return [dict(row) for row in read_rows(journal._db, 0, 0.0, 1e12, 10_000)]

    return await journal._run(read)


class As:
    """A stub whose every call is somebody's."""

    def __init__(self, stub: Any, name: str) -> None:
        self._stub = stub
        self._metadata = (("as", name),) if name else ()

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._stub, method)
        return lambda request, **more: call(request, metadata=self._metadata, timeout=30, **more)


@asynccontextmanager
async def served(
    m: Machine, directory: Path, text: str = ROLES, checks: Callable[[], Awaitable[Any]] = no_checks
) -> AsyncIterator[Served]:
    hub = Hub(m.core.store, m.core.sync)
    context = replace(context_of(m, hub, roles(text), identify), checks=checks)
    context.access.on_change.append(hub.wake)
    server = serving.build_server(context, Health(serving.SERVICES), ErrorSeam(), with_reflection=True)
    address = f"unix:{directory}/h.sock"
    server.add_insecure_port(address)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Served(m, context, address, channel)
    finally:
        await server.stop(grace=None)


@dataclass
class Refusal:
    """An error as a client has it, once the block has ended."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    reason: str = ""
    metadata: dict[str, str] | None = None
    details: str = ""
    """Everything that came, as text: what is not in there was not told."""


@contextmanager
def refused(reason: str) -> Iterator[Refusal]:
    told = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield told
    read(caught.value, told)
    assert told.reason == reason, told.message


def read(error: grpc.aio.AioRpcError, told: Refusal) -> None:
    told.code, told.message = error.code(), error.details() or ""
    data = dict(error.trailing_metadata() or ())[DETAILS_TRAILER]
    assert isinstance(data, bytes)
    status, info = status_pb2.Status.FromString(data), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    told.reason, told.metadata = info.reason, dict(info.metadata)
    reasons = [error_pb2.Reason.FromString(one.value) for one in status.details if one.type_url.endswith("v1.Reason")]
    told.details = f"{told.message} {told.metadata} {reasons} {status}"
