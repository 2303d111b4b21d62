"""Pages of a list: one revision, tokens that live as long as they are told to."""

from __future__ import annotations

from typing import Any

import pytest

from hostdev.v1 import device_pb2, service_pb2
from hostdevd.api.pages import MAX_LISTS, TOKEN_LIFE_S, Page, Pages
from hostdevd.core.errors import HostdevError

Request = service_pb2.ListDevicesRequest
DeviceFilter = device_pb2.DeviceFilter


class Lister:
    def __init__(self) -> None:
        self.time = 0.0
        self.pages = Pages(lambda: self.time)
        self.names = ["a", "b", "c"]
        self.selected = 0

    def page(self, revision: int, token: str = "", size: int = 1, **filter_: Any) -> Page[device_pb2.Device]:
        request = Request(page_size=size, page_token=token, filter=DeviceFilter(**filter_))
        return self.pages.page(request, revision, self._select, lambda name: device_pb2.Device(name=name))

    def _select(self) -> list[str]:
        self.selected += 1
        return list(self.names)


def names(page: Page[device_pb2.Device]) -> list[str]:
    return [device.name for device in page.items]


def test_a_token_lives_through_ten_thousand_lists_and_dies_in_time() -> None:
    lister = Lister()
    token = lister.page(1).next_page_token
    lister.names = ["other"]
    for _ in range(10_000):
        assert names(lister.page(1)) == ["a"]
    for revision in range(2, MAX_LISTS):
        lister.page(revision, size=0)
    lister.time = TOKEN_LIFE_S - 1
    second = lister.page(MAX_LISTS, token)
    assert (names(second), second.revision) == (["b"], 1)
    assert lister.selected == 1 + MAX_LISTS - 2
    assert len(lister.pages._lists) == 1
    lister.time += TOKEN_LIFE_S + 1
    with pytest.raises(HostdevError) as refusal:
        lister.page(MAX_LISTS, second.next_page_token)
    assert refusal.value.reason == "REVISION_COMPACTED"


def test_what_is_kept_is_bounded() -> None:
    lister = Lister()
    for revision in range(MAX_LISTS + 10):
        lister.page(revision)
    assert len(lister.pages._lists) == MAX_LISTS
    lister.time = TOKEN_LIFE_S + 1
    lister.page(MAX_LISTS + 10)
    assert len(lister.pages._lists) == 1


def test_a_token_is_for_its_arguments_and_its_service() -> None:
    lister = Lister()
    token = lister.page(1).next_page_token
    with pytest.raises(HostdevError) as refusal:
        lister.page(1, token, types=["pci"])
    assert refusal.value.reason == "INVALID_PAGE_TOKEN"
    other = Lister()
    other.page(1)
    with pytest.raises(HostdevError) as refusal:
        other.page(1, token)
    assert refusal.value.reason == "REVISION_COMPACTED"
