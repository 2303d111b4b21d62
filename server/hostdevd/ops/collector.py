"""Python's garbage collector, kept from walking through a store of thousands of devices again and again."""

from __future__ import annotations

import asyncio
import gc

LOAD_S = 60.0


async def collect_after(loaded: asyncio.Event) -> None:
    """No collection until the store is loaded, or for `LOAD_S`; what was made until it is is never looked at again.

    A full collection stops the event loop for as long as it walks through all objects (0.1 s with 5,000 devices).
    Those of the store go by their reference counts, for nothing in it refers back to what refers to it.
    """
    gc.disable()
    try:
        async with asyncio.timeout(LOAD_S):
            await loaded.wait()
    except TimeoutError:
        gc.enable()  # libvirt is away: for how long nobody knows
        await loaded.wait()
    finally:
        gc.enable()
    gc.freeze()
