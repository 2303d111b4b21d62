"""What one watcher is told: which items match its filter now, and what became of them since a position."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from hostdevd.core.history import Change, Delta, History, Line, Span, merge
from hostdevd.core.model import Holder
from hostdevd.core.store import Store
from hostdevd.core.turns import Turn
from hostdevd.core.views import DeviceView

T = TypeVar("T")


class Unknown(Exception):
    """What the client has cannot be told any more: it must begin again."""


class Feed(Protocol[T]):
    """One watcher's view of a kind of item."""

    def snapshot(self) -> Iterable[T | None]:
        """What matches now; a None is a place to pause at."""

    async def since(self, span: Span) -> list[Delta[T]]:
        """What became of it; removals come first, so that what moved to another key is not lost.

        Raises:
            Unknown: it cannot be told from what is kept.
        """


class Filtered(Generic[T]):
    """By a filter that looks at nothing but the item: the history alone tells what a client has."""

    def __init__(
        self,
        history: Callable[[], History[T]],
        current: Callable[[], Iterable[T]],
        matches: Callable[[T], bool],
        identity: Callable[[T], str],
    ) -> None:
        self._history = history
        self._current = current
        self._matches = matches
        self._identity = identity

    def snapshot(self) -> Iterator[T | None]:
        """What matches now."""
        return (item if self._matches(item) else None for item in self._current())

    async def since(self, span: Span) -> list[Delta[T]]:
        """What became of it."""
        history, turn = self._history(), Turn()
        deltas: list[Delta[T]] = []
        for delta in merge(history.lines(span.after), span, self._matches, self._identity):
            if delta is not None:
                deltas.append(delta)
            if turn.is_over():
                await turn.next()
        if not history.can_continue(span.after):  # forgotten between two breaths
            raise Unknown
        return _removals_first(deltas)


class Related:
    """Devices by what they are to another one, which changes while they do not: what was told is remembered.

    Such filters select few devices. After a reconnect nobody knows what the client was told, unless no device has
    changed since its position.
    """

    def __init__(self, store: Store, names: Callable[[], Iterable[str]], matches: Callable[[DeviceView], bool]) -> None:
        self._store = store
        self._names = names
        self._matches = matches
        self._told = self._now()
        self._at = store.revision

    def snapshot(self) -> list[DeviceView]:
        """What matches now."""
        self._told = self._now()
        return list(self._told.values())

    async def since(self, span: Span) -> list[Delta[DeviceView]]:
        """What became of it."""
        lines = self._store.device_history.lines(span.after)
        if not lines:
            return []
        if span.replay and lines_until(lines, span.after, self._at):
            raise Unknown
        last = {line[-1].change.key: line[-1].change for line in lines}
        latest = lines[-1][-1].change
        told, self._told = self._told, self._now()
        deltas = []
        for name, view in told.items():
            now = self._told.get(name)
            if now is None or now.uid != view.uid:
                deltas.append(_delta(_last_state(last.get(name), view), last.get(name, latest), removed=True))
        for name, view in self._told.items():
            if told.get(name) is not view:
                deltas.append(_delta(view, last.get(name, latest), removed=False))
        return _removals_first(deltas)

    def _now(self) -> dict[str, DeviceView]:
        views = (self._store.devices.get(name) for name in sorted(self._names()))
        return {view.name: view for view in views if view is not None and self._matches(view)}


class ByDriver:
    """Holders of devices whose drivers tell whether they may be seen: they change while no holder does.

    As for `Related`, what was told is remembered, and after a reconnect nobody knows it.
    """

    def __init__(self, store: Store, matches: Callable[[Holder], bool]) -> None:
        self._store = store
        self._matches = matches
        self._told = self._now()
        self._at = store.revision

    def snapshot(self) -> list[Holder]:
        """What matches now."""
        self._told = self._now()
        return list(self._told.values())

    async def since(self, span: Span) -> list[Delta[Holder]]:
        """What became of it."""
        of_holders = self._store.holder_history.lines(span.after)
        of_devices = self._store.device_history.lines(span.after)
        if not (of_holders or of_devices):
            return []
        if span.replay and (
            lines_until(of_holders, span.after, self._at) or lines_until(of_devices, span.after, self._at)
        ):
            raise Unknown
        latest = (of_holders[-1][-1] if of_holders else of_devices[-1][-1]).change
        sources = {line[-1].change.key: line[-1].change for line in of_holders}
        told, self._told = self._told, self._now()
        gone = (
            Delta(removed=True, item=holder, source=latest.source, time=latest.time)
            for key, holder in told.items()
            if key not in self._told
        )
        here = (
            Delta(removed=False, item=holder, source=change.source, time=change.time)
            for key, holder in self._told.items()
            if told.get(key) is not holder and (change := sources.get(key, latest)) is not None
        )
        return [*gone, *here]

    def _now(self) -> dict[str, Holder]:
        return {key: holder for key, holder in self._store.holders.items() if self._matches(holder)}


def lines_until(lines: Iterable[Line[T]], after: int, upto: int) -> bool:
    """Whether anything happened after one position, up to another."""
    return any(after < step.revision <= upto for line in lines for step in line)


def _delta(item: T, change: Change[T], *, removed: bool) -> Delta[T]:
    return Delta(removed=removed, item=item, source=change.source, time=change.time)


def _last_state(change: Change[DeviceView] | None, told: DeviceView) -> DeviceView:
    """The last state of a device that no longer matches, or is gone."""
    for view in (change.after, change.before) if change is not None else ():
        if view is not None and view.uid == told.uid:
            return view
    return told


def _removals_first(deltas: Sequence[Delta[T]]) -> list[Delta[T]]:
    return sorted(deltas, key=lambda delta: not delta.removed)
