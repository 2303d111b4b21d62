from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from hostdev import HostdevApiError, HostdevClient, Patience
from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2 import WatchHoldersRequest, WatchHoldersResponse
from unit.client import fake_host
from unit.client.fake_server import FakeHostdevd, Refused, Watch, error_info

SNAPSHOT = WatchHoldersResponse.Snapshot(holders=[fake_host.holder()])
GONE = service_pb2.HolderChange(kind=service_pb2.CHANGE_KIND_REMOVE, holder=fake_host.holder(), time=fake_host.NOON)


def snapshot() -> WatchHoldersResponse:
    return WatchHoldersResponse(revision=3, snapshot=SNAPSHOT)


def bookmark(token: str) -> WatchHoldersResponse:
    return WatchHoldersResponse(revision=4, resume_token=token, bookmark=service_pb2.Bookmark())


def batch(token: str) -> WatchHoldersResponse:
    changes = WatchHoldersResponse.ChangeBatch(changes=[GONE])
    return WatchHoldersResponse(revision=5, resume_token=token, change_batch=changes)


def reset() -> WatchHoldersResponse:
    return WatchHoldersResponse(revision=6, reset=service_pb2.Reset(reason=service_pb2.RESET_REASON_TOKEN_TOO_OLD))


def script(*messages: WatchHoldersResponse, then: Refused | None = None) -> Watch:
    def serve(_: WatchHoldersRequest, context: grpc.ServicerContext) -> Iterator[WatchHoldersResponse]:
        yield from messages
        if then is not None:
            then.abort(context)

    return serve


def silent(*messages: WatchHoldersResponse) -> Watch:
    def serve(_: WatchHoldersRequest, context: grpc.ServicerContext) -> Iterator[WatchHoldersResponse]:
        yield from messages
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait(10)

    return serve


def gone(**details: Any) -> Refused:
    return Refused(grpc.StatusCode.UNAVAILABLE, "shutting down", error_info("SHUTTING_DOWN"), **details)


def events(messages: Iterator[WatchHoldersResponse], count: int) -> list[str | None]:
    return [message.WhichOneof("event") for message in itertools.islice(messages, count)]


class Pauses(list[float]):
    """Takes the place of sleeping."""

    def patience(self, interval_s: float = 15.0) -> Patience:
        return Patience(interval_s, pause=self.append, jitter=lambda: 1.0)


def tokens(server: FakeHostdevd) -> list[str]:
    return [request.resume_token for request in server.asked(WatchHoldersRequest)]


def test_resumes_at_the_last_processed_token(server: FakeHostdevd, client: HostdevClient) -> None:
    server.watches = [
        script(snapshot(), bookmark("t1"), batch("t2"), then=gone()),
        script(batch("t3")),  # ends without a status
        script(batch("t4")),
    ]
    pauses = Pauses()
    seen = events(client.watch_holders(vms=["web"], patience=pauses.patience()), 5)
    assert seen == ["snapshot", "bookmark", "change_batch", "change_batch", "change_batch"]
    assert tokens(server) == ["", "t2", "t3"]
    assert {tuple(request.vms) for request in server.asked(WatchHoldersRequest)} == {("web",)}
    assert pauses == [0.25, 0.25]


def test_pauses_grow_and_obey_the_server(server: FakeHostdevd, client: HostdevClient) -> None:
    asked = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=4))
    server.watches = [
        script(bookmark("t1"), then=gone()),
        script(then=gone()),
        script(then=gone()),
        script(then=Refused(grpc.StatusCode.UNAVAILABLE, "later", asked)),
        script(bookmark("t2"), then=gone()),
        script(bookmark("t3")),
    ]
    pauses = Pauses()
    assert events(client.watch_holders(patience=pauses.patience()), 3) == ["bookmark"] * 3
    assert pauses == [0.25, 0.5, 1.0, 6.0, 0.25]
    assert tokens(server) == ["", "t1", "t1", "t1", "t1", "t2"]


