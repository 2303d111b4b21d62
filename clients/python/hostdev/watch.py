"""Watches that go on by themselves: over lost connections, restarted servers and streams that fell silent.

A message counts as processed when the next one is asked for. After an interruption the watch resumes at the token of
the last processed message, so nothing is missed. It may be repeated: handle messages so that a second time is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Protocol, TypeVar

import grpc

from hostdev.errors import HostdevApiError
from hostdev.progress import Message, Progress, Request, history_lost
from hostdev.silence import SilenceGuard, Stream

Received = TypeVar("Received", bound=Message)
Received_co = TypeVar("Received_co", bound=Message, covariant=True)
Started = TypeVar("Started")


class AsyncStream(Protocol[Received_co]):
    """A call whose answers come one by one, for asyncio."""

    def read(self) -> Awaitable[object]:
        """The next message, or gRPC's end marker."""

    def cancel(self) -> object:
        """End it."""


def follow(
    start: Callable[[Request], Stream[Received]], request: Request, kind: type[Received], progress: Progress
) -> Generator[Received, None, None]:
    """Messages of one stream after the other, for as long as the caller iterates."""
    while True:
        stream = _started(start, request, progress)
        cause: Exception | None = None
        try:
            with SilenceGuard(stream, progress.patience.silence_s) as guarded:
                for message in guarded:
                    if progress.arrived(message):
                        yield kind(reset=history_lost())
                    yield message
                    progress.processed(message)
            error = progress.ended()
        except grpc.RpcError as raised:
            cause, error = raised, HostdevApiError.from_rpc_error(raised, progress.method)
            if guarded.fell_silent:
                error = progress.fell_silent()
        _check_goes_on(progress, error, cause)
        progress.patience.pause(progress.pause_s(error))


async def follow_async(
    start: Callable[[Request], AsyncStream[Received]],
    request: Request,
    kind: type[Received],
    progress: Progress,
    pause: Callable[[float], Awaitable[None]],
) -> AsyncGenerator[Received, None]:
    """The same for asyncio."""
    while True:
        stream = _started(start, request, progress)
        cause: BaseException | None = None
        try:
            # The time that the caller takes between two messages does not count.
            while isinstance(message := await asyncio.wait_for(stream.read(), progress.patience.silence_s), kind):
                if progress.arrived(message):
                    yield kind(reset=history_lost())
                yield message
                progress.processed(message)
            error = progress.ended()
        except TimeoutError as raised:
            cause, error = raised, progress.fell_silent()
        except asyncio.CancelledError as raised:
            # So gRPC ends the streams of a channel that is closed; the task itself may be as alive as ever.
            if not progress.is_closed() or is_cancelled():
                raise
            cause, error = raised, progress.closed()
        except grpc.RpcError as raised:
            cause, error = raised, HostdevApiError.from_rpc_error(raised, progress.method)
        finally:
            stream.cancel()
        _check_goes_on(progress, error, cause)
        await pause(progress.pause_s(error))


def _check_goes_on(progress: Progress, error: HostdevApiError, cause: BaseException | None) -> None:
    """Raise where another stream is of no use."""
    if progress.is_closed():
        raise progress.closed() from cause
    if cause is not None and progress.hopeless(error):
        raise error from cause


def is_cancelled() -> bool:
    """Whether somebody has cancelled the running task itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _started(start: Callable[[Request], Started], request: Request, progress: Progress) -> Started:
    """The next stream. One of a closed channel gRPC refuses, each kind of channel in its own way."""
    if progress.is_closed():
        raise progress.closed()
    try:
        return start(progress.start(request))
    except (ValueError, grpc.aio.UsageError) as raised:
        if progress.is_closed():
            raise progress.closed() from raised
        raise
