"""What changed, by revision: the memory behind resumable watches.

A batch is what one commit of the store changed. Batches are kept for at least `keep_s` and until there are
more than `keep_changes`; a position that lies before them can only be answered with a snapshot.

Each item's changes also stand in a line of their own. What a watcher far behind is told then costs as much as
there are items that changed, and not as much as there were changes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


@unique
class ChangeSource(StrEnum):
    """Who noticed: an operation of ours, an event of libvirt's or the kernel's, or a comparison."""

    OPERATION = "OPERATION"
    EVENT = "EVENT"
    RECONCILE = "RECONCILE"


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """One item before and after; None where it was not there."""

    key: str
    before: T | None
    after: T | None
    source: ChangeSource
    time: datetime


@dataclass(frozen=True, slots=True)
class Batch(Generic[T]):
    """The changes of one revision."""

    revision: int
    changes: tuple[Change[T], ...]


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """A change of one item, and its revision."""

    revision: int
    change: Change[T]


Line = list[Step[T]]
"""What happened to one item, in order."""


class History(Generic[T]):
    """Batches of one kind of item (holders, devices, assignments) in the order of their revisions."""

    def __init__(
        self,
        start: int,
        batches: Iterable[Batch[T]] = (),
        *,
        read: float = 0.0,
        keep_changes: int = 4096,
        keep_s: float = 900.0,
    ) -> None:
        self._batches: deque[Batch[T]] = deque()
        self._added: deque[float] = deque()
        """When each was, by the clock that does not jump; those of earlier lives when they were `read`."""
        self._lines: dict[str, Line[T]] = {}
        self._count = 0
        for batch in batches:
            self._add(batch, read)
        self._keep_changes = keep_changes
        self._keep_s = keep_s
        self.oldest = start
        """The first position that everything since is known of."""

    @property
    def changes(self) -> int:
        """How many changes are kept."""
        return self._count

    def can_continue(self, revision: int) -> bool:
        """Whether everything since a position is known, so that it can be gone on from exactly.

        The position is one of what led to here: see `Lives.lost`.
        """
        return revision >= self.oldest

    def append(self, batch: Batch[T], monotonic: float) -> None:
        """Add a batch, and forget what is both old and beyond the number to keep."""
        self._add(batch, monotonic)
        while self._batches:
            first = self._batches[0]
            spare = self._count - len(first.changes) >= self._keep_changes
            if not spare or monotonic - self._added[0] < self._keep_s:
                break
            self._batches.popleft()
            self._added.popleft()
            for change in first.changes:
                line = self._lines[change.key]
                del line[0]
                if not line:
                    del self._lines[change.key]
            self._count -= len(first.changes)
            self.oldest = first.revision

    def _add(self, batch: Batch[T], monotonic: float) -> None:
        self._batches.append(batch)
        self._added.append(monotonic)
        self._count += len(batch.changes)
        for change in batch.changes:
            line = self._lines.pop(change.key, None) or []  # to the end: they stand by their last change
            line.append(Step(batch.revision, change))
            self._lines[change.key] = line

    def since(self, revision: int) -> list[Batch[T]]:
        """The batches after a position that `can_continue`."""
        found: list[Batch[T]] = []
        for batch in reversed(self._batches):
            if batch.revision <= revision:
                break
            found.append(batch)
        found.reverse()
        return found

    def lines(self, revision: int) -> list[Line[T]]:
        """The lines of what changed after a position, by their last change. They go on growing."""
        found: list[Line[T]] = []
        for line in reversed(self._lines.values()):
            if line[-1].revision <= revision:
                break
            found.append(line)
        found.reverse()
        return found


@dataclass(frozen=True, slots=True)
class Delta(Generic[T]):
    """What a watcher is told of one item: its new state, or (`removed`) the last one it had."""

    removed: bool
    item: T
    source: ChangeSource
    time: datetime


@dataclass(frozen=True, slots=True)
class Span:
    """From a client's position to the one that it is brought to.

    `replay`: the client got there by an earlier stream, and may since have been told more than it remembers.
    """

    after: int
    upto: int
    replay: bool = False


def merge(
    lines: Iterable[Line[T]], span: Span, matches: Callable[[T], bool], identity: Callable[[T], str]
) -> Iterator[Delta[T] | None]:
    """Coalesce what happened to each item, as one filter sees it; None now and then, where a caller may pause.

    Another item under the same key (`identity` tells) is a removal and a new one. What came and went within the
    span is not told, except in a replay: an earlier stream may have told its coming.
    """
    for line in lines:
        first, end = (bisect_right(line, revision, key=_revision_of) for revision in (span.after, span.upto))
        if first >= end:
            continue
        last = line[end - 1].change
        known: dict[str, T] = {}
        before = line[first].change.before
        states = [before] if before is not None else []
        if span.replay:
            states += [step.change.after for step in islice(line, first, end - 1) if step.change.after is not None]
        for state in states:
            if matches(state):
                known[identity(state)] = state
            yield None
        now = last.after
        for latest in (last.before, now):  # a removal carries the last state, whether it matched or not
            if latest is not None and identity(latest) in known:
                known[identity(latest)] = latest
        told = now is not None and matches(now)
        if now is not None and told:
            known.pop(identity(now), None)
        for state in known.values():
            yield Delta(removed=True, item=state, source=last.source, time=last.time)
        yield Delta(removed=False, item=now, source=last.source, time=last.time) if now is not None and told else None


def _revision_of(step: Step[T]) -> int:
    return step.revision
