"""Who calls is known behind the front, and whoever asks for too much is refused before anything is done."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd.api.access import Access
from hostdevd.api.callers import Callers
from hostdevd.api.context import caller_of
from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.api.gate import Gate
from hostdevd.api.identification import Identification
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.listeners import listening
from hostdevd.api.metering import Metering
from hostdevd.api.methods import METHODS
from hostdevd.core.caller import LOOPBACK, UNKNOWN, Caller, Proof
from hostdevd.core.limits import Limits, Work
from hostdevd.core.observing import Result
from hostdevd.front.addresses import parse_address
from hostdevd.front.door import Visitor
from hostdevd.front.doors import Doors

US = f"uid:{os.getuid()}"


@dataclass
class Service:
    """Calls that tell who called and wait until they may end."""

    callers: list[Caller] = field(default_factory=list)
    running: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def _serve(self, context: Any) -> None:
        self.callers.append(caller_of(context))
        self.running += 1
        try:
            await self.may_end.wait()
        finally:
            self.running -= 1

    async def get(self, _: Any, context: Any) -> bytes:
        await self._serve(context)
        return b""

    async def watch(self, _: Any, context: Any) -> None:
        await context.write(b"")
        await self._serve(context)

    def handlers(self) -> grpc.GenericRpcHandler:
        attach = service_pb2.AttachRequest.FromString
        handlers: dict[str, Any] = {
            "GetDevice": grpc.unary_unary_rpc_method_handler(self.get),
            "Attach": grpc.unary_unary_rpc_method_handler(self.get, request_deserializer=attach),
            "WatchHolders": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        return grpc.method_handlers_generic_handler("hostdev.v1.HostDeviceService", handlers)


@dataclass
class Served:
    """A running server with its addresses, and the private directory behind them."""

    service: Service
    addresses: list[str]
    private: Path


@asynccontextmanager
async def served(directory: Path, limits: Limits, *addresses: str) -> AsyncIterator[Served]:
    doors = Doors(tuple(parse_address(text) for text in addresses), parse_address(f"unix:{directory}/ro"))
    service, told = Service(), list[str]()
    async with listening(doors, limits) as listeners:
        audit: Any = SimpleNamespace(note=lambda *_: None)
        gate = Gate(Access(cast("Any", None), None, caller_of), listeners.counts, audit, time.time)
        server = grpc.aio.server(interceptors=(listeners.identification, ErrorSeam(), gate))
        server.add_generic_rpc_handlers((service.handlers(),))
        listeners.serve(server)
        await server.start()
        listeners.open(told.append)
        try:
            yield Served(service, told, directory / "s.private")
        finally:
            service.may_end.set()
            await server.stop(0)


def stub(channel: grpc.aio.Channel) -> Any:
    return service_pb2_grpc.HostDeviceServiceStub(channel)


def refusal(error: BaseException | None) -> tuple[str, dict[str, str], float]:
    """Reason, metadata, and seconds after which to try again."""
    assert isinstance(error, grpc.aio.AioRpcError), error
    data = dict(error.trailing_metadata() or ())[DETAILS_TRAILER]
    assert isinstance(data, bytes)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status_pb2.Status.FromString(data).details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return info.reason, dict(info.metadata), retry.retry_delay.ToTimedelta().total_seconds()


async def test_the_caller_is_the_sockets_peer_or_loopback(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(), f"unix:{tmp_path}/s", "127.0.0.1:0") as on:
        on.service.may_end.set()
        for address in on.addresses:
            async with grpc.aio.insecure_channel(address) as channel:
                await stub(channel).GetDevice(service_pb2.GetDeviceRequest())
        peer, loopback, looking = on.service.callers
        assert (peer.proof, peer.uid, peer.gids[0], peer.pid) == (Proof.PEER, os.getuid(), os.getgid(), os.getpid())
        assert loopback == LOOPBACK
        assert (looking.name, looking.read_only) == (US, True)
        assert [on.addresses[0], on.addresses[2]] == [f"unix:{tmp_path}/s", f"unix:{tmp_path}/ro"]


async def test_whoever_reaches_the_private_socket_in_another_way_is_nobody(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(), f"unix:{tmp_path}/s") as on:
        on.service.may_end.set()
        async with grpc.aio.insecure_channel(f"unix:{on.private}/plain") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub(channel).GetDevice(service_pb2.GetDeviceRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert refusal(refused.value)[0] == "NO_IDENTITY"
        assert not on.service.callers


async def test_nothing_can_be_changed_at_the_read_only_socket(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(), f"unix:{tmp_path}/s") as on:
        on.service.may_end.set()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/ro") as channel:
            for dry_run in (False, True):
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub(channel).Attach(service_pb2.AttachRequest(validate_only=dry_run))
                reason, metadata, _ = refusal(refused.value)
                assert (reason, metadata["permission"]) == ("NOT_ALLOWED", "assignments.attach")
        assert not on.service.callers


async def test_calls_beyond_a_callers_room_are_refused_and_watchers_take_none_of_it(tmp_path: Path) -> None:
    limits = Limits(reads=2, watchers=3)
    async with (
        served(tmp_path, limits, f"unix:{tmp_path}/s", "127.0.0.1:0") as on,
        grpc.aio.insecure_channel(on.addresses[0]) as ours,
        grpc.aio.insecure_channel(on.addresses[1]) as others,
    ):
        watches = [stub(ours).WatchHolders(service_pb2.WatchHoldersRequest()) for _ in range(3)]
        for watch in watches:
            await watch.read()
        reads = [asyncio.ensure_future(stub(ours).GetDevice(service_pb2.GetDeviceRequest())) for _ in range(5)]
        dry = asyncio.ensure_future(stub(ours).Attach(service_pb2.AttachRequest(validate_only=True)))
        elsewhere = asyncio.ensure_future(stub(others).GetDevice(service_pb2.GetDeviceRequest()))
        async with asyncio.timeout(10):
            while on.service.running < 6 or sum(call.done() for call in (*reads, dry)) < 4:  # noqa: ASYNC110  of gRPC
                await asyncio.sleep(0.01)
        for call in (*reads, dry):
            if call.done():
                reason, metadata, retry_s = refusal(call.exception())
                assert (reason, metadata["what"], metadata["caller"], retry_s) == ("RATE_LIMITED", "reads", US, 1)
        one_more = stub(ours).WatchHolders(service_pb2.WatchHoldersRequest())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await one_more.read()
        assert refusal(refused.value)[0] == "TOO_MANY_WATCHERS"
        on.service.may_end.set()
        await asyncio.gather(*(call for call in (*reads, dry) if not call.done()), elsewhere)
        for watch in watches:
            watch.cancel()
        await stub(ours).GetDevice(service_pb2.GetDeviceRequest())


async def test_changes_have_a_rate_and_dry_runs_have_not(tmp_path: Path) -> None:
    async with served(tmp_path, Limits(mutations_per_minute=2), f"unix:{tmp_path}/s") as on:
        on.service.may_end.set()
        async with grpc.aio.insecure_channel(on.addresses[0]) as channel:
            for dry_run in (True, False, True, False, True):
                await stub(channel).Attach(service_pb2.AttachRequest(validate_only=dry_run))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub(channel).Attach(service_pb2.AttachRequest())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        reason, metadata, retry_s = refusal(refused.value)
        assert (reason, metadata["what"]) == ("RATE_LIMITED", "mutations_per_minute")
        assert 25 < retry_s <= 30


def test_every_stream_counts_as_a_watcher() -> None:
    files = (service_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
    streams = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
        if method.server_streaming
    }
    assert {method for method, row in METHODS.items() if row.work is Work.WATCHERS} == streams


def begun_without_a_request(channel: grpc.aio.Channel, method: str) -> Any:
    """A call that is there, and whose request does not come."""
    return channel.stream_unary(f"/hostdev.v1.HostDeviceService/{method}", lambda _: b"", lambda _: b"")()


async def test_calls_whose_request_does_not_come_are_few_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library would keep any number of them, for ever, and no limit hear of one."""
    monkeypatch.setattr("hostdevd.core.limits.ARRIVALS", 2)
    monkeypatch.setattr("hostdevd.api.identification.ARRIVAL_S", 1.0)
    async with (
        served(tmp_path, Limits(), f"unix:{tmp_path}/s", "127.0.0.1:0") as on,
        grpc.aio.insecure_channel(on.addresses[0]) as ours,
        grpc.aio.insecure_channel(on.addresses[1]) as others,
    ):
        on.service.may_end.set()
        calls = [begun_without_a_request(ours, "Attach") for _ in range(3)]
        await calls[0].wait_for_connection()
        done, waiting = await asyncio.wait([asyncio.ensure_future(call.code()) for call in calls], timeout=0.5)
        assert [one.result() for one in done] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
        await stub(others).GetDevice(service_pb2.GetDeviceRequest())
        assert [await one for one in waiting] == [grpc.StatusCode.INVALID_ARGUMENT] * 2
        await stub(ours).GetDevice(service_pb2.GetDeviceRequest())
        assert len(on.service.callers) == 2


