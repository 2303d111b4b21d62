"""Many small changes become few messages: the first at once, the next ones not closer than an interval."""

from __future__ import annotations

import asyncio

from hostdevd.core.ports import EventSink, HostChanged

INTERVAL_S = 0.05


class Coalescer:
    """Tells a sink of changes; one message stands for all that came since the last one."""

    def __init__(self, sink: EventSink, interval_s: float = INTERVAL_S) -> None:
        self._sink = sink
        self._interval_s = interval_s
        self._paths: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, path: str = "") -> None:
        """Something changed: at this sysfs path, or anywhere."""
        self._paths.add(path)
        if self._timer is None:
            self._send()

    def close(self) -> None:
        """Tell nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._paths.clear()

    def _send(self) -> None:
        self._timer = None
        if self._paths:
            path = self._paths.pop() if len(self._paths) == 1 else ""
            self._paths.clear()
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._send)
            self._sink(HostChanged(path))
