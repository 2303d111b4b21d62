"""Operations in the log: when they begin and end, each step, and on every line which operation it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from hostdevd.core.assignments import Assignment
from hostdevd.core.observing import Result

log = structlog.get_logger()

_ASKED = frozenset({"attach", "detach"})
"""The operations that a call asks for; the others are the service's own, in whosever turn they began."""


class OperationLog:
    """An observer of operations.

    Lines of an operation carry `assignment`, `vm` and `request_id`, beside what the call that asked for it has bound;
    those of libvirt's threads too, which work in the context of who asked.
    """

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        """Not logged one by one: metrics count calls, traces show them."""

    @contextmanager
    def operation(self, kind: str, assignment: Assignment, result: Result) -> Iterator[None]:
        """Lasts as long as the operation, which has a task of its own: what is bound here ends with that."""
        if kind not in _ASKED:
            clear_contextvars()
        ids = {"request_id": assignment.pending_request} if assignment.pending_request else {}
        bind_contextvars(operation=kind, assignment=assignment.name, vm=assignment.vm.name, **ids)
        devices = [device.name for device in assignment.devices]
        log.info("operation begins", devices=devices, live=assignment.live, config=assignment.config)
        began = perf_counter()
        try:
            yield
        finally:
            reason = {"reason": result.reason} if result.reason else {}
            log.info("operation ends", state=result.outcome, **reason, seconds=_since(began))

    @contextmanager
    def phase(self, phase: str, assignment: Assignment, device: str) -> Iterator[None]:  # noqa: ARG002  it is bound
        """Lasts as long as a step; or a wait, which has no device, and may be long."""
        facts = {"step": str(phase), **({"device": device} if device else {})}
        if not device:
            log.info("step begins", **facts)
        began = perf_counter()
        try:
            yield
        except BaseException as error:
            log.warning("step fails", **facts, why=f"{type(error).__name__}: {error}", seconds=_since(began))
            raise
        log.info("step ends", **facts, seconds=_since(began))


def _since(began: float) -> float:
    return round(perf_counter() - began, 4)
