"""A watch as its reader has it: every change with the moment of its arrival, and what they add up to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from api import EVENTUALLY_S

from hostdev.v1 import service_pb2


@dataclass(frozen=True)
class Change:
    """One change of a stream. `at` is when it was read, by the monotonic clock."""

    at: float
    kind: int
    item: Any
    source: str


class Applied:
    """A stream of holders (`of` is "holder") or devices ("device"), read and applied by a thread until it ends."""

    def __init__(self, call: Any, of: str) -> None:
        self._call = call
        self._of = of
        self._news = threading.Condition()
        self.items: dict[str, Any] = {}
        self.changes: list[Change] = []
        self.bookmarks = 0
        self.ended: grpc.RpcError | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                with self._news:
                    self._apply(message)
                    self._news.notify_all()
        except grpc.RpcError as error:
            with self._news:
                self.ended = error
                self._news.notify_all()

    def _apply(self, message: Any) -> None:
        event = message.WhichOneof("event")
        if event == "snapshot":
            self.items |= {item.name: item for item in getattr(message.snapshot, f"{self._of}s")}
        elif event == "change_batch":
            for change in message.change_batch.changes:
                item = getattr(change, self._of)
                if change.kind == service_pb2.CHANGE_KIND_REMOVE:
                    self.items.pop(item.name, None)
                else:
                    self.items[item.name] = item
                source = service_pb2.ChangeSource.Name(change.source).removeprefix("CHANGE_SOURCE_")
                self.changes.append(Change(time.monotonic(), change.kind, item, source))
        else:
            assert event == "bookmark", event
            self.bookmarks += 1

    def first(self, since: int, wanted: Callable[[Change], bool], within_s: float = EVENTUALLY_S) -> Change:
        """The first such change from position `since` on, waited for."""
        end = time.monotonic() + within_s
        with self._news:
            while True:
                for change in self.changes[since:]:
                    if wanted(change):
                        return change
                assert self.ended is None, self.ended
                seen = [(change.kind, change.source, str(change.item)) for change in self.changes[since:]]
                assert self._news.wait(max(0.0, end - time.monotonic())), f"not in time; seen: {seen}"

    def until_bookmark(self) -> None:
        """Wait for the first bookmark: what was there at the start is known then."""
        with self._news:
            assert self._news.wait_for(lambda: self.bookmarks or self.ended, EVENTUALLY_S)
            assert self.ended is None, self.ended

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(EVENTUALLY_S)
