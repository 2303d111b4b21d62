"""hostdevd as it is, with a measure of its event loop beside it: how long each turn kept the processor.

Counted is the thread's own processor time, so that another busy process on the machine does not count as a stall.
SIGUSR1 writes the longest turns since the last one to the file in HOSTDEVD_BENCH_TURNS, as milliseconds in JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from hostdevd.__main__ import main

_KEPT = 20


def measure(file: Path) -> None:
    """Measure every callback of every loop of this process."""
    longest: list[tuple[float, str]] = []
    run = asyncio.events.Handle._run

    def timed(self: asyncio.events.Handle) -> None:
        began = time.thread_time()
        try:
            run(self)
        finally:
            took = time.thread_time() - began
            if len(longest) < _KEPT or took > longest[-1][0]:
                longest.append((took, repr(self)[:200]))
                longest.sort(reverse=True)
                del longest[_KEPT:]

    asyncio.events.Handle._run = timed  # type: ignore[method-assign]

    def write(_number: int, _frame: object) -> None:
        told = [{"ms": took * 1000, "what": what} for took, what in longest]
        longest.clear()
        file.with_suffix(".new").write_text(json.dumps(told))
        file.with_suffix(".new").rename(file)

    signal.signal(signal.SIGUSR1, write)


if __name__ == "__main__":
    if "HOSTDEVD_BENCH_TURNS" in os.environ:
        measure(Path(os.environ["HOSTDEVD_BENCH_TURNS"]))
    sys.exit(main())
