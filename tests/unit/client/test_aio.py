"""The asynchronous client: lists, errors and watches as the other one has them."""

from __future__ import annotations

import grpc
import pytest

from hostdev import HostdevApiError, NotFoundError, Patience
from hostdev.aio import AsyncHostdevClient
from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2 import WatchHoldersRequest
from unit.client.fake_server import FakeHostdevd, Refused, error_info, no_device
from unit.client.test_watch import batch, bookmark, gone, script, short_intervals, silent, snapshot

__all__ = ["short_intervals"]  # the fixture


async def no_pause(_: float) -> None:
    return


async def test_lists_are_walked_to_the_empty_token(server: FakeHostdevd) -> None:
    async with AsyncHostdevClient(server.address) as client:
        assert [device async for device in client.list_devices(page_size=3)] == server.devices
        listing = await client.list_devices()
        assert (listing.revision, listing.resume_token) == (7, "at-7")
        assert [device async for device in listing] == server.devices
    asked = server.asked(service_pb2.ListDevicesRequest)
    assert [request.page_token for request in asked] == ["", "3", "6"] * 2


async def test_errors_are_of_the_same_kinds(server: FakeHostdevd) -> None:
    server.refusals["ListDevices"] = no_device("nope")
    async with AsyncHostdevClient(server.address) as client:
        with pytest.raises(NotFoundError) as raised:
            await client.list_devices()
    assert (raised.value.reason, raised.value.method) == ("DEVICE_NOT_FOUND", "ListDevices")
    assert raised.value.metadata == {"device": "nope"}


@pytest.mark.usefixtures("short_intervals")
async def test_watches_resume_and_begin_anew_like_the_others(server: FakeHostdevd) -> None:
    server.watches = [
        script(snapshot(), then=gone()),
        script(snapshot(), bookmark("t1"), batch("t2"), then=gone()),
        script(batch("t3")),  # ends without a status
        silent(batch("t4")),
        script(batch("t5")),
    ]
    told: list[HostdevApiError] = []
    patience = Patience(0.1, interrupted=lambda error, _: told.append(error))
    async with AsyncHostdevClient(server.address) as client:
        watch = client.watch_holders(vms=["web"], patience=patience, pause=no_pause)
        seen = [(await anext(watch)).WhichOneof("event") for _ in range(8)]
        await watch.aclose()
    assert seen == ["snapshot", "reset", "snapshot", "bookmark", *["change_batch"] * 4]
    assert [request.resume_token for request in server.asked(WatchHoldersRequest)] == ["", "", "t2", "t3", "t4"]
    assert [error.reason or error.message for error in told] == [
        "SHUTTING_DOWN",
        "SHUTTING_DOWN",
        "the stream ended",
        "no sign of life for 0.3 s",
    ]


async def test_what_trying_again_does_not_cure_is_raised(server: FakeHostdevd) -> None:
    refusal = Refused(grpc.StatusCode.PERMISSION_DENIED, "no", error_info("NOT_ALLOWED"))
    server.watches = [script(bookmark("t1"), then=gone()), script(then=refusal)]
    async with AsyncHostdevClient(server.address) as client:
        watch = client.watch_holders(pause=no_pause)
        await anext(watch)
        with pytest.raises(HostdevApiError, match="NOT_ALLOWED"):
            await anext(watch)
