"""One list, fetched page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
