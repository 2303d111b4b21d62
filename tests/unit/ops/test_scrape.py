"""The endpoint for Prometheus is bounded: by number, and by time."""

from __future__ import annotations

import http.client
import socket
import stat
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge

from hostdevd.ops import scrape
from hostdevd.ops.scrape import served


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("some", "A value.", registry=registry).set(3)
    return registry


def ask(port: int, path: str = "/metrics") -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().read()


def test_metrics_are_served_at_a_port_and_at_a_socket(tmp_path: Path, registry: CollectorRegistry) -> None:
    with served(registry, path=None, host="127.0.0.1", port=0) as port:
        assert b"\nsome 3.0\n" in ask(port)
        assert ask(port, "/metrics?name[]=other") == b""
        with pytest.raises(OSError, match="in use"), served(registry, path=None, host="127.0.0.1", port=port):
            pass
    path = tmp_path / "m.sock"
    with served(registry, path=path, host="", port=0), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        with client.makefile("rb") as answer:
            assert b"\nsome 3.0\n" in answer.read()
    assert not path.exists()


def test_who_says_nothing_is_let_go_and_nobody_waits_for_him_meanwhile(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "LIMIT_S", 0.15)
    with (
        served(registry, path=None, host="127.0.0.1", port=0) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as silent,
    ):
        silent.sendall(b"GET /metr")
        assert b"\nsome 3.0\n" in ask(port)
        assert silent.recv(1) == b""


def test_a_client_that_comes_beyond_the_bound_is_closed(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrape, "MAX_CONNECTIONS", 2)
    with served(registry, path=None, host="127.0.0.1", port=0) as port:
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2)]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as third:
            assert third.recv(1) == b""
        for one in waiting:
            one.close()
        until = time.monotonic() + 10
        while time.monotonic() < until:  # the threads find out on their own
            try:
                assert b"\nsome 3.0\n" in ask(port)
            except (ConnectionError, http.client.HTTPException):
                time.sleep(0.01)
            else:
                return
        pytest.fail("the places of those who went were not given free")


@pytest.mark.parametrize("which", ["the connection's thread", "its timer"])
def test_threads_that_cannot_be_had_cost_their_connections_and_no_place(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    real, failed = threading.Thread.start, list[str]()

    def start(thread: threading.Thread) -> None:
        if isinstance(thread, threading.Timer) if which == "its timer" else "process_request" in thread.name:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        real(thread)

    with served(registry, path=None, host="127.0.0.1", port=0) as port:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(scrape.MAX_CONNECTIONS + 1):
                with pytest.raises((ConnectionError, http.client.HTTPException)):
                    ask(port)
        assert len(failed) == scrape.MAX_CONNECTIONS + 1
        assert b"\nsome 3.0\n" in ask(port)


def test_others_run_between_two_metrics(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    Gauge("other", "Another value.", registry=registry)
    done: list[str] = []
    monkeypatch.setattr(
        "hostdevd.ops.scrape.time.sleep", lambda seconds: done.append(f"let others run for {seconds} s")
    )
    for metric in scrape.Polite(registry).collect():
        done += [metric.name]
    assert done == ["some", "let others run for 0 s", "other", "let others run for 0 s"]
