"""The gRPC server: its options, interceptors, services, health and reflection, assembled in one place."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd.api.context import Context
from hostdevd.api.gate import Gate
from hostdevd.api.health import Health
from hostdevd.api.identification import Identification
from hostdevd.api.interceptors import ErrorSeam
from hostdevd.api.metering import Metering
from hostdevd.api.service import HostDeviceAdminService, HostDeviceService
from hostdevd.core.limits import Counts, Limits
from hostdevd.core.observing import RpcObserver

MAX_REQUEST_BYTES = 1024 * 1024

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 0),  # else a second server shares the port in silence
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.server_handshake_timeout_ms", 10_000),  # who begins TLS and then says nothing keeps a connection till then
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it a client counts as alive for a minute, whatever the line above
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # else gRPC stops asking after two: a stream may be quiet for minutes
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

_STREAMS = Limits().streams_per_connection

MAIN, ADMIN = (
    service_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("HostDeviceService", "HostDeviceAdminService")
)
SERVICES = (MAIN, ADMIN)
WHOLE = ""
"""The name under which `grpc.health.v1` knows the server as a whole."""


def build_server(  # noqa: PLR0913  its parts
    context: Context,
    health: Health,
    seam: ErrorSeam,
    *,
    with_reflection: bool,
    observers: Sequence[RpcObserver] = (),
    identification: Identification | None = None,
    counts: Counts | None = None,
    streams: int = _STREAMS,
) -> grpc.aio.Server:
    """A server with everything but its addresses; without `identification` nobody is known.

    Without `counts` all have room; `streams` is how many calls one connection may have at once.
    """
    metering = Metering(observers) if observers else None
    passed = (metering, identification, seam, Gate(context.access, counts, context.audit, context.now))
    server = grpc.aio.server(
        interceptors=[one for one in passed if one is not None],
        options=(*OPTIONS, ("grpc.max_concurrent_streams", streams)),
    )
    service_pb2_grpc.add_HostDeviceServiceServicer_to_server(HostDeviceService(context), server)
    service_pb2_grpc.add_HostDeviceAdminServiceServicer_to_server(HostDeviceAdminService(context), server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if with_reflection:
        names = (*SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return server
