"""How late the event loop is: whatever holds it up holds up every call and every watcher."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

INTERVAL_S = 0.1


async def watch_loop(tell: Callable[[float], None]) -> NoReturn:
    """Tell, ten times a second, by how much the loop came back later than it was asked to."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_S
        await asyncio.sleep(INTERVAL_S)
        tell(loop.time() - due)
