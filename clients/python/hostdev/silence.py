"""Ends a stream that fell silent: over a dead connection, waiting for the next message never ends by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

Message = TypeVar("Message")
Received_co = TypeVar("Received_co", covariant=True)


class Stream(Protocol[Received_co]):
    """A call whose answers come one by one."""

    def __next__(self) -> Received_co:
        """Wait for the next message."""

    def cancel(self) -> object:
        """End it."""


class SilenceGuard(Iterator[Message], Generic[Message]):
    """The messages of `stream`; cancels it when one was awaited for `limit_s` seconds and did not come.

    The time that the caller takes between two messages does not count. The stream then ends with an error of code
    `CANCELLED`, and `fell_silent` is true. As a context manager it ends the stream and its own thread.
    """

    def __init__(self, stream: Stream[Message], limit_s: float) -> None:
        self._stream = stream
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._closed = False
        self.fell_silent = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._guard, name="hostdev-silence-guard", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._stream.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        self._expect(time.monotonic() + self._limit_s)
        try:
            return next(self._stream)
        finally:
            self._expect(None)

    def _expect(self, deadline: float | None) -> None:
        # No wake-up: the guard looks again when the old deadline has passed, which is never too late, and a
        # busy stream does not switch threads twice for every message.
        with self._changed:
            self._deadline = deadline

    def _guard(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._deadline is not None and self._deadline <= now:
                    self.fell_silent = True
                    self._stream.cancel()
                    return
                self._changed.wait(self._limit_s if self._deadline is None else self._deadline - now)
