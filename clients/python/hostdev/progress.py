"""How far a watch has come, and when and where it goes on: the part without waiting, for every kind of client."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc

from hostdev.errors import HostdevApiError, client_closed
from hostdev.v1 import service_pb2

DEFAULT_BOOKMARK_INTERVAL_S = 15.0
_SILENT_INTERVALS = 3
_SHORTEST_INTERVAL_S = 1.0  # the server's; what is shorter it refuses, and its refusal takes time to come
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0

Request = TypeVar("Request", service_pb2.WatchHoldersRequest, service_pb2.WatchDevicesRequest)
Message = service_pb2.WatchHoldersResponse | service_pb2.WatchDevicesResponse

_HOPELESS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Codes that trying again does not cure."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When a watch gives a stream up, and how long it pauses before the next.

    `bookmark_interval_s`: how often the server shows a sign of life, 1 to 300 seconds; three of them without any
    message and the stream counts as dead. `interrupted` is told of each interruption and the pause in seconds that
    follows. `pause` (not of asynchronous watches) and `jitter` (0 to 1) stand in for the clock and for chance in tests.
    """

    bookmark_interval_s: float = DEFAULT_BOOKMARK_INTERVAL_S
    interrupted: Callable[[HostdevApiError, float], None] | None = None
    pause: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    @property
    def silence_s(self) -> float:
        """For how many seconds a living stream is silent at most."""
        return _SILENT_INTERVALS * max(self.bookmark_interval_s, _SHORTEST_INTERVAL_S)

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds to wait after so many failures in a row: doubling, jittered, at least what the server asks."""
        chance = self.jitter()
        backed_off: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
        return max(backed_off * (0.5 + chance / 2), (asked_s or 0.0) * (1 + chance / 2))


@dataclass(slots=True)
class Progress:
    """One watch over all its streams: `start` one, tell what `arrived` and was `processed`, and how it ended."""

    method: str
    token: str
    changes_only: bool
    patience: Patience
    is_closed: Callable[[], bool] = lambda: False
    """Whether the client was closed: then nothing goes on."""
    _known: bool = False  # The caller has state that a snapshot alone would not clear.
    _must_reset: bool = False
    _answered: bool = False
    _failures: int = 0

    def start(self, request: Request) -> Request:
        """The request of the next stream."""
        # After an interruption without a token only a snapshot tells what was missed.
        self._must_reset = self._known and not self.token
        begun = type(request)()
        begun.CopyFrom(request)
        begun.resume_token = self.token
        begun.changes_only = self.changes_only and not self._known
        return begun

    def arrived(self, message: Message) -> bool:
        """Whether the caller must be told first to forget what it knows."""
        self._answered, self._failures = True, 0
        lost = self._must_reset and message.WhichOneof("event") != "reset"
        self._must_reset = False
        self._known = True
        return lost

    def processed(self, message: Message) -> None:
        """The caller asks for the next."""
        if message.WhichOneof("event") == "reset":
            # The old token must not come back: a restored server could grow up to it.
            self.token = ""
        self.token = message.resume_token or self.token

    def closed(self) -> HostdevApiError:
        """The client was closed: by a thread that does not iterate, or before the watch was begun."""
        return client_closed(self.method)

    def ended(self) -> HostdevApiError:
        """The stream ended without a status. No server of ours does that; a proxy in between may."""
        return HostdevApiError.of(grpc.StatusCode.UNAVAILABLE, "the stream ended", self.method)

    def fell_silent(self) -> HostdevApiError:
        """No message for too long."""
        text = f"no sign of life for {self.patience.silence_s:g} s"
        return HostdevApiError.of(grpc.StatusCode.UNAVAILABLE, text, self.method)

    def hopeless(self, error: HostdevApiError) -> bool:
        """Whether another try is of no use: the watch never began, or the server refuses for good."""
        return not self._answered or error.code in _HOPELESS

    def pause_s(self, error: HostdevApiError) -> float:
        """How long to wait before the next stream."""
        self._failures += 1
        pause_s = self.patience.pause_s(self._failures, error.retry_after_s)
        if self.patience.interrupted is not None:
            self.patience.interrupted(error, pause_s)
        return pause_s


def history_lost() -> service_pb2.Reset:
    """A reset that the client itself makes."""
    return service_pb2.Reset(reason=service_pb2.RESET_REASON_HISTORY_LOST)
