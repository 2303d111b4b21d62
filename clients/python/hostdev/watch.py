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
        stream = start(progress.start(request))
        try:
            with SilenceGuard(stream, progress.patience.silence_s) as guarded:
                for message in guarded:
                    if progress.arrived(message):
                        yield kind(reset=history_lost())
                    yield message
                    progress.processed(message)
            error = progress.ended()
        except grpc.RpcError as raised:
            error = HostdevApiError.from_rpc_error(raised, progress.method)
            if guarded.fell_silent:
                error = progress.fell_silent()
            if progress.hopeless(error):
                raise error from raised
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
        stream = start(progress.start(request))
        try:
            # The time that the caller takes between two messages does not count.
            while isinstance(message := await asyncio.wait_for(stream.read(), progress.patience.silence_s), kind):
                if progress.arrived(message):
                    yield kind(reset=history_lost())
                yield message
                progress.processed(message)
            error = progress.ended()
        except TimeoutError as raised:
            error = progress.fell_silent()
            if progress.hopeless(error):
                raise error from raised
        except grpc.RpcError as raised:
            error = HostdevApiError.from_rpc_error(raised, progress.method)
            if progress.hopeless(error):
                raise error from raised
        finally:
            stream.cancel()
        await pause(progress.pause_s(error))
