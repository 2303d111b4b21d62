"""How much one caller, and all of them together, may ask for: the counting, without a word of gRPC.

Each identity has limits of its own, so that one that floods the service stands in its own way; those of all together
are there for the service. No honest client of one host meets the defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum, unique

from hostdevd.core.bucket import Bucket
from hostdevd.core.errors import HostdevError

BUSY_RETRY_S = 1.0
WATCHERS_RETRY_S = 10.0
_KEPT_BUCKETS = 1024
ARRIVALS, ARRIVALS_TOTAL, ARRIVALS_SURE = 256, 2048, 8
"""Calls that were begun and whose request has not come yet: of one identity, of all, and of one whatever all have.

No honest client has many, and those who do must not keep the others out.
"""


@unique
class Work(StrEnum):
    """What a call is, as far as limits go. Each kind has room of its own: watchers take none of the others'."""

    READS = "reads"
    MUTATIONS = "mutations"
    WATCHERS = "watchers"
    ARRIVALS = "arrivals"
    """A call of any kind whose request has not come yet: what it will count as is known, not whether it ever will."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each identity, and with `_total` of all together.

    `reads`, `mutations` and `watchers` are calls at the same time; a dry run is a read. `connections` are counted by
    the user at a unix socket, and by the address (of IPv6, its /64) of a certificate's bearer, who is not known yet.
    """

    mutations_per_minute: int = 600
    mutations_per_minute_total: int = 3000
    reads: int = 64
    reads_total: int = 256
    mutations: int = 256
    mutations_total: int = 1024
    watchers: int = 1024
    watchers_total: int = 4096
    connections: int = 256
    connections_total: int = 1024
    streams_per_connection: int = 2048

    def at_once(self, work: Work) -> tuple[int, int]:
        """How many calls of a kind at the same time: of one identity, of all."""
        if work is Work.ARRIVALS:
            return ARRIVALS, ARRIVALS_TOTAL
        of_one: int = getattr(self, work)
        of_all: int = getattr(self, f"{work}_total")
        return of_one, of_all


class Place:
    """A call's place among those that run; left when the block ends."""

    __slots__ = ("_counted", "_who")

    def __init__(self, counted: Counter[str], who: str) -> None:
        self._counted = counted
        self._who = who
        counted[who] += 1

    def __enter__(self) -> None:
        """It was taken before."""

    def __exit__(self, *_: object) -> None:
        """Leave it."""
        self._counted[self._who] -= 1
        if not self._counted[self._who]:
            del self._counted[self._who]


class Counts:
    """What goes on now, by kind and identity, and the changes of the last minute. `now` is a clock that never jumps."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._running: dict[Work, Counter[str]] = {work: Counter() for work in Work}
        self._buckets: dict[str, Bucket] = {}
        self._all = _a_minute(limits.mutations_per_minute_total, now())

    def running(self, work: Work, who: str | None = None) -> int:
        """How many calls of a kind there are, of one identity or of all."""
        counted = self._running[work]
        return counted.total() if who is None else counted[who]

    def enter(self, work: Work, who: str) -> Place:
        """Count a call until its place is left; `RATE_LIMITED` or `TOO_MANY_WATCHERS` when there is no room for it.

        A change counts in the rate of its identity, and once it is allowed, in that of all (`allowed`).
        """
        counted, (of_one, of_all) = self._running[work], self._limits.at_once(work)
        if counted[who] >= of_one:
            raise _no_room(work, who, of_one)
        is_sure = work is Work.ARRIVALS and counted[who] < ARRIVALS_SURE
        if counted.total() >= of_all and not is_sure:
            raise _no_room(work, "", of_all)
        if work is Work.MUTATIONS:
            self._take(self._bucket(who), who, self._limits.mutations_per_minute)
        return Place(counted, who)

    def allowed(self, work: Work) -> None:
        """Count a call that its caller has the right to make: who has none must not keep others from theirs.

        `RATE_LIMITED` when all together make too many changes.
        """
        if work is Work.MUTATIONS:
            self._take(self._all, "", self._limits.mutations_per_minute_total)

    def _bucket(self, who: str) -> Bucket:
        now = self._now()
        bucket = self._buckets.get(who)
        if bucket is None:
            if len(self._buckets) >= _KEPT_BUCKETS:
                self._buckets = {name: one for name, one in self._buckets.items() if not one.is_full(now)}
            bucket = self._buckets[who] = _a_minute(self._limits.mutations_per_minute, now)
        return bucket

    def _take(self, bucket: Bucket, who: str, limit: int) -> None:
        wait_s = bucket.wait_s(self._now())
        if wait_s:
            raise HostdevError(
                "RATE_LIMITED",
                f"{_of(who)} {limit} changes a minute and no more",
                metadata={"limit": str(limit), "what": "mutations_per_minute", "caller": who},
                retry_after_s=wait_s,
            )
        bucket.take()


def _a_minute(count: int, now: float) -> Bucket:
    return Bucket(count, count / 60, now)


def _no_room(work: Work, who: str, limit: int) -> HostdevError:
    watchers = work is Work.WATCHERS
    return HostdevError(
        "TOO_MANY_WATCHERS" if watchers else "RATE_LIMITED",
        f"{_of(who)} {limit} {work} at the same time and no more",
        metadata={"limit": str(limit), "what": str(work), "caller": who},
        retry_after_s=WATCHERS_RETRY_S if watchers else BUSY_RETRY_S,
    )


def _of(who: str) -> str:
    return f"{who} may have" if who else "all callers together may have"
