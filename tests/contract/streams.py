"""One open watch of the service, read by a thread."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc
from api import EVENTUALLY_S


class Stream:
    """One open watch, read by a thread."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._messages: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._messages.put(message)
        except grpc.RpcError as error:
            self._messages.put(error)

    def next(self, event: str, within_s: float = EVENTUALLY_S) -> Any:
        """The next message of this kind; bookmarks in between are passed over."""
        while True:
            message = self._messages.get(timeout=within_s)
            assert not isinstance(message, grpc.RpcError), message
            kind = message.WhichOneof("event")
            if kind == event:
                return message
            assert kind == "bookmark", (event, message)

    def last(self, within_s: float = 30.0) -> Any:
        """The last message before the server ends the stream."""
        last = None
        while True:
            message = self._messages.get(timeout=within_s)
            if isinstance(message, grpc.RpcError):
                assert last is not None, message
                return last
            last = message

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(EVENTUALLY_S)
