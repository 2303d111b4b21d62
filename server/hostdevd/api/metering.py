"""Tells observers of every call: which method, how it ended, why. Outermost, so that it sees what the others refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.api.wrapping import Handler, Rpc, Wrapping, yields
from hostdevd.core.observing import Result, RpcObserver

UNKNOWN = "unknown"
"""The method of all calls to what is not served: what clients make up must not become names here."""

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Metering(Wrapping):
    """Has each call observed; a call that was already answered is never changed by it."""

    def __init__(self, observers: Sequence[RpcObserver]) -> None:
        super().__init__()
        self._observers = tuple(observers)

    def not_served(self) -> None:
        """Tell of a call that is for nobody."""
        with self._observed(UNKNOWN, {}, Result(grpc.StatusCode.UNIMPLEMENTED.name), unary=False):
            pass

    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:
        """Tell of a call while it lasts."""
        name, unary = method.removeprefix("/"), not handler.response_streaming

        async def awaited(request: Any, context: Rpc) -> Any:
            with self._call(name, context, unary=unary):
                return await behaviour(request, context)

        async def generated(request: Any, context: Rpc) -> AsyncIterator[Any]:
            with self._call(name, context, unary=unary):
                async for response in behaviour(request, context):
                    yield response

        return generated if yields(behaviour) else awaited

    @contextmanager
    def _call(self, method: str, context: Rpc, *, unary: bool) -> Iterator[None]:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        result = Result()
        with self._observed(method, metadata, result, unary=unary):
            try:
                yield
            except (asyncio.CancelledError, GeneratorExit):
                # Or its time was up: at a deadline the client goes, before the server's own clock says so.
                result.outcome = grpc.StatusCode.CANCELLED.name
                raise
            except BaseException:
                result.outcome, result.reason = _told(context, grpc.StatusCode.UNKNOWN)
                raise
            result.outcome, result.reason = _told(context, grpc.StatusCode.OK)

    @contextmanager
    def _observed(self, method: str, metadata: Mapping[str, str], result: Result, *, unary: bool) -> Iterator[None]:
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer.rpc(method, metadata, result, unary=unary))
            yield


def _told(context: Rpc, otherwise: grpc.StatusCode) -> tuple[str, str]:
    """The status code that the client gets, and the reason in its details."""
    code: Any = context.code()
    name = _CODES.get(code.value[0] if isinstance(code, grpc.StatusCode) else code, otherwise.name)
    if name == grpc.StatusCode.OK.name:
        # A handler that ended without a word has the library's answer to how it ended.
        return otherwise.name, ""
    details = dict(context.trailing_metadata() or ()).get(DETAILS_TRAILER)
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    if isinstance(details, bytes):
        status.ParseFromString(details)
        if status.details and status.details[0].Unpack(info):
            return name, info.reason
    return name, ""
