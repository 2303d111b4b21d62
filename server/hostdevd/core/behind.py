"""Views that are behind a change that is about all devices: to judge thousands in one go would hold up every call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from hostdevd.core.turns import Turn

if TYPE_CHECKING:
    from hostdevd.core.store import Store

PORTION = 16
"""Devices that are judged in one go: about 2 ms."""


class Behind:
    """The names of devices whose views are from before such a change."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self.listeners: list[Callable[[], None]] = []
        """Called when views fall behind; whoever hears of it has them catch up."""

    def add(self, names: Iterable[str]) -> None:
        """These fall behind."""
        self._names.update(names)
        if self._names:
            for listener in self.listeners:
                listener()

    def discard(self, names: Iterable[str]) -> None:
        """These are as of now."""
        self._names.difference_update(names)

    def among(self, names: Iterable[str]) -> set[str]:
        """Which of these are behind."""
        return self._names.intersection(names)

    def some(self, count: int) -> set[str]:
        """Up to so many of them."""
        return set(islice(self._names, count))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._names)


async def catch_up(store: Store) -> None:
    """Bring all views up to now, in portions: calls are answered meanwhile, and no decision is taken by an old view.

    What is about to be decided by asks `Store.catch_up` first.
    """
    turn = Turn()
    while store.catch_up_some(PORTION):
        if turn.is_over():
            await turn.next()
