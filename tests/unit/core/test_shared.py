"""One read for all who want it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from hostdevd.core.history import ChangeSource
from hostdevd.core.shared import SharedRead

EVENT, OPERATION = ChangeSource.EVENT, ChangeSource.OPERATION


class Slow:
    """A read that ends when it may; `begun` has the source of each run."""

    def __init__(self) -> None:
        self.begun: list[ChangeSource] = []
        self.may = asyncio.Event()
        self.failing = 0

    async def __call__(self, source: ChangeSource) -> None:
        self.begun.append(source)
        await self.may.wait()
        if self.failing:
            self.failing -= 1
            raise ValueError("unreadable")


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_asks_in_the_middle_of_a_read_shares_the_next_one() -> None:
    slow = Slow()
    read = SharedRead(slow)
    first = asyncio.create_task(read(EVENT))
    await turns()
    later = [asyncio.create_task(read(OPERATION)) for _ in range(3)]
    await turns()
    assert slow.begun == [EVENT]
    slow.may.set()
    await asyncio.gather(first, *later)
    assert slow.begun == [EVENT, OPERATION]
    await read(EVENT)  # nothing is kept once it has ended
    assert slow.begun == [EVENT, OPERATION, EVENT]


async def test_a_read_that_fails_fails_for_all_who_share_it_and_for_nobody_else() -> None:
    slow = Slow()
    read = SharedRead(slow)
    slow.failing = 1
    both = [asyncio.create_task(read(EVENT)) for _ in range(2)]
    await turns()
    after = asyncio.create_task(read(OPERATION))
    await turns()
    slow.may.set()
    assert [type(one) for one in await asyncio.gather(*both, return_exceptions=True)] == [ValueError] * 2
    await after
    assert slow.begun == [EVENT, OPERATION]


async def test_who_gives_up_takes_nothing_from_the_others() -> None:
    slow = Slow()
    read = SharedRead(slow)
    going, staying = (asyncio.create_task(read(EVENT)) for _ in range(2))
    await turns()
    going.cancel()
    slow.may.set()
    await staying
    assert going.cancelled()
    assert slow.begun == [EVENT]


async def test_closing_ends_what_runs_and_what_waits() -> None:
    slow = Slow()
    read = SharedRead(slow)
    first = asyncio.create_task(read(EVENT))
    await turns()
    second = asyncio.create_task(read(EVENT))
    await turns()
    read.close()
    for task in (first, second):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert slow.begun == [EVENT]
