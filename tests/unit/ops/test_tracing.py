"""Traces: what hangs below what, what it says, and that they cost nothing where they are not asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from hostdev.v1 import service_pb2
from hostdevd.config import Config
from hostdevd.ops import telemetry, tracing
from hostdevd.ops.endpoint import check_endpoint, traces_url
from unit.ops.conftest import served

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
SERVICE = "hostdev.v1.HostDeviceService"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What would be sent to the collector."""
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "otlp", lambda _: SimpleSpanProcessor(exporter))
    return exporter


TRACED = Config(tracing="http://127.0.0.1:4318")


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def told(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


async def test_an_attach_is_one_trace_from_its_caller_to_libvirt(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with served(tmp_path, TRACED) as s:
        request = service_pb2.AttachRequest(vm="alpha", device=s.sim.roles["nic_single"])
        answer = await s.stub.Attach(request, metadata=TRACEPARENT)
    found = by_name(spans)
    call, operation = found[f"{SERVICE}/Attach"], found["attach"]
    assert (f"{call.context.trace_id:032x}", f"{parent(call):016x}") == (TRACE, PARENT)
    assert call.kind is SpanKind.SERVER
    assert told(call)["rpc.grpc.status_code"] == 0
    assert parent(operation) == call.context.span_id
    about = {
        "hostdevd.assignment": answer.assignment.name,
        "hostdevd.vm.name": "alpha",
        "hostdevd.vm.uuid": answer.assignment.vm.uuid,
    }
    assert told(operation).items() >= {**about, "hostdevd.outcome": "ATTACHED"}.items()
    assert told(operation)["hostdevd.devices"] == (request.device,)
    for phase, function in (
        ("HOST_DETACH", "nodedev_detach"),
        ("ATTACH_CONFIG", "attach"),
        ("VERIFY", "domain"),
    ):
        step = found[phase]
        assert parent(step) == operation.context.span_id
        assert told(step).items() >= about.items()
        below = [span for span in spans.get_finished_spans() if span.parent and parent(span) == step.context.span_id]
        assert f"libvirt {function}" in {span.name for span in below}
    assert told(found["HOST_DETACH"])["hostdevd.device"] == request.device
    assert {f"{span.context.trace_id:032x}" for span in spans.get_finished_spans()} == {TRACE}
    # What was read before the operation began is not told call by call.
    assert "libvirt domains" not in found


async def test_a_refusal_says_why_and_reads_have_no_spans_below(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with served(tmp_path, TRACED) as s:
        with pytest.raises(grpc.aio.AioRpcError):
            await s.stub.GetDevice(service_pb2.GetDeviceRequest(device="nothing"))
        call: Any = s.stub.WatchHolders(service_pb2.WatchHoldersRequest())
        await call.read()
        call.cancel()
    (span,) = spans.get_finished_spans()
    assert (span.name, span.parent) == (f"{SERVICE}/GetDevice", None)
    assert told(span)["hostdevd.reason"] == "DEVICE_NOT_FOUND"
    assert told(span)["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert span.status.status_code is StatusCode.ERROR


async def test_a_step_that_fails_says_what_libvirt_said(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    async with served(tmp_path, TRACED) as s:
        s.sim.controls.fail_next("attach", text="no more slots")
        with pytest.raises(grpc.aio.AioRpcError):
            await s.stub.Attach(service_pb2.AttachRequest(vm="alpha", device=s.sim.roles["nic_single"]))
    found = by_name(spans)
    assert told(found["attach"]).items() >= {"hostdevd.outcome": "FAILED", "hostdevd.reason": "ATTACH_FAILED"}.items()
    failed = [span for span in spans.get_finished_spans() if span.status.status_code is StatusCode.ERROR]
    assert any("no more slots" in (span.status.description or "") for span in failed)


async def test_an_operation_goes_on_after_its_call_in_the_same_trace(
    tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    async with served(tmp_path, TRACED) as s:
        attach = service_pb2.AttachRequest(vm="alpha", device=s.sim.roles["nic_single"])
        name = (await s.stub.Attach(attach)).assignment.name
        s.sim.controls.set_guest_behaviour("alpha", "delayed", delay_s=0.05)
        detach = service_pb2.DetachRequest(assignment=name, wait=Duration(seconds=0))
        await s.stub.Detach(detach, metadata=TRACEPARENT)
        await s.stub.Detach(service_pb2.DetachRequest(assignment=name))  # joins it
    found = [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE]
    call = next(span for span in found if span.name == f"{SERVICE}/Detach")
    # A call into libvirt has the same name.
    operation = next(span for span in found if span.name == "detach" and "hostdevd.outcome" in told(span))
    assert call.end_time is not None
    assert operation.end_time is not None
    assert parent(operation) == call.context.span_id
    assert operation.end_time > call.end_time
    assert told(operation)["hostdevd.outcome"] == "DETACHED"


def test_without_being_asked_for_neither_library_is_imported() -> None:
    code = (
        "import asyncio, sys, hostdevd.__main__, hostdevd.app;"
        "from hostdevd.ops.telemetry import Telemetry; t = Telemetry(metrics=False);"
        "asyncio.run(t.running().__aenter__());"
        "print(t.rpcs, *{name.partition('.')[0] for name in sys.modules} & {'opentelemetry', 'prometheus_client'})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "()"


def test_a_missing_extra_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hostdevd.ops.tracing", None)
    with pytest.raises(telemetry.TelemetryError, match=r"install hostdevd\[otel\]"):
        telemetry.Telemetry(metrics=False, traces_to="http://127.0.0.1:4318")


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "grpc://host:4317", "http://", "http://host:none", "http://[::1"])
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be http"):
        check_endpoint(url)


def test_an_endpoint_without_a_path_gets_the_one_of_otlp() -> None:
    for url, posted in (
        ("http://c:4318", "http://c:4318/v1/traces"),
        ("https://c:4318/", "https://c:4318/v1/traces"),
        ("http://c/otlp/traces", "http://c/otlp/traces"),
    ):
        check_endpoint(url)
        assert traces_url(url) == posted
