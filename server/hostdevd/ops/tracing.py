"""OpenTelemetry traces of calls, operations, their phases, and the calls into libvirt that those make.

Imported where traces are asked for, and nowhere else: it needs the extra `hostdevd[otel]`. Only unary calls
have a span: a stream has no end worth waiting for.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import grpc
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hostdevd import __version__
from hostdevd.core.assignments import Assignment
from hostdevd.core.observing import Result
from hostdevd.ops.endpoint import traces_url

EXPORT_LIMIT_S = 2.0
"""For one export; at the end of the service for the last one."""

_OURS = "hostdev.v1."
_GOOD = frozenset({"ATTACHED", "DETACHED", "FORGOTTEN"})
_IN_PHASE: ContextVar[bool] = ContextVar("hostdevd_in_phase", default=False)


def otlp(endpoint: str) -> SpanProcessor:
    """Sends spans to a collector by OTLP over HTTP, in batches, from a thread of its own."""
    return BatchSpanProcessor(OTLPSpanExporter(endpoint=traces_url(endpoint), timeout=EXPORT_LIMIT_S))


class Tracing:
    """`Observer` and `RpcObserver` of the core; the sampler is OpenTelemetry's own (`OTEL_TRACES_SAMPLER`)."""

    def __init__(self, processor: SpanProcessor) -> None:
        resource = Resource.create(
            {"service.name": "hostdevd", "service.version": __version__, "host.name": socket.gethostname()}
        )
        # Its end is ours: at exit nothing would be left to send with.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("hostdevd", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what is left; blocks for as long as one export may take."""
        self._provider.shutdown()

    @contextmanager
    def rpc(self, method: str, metadata: Mapping[str, str], result: Result, *, unary: bool) -> Iterator[None]:
        """A span for a unary call of ours; the client's `traceparent` is its parent."""
        if not unary or not method.startswith(_OURS):
            yield
            return
        service, _, name = method.partition("/")
        with self._tracer.start_as_current_span(
            method,
            context=self._propagator.extract(metadata),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                code = grpc.StatusCode[result.outcome]
                number: int = code.value[0]
                span.set_attribute("rpc.grpc.status_code", number)
                if result.reason:
                    span.set_attribute("hostdevd.reason", result.reason)
                if code is not grpc.StatusCode.OK:
                    span.set_status(Status(StatusCode.ERROR, result.reason or code.name))

    @contextmanager
    def operation(self, kind: str, assignment: Assignment, result: Result) -> Iterator[None]:
        """A span for an operation, which may outlive the call that it is a child of."""
        with self._tracer.start_as_current_span(
            kind,
            attributes=_about(assignment) | {"hostdevd.devices": tuple(one.name for one in assignment.devices)},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            finally:
                span.set_attribute("hostdevd.outcome", result.outcome)
                if result.reason:
                    span.set_attribute("hostdevd.reason", result.reason)
                if result.reason or result.outcome not in _GOOD:
                    span.set_status(Status(StatusCode.ERROR, result.reason or result.outcome))

    @contextmanager
    def phase(self, phase: str, assignment: Assignment, device: str) -> Iterator[None]:
        """A span for a phase; why it failed is its status."""
        attributes = _about(assignment) | ({"hostdevd.device": device} if device else {})
        inside = _IN_PHASE.set(True)
        try:
            with self._tracer.start_as_current_span(phase, attributes=attributes, record_exception=False):
                yield
        finally:
            _IN_PHASE.reset(inside)

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        """A span for a call into libvirt that a phase made: others are too many, and tell nothing."""
        if not _IN_PHASE.get():
            return
        end_ns = time.time_ns()
        span = self._tracer.start_span(
            f"libvirt {function}",
            kind=SpanKind.CLIENT,
            start_time=end_ns - round(seconds * 1e9),
            attributes={"rpc.system": "libvirt"},
        )
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_ns)


def _about(assignment: Assignment) -> dict[str, str | tuple[str, ...]]:
    return {
        "hostdevd.assignment": assignment.name,
        "hostdevd.vm.name": assignment.vm.name,
        "hostdevd.vm.uuid": assignment.vm.uuid,
    }
