"""What changed, by revision: the memory behind resumable watches.

A batch is what one commit of the store changed. Batches are kept for at least `keep_s` and until there are
more than `keep_changes`; a position that lies before them can only be answered with a snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique
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


class History(Generic[T]):
    """Batches of one kind of item (holders, devices, assignments) in the order of their revisions."""

    def __init__(
        self, start: int, batches: Iterable[Batch[T]] = (), *, keep_changes: int = 4096, keep_s: float = 900.0
    ) -> None:
        self._batches: deque[Batch[T]] = deque(batches)
        self._count = sum(len(batch.changes) for batch in self._batches)
        self._keep_changes = keep_changes
        self._keep_s = keep_s
        self.oldest = start
        """The first position that everything since is known of."""

    def can_continue(self, revision: int) -> bool:
        """Whether everything since a position is known, so that it can be gone on from exactly.

        The position is one of what led to here: see `Lives.lost`.
        """
        return revision >= self.oldest

    def append(self, batch: Batch[T], now: datetime) -> None:
        """Add a batch, and forget what is both old and beyond the number to keep."""
        self._batches.append(batch)
        self._count += len(batch.changes)
        while self._batches:
            first = self._batches[0]
            spare = self._count - len(first.changes) >= self._keep_changes
            if not spare or (now - first.changes[0].time).total_seconds() < self._keep_s:
                break
            self._batches.popleft()
            self._count -= len(first.changes)
            self.oldest = first.revision

    def since(self, revision: int) -> list[Batch[T]]:
        """The batches after a position that `can_continue`."""
        found: list[Batch[T]] = []
        for batch in reversed(self._batches):
            if batch.revision <= revision:
                break
            found.append(batch)
        found.reverse()
        return found


@dataclass(frozen=True, slots=True)
class Delta(Generic[T]):
    """What a watcher is told of one item: its new state, or (`removed`) the last one it had."""

    removed: bool
    item: T
    source: ChangeSource
    time: datetime


def merge(batches: Iterable[Batch[T]], matches: Callable[[T], bool]) -> list[Delta[T]]:
    """Coalesce batches per key, as one filter sees them.

    What came and went between is not told; what stops matching is removed, with its last state.
    """
    merged: dict[str, Change[T]] = {}
    for batch in batches:
        for change in batch.changes:
            first = merged.pop(change.key, None)
            before = first.before if first else change.before
            merged[change.key] = Change(change.key, before, change.after, change.source, change.time)
    deltas = []
    for change in merged.values():
        was = change.before is not None and matches(change.before)
        if change.after is not None and matches(change.after):
            if not was or change.before != change.after:
                deltas.append(Delta(removed=False, item=change.after, source=change.source, time=change.time))
        elif was:
            item = change.after if change.after is not None else change.before
            if item is not None:
                deltas.append(Delta(removed=True, item=item, source=change.source, time=change.time))
    return deltas
