"""One list, fetched page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator
from typing import Generic, Protocol, Self, TypeVar

Item = TypeVar("Item")


class Page(Protocol):
    """What the responses of all lists have in common."""

    next_page_token: str
    revision: int
    resume_token: str


AnyPage = TypeVar("AnyPage", bound=Page)


class Listing(Iterator[Item], Generic[Item]):
    """Iterates over all items of a list and fetches further pages on the way.

    All pages show `revision`; a watch that starts at `resume_token` has no gap to the list. The first page is
    fetched at once, so that a refusal is raised by the call that made the listing. Later pages may raise
    `HostdevApiError` with reason `REVISION_COMPACTED` when a page token has expired: start again.
    """

    def __init__(self, fetch: Callable[[str], AnyPage], items: Callable[[AnyPage], Iterable[Item]]) -> None:
        first = fetch("")
        self.revision = first.revision
        self.resume_token = first.resume_token
        self._items = _walk(first, fetch, items)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        return next(self._items)


def _walk(page: AnyPage, fetch: Callable[[str], AnyPage], items: Callable[[AnyPage], Iterable[Item]]) -> Iterator[Item]:
    while True:
        yield from items(page)
        # A page may be empty or short without being the last: only the token tells.
        if not page.next_page_token:
            return
        page = fetch(page.next_page_token)


class AsyncListing(AsyncIterator[Item], Generic[Item]):
    """The same for `async for`. Awaiting it fetches the first page, which tells `revision` and `resume_token`."""

    def __init__(self, fetch: Callable[[str], Awaitable[AnyPage]], items: Callable[[AnyPage], Iterable[Item]]) -> None:
        self.revision = 0
        self.resume_token = ""
        self._begun = False
        self._items = self._walk(fetch, items)
        self._first: list[Item] = []  # one at most: begun by awaiting

    def __await__(self) -> Generator[object, None, Self]:
        return self._begin().__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._first:
            return self._first.pop()
        return await anext(self._items)

    async def _begin(self) -> Self:
        if not self._begun:
            async for item in self._items:
                self._first.append(item)  # it is asked for first
                break
        return self

    async def _walk(
        self, fetch: Callable[[str], Awaitable[AnyPage]], items: Callable[[AnyPage], Iterable[Item]]
    ) -> AsyncIterator[Item]:
        self._begun = True
        page = await fetch("")
        self.revision, self.resume_token = page.revision, page.resume_token
        while True:
            for item in items(page):
                yield item
            if not page.next_page_token:
                return
            page = await fetch(page.next_page_token)
