"""What every call passes: domain errors become statuses, faults of ours are hidden behind an id."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from hostdevd.api.errors import DETAILS_TRAILER, code_of, to_status
from hostdevd.core.errors import HostdevError
from hostdevd.core.ports import HypervisorError, HypervisorGone

log = structlog.get_logger()


class ErrorSeam(grpc.aio.ServerInterceptor):
    """Outermost: nothing that a handler raises reaches the client as it is."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        method = handler_call_details.method
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _guard(handler.unary_unary, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream is not None and method.startswith("/hostdev."):
            return grpc.unary_stream_rpc_method_handler(
                _guard(handler.unary_stream, method),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return handler


def _guard(behaviour: Any, method: str) -> Any:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except HostdevError as error:
            await _abort(context, error)
        except grpc.aio.AbortError:
            raise
        except HypervisorGone:
            await _abort(context, HostdevError("LIBVIRT_DISCONNECTED", "libvirt is not connected", retry_after_s=2.0))
        except HypervisorError as error:
            log.warning("libvirt failed a call", method=method, code=error.code, text=error.text)
            await _abort(context, _unexpected(method, error))
        except Exception as error:  # noqa: BLE001  the last line of defence
            await _abort(context, _unexpected(method, error))

    return guarded


def _unexpected(method: str, error: Exception) -> HostdevError:
    incident = uuid.uuid4().hex[:12]
    log.error("a call failed unexpectedly", method=method, incident=incident, exc_info=error)
    return HostdevError(
        "UNEXPECTED",
        f"unexpected error; the log has it under the id {incident}",
        metadata={"incident": incident},
    )


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: HostdevError) -> None:
    status = to_status(error)
    await context.abort(
        code_of(error), status.message, trailing_metadata=((DETAILS_TRAILER, status.SerializeToString()),)
    )
