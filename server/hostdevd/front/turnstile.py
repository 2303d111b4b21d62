"""How many calls of one visitor may be on their way to the service at the same time, over all its connections.

The service begins calls in the order in which they come, each of which costs it a fraction of a millisecond. Somebody
who sends thousands at once would have everybody else wait behind them. So a few of his are let through, and the next
ones when those have begun; meanwhile the rest waits in his own buffers. Nothing is refused by this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST_PENDING = 16
LOST_S = 0.05
"""Calls of which nothing was heard for so long have been refused by gRPC itself."""
ENCRYPTED_CALL_BYTES = 256
"""What counts as a call where calls cannot be told apart."""

_FRAME_HEADER = 9
_PREFACE = 24
_HEADERS = 1


class Turnstile:
    """Of one visitor."""

    __slots__ = ("_heard", "_look", "_loop", "_pending", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending = 0
        self._heard = False
        self._waiting: list[Callable[[], None]] = []
        self._look: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether somebody may pass."""
        return self._pending < MOST_PENDING

    @property
    def is_unused(self) -> bool:
        """Whether it is as good as a new one."""
        return not (self._pending or self._waiting)

    def passed(self, calls: int) -> None:
        """So many more are on their way."""
        self._pending += calls

    def begun(self) -> None:
        """The service has begun one."""
        self._heard = True
        if self._pending:
            self._pending -= 1
        if self._waiting and self.is_open:
            self._release()

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once when it is open again."""
        self._waiting.append(go_on)
        if self._look is None:
            self._heard = False
            self._look = self._loop.call_later(LOST_S, self._look_now)

    def close(self) -> None:
        """Forget those who wait."""
        self._waiting.clear()
        if self._look is not None:
            self._look.cancel()

    def _look_now(self) -> None:
        self._look = None
        if not self._waiting:
            return
        if self._heard:
            self._heard = False
            self._look = self._loop.call_later(LOST_S, self._look_now)
        else:
            self._pending = 0
            self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()


class Http2Calls:
    """Counts the calls that a client's bytes begin: HTTP/2's HEADERS frames, by the lengths of all frames."""

    __slots__ = ("_begun", "_skip")

    def __init__(self) -> None:
        self._skip = _PREFACE
        self._begun = b""

    def count(self, data: memoryview) -> int:
        """How many of these bytes' frames are the first of a call; what is no HTTP/2 counts as anything."""
        calls, at, end = 0, self._skip, len(data)
        if self._begun:  # a frame's header that came in two pieces
            missing = _FRAME_HEADER - len(self._begun)
            head = self._begun + bytes(data[:missing])
            if len(head) < _FRAME_HEADER:
                self._begun = head
                return 0
            self._begun = b""
            calls += head[3] == _HEADERS
            at = missing + int.from_bytes(head[:3])
        while at + _FRAME_HEADER <= end:
            calls += data[at + 3] == _HEADERS
            at += _FRAME_HEADER + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
        if at < end:
            self._begun = bytes(data[at:])
            at = end
        self._skip = at - end
        return calls


class EncryptedCalls:
    """Estimates them by the bytes alone."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = 0

    def count(self, data: memoryview) -> int:
        """How many there may be in these bytes."""
        calls, self._bytes = divmod(self._bytes + len(data), ENCRYPTED_CALL_BYTES)
        return calls
