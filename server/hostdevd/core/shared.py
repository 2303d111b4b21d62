"""A read that all who want it at the same time have together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hostdevd.core.history import ChangeSource


class SharedRead:
    """Runs a read one at a time; who asks gets a run that begins after that.

    Those who ask while one is under way share the next: two at once would take longer than one after the other, and
    tell no more. A run that has begun ends, also when nobody waits for it any more.
    """

    def __init__(self, read: Callable[[ChangeSource], Awaitable[None]]) -> None:
        self._read = read
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def __call__(self, source: ChangeSource) -> None:
        """Read; raises what the read raises. Of those who share a run, the first one's source counts."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running, source), name="shared-read")
            self._next.add_done_callback(_looked_at)
        await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[None] | None, source: ChangeSource) -> None:
        if before is not None:
            await asyncio.wait({before})
        self._running, self._next = self._next, None
        await self._read(source)

    def close(self) -> None:
        """End what runs."""
        for task in (self._running, self._next):
            if task is not None:
                task.cancel()


def _looked_at(task: asyncio.Task[None]) -> None:
    """Nobody may be left whom a failure of it concerns."""
    if not task.cancelled():
        task.exception()