async def test_a_call_that_ends_without_a_request_is_told_so(tmp_path: Path) -> None:
    async with (
        served(tmp_path, Limits(), f"unix:{tmp_path}/s") as on,
        grpc.aio.insecure_channel(on.addresses[0]) as channel,
    ):
        call = begun_without_a_request(channel, "GetDevice")
        await call.done_writing()
        assert (await call.code(), await call.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "request: is missing",
        )
        assert not on.service.callers


class Seen:
    """How calls ended, as the metrics have it."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    @contextmanager
    def rpc(self, _method: str, _metadata: object, result: Result, *, unary: bool) -> Iterator[None]:
        assert unary
        try:
            yield
        finally:
            self.outcomes[result.outcome] += 1


async def test_a_call_that_ends_before_its_request_has_come_is_no_invalid_one(tmp_path: Path) -> None:
    seen, service = Seen(), Service()
    callers: Any = SimpleNamespace(of=lambda _: LOOPBACK)
    server = grpc.aio.server(interceptors=(Metering([seen]), Identification(callers, lambda _: None), ErrorSeam()))
    server.add_generic_rpc_handlers((service.handlers(),))
    server.add_insecure_port(f"unix:{tmp_path}/m")
    await server.start()
    own = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/m", own) as channel:
        calls = [begun_without_a_request(channel, "GetDevice") for _ in range(10)]
        await asyncio.gather(*(call.wait_for_connection() for call in calls))
        for call in calls[:5]:
            call.cancel()
        in_time: Any = channel.stream_unary("/hostdev.v1.HostDeviceService/GetDevice", lambda _: b"", lambda _: b"")
        assert await in_time(timeout=0.2).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while seen.outcomes.total() < 11:  # noqa: ASYNC110  of gRPC
            await asyncio.sleep(0.01)
    assert seen.outcomes == {"CANCELLED": 11}
    await server.stop(0)


async def test_who_has_no_right_to_change_anything_takes_nothing_of_the_rate_of_all(tmp_path: Path) -> None:
    limits = Limits(mutations_per_minute=5, mutations_per_minute_total=2)
    async with (
        served(tmp_path, limits, f"unix:{tmp_path}/s", "127.0.0.1:0") as on,
        grpc.aio.insecure_channel(f"unix:{tmp_path}/ro") as looking,
        grpc.aio.insecure_channel(on.addresses[1]) as others,
    ):
        on.service.may_end.set()
        reasons = []
        for _ in range(6):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub(looking).Attach(service_pb2.AttachRequest())
            reasons.append(refusal(refused.value)[0])
        assert reasons == ["NOT_ALLOWED"] * 5 + ["RATE_LIMITED"]
        for _ in range(2):
            await stub(others).Attach(service_pb2.AttachRequest())
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub(others).Attach(service_pb2.AttachRequest())
        assert refusal(refused.value)[:1] == ("RATE_LIMITED",)


class Connection:
    """A call over TLS, as gRPC tells of it."""

    def __init__(self, **proven: list[bytes]) -> None:
        self._proven = proven

    def peer(self) -> str:
        return "unix-abstract:hostdevd-x"

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._proven


SPIFFE = "spiffe://example.org/orchestrator"


@pytest.mark.parametrize(
    ("proven", "sans", "name"),
    [
        ({"peer_dns": [b"a.example"], "peer_ip": [b"10.0.0.1"]}, ("DNS:a.example", "IP:10.0.0.1"), "DNS:a.example"),
        (
            {"peer_dns": [b"a.example"], "peer_uri": [SPIFFE.encode()], "peer_spiffe_id": [SPIFFE.encode()]},
            ("DNS:a.example", f"URI:{SPIFFE}"),
            f"URI:{SPIFFE}",
        ),
        ({"peer_email": [b"a@b.example"]}, ("EMAIL:a@b.example",), "EMAIL:a@b.example"),
        ({"peer_dns": ["ä.example".encode(), b"b\0.example", b"c.example"]}, ("DNS:c.example",), "DNS:c.example"),
    ],
)
def test_a_certificates_names_are_who_calls(proven: Any, sans: tuple[str, ...], name: str) -> None:
    caller = Callers(lambda _: Visitor("address:10.0.0.1", None), None).of(Connection(**proven))  # type: ignore[arg-type]
    assert (caller.proof, caller.sans, caller.name) == (Proof.CERTIFICATE, sans, name)


@pytest.mark.parametrize(
    "proven",
    [
        {"x509_common_name": [b"admin"]},
        {},
        {"peer_dns": [b"\xff"]},
    ],
)
def test_a_certificate_without_a_name_is_nobodys(proven: Any) -> None:
    assert Callers(lambda _: Visitor("address:", None), None).of(Connection(**proven)) == UNKNOWN  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "known"),
    [
        ([b"spiffe://example.org/a"], True),
        ([b"spiffe://example.org.evil/a"], False),
        ([b"spiffe://other.org/a"], False),
        ([], False),
        ([b"spiffe://example.org/a", b"spiffe://example.org/b"], False),
    ],
)
def test_with_a_trust_domain_only_its_own_have_an_identity(ids: list[bytes], known: bool) -> None:  # noqa: FBT001
    callers = Callers(lambda _: Visitor("address:", None), "example.org")
    found = callers.of(Connection(peer_dns=[b"a.example"], peer_uri=ids, peer_spiffe_id=ids))  # type: ignore[arg-type]
    assert (found != UNKNOWN) is known
