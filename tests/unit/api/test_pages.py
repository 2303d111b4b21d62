"""Pages of a list: one revision, tokens that live as long as they are told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hostdev.v1 import device_pb2, service_pb2
from hostdevd.api.pages import MAX_LISTS, TOKEN_LIFE_S, Page, Pages
from hostdevd.api.wire import entry
from hostdevd.core.errors import HostdevError

Request = service_pb2.ListDevicesRequest
DeviceFilter = device_pb2.DeviceFilter


class Lister:
    def __init__(self) -> None:
        self.time = 0.0
        self.pages = Pages(lambda: self.time)
        self.names = ["a", "b", "c"]
        self.selected = 0

    async def page(self, revision: int, token: str = "", size: int = 1, caller: str = "root", **filter_: Any) -> Page:
        request = Request(page_size=size, page_token=token, filter=DeviceFilter(**filter_))
        return await self.pages.page(
            request,
            lambda: revision,
            self._select,
            lambda name: entry(device_pb2.Device(name=name).SerializeToString()),
            view="",
            caller=caller,
        )

    def _select(self) -> list[str]:
        self.selected += 1
        return list(self.names)


def names(page: Page) -> list[str]:
    response = service_pb2.ListDevicesResponse.FromString(page.response(service_pb2.ListDevicesResponse, "token"))
    assert (response.next_page_token, response.revision) == (page.next_page_token, page.revision)
    return [device.name for device in response.devices]


async def test_a_token_lives_through_ten_thousand_lists_and_dies_in_time() -> None:
    lister = Lister()
    token = (await lister.page(1)).next_page_token
    lister.names = ["other"]
    for _ in range(10_000):
        assert names(await lister.page(1)) == ["a"]
    for revision in range(2, MAX_LISTS):
        await lister.page(revision, size=0)
    lister.time = TOKEN_LIFE_S - 1
    second = await lister.page(MAX_LISTS, token)
    assert (names(second), second.revision) == (["b"], 1)
    assert lister.selected == 1 + MAX_LISTS - 2
    assert len(lister.pages._lists) == 1
    lister.time += TOKEN_LIFE_S + 1
    with pytest.raises(HostdevError) as refusal:
        await lister.page(MAX_LISTS, second.next_page_token)
    assert refusal.value.reason == "REVISION_COMPACTED"


async def test_what_is_kept_is_bounded() -> None:
    lister = Lister()
    for revision in range(MAX_LISTS + 10):
        await lister.page(revision)
    assert len(lister.pages._lists) == MAX_LISTS
    lister.time = TOKEN_LIFE_S + 1
    await lister.page(MAX_LISTS + 10)
    assert len(lister.pages._lists) == 1


async def test_who_asks_for_many_lists_loses_his_own_and_nobody_elses() -> None:
    lister = Lister()
    mine = (await lister.page(1)).next_page_token
    shared = (await lister.page(2, caller="flood")).next_page_token
    assert (await lister.page(2)).next_page_token == shared
    first = (await lister.page(3, caller="flood")).next_page_token
    for revision in range(4, MAX_LISTS + 10):
        await lister.page(revision, caller="flood")
    assert len(lister.pages._lists) == MAX_LISTS
    assert names(await lister.page(0, mine)) == ["b"]
    assert names(await lister.page(0, shared)) == ["b"]  # one of both, who made it has lost it
    with pytest.raises(HostdevError) as refusal:
        await lister.page(0, first, caller="flood")
    assert refusal.value.reason == "REVISION_COMPACTED"


async def test_who_asks_for_large_lists_loses_his_own_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostdevd.api.pages.MAX_ITEMS", 30)
    lister = Lister()
    mine = (await lister.page(1)).next_page_token
    lister.names = [str(number) for number in range(20)]
    for revision in range(2, 10):
        token = (await lister.page(revision, caller="flood")).next_page_token
        assert names(await lister.page(0, token, caller="flood")) == ["1"]  # what was just given is good
        assert names(await lister.page(0, mine)) == ["b"]
    assert lister.pages._items == 23
    assert {who: (len(one.lists), one.items) for who, one in lister.pages._shares.items()} == {
        "root": (1, 3),
        "flood": (1, 20),
    }
    lister.time = TOKEN_LIFE_S + 1
    await lister.page(10, caller="late")
    assert list(lister.pages._shares) == ["late"]
    assert lister.pages._items == 20


async def test_a_token_is_for_its_arguments_and_its_service() -> None:
    lister = Lister()
    token = (await lister.page(1)).next_page_token
    with pytest.raises(HostdevError) as refusal:
        await lister.page(1, token, types=["pci"])
    assert refusal.value.reason == "INVALID_PAGE_TOKEN"
    other = Lister()
    await other.page(1)
    with pytest.raises(HostdevError) as refusal:
        await other.page(1, token)
    assert refusal.value.reason == "REVISION_COMPACTED"


async def test_the_same_page_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lister = Lister()
    first = await lister.page(1, size=2)
    assert await lister.page(1, size=2) is first
    assert names(await lister.page(1, first.next_page_token, size=2)) == ["c"]
    whole = await lister.page(2, size=0)
    lister.names = ["other"]
    assert (await lister.page(2, size=0)) is whole
    assert names(await lister.page(3, size=0)) == ["other"]
    monkeypatch.setattr("hostdevd.api.pages.MADE_PAGES", 2)
    await lister.page(4, size=0)
    assert len(lister.pages._made) == 2
    assert lister.pages._made_bytes == sum(size for _, size in lister.pages._made.values())


async def test_two_callers_at_once_make_one_page_that_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostdevd.core.turns.Turn.is_over", lambda _: True)
    lister = Lister()
    first, second = await asyncio.gather(lister.page(1, size=0), lister.page(1, size=0))
    assert names(first) == names(second)
    assert [lister.pages._made_bytes] == [size for _, size in lister.pages._made.values()]
