"""A closed client: whatever was under way or is asked for then ends with one kind of error, and at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hostdev import HostdevApiError, HostdevClient, Patience
from hostdev.aio import AsyncHostdevClient
from unit.client.fake_host import GPU
from unit.client.fake_server import FakeHostdevd
from unit.client.test_watch import bookmark, silent

PATIENCE = Patience(pause=lambda _: pytest.fail("it tried again"))


async def no_pause(_: float) -> None:
    pytest.fail("it tried again")


@pytest.fixture
def slow(server: FakeHostdevd) -> Iterator[FakeHostdevd]:
    server.attach_takes_s = 1.0
    server.watches = [silent(bookmark("t1"))]
    yield server
    server.attach_takes_s = 0.0


@pytest.mark.usefixtures("slow")
def test_calls_and_watches_end_with_cancelled(client: HostdevClient) -> None:
    watch = client.watch_holders(patience=PATIENCE)
    next(watch)
    closing = threading.Timer(0.2, client.close)
    closing.start()
    with pytest.raises(HostdevApiError) as under_way:
        client.attach("web", GPU)
    closing.join()
    ended = [under_way.value]
    begun: list[Any] = [
        lambda: next(watch),
        lambda: next(client.watch_devices(patience=PATIENCE)),
        client.get_host,
        client.list_devices,
    ]
    for call in begun:
        with pytest.raises(HostdevApiError) as raised:
            call()
        ended.append(raised.value)
    assert {error.code for error in ended} == {grpc.StatusCode.CANCELLED}
    assert [error.message for error in ended[1:]] == ["the client is closed"] * 4
    assert [error.method for error in ended[1:]] == ["WatchHolders", "WatchDevices", "GetHost", "ListDevices"]


@pytest.mark.usefixtures("slow")
def test_a_watch_that_waits_ends_when_another_thread_closes(client: HostdevClient) -> None:
    watch = client.watch_holders(patience=PATIENCE)
    next(watch)
    threading.Timer(0.1, client.close).start()
    with pytest.raises(HostdevApiError, match="CANCELLED: the client is closed"):
        next(watch)


async def test_the_asynchronous_one_too(slow: FakeHostdevd) -> None:
    client = AsyncHostdevClient(slow.address)
    watch = client.watch_holders(pause=no_pause)
    await anext(watch)
    under_way = [asyncio.ensure_future(one) for one in (anext(watch), client.attach("web", GPU))]
    await asyncio.sleep(0.2)
    await client.close()
    begun = [anext(client.watch_devices(pause=no_pause)), client.get_host(), client.list_devices()._begin()]
    ended = await asyncio.wait_for(asyncio.gather(*under_way, *begun, return_exceptions=True), 10)
    assert [(type(error).__mro__[1], str(error)) for error in ended] == [
        (HostdevApiError, "CANCELLED: the client is closed")
    ] * 5


async def test_cancelling_a_task_still_cancels_it(slow: FakeHostdevd) -> None:
    async with AsyncHostdevClient(slow.address) as client:
        task = asyncio.ensure_future(client.attach("web", GPU))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
