"""Streams of changes that can be resumed (api.md, "Watches"), the same for holders and devices.

A watcher is a position in the history. It is woken by commits, merges what lies behind it and sends that
as one batch, at most one in 100 ms: while a write is stuck nothing is queued, later changes coalesce in
the history that all watchers share.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc.aio
from google.protobuf.message import Message

from hostdev.v1 import service_pb2
from hostdevd.api.feeds import Feed, Unknown
from hostdevd.api.render import timestamp
from hostdevd.api.requests import duration_s
from hostdevd.api.tokens import make_token, read_token
from hostdevd.api.wire import entry
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import Delta, History, Span
from hostdevd.core.observing import NOBODY, WatchObserver
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.turns import Turn, at_one_revision

T = TypeVar("T")

DEFAULT_BOOKMARK_S = 15.0
BATCH_INTERVAL_S = 0.1
WRITE_LIMIT_S = 30.0
MESSAGE_BYTES = 1024 * 1024
MAX_WATCHERS = 4096
MADE = 128
MADE_BYTES = 64 * 1024
"""How many messages of the last revision are kept for the next stream, and of which size."""
_KEPT_COMMITS = 1024
"""Of those, when their events were heard is known; a watcher has them within a batch's interval."""


class Hub:
    """Wakes watchers on commits, counts them, and drains them at shutdown."""

    def __init__(
        self, store: Store, sync: Sync, *, max_watchers: int = MAX_WATCHERS, observer: WatchObserver = NOBODY
    ) -> None:
        self.store = store
        self.sync = sync
        self.draining = False
        self.observer = observer
        self.made = Made()
        self._max = max_watchers
        self._heard: deque[tuple[int, float]] = deque(maxlen=_KEPT_COMMITS)
        self._events: set[asyncio.Event] = set()
        self._empty = asyncio.Event()
        store.on_commit.append(self._commit)

    @property
    def watchers(self) -> int:
        """How many streams are open."""
        return len(self._events)

    def join(self) -> asyncio.Event:
        """A new watcher's event; `TOO_MANY_WATCHERS` beyond the limit."""
        if self.draining:
            raise _shutting_down()
        if len(self._events) >= self._max:
            raise HostdevError(
                "TOO_MANY_WATCHERS",
                f"there are {self._max} watchers already",
                metadata={"limit": str(self._max)},
                retry_after_s=10.0,
            )
        event = asyncio.Event()
        self._events.add(event)
        self._empty.clear()
        return event

    def leave(self, event: asyncio.Event) -> None:
        """A watcher is gone."""
        self._events.discard(event)
        if not self._events:
            self._empty.set()

    async def drain(self, limit_s: float = 2.0) -> None:
        """Have every watcher send a last bookmark and end; wait for them a little."""
        self.draining = True
        self.wake()
        if self._events:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), limit_s)

    def heard_s(self, after: int, upto: int) -> float | None:
        """When the first event behind the commits of these revisions was heard; None where there was none."""
        found = None
        for revision, heard_s in reversed(self._heard):
            if revision <= after:
                break
            if revision <= upto:
                found = heard_s if found is None else min(found, heard_s)
        return found

    def _commit(self, revision: int) -> None:
        if self.store.heard_s is not None:
            self._heard.append((revision, self.store.heard_s))
        self.wake()

    def wake(self) -> None:
        """Have every watcher look: at a commit, or since what may be seen has changed."""
        for event in self._events:
            event.set()


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What differs between a watch of holders and one of devices."""

    name: str
    history: Callable[[], History[T]]
    response: type[Message]
    item: Callable[[T], bytes]
    """An item as field 1 of `Snapshot`."""
    change: Callable[[Delta[T]], bytes]
    """A change as field 1 of `ChangeBatch`."""


@dataclass(frozen=True, slots=True)
class Told(Generic[T]):
    """What a stream tells to who has this sight.

    Streams with the same `same` are told the same of the same span; None where it depends on what was told before.
    """

    sight: Sight
    kind: Kind[T]
    feed: Feed[T]
    same: Hashable | None


class Made:
    """The messages of changes up to the last revision, each made once for all streams that are told the same.

    Few and small ones are kept, and none when there is a newer revision: what is told once costs no memory for long.
    """

    def __init__(self) -> None:
        self._revision = -1
        self._messages: dict[Hashable, tuple[bytes, ...]] = {}

    def get(self, upto: int, alike: Hashable | None) -> tuple[bytes, ...] | None:
        """The message, if there is anything to tell; None where it is still to be made."""
        return self._messages.get(alike) if upto == self._revision and alike is not None else None

    def put(self, upto: int, alike: Hashable | None, message: bytes) -> None:
        """Keep the only message, empty where there is nothing to tell."""
        if upto > self._revision:
            self._revision, self._messages = upto, {}
        if upto == self._revision and alike is not None and len(message) <= MADE_BYTES and len(self._messages) < MADE:
            self._messages[alike] = (message,) if message else ()


async def watch(
    hub: Hub,
    look: Callable[[], Sight],
    told: Callable[[Sight], Told[T]],
    request: Any,
    context: grpc.aio.ServicerContext[Any, Any],
) -> None:
    """Serve one stream until it ends by an error: the client's going, a stuck write, or shutdown.

    `look` gives what the caller may see now, or raises what ends the stream since he may not any more; `told` what the
    stream tells him then. A client that may see something else than before begins anew, by a `Reset`.
    """
    interval = _interval(request)
    sight = look()
    start = _Start(hub.store, request.resume_token, sight)
    if not hub.sync.first_sync:
        hub.sync.require()
    woken = hub.join()
    call = asyncio.current_task()
    if call is None:
        raise AssertionError
    call.add_done_callback(lambda _: hub.leave(woken))  # not before: the status of an error is still to be sent
    stream = _Stream(hub, look, told, sight, context, interval)
    await stream.begin(start, changes_only=request.changes_only and not request.resume_token)
    await stream.follow(woken)


class _Start:
    """Where a stream starts: at a position, or (`reset` tells why) with a snapshot."""

    def __init__(self, store: Store, token: str, sight: Sight) -> None:
        self.revision: int | None = None
        self.reset: str | None = None
        if not token:
            return
        position, view = read_token(token)
        self.reset = store.lives.lost(position, store.revision)
        if self.reset is None and view != sight.view:
            self.reset = "TOKEN_TOO_OLD"  # nobody knows what the client has that it may not see, or the other way round
        if position.epoch == store.epoch:
            self.revision = position.revision


class _Stream(Generic[T]):
    def __init__(  # noqa: PLR0913, PLR0917  each once
        self,
        hub: Hub,
        look: Callable[[], Sight],
        told: Callable[[Sight], Told[T]],
        sight: Sight,
        context: grpc.aio.ServicerContext[Any, Any],
        interval_s: float,
    ) -> None:
        self._hub = hub
        self._look = look
        self._told_to = told
        self._told = told(sight)
        self._context = context
        self._interval_s = interval_s
        self._position = 0
        self._lives = hub.store.lives
        self._replay = False
        self._synced_time = hub.sync.synced_time
        self._written = (0.0, 0.0)

    async def begin(self, start: _Start, *, changes_only: bool) -> None:
        """Bring the client to a position: its own, now, or by a snapshot."""
        if start.revision is not None and not self._told.kind.history().can_continue(start.revision):
            start.reset = "TOKEN_TOO_OLD"
        if start.reset is not None:
            await self._reset(start.reset)
        elif start.revision is not None:
            self._position = start.revision
            self._replay = True
        elif changes_only:
            self._position = self._hub.store.revision
            await self._bookmark()
        else:
            await self._snapshot()

    async def follow(self, woken: asyncio.Event) -> None:
        """Send what changes, and bookmarks, for as long as the stream lives."""
        loop = asyncio.get_running_loop()
        next_bookmark = loop.time() + self._jittered()
        next_batch = 0.0
        while True:
            woken.clear()  # before looking: a commit from here on is not missed
            now = loop.time()
            pending = self._hub.store.revision > self._position
            sight = self._look()
            if sight.view != self._told.sight.view:  # the roles were read again
                self._told = self._told_to(sight)
                await self._reset("HISTORY_LOST")
                continue
            if self._hub.draining:
                if pending:
                    await asyncio.sleep(max(next_batch - now, 0.0))
                    await self._changes()
                await self._bookmark()
                raise _shutting_down()
            if self._lives is not self._hub.store.lives:  # the state store could be read at last
                await self._reset("NEW_EPOCH")
            elif now >= next_bookmark:
                await self._bookmark()
                next_bookmark = loop.time() + self._jittered()
            elif pending and now >= next_batch:
                if await self._changes():
                    next_batch = loop.time() + BATCH_INTERVAL_S
            elif pending:
                await asyncio.sleep(min(next_batch, next_bookmark) - now)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(next_bookmark):
                        await woken.wait()

    async def _changes(self) -> bool:
        """Send what lies behind the client's position; False when none of it is for this filter."""
        if not self._told.kind.history().can_continue(self._position):
            await self._reset("HISTORY_LOST")
            return True
        revision, synced_time = self._hub.store.revision, self._hub.sync.synced_time
        span, told = Span(self._position, revision, self._replay), False
        try:
            async for message in self._messages(span):
                if not told and not span.replay:
                    self._tell_delay(self._hub.heard_s(span.after, span.upto))
                told = True
                await self._write(message)
        except Unknown:
            await self._reset("HISTORY_LOST")
            return True
        self._position, self._synced_time, self._replay = revision, synced_time, False
        return told

    async def _messages(self, span: Span) -> AsyncIterator[bytes]:
        """What of a span is for this stream; made once for all streams that are told the same of it."""
        alike = None if self._told.same is None else (self._told.same, span, self._lives.at(span.upto))
        made = self._hub.made.get(span.upto, alike)
        if made is not None:
            for message in made:
                yield message
            return
        deltas = await self._told.feed.since(span)
        if not deltas:
            self._hub.made.put(span.upto, alike, b"")
        is_first = True
        async for part, is_last in _parts(map(self._told.kind.change, deltas)):
            message = self._response(span.upto, exact=is_last) + self._field("change_batch", part)
            if is_first and is_last:
                self._hub.made.put(span.upto, alike, message)  # before it is written: the next stream looks meanwhile
            is_first = False
            yield message

    def _tell_delay(self, heard_s: float | None) -> None:
        """What the service adds to an event; not the time for which the client did not take the last message."""
        if heard_s is not None:
            began, ended = self._written
            held_up_s = max(ended - max(began, heard_s), 0.0)
            self._hub.observer.delivered(self._told.kind.name, time.monotonic() - heard_s - held_up_s)

    async def _snapshot(self) -> None:
        store, sent = self._hub.store, False
        revision, items = await at_one_revision(lambda: store.revision, self._told.feed.snapshot)
        self._lives = store.lives
        self._position, self._synced_time, self._replay = revision, self._hub.sync.synced_time, False
        async for part, _ in _parts(map(self._told.kind.item, items)):
            await self._write(self._response(revision, exact=False) + self._field("snapshot", part))
            sent = True
        if not sent:
            await self._write(self._response(revision, exact=False) + self._field("snapshot", b""))
        await self._bookmark()

    async def _reset(self, reason: str) -> None:
        self._hub.observer.reset(self._told.kind.name, reason)
        value, revision = service_pb2.ResetReason.Value(f"RESET_REASON_{reason}"), self._hub.store.revision
        await self._write(self._response(revision, exact=False, reset=service_pb2.Reset(reason=value)))
        await self._snapshot()

    async def _bookmark(self) -> None:
        await self._write(self._response(self._position, exact=True, bookmark=self._synced()))

    def _synced(self) -> service_pb2.Bookmark:
        if self._position == self._hub.store.revision:
            self._synced_time = self._hub.sync.synced_time
        synced = self._synced_time  # what the client has may be older than the store
        return service_pb2.Bookmark(synced_time=timestamp(synced) if synced is not None else None)

    def _response(self, revision: int, *, exact: bool, **event: Any) -> bytes:
        token = make_token(self._lives.at(revision), self._told.sight.view) if exact else ""
        make: Callable[..., Message] = self._told.kind.response
        return make(revision=revision, resume_token=token, **event).SerializeToString()

    def _field(self, name: str, content: bytes) -> bytes:
        """A field of a response, which is not made of messages: those of a megabyte take 14 ms of the loop."""
        return entry(content, self._told.kind.response.DESCRIPTOR.fields_by_name[name].number)

    async def _write(self, message: bytes) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(WRITE_LIMIT_S):
                await self._context.write(message)
            self._written = began, time.monotonic()
        except TimeoutError:
            raise HostdevError(
                "SLOW_CONSUMER",
                f"nothing was read for {WRITE_LIMIT_S:g} s; resume from the last token",
                metadata={"limit_s": f"{WRITE_LIMIT_S:g}"},
            ) from None

    def _jittered(self) -> float:
        return self._interval_s * random.uniform(0.9, 1.1)  # noqa: S311  only spreads the load


def _interval(request: Any) -> float:
    if not request.HasField("bookmark_interval"):
        return DEFAULT_BOOKMARK_S
    return duration_s("bookmark_interval", request.bookmark_interval, low=1.0, high=300.0)


async def _parts(entries: Iterable[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Entries in portions that fit a gRPC message, each with whether it is the last."""
    part: list[bytes] = []
    used = 0
    turn = Turn()
    for one in entries:
        if part and used + len(one) > MESSAGE_BYTES:
            yield b"".join(part), False
            part, used = [], 0
        part.append(one)
        used += len(one)
        if turn.is_over():
            await turn.next()
    if part:
        yield b"".join(part), True


def _shutting_down() -> HostdevError:
    return HostdevError("SHUTTING_DOWN", "the service is shutting down", retry_after_s=2.0)
