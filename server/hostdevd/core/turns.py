"""Long work on the event loop, in turns that are too short for others to notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

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
