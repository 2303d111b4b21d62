"""Which rows of what began nothing are written: so many of one caller and so many of all, and the rest is counted.

Who is turned away can be so as often as he likes, so those rows have buckets of their own: they leave the room of the
others alone, of the same caller and of all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hostdevd.core.bucket import Bucket

TURNED_AWAY = frozenset({"RATE_LIMITED", "NO_IDENTITY", "NOT_ALLOWED"})
"""The reasons of refusals that cost a caller nothing, and the service next to nothing."""
MOST_CALLERS = 1024
TELL_S = 60.0
"""Between two counts of what was left out of one caller's rows."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Rows of one caller at once, and per second in the long run; the same of all callers together.

    `waiting`: how many rows may wait to be written when one of these is added. While nothing can be written, they do.
    """

    burst: float
    rate: float
    all_burst: float
    all_rate: float
    waiting: int


USUAL = Quota(burst=200, rate=10, all_burst=2000, all_rate=100, waiting=2000)
AWAY = Quota(burst=20, rate=0.1, all_burst=500, all_rate=10, waiting=500)


class _Kind:
    """The buckets of one kind of rows; whose caller was heard of longest ago goes when there are too many."""

    __slots__ = ("_all", "_callers", "_quota")

    def __init__(self, quota: Quota, now: float) -> None:
        self._quota = quota
        self._callers: OrderedDict[str, Bucket] = OrderedDict()
        self._all = Bucket(quota.all_burst, quota.all_rate, now)

    def take(self, caller: str, waiting: int, now: float) -> bool:
        bucket = self._callers.pop(caller, None) or Bucket(self._quota.burst, self._quota.rate, now)
        self._callers[caller] = bucket
        if len(self._callers) > MOST_CALLERS:
            self._callers.popitem(last=False)
        return bucket.take_if_any(now) and waiting < self._quota.waiting and self._all.take_if_any(now)


class Room:
    """For rows to be written. `now` is a clock that never jumps, in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._usual, self._away = _Kind(USUAL, now()), _Kind(AWAY, now())
        self._left_out: Counter[str] = Counter()
        self._told: dict[str, float] = {}

    def take(self, caller: str, reason: str, waiting: int) -> bool:
        """Whether a row may be written, `waiting` of which there are already; counted when it may not."""
        kind = self._away if reason in TURNED_AWAY else self._usual
        if kind.take(caller, waiting, self._now()):
            return True
        known = caller in self._left_out or len(self._left_out) < MOST_CALLERS
        self._left_out[caller if known else ""] += 1
        return False

    def left_out(self, *, at_last: bool = False) -> Mapping[str, int]:
        """How many rows of which callers are to be told of now: the first at once, then once a minute, and at last."""
        now = self._now()
        self._told = {caller: then for caller, then in self._told.items() if now - then < TELL_S}
        return {caller: count for caller, count in self._left_out.items() if at_last or caller not in self._told}

    def told(self, counts: Mapping[str, int]) -> None:
        """They were written."""
        self._left_out -= Counter(counts)
        self._told |= dict.fromkeys(counts, self._now())
