"""A token bucket: so many at once after a quiet while, then one each time there is one to be had."""

from __future__ import annotations


class Bucket:
    """`burst` at once, `rate` a second in the long run; full at the beginning. `now`: seconds that never jump."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst, self._rate, self._left, self._at = burst, rate, burst, now

    def wait_s(self, now: float) -> float:
        """How long until there is one; 0 when there is."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1 - self._left) / self._rate)

    def take(self) -> None:
        """Take one of those that `wait_s` found."""
        self._left -= 1

    def take_if_any(self, now: float) -> bool:
        """Take one if there is one."""
        if self.wait_s(now):
            return False
        self.take()
        return True

    def is_full(self, now: float) -> bool:
        """Whether it is as good as a new one."""
        return self.wait_s(now) == 0 and self._left >= self._burst
