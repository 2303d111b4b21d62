"""How many calls of one visitor may be on their way to the service at the same time, over all its connections.

The service begins calls in the order in which they come, each of which costs it a fraction of a millisecond. Somebody
who sends thousands at once would have everybody else wait behind them. So a few of his are let through, and the next
ones when those have begun; meanwhile the rest waits in his own buffers. Nothing is refused by this.

Under TLS calls cannot be told apart, so what is let through is bytes, and what they are is learnt from the calls that
they become. When nothing more begins, all that came has been read: it was a part of one long request, and the next
part may be longer; or it was many calls, and the next part is short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST_PENDING = 16
LOST_S = 0.05
"""Calls of which nothing was heard for so long have been refused by gRPC itself, or their client has gone."""

LEAST_BYTES = 4 * 1024
MOST_BYTES = 64 * 1024
"""What may be on its way under TLS: at first and after many calls, and at the most in a long request."""
SMALL_CALL_BYTES = 32
"""What a call that has begun makes room for: a small one, so that more of them are never on their way by and by."""
TICK_S = 0.002
QUIET_TICKS = 2
"""In an idle service whatever has come has begun after so many; more than one, for the first may come late."""
OWN_QUIET_TICKS = 10
"""The same where calls of others begin meanwhile, behind which those of this visitor may stand."""

_FRAME_HEADER = 9
_PREFACE = 24
_HEADERS = 1


class Passage:
    """Of one connection through its visitor's turnstile."""

    __slots__ = ("_count", "_turnstile")

    def __init__(self, turnstile: Turnstile, count: Callable[[memoryview], int]) -> None:
        self._turnstile = turnstile
        self._count = count

    @property
    def is_open(self) -> bool:
        """Whether bytes may pass."""
        return self._turnstile.is_open

    def passed(self, data: memoryview) -> None:
        """They have."""
        self._turnstile.passed(self, self._count(data))

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once when it is open again."""
        self._turnstile.wait(go_on)


class Turnstile:
    """Of one visitor, whose calls are counted."""

    __slots__ = ("_heard", "_look", "_loop", "_pending", "_total", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: dict[Passage, int] = {}
        self._total = 0
        self._heard = False
        self._waiting: list[Callable[[], None]] = []
        self._look: asyncio.TimerHandle | None = None

    def passage(self) -> Passage:
        """For a new connection."""
        return Passage(self, Http2Calls().count)

    @property
    def is_open(self) -> bool:
        """Whether somebody may pass."""
        return self._total < MOST_PENDING

    def has_pending(self, passage: Passage) -> bool:
        """Whether something of this connection is on its way."""
        return passage in self._pending

    def passed(self, passage: Passage, amount: int) -> None:
        """So many more calls, or bytes, are on their way."""
        if amount:
            self._pending[passage] = self._pending.get(passage, 0) + amount
            self._total += amount

    def begun(self, passage: Passage) -> None:
        """The service has begun a call of this connection."""
        self._heard = True
        self._take_back(passage, 1)

    def left(self, passage: Passage) -> None:
        """The connection is no more: what it had on its way is void."""
        self._take_back(passage, self._pending.get(passage, 0))

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once when it is open again."""
        self._waiting.append(go_on)
        if self._look is None:
            self._heard = False
            self._look_later()

    def close(self) -> None:
        """Forget those who wait."""
        self._waiting.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _take_back(self, passage: Passage, amount: int) -> None:
        pending = self._pending.get(passage, 0)
        if pending > amount:
            self._pending[passage] = pending - amount
        else:
            self._pending.pop(passage, None)
        self._total -= min(pending, amount)
        if self._waiting and self.is_open:
            self._release()

    def _look_later(self) -> None:
        self._look = self._loop.call_later(LOST_S, self._look_now)

    def _look_now(self) -> None:
        self._look = None
        if not self._waiting:
            return
        if self._is_quiet():
            self._void()
            self._release()
        else:
            self._look_later()

    def _is_quiet(self) -> bool:
        """Whether nothing more can be heard of what is on its way. Asked once each turn."""
        heard, self._heard = self._heard, False
        return not heard

    def _void(self) -> None:
        self._pending.clear()
        self._total = 0

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()


class Pulse:
    """Beats with each call that the service begins, whoever's it is."""

    __slots__ = ("beats",)

    def __init__(self) -> None:
        self.beats = 0


class EncryptedTurnstile(Turnstile):
    """Of one visitor, whose bytes are counted."""

    __slots__ = ("_beats", "_begun", "_most", "_own_quiet", "_pulse", "_quiet")

    def __init__(self, loop: asyncio.AbstractEventLoop, pulse: Pulse) -> None:
        super().__init__(loop)
        self._pulse = pulse
        self._beats = 0
        self._most = LEAST_BYTES
        self._begun = 0
        """Calls, since it was quiet."""
        self._quiet = self._own_quiet = 0

    def passage(self) -> Passage:
        """For a new connection."""
        return Passage(self, len)

    @property
    def is_open(self) -> bool:
        """Whether somebody may pass."""
        return self._total < self._most

    def begun(self, passage: Passage) -> None:
        """The service has begun a call of this connection."""
        self._heard = True
        self._begun += 1
        if self._begun > MOST_PENDING:
            self._most = LEAST_BYTES
        self._take_back(passage, SMALL_CALL_BYTES)

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once when it is open again."""
        if self._look is None:
            self._quiet = self._own_quiet = 0
            self._beats = self._pulse.beats
        super().wait(go_on)

    def _look_later(self) -> None:
        self._look = self._loop.call_later(TICK_S, self._look_now)

    def _is_quiet(self) -> bool:
        self._own_quiet = 0 if self._heard else self._own_quiet + 1
        self._quiet = self._quiet + 1 if self._beats == self._pulse.beats else 0
        self._heard, self._beats = False, self._pulse.beats
        return self._quiet >= QUIET_TICKS or self._own_quiet >= OWN_QUIET_TICKS

    def _void(self) -> None:
        super()._void()
        self._most = LEAST_BYTES if self._begun > MOST_PENDING else min(2 * self._most, MOST_BYTES)
        self._begun = 0


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