def test_an_interrupted_snapshot_starts_over_with_a_reset(server: FakeHostdevd, client: HostdevClient) -> None:
    server.watches = [script(snapshot(), then=gone()), script(snapshot(), bookmark("t1"))]
    seen = list(itertools.islice(client.watch_holders(patience=Pauses().patience()), 4))
    assert [message.WhichOneof("event") for message in seen] == ["snapshot", "reset", "snapshot", "bookmark"]
    assert seen[1].revision == 0
    assert seen[1].reset.reason == service_pb2.RESET_REASON_HISTORY_LOST


def test_a_token_from_before_a_reset_is_never_sent_again(server: FakeHostdevd, client: HostdevClient) -> None:
    server.watches = [
        script(reset(), snapshot(), then=gone()),
        script(snapshot(), bookmark("t9"), then=gone()),
        script(batch("t10")),
    ]
    watch = client.watch_holders(resume_token="old", changes_only=True, patience=Pauses().patience())  # noqa: S106
    assert events(watch, 6) == ["reset", "snapshot", "reset", "snapshot", "bookmark", "change_batch"]
    assert tokens(server) == ["old", "", "t9"]
    assert [request.changes_only for request in server.asked(WatchHoldersRequest)] == [True, False, False]


@pytest.fixture
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests need not wait as long as a server."""
    monkeypatch.setattr("hostdev.progress._SHORTEST_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("short_intervals")
def test_three_silent_intervals_are_death(server: FakeHostdevd, client: HostdevClient) -> None:
    server.watches = [silent(bookmark("t1")), script(bookmark("t2"))]
    told: list[HostdevApiError] = []
    patience = Patience(0.05, interrupted=lambda error, _: told.append(error), pause=lambda _: None)
    began = time.monotonic()
    assert events(client.watch_holders(patience=patience), 2) == ["bookmark", "bookmark"]
    assert 0.15 <= time.monotonic() - began < 5
    assert tokens(server) == ["", "t1"]
    assert "no sign of life" in told[0].message


def test_an_interval_that_the_server_refuses_leaves_it_the_time_to_say_so() -> None:
    assert [Patience(interval).silence_s for interval in (0, 0.5, 1, 15)] == [3, 3, 3, 45]


@pytest.mark.usefixtures("short_intervals")
def test_a_slow_reader_is_not_silence(server: FakeHostdevd, client: HostdevClient) -> None:
    server.watches = [script(bookmark("t1"), bookmark("t2"))]
    watch = client.watch_holders(patience=Patience(0.05, pause=lambda _: pytest.fail("interrupted")))
    assert next(watch).resume_token == "t1"  # noqa: S105
    time.sleep(0.4)
    assert next(watch).resume_token == "t2"  # noqa: S105


def test_a_watch_that_never_began_is_an_error(server: FakeHostdevd, client: HostdevClient) -> None:
    server.watches = [script(then=gone())]
    with pytest.raises(HostdevApiError, match="SHUTTING_DOWN"):
        next(client.watch_holders(patience=Pauses().patience()))


def test_what_trying_again_does_not_cure_is_raised(server: FakeHostdevd, client: HostdevClient) -> None:
    refusal = Refused(grpc.StatusCode.PERMISSION_DENIED, "no", error_info("NOT_ALLOWED"))
    server.watches = [script(bookmark("t1"), then=gone()), script(then=refusal)]
    watch = client.watch_holders(patience=Pauses().patience())
    next(watch)
    with pytest.raises(HostdevApiError, match="NOT_ALLOWED"):
        next(watch)


def test_closing_a_watch_ends_its_stream(server: FakeHostdevd, client: HostdevClient) -> None:
    ended = threading.Event()

    def serve(_: WatchHoldersRequest, context: grpc.ServicerContext) -> Iterator[WatchHoldersResponse]:
        context.add_callback(ended.set)
        yield bookmark("t1")
        ended.wait(10)

    server.watches = [serve]
    watch = client.watch_holders()
    next(watch)
    watch.close()
    assert ended.wait(5)
