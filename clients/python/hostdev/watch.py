"""Watches that go on by themselves: over lost connections, restarted servers and streams that fell silent.

A message counts as processed when the next one is asked for. After an interruption the watch resumes at the token of
the last processed message, so nothing is missed. It may be repeated: handle messages so that a second time is harmless.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from hostdev.client import HostdevClient
from hostdev.errors import HostdevApiError
from hostdev.silence import SilenceGuard, Stream
from hostdev.v1 import device_pb2, service_pb2

DEFAULT_BOOKMARK_INTERVAL_S = 15.0
_SILENT_INTERVALS = 3
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0

Message = TypeVar("Message", service_pb2.WatchHoldersResponse, service_pb2.WatchDevicesResponse)

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
    follows. `pause` and `jitter` (0 to 1) stand in for the clock and for chance in tests.
    """

    bookmark_interval_s: float = DEFAULT_BOOKMARK_INTERVAL_S
    interrupted: Callable[[HostdevApiError, float], None] | None = None
    pause: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = random.random

    @property
    def silence_s(self) -> float:
        """For how many seconds a living stream is silent at most."""
        return _SILENT_INTERVALS * self.bookmark_interval_s

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Seconds to wait after so many failures in a row: doubling, jittered, at least what the server asks."""
        chance = self.jitter()
        backed_off: float = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
        return max(backed_off * (0.5 + chance / 2), (asked_s or 0.0) * (1 + chance / 2))


def watch_holders(  # noqa: PLR0913 (the fields of the request)
    client: HostdevClient,
    *,
    devices: Iterable[str] = (),
    vms: Iterable[str] = (),
    resume_token: str = "",
    changes_only: bool = False,
    patience: Patience | None = None,
) -> Generator[service_pb2.WatchHoldersResponse, None, None]:
    """Follow who holds what, for as long as the caller iterates; `close` it to end it earlier.

    Starts at `resume_token`, of an earlier message or list, else with a snapshot, else (`changes_only`) from now. On a
    `reset` forget everything: a snapshot follows. Such a reset also comes from here, with revision 0, when an
    interruption leaves no token to resume at.

    Raises:
        HostdevApiError: the first stream could not be opened, or the server refuses for good.
    """
    patience = patience or Patience()
    wanted_devices, wanted_vms = tuple(devices), tuple(vms)

    def start(token: str, changes_only: bool) -> Stream[service_pb2.WatchHoldersResponse]:  # noqa: FBT001
        request = service_pb2.WatchHoldersRequest(
            host=client.host,
            devices=wanted_devices,
            vms=wanted_vms,
            resume_token=token,
            changes_only=changes_only,
            bookmark_interval=_interval(patience),
        )
        return client.service.WatchHolders(request)

    def lost() -> service_pb2.WatchHoldersResponse:
        return service_pb2.WatchHoldersResponse(reset=_history_lost())

    return _follow(start, lost, resume_token, patience, "WatchHolders", changes_only=changes_only)


def watch_devices(
    client: HostdevClient,
    device_filter: device_pb2.DeviceFilter | None = None,
    *,
    resume_token: str = "",
    changes_only: bool = False,
    patience: Patience | None = None,
) -> Generator[service_pb2.WatchDevicesResponse, None, None]:
    """Follow the devices; everything else as in `watch_holders`."""
    patience = patience or Patience()

    def start(token: str, changes_only: bool) -> Stream[service_pb2.WatchDevicesResponse]:  # noqa: FBT001
        request = service_pb2.WatchDevicesRequest(
            host=client.host,
            filter=device_filter,
            resume_token=token,
            changes_only=changes_only,
            bookmark_interval=_interval(patience),
        )
        return client.service.WatchDevices(request)

    def lost() -> service_pb2.WatchDevicesResponse:
        return service_pb2.WatchDevicesResponse(reset=_history_lost())

    return _follow(start, lost, resume_token, patience, "WatchDevices", changes_only=changes_only)


def _follow(  # noqa: PLR0913 (what differs between watches)
    start: Callable[[str, bool], Stream[Message]],
    lost: Callable[[], Message],
    token: str,
    patience: Patience,
    method: str,
    *,
    changes_only: bool,
) -> Generator[Message, None, None]:
    known = False  # The caller has state that a snapshot alone would not clear.
    answered = False
    failures = 0
    while True:
        # After an interruption without a token only a snapshot tells what was missed.
        stream = start(token, changes_only and not known)
        must_reset = known and not token
        try:
            with SilenceGuard(stream, patience.silence_s) as guarded:
                for message in guarded:
                    answered, failures = True, 0
                    if must_reset and message.WhichOneof("event") != "reset":
                        yield lost()
                    must_reset = False
                    known = True
                    yield message
                    if message.WhichOneof("event") == "reset":
                        # The old token must not come back: a restored server could grow up to it.
                        token = ""
                    token = message.resume_token or token
            # A server ends no watch without a status; a proxy in between may.
            error = HostdevApiError(grpc.StatusCode.UNAVAILABLE, "the stream ended", method=method)
        except grpc.RpcError as raised:
            error = HostdevApiError.from_rpc_error(raised, method)
            if guarded.fell_silent:
                error.code = grpc.StatusCode.UNAVAILABLE
                error.message = f"no sign of life for {patience.silence_s:g} s"
            if not answered or error.code in _HOPELESS:
                raise error from raised
        failures += 1
        pause_s = patience.pause_s(failures, error.retry_after_s)
        if patience.interrupted is not None:
            patience.interrupted(error, pause_s)
        patience.pause(pause_s)


def _interval(patience: Patience) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=patience.bookmark_interval_s))
    return duration


def _history_lost() -> service_pb2.Reset:
    return service_pb2.Reset(reason=service_pb2.RESET_REASON_HISTORY_LOST)
