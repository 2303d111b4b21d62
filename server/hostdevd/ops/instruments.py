"""What is counted and timed as it happens: observers that write into Prometheus metrics.

Every label has a bounded number of values: methods that are served, codes, reasons, kinds and phases of
operations, functions of libvirt's. Names of devices, VMs and callers are never among them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from hostdevd.core.assignments import Assignment, AssignmentState
from hostdevd.core.observing import Result
from hostdevd.core.past import Lost

_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
"""Seconds, for what is quick unless something is wrong: calls into libvirt, events, answers from memory."""
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds, for what waits for drivers and guests."""
_LOOP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Seconds by which the event loop is late."""

_OPERATION_OF = {
    AssignmentState.ATTACHING: "attach",
    AssignmentState.ROLLING_BACK: "undo",
    AssignmentState.DETACHING: "detach",
}
"""Whose phase it is, by the state that the record has meanwhile; what keeps an assignment true is `upkeep`."""

_AIMS = {"attach": "ATTACHED", "detach": "DETACHED", "follow": "ATTACHED", "move": "ATTACHED", "recover": "ATTACHED"}
"""Operations, and the state that each is to lead to."""
_FAILURES = (
    ("FAILED", "ATTACH_FAILED"),
    ("FAULT", "UNEXPECTED"),
    ("INTERRUPTED", ""),
    ("REFUSED", "STATE_STORE_UNAVAILABLE"),
)
"""Outcomes and reasons of the others."""
_OWN_FAULTS = ("INTERNAL", "UNKNOWN")
_WATCHES = ("devices", "holders")


class Instruments:
    """All of them, in one registry: `Observer`, `RpcObserver` and `WatchObserver` of the core.

    `methods` are those that are served. What an alert counts is there from the start, as 0: Prometheus sees no increase
    in a counter that appears with its first fifty.
    """

    def __init__(self, methods: Iterable[str] = ()) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"hostdevd_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"hostdevd_{name}", text, labels, buckets=buckets, registry=registry)

        self._calls = counter("grpc_calls", "Calls that ended, by method and status code.", "method", "code")
        self._refusals = counter("grpc_refusals", "Calls that ended with a reason, by it.", "method", "reason")
        self._call_s = histogram("grpc_call_seconds", "Time of calls, streams left out.", _QUICK, "method")
        self._in_flight = Gauge(
            "hostdevd_grpc_calls_in_flight", "Calls that are being answered, streams among them.", ["method"],
            registry=registry,
        )  # fmt: skip
        self._operations = counter(
            "operations",
            "Operations that ended, by outcome (a state, REFUSED, INTERRUPTED, FAULT) and the error's reason.",
            "operation", "outcome", "reason",
        )  # fmt: skip
        self._operation_s = histogram("operation_seconds", "Time of operations that ended.", _SLOW, "operation")
        self._phase_s = histogram(
            "phase_seconds",
            "Time of the phases of operations: steps of the journal, SETTLE, VERIFY, and the guest's GUEST_RELEASE.",
            _SLOW, "operation", "phase",
        )  # fmt: skip
        self._phases_failed = counter("phases_failed", "Phases that failed.", "operation", "phase")
        self._libvirt_s = histogram(
            "libvirt_call_seconds", "Time of calls into libvirt, by its function.", _QUICK, "call"
        )
        self._libvirt_failed = counter("libvirt_call_failures", "Calls into libvirt that failed.", "call")
        self._delay_s = histogram(
            "watch_event_delay_seconds", "From libvirt's event to the message to a watcher.", _QUICK, "watch"
        )
        self._resets = counter("watch_resets", "Watches that had to begin anew, by why.", "watch", "reason")
        self._loop_s = histogram("event_loop_delay_seconds", "How late the event loop is, ten times a second.", _LOOP)
        for operation, aim in _AIMS.items():
            for outcome, reason in ((aim, ""), *_FAILURES):
                self._operations.labels(operation, outcome, reason)
        for watch, lost in product(_WATCHES, Lost):
            self._resets.labels(watch, lost)
        for method, code in product(methods, ("OK", *_OWN_FAULTS)):
            self._calls.labels(method, code)

    # --- calls of clients ----------------------------------------------------------------------------

    @contextmanager
    def rpc(self, method: str, metadata: Mapping[str, str], result: Result, *, unary: bool) -> Iterator[None]:  # noqa: ARG002
        """Count and time a call."""
        in_flight = self._in_flight.labels(method)
        in_flight.inc()
        began = time.perf_counter()
        try:
            yield
        finally:
            in_flight.dec()
            self._calls.labels(method, result.outcome).inc()
            if result.reason:
                self._refusals.labels(method, result.reason).inc()
            if unary:
                self._call_s.labels(method).observe(time.perf_counter() - began)

    # --- operations ----------------------------------------------------------------------------------

    @contextmanager
    def operation(self, kind: str, assignment: Assignment, result: Result) -> Iterator[None]:  # noqa: ARG002
        """Count and time an operation."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._operations.labels(kind, result.outcome, result.reason).inc()
            self._operation_s.labels(kind).observe(time.perf_counter() - began)

    @contextmanager
    def phase(self, phase: str, assignment: Assignment, device: str) -> Iterator[None]:  # noqa: ARG002
        """Time a phase."""
        labels = _OPERATION_OF.get(assignment.state, "upkeep"), phase
        began = time.perf_counter()
        try:
            yield
        except Exception:
            self._phases_failed.labels(*labels).inc()
            raise
        finally:
            self._phase_s.labels(*labels).observe(time.perf_counter() - began)

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        """Time a call into libvirt."""
        self._libvirt_s.labels(function).observe(seconds)
        if failed:
            self._libvirt_failed.labels(function).inc()

    # --- watches, and the loop -----------------------------------------------------------------------

    def delivered(self, watch: str, delay_s: float) -> None:
        """Time an event's way."""
        self._delay_s.labels(watch).observe(delay_s)

    def reset(self, watch: str, reason: str) -> None:
        """Count a watch that begins anew."""
        self._resets.labels(watch, reason).inc()

    def late(self, seconds: float) -> None:
        """The loop came back so much later than it was to."""
        self._loop_s.observe(max(seconds, 0.0))
