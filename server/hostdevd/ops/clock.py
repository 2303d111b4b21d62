"""The real clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Wall-clock time and real waiting."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
