"""What every call passes: domain errors become statuses, faults of ours are hidden behind an id."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc.aio
import structlog
from structlog.contextvars import bound_contextvars

from hostdevd.api.errors import DETAILS_TRAILER, code_of, to_status
from hostdevd.api.log_context import changes_something, log_context
from hostdevd.api.wire import sent
from hostdevd.api.wrapping import Handler, Rpc, Wrapping
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import shutting_down
from hostdevd.core.ports import HypervisorError, HypervisorGone

log = structlog.get_logger()


ABORT_LIMIT_S = 1.0


class ErrorSeam(Wrapping):
    """Nothing that a handler raises reaches the client as it is."""

    def __init__(self) -> None:
        super().__init__()
        self._closed = False
        self._calls: set[asyncio.Timeout] = set()

    def close(self) -> None:
        """Answer every call that is still running, and any that still comes, with `SHUTTING_DOWN`."""
        self._closed = True
        for call in self._calls:
            if not call.expired():
                call.reschedule(0)

    @contextmanager
    def _running(self, call: asyncio.Timeout) -> Iterator[None]:
        self._calls.add(call)
        try:
            yield
        finally:
            self._calls.discard(call)

    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:
        """Guard what is ours, and whatever has one answer; streams of the library's end their own way."""
        is_ours = handler.unary_unary is not None or method.startswith("/hostdev.")
        return self._guard(behaviour, method) if is_ours else behaviour

    def encoder(self, handler: Handler) -> Callable[[Any], bytes] | None:
        """Handlers may make the bytes themselves."""
        return sent(super().encoder(handler))

    def _guard(self, behaviour: Any, method: str) -> Any:
        guarded = self._guarded(behaviour, method)

        async def within_log_context(request: Any, context: Rpc) -> Any:
            with bound_contextvars(**log_context(method, request, context)):
                return await guarded(request, context)

        return within_log_context

    def _guarded(self, behaviour: Any, method: str) -> Any:
        async def guarded(request: Any, context: Rpc) -> Any:
            limit = asyncio.timeout(0 if self._closed else None)
            try:
                async with limit:
                    with self._running(limit):
                        return await behaviour(request, context)
            except HostdevError as error:
                await _refuse(error, method, request, context)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError:
                # A write or read of the library's that failed: the client went in the middle of it.
                raise asyncio.CancelledError from None
            except HypervisorGone:
                away = HostdevError("LIBVIRT_DISCONNECTED", "libvirt is not connected", retry_after_s=2.0)
                await _refuse(away, method, request, context)
            except HypervisorError as error:
                log.warning("libvirt failed a call", code=error.code, text=error.text)
                await abort(context, _unexpected(error))
            except Exception as error:  # noqa: BLE001  the last line of defence
                if isinstance(error, TimeoutError) and limit.expired():
                    await _refuse(shutting_down(), method, request, context)
                await abort(context, _unexpected(error))

        return guarded


def _unexpected(error: Exception) -> HostdevError:
    incident = uuid.uuid4().hex[:12]
    log.error("a call failed unexpectedly", incident=incident, exc_info=error)
    return HostdevError(
        "UNEXPECTED",
        f"unexpected error; the log has it under the id {incident}",
        metadata={"incident": incident},
    )


async def _refuse(error: HostdevError, method: str, request: Any, context: Rpc) -> NoReturn:
    """Answer with an error of the domain's, which the log has too where something was to be changed."""
    if changes_something(method, request):
        log.info("refused", reason=error.reason, message=error.message)
    await abort(context, error)


async def abort(context: Rpc, error: HostdevError) -> NoReturn:
    """End a call with an error; a client that does not read is not waited for."""
    status = to_status(error)
    try:
        async with asyncio.timeout(ABORT_LIMIT_S):
            await context.abort(
                code_of(error), status.message, trailing_metadata=((DETAILS_TRAILER, status.SerializeToString()),)
            )
    except TimeoutError:  # behind a stuck write the status would wait until the client goes
        raise asyncio.CancelledError from None
