"""Metrics and traces put together: who is told of what, and the parts that run beside the service meanwhile.

prometheus_client and OpenTelemetry are imported where they are asked for: without, nobody is told anything,
and nothing of them costs anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from hostdevd.core.observing import NOBODY, Observer, RpcObserver, Several, WatchObserver

if TYPE_CHECKING:
    from hostdevd.ops.instruments import Instruments
    from hostdevd.ops.metrics import Sources
    from hostdevd.ops.tracing import Tracing

log = structlog.get_logger()


class TelemetryError(Exception):
    """What is asked for cannot be had, in one line that says why."""


class Telemetry:
    """The observers of one service: none, unless metrics or traces are asked for. `methods`: what it serves."""

    def __init__(self, *, metrics: bool, traces_to: str | None = None, methods: Iterable[str] = ()) -> None:
        self._instruments = _instruments(methods) if metrics else None
        self._tracing = _tracing(traces_to) if traces_to is not None else None
        observers = [one for one in (self._tracing, self._instruments) if one is not None]
        self.rpcs: tuple[RpcObserver, ...] = tuple(observers)
        self.observer: Observer = Several(observers) if observers else NOBODY
        self.watches: WatchObserver = self._instruments or NOBODY

    @contextmanager
    def scraped(self, sources: Sources, *, path: Path | None, host: str, port: int) -> Iterator[int]:
        """Serve metrics while the block runs; the real port. OSError when the address cannot be had."""
        from prometheus_client import ProcessCollector  # noqa: PLC0415  only where it is asked for

        from hostdevd.ops.metrics import Readings  # noqa: PLC0415
        from hostdevd.ops.scrape import served  # noqa: PLC0415

        if self._instruments is None:
            raise AssertionError
        registry = self._instruments.registry
        registry.register(Readings(sources))
        ProcessCollector(registry=registry)
        with served(registry, path=path, host=host, port=port) as real:
            yield real

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """What runs beside the service; at its end the last spans are sent."""
        looking = None
        if self._instruments is not None:
            from hostdevd.ops.loop_delay import watch_loop  # noqa: PLC0415

            looking = asyncio.create_task(watch_loop(self._instruments.late), name="loop-delay")
        try:
            yield
        finally:
            if looking is not None:
                looking.cancel()
                with suppress(asyncio.CancelledError):
                    await looking
            if self._tracing is not None:
                await asyncio.to_thread(self._tracing.close)


def _instruments(methods: Iterable[str]) -> Instruments:
    from prometheus_client import disable_created_metrics  # noqa: PLC0415  only where it is asked for

    from hostdevd.ops.instruments import Instruments  # noqa: PLC0415

    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, for nothing
    return Instruments(methods)


def check_tracing() -> None:
    """`TelemetryError` where OpenTelemetry is not installed."""
    try:
        import hostdevd.ops.tracing  # noqa: F401, PLC0415  an extra: few want it
    except ImportError as error:
        raise TelemetryError(f"tracing: OpenTelemetry is missing ({error}); install hostdevd[otel]") from error


def _tracing(endpoint: str) -> Tracing:
    check_tracing()
    from hostdevd.ops.tracing import Tracing, otlp  # noqa: PLC0415  as above

    log.info("sending traces", endpoint=endpoint)
    return Tracing(otlp(endpoint))
