"""Long work on the event loop, in turns that are too short for others to notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

_TRIES = 3
TURN_S = 0.001
"""What runs longer than this lets others run: the bar is 5 ms, and several may take their turns one after the other."""


class Turn:
    """One's time on the loop: `if turn.is_over(): await turn.next()`."""

    __slots__ = ("_ends",)

    def __init__(self) -> None:
        self._ends = time.perf_counter() + TURN_S

    def is_over(self) -> bool:
        """Whether it is time to let others run."""
        return time.perf_counter() > self._ends

    async def next(self) -> None:
        """Let others run, and begin another turn."""
        await asyncio.sleep(0)
        self._ends = time.perf_counter() + TURN_S


async def chosen(items: Iterable[T], wanted: Callable[[T], bool]) -> list[T]:
    """The items that are wanted, looked at in turns. The items must not change meanwhile."""
    found, turn = [], Turn()
    for item in items:
        if wanted(item):
            found.append(item)
        if turn.is_over():
            await turn.next()
    return found


async def at_one_revision(current: Callable[[], int], select: Callable[[], Iterable[T | None]]) -> tuple[int, list[T]]:
    """What is selected, in turns, and the revision all of it is of; a None is a place to pause at.

    `current` tells the revision of now. What changes faster than it is read in turns is read in one.
    """
    for _ in range(_TRIES):
        revision, turn = current(), Turn()
        items: list[T] = []
        for item in select():
            if item is not None:
                items.append(item)
            if turn.is_over():
                await turn.next()
                if current() != revision:
                    break
        else:
            return revision, items
    return current(), [item for item in select() if item is not None]
