"""`grpc.health.v1`, per service.

Own code: grpcio's servicer writes to a watcher while it holds the lock of the status. One client that takes no bytes
would keep the status as it is, for everybody, and the service from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):
    """Check and Watch. `services` are all that are known: none is serving before the first `set`."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._serving = dict.fromkeys(services, False)
        self._changed = asyncio.Event()
        self._has_ended = False

    def set(self, serving: Mapping[str, bool]) -> None:
        """Say of services whether their calls are answered as they should be; without effect after `end`."""
        if not self._has_ended and serving.items() - self._serving.items():
            self._serving.update(serving)
            self._tell()

    def end(self) -> None:
        """NOT_SERVING from now on; watches end with it."""
        self.set(dict.fromkeys(self._serving, False))
        self._has_ended = True
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _status(self, service: str) -> int:
        serving = self._serving.get(service)
        if serving is None:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """The status now; NOT_FOUND for a service that is not known."""
        if request.service not in self._serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(  # noqa: N802
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],  # noqa: ARG002
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status now, and whenever it has changed; the last one of several where the client is slow."""
        told: int | None = None
        while True:
            changed, now = self._changed, self._status(request.service)
            if now != told:
                told = now
                yield health_pb2.HealthCheckResponse(status=now)
            elif self._has_ended:
                return
            else:
                await changed.wait()
