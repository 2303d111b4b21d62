"""Tells observers of every call: which method, how it ended, why. Outermost, so that it sees what the others refuse."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2

from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.api.kinds import kind_of
from hostdevd.core.observing import Result, RpcObserver

UNKNOWN = "unknown"
"""The method of all calls to what is not served: what clients make up must not become names here."""

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}


class Metering(grpc.aio.ServerInterceptor):
    """Has each call observed; a call that was already answered is never changed by it."""

    def __init__(self, observers: Sequence[RpcObserver]) -> None:
        self._observers = tuple(observers)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            result = Result(grpc.StatusCode.UNIMPLEMENTED.name)
            with self._observed(UNKNOWN, {}, result, unary=False):
                return None
        method = handler_call_details.method.removeprefix("/")
        make, behaviour = kind_of(handler)
        metered: grpc.RpcMethodHandler[Any, Any] = make(
            self._metered(behaviour, method, unary=handler.unary_unary is not None),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return metered

    def _metered(self, behaviour: Any, method: str, *, unary: bool) -> Any:
        async def awaited(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            with self._call(method, context, unary=unary):
                return await behaviour(request, context)

        async def generated(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            with self._call(method, context, unary=unary):
                async for response in behaviour(request, context):
                    yield response

        return generated if inspect.isasyncgenfunction(behaviour) else awaited

    @contextmanager
    def _call(self, method: str, context: grpc.aio.ServicerContext[Any, Any], *, unary: bool) -> Iterator[None]:
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


def _told(context: grpc.aio.ServicerContext[Any, Any], otherwise: grpc.StatusCode) -> tuple[str, str]:
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
