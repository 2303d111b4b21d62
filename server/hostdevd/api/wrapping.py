"""What the interceptors share: something is put around a method's handler once, not anew at every call."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

Rpc = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Wrapping(grpc.aio.ServerInterceptor, ABC):
    """An interceptor that treats all calls of a method alike."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Handler, Handler]] = {}
        """By method, of those that are served: the handler further inside, and the one around it."""

    @abstractmethod
    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:
        """What is done for a call of `/package.Service/Method`: of the kind that `kind` tells.

        It is a coroutine function or an asynchronous generator (`yields`), whichever `behaviour`, of `handler`, is.
        """

    def decoder(self, handler: Handler) -> Callable[[bytes], Any] | None:
        """How requests are read."""
        return handler.request_deserializer

    def encoder(self, handler: Handler) -> Callable[[Any], bytes] | None:
        """How responses are written."""
        return handler.response_serializer

    def not_served(self) -> None:
        """A call of a method that does not exist."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of a call, with what this interceptor puts around it."""
        handler = await continuation(handler_call_details)
        if handler is None:
            self.not_served()
            return None
        method = handler_call_details.method
        kept = self._kept.get(method)
        if kept is None or kept[0] is not handler:
            kept = self._kept[method] = handler, self._wrapped(handler, method)
        return kept[1]

    def kind(self, kind: str) -> str:
        """Of which kind (`unary_stream`, ...) the handler is that is put around one of this kind."""
        return kind

    def _wrapped(self, handler: Handler, method: str) -> Handler:
        kind = next(kind for kind in _KINDS if getattr(handler, kind) is not None)
        make: Callable[..., Handler] = getattr(grpc, f"{self.kind(kind)}_rpc_method_handler")
        return make(
            self.around(getattr(handler, kind), method, handler),
            request_deserializer=self.decoder(handler),
            response_serializer=self.encoder(handler),
        )


def yields(behaviour: Any) -> bool:
    """Whether it is a generator of answers, which is not awaited; the others write theirs, or return the one."""
    return inspect.isasyncgenfunction(behaviour)
