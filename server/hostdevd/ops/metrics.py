"""Prometheus metrics: read when they are scraped, from what the service counts anyway."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class Counts(Collector):
    """What is counted elsewhere, as metrics. Called on the scraping thread: the callables only read."""

    def __init__(self, libvirt_calls: Callable[[], Mapping[str, int]], gauges: Mapping[str, Callable[[], int]]) -> None:
        self._libvirt_calls = libvirt_calls
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """The metrics of now."""
        calls = CounterMetricFamily("hostdevd_libvirt_calls", "Calls into libvirt, by its function.", labels=["call"])
        for name, count in sorted(self._libvirt_calls().items()):
            calls.add_metric([name], count)
        yield calls
        for name, read in self._gauges.items():
            yield GaugeMetricFamily(f"hostdevd_{name}", _HELP[name], read())


_HELP = {
    "devices": "Devices that are listed.",
    "holders": "Devices held by virtual machines, one per device and machine.",
    "watchers": "Open watch streams.",
    "revision": "The revision of the state that is shown.",
    "libvirt_connected": "1 while libvirt answers and the state equals it, else 0.",
}


@contextmanager
def served(counts: Counts, host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` at an address while the block runs; the real port. OSError when it is taken."""
    registry = CollectorRegistry()
    registry.register(counts)
    server, thread = start_http_server(port, host, registry)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
