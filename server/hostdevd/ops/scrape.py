"""The endpoint that Prometheus asks: HTTP at a loopback port or a unix socket, on threads of its own.

Bounded: so many connections at a time, each of which has so long for everything. Whoever comes beyond that is
closed at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import HTTPServer
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

MAX_CONNECTIONS = 8
LIMIT_S = 10.0
"""For a whole connection: to ask, and to take the answer."""
SOCKET_MODE = 0o660


class Polite(Collector):
    """A registry whose reader lets others run between two metrics: Python's lock would be his for 5 ms else."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """The registry's metrics."""
        for metric in self._registry.collect():
            yield metric
            time.sleep(0)

    def restricted_registry(self, names: Iterable[str]) -> Collector:
        """For `name[]`, by which a scraper asks for some of them."""
        return self._registry.restricted_registry(names)


class _Server(ThreadingMixIn, HTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: Any, family: socket.AddressFamily, registry: CollectorRegistry) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        handler = MetricsHandler.factory(Polite(registry))
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Not HTTPServer's: that one asks the resolver for a name that nobody needs.
        TCPServer.server_bind(self)
        unix = self.address_family is socket.AF_UNIX
        self.server_name, self.server_port = "localhost", 0 if unix else self.socket.getsockname()[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Whether there is room; what is not verified is closed."""
        return self._free.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be had: who calls this closes the connection
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        timer = threading.Timer(LIMIT_S, _cut, (request,))
        timer.daemon = True
        try:
            # Per read and write, and, by the timer, for all of them: a client that sends a byte now and then ends too.
            request.settimeout(LIMIT_S)
            timer.start()
        except (OSError, RuntimeError):  # without its bound it is not served
            self.shutdown_request(request)
            self._free.release()
            return
        try:
            super().process_request_thread(request, client_address)
        finally:
            timer.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that went away is nothing to print."""


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def served(registry: CollectorRegistry, *, path: Path | None, host: str, port: int) -> Iterator[int]:
    """Serve `/metrics` while the block runs; the real port, 0 for a unix socket. OSError when it cannot be had."""
    if path is not None:
        before = os.umask(0o777 & ~SOCKET_MODE)
        try:
            server = _Server(str(path), socket.AF_UNIX, registry)
        finally:
            os.umask(before)
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = _Server((host, port), family, registry)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        if path is not None:
            path.unlink(missing_ok=True)
