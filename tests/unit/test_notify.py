"""What systemd is told, heard on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest
import structlog

from hostdevd.ops.notify import Notifier, keep_told


class Manager:
    """The other end of `$NOTIFY_SOCKET`."""

    def __init__(self, address: str) -> None:
        self.environment = {"NOTIFY_SOCKET": address}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.settimeout(0)

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "n") if request.param == "path" else f"@hostdevd-test-{os.getpid()}"
    made = Manager(address)
    yield made
    made.socket.close()


async def told_for(seconds: float, notifier: Notifier, status: str = "fine", *, alive: bool = True) -> None:
    task = asyncio.create_task(keep_told(notifier, lambda: status, lambda: alive))
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_start_a_reload_and_an_end(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    notifier.ready()
    notifier.reloading()
    notifier.reloaded()
    notifier.status("two\nlines")
    notifier.stopping()
    ready, reloading, reloaded, status, stopping = manager.heard()
    assert (ready, reloaded, status, stopping) == ("READY=1", "READY=1", "STATUS=two lines", "STOPPING=1")
    first, _, since = reloading.partition("\n")
    assert first == "RELOADING=1"
    told_us = int(since.removeprefix("MONOTONIC_USEC="))
    assert 0 <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - told_us < 10_000_000


def test_a_reload_before_the_start_has_ended_does_not_make_it_ready(manager: Manager) -> None:
    notifier = Notifier(manager.environment)
    notifier.reloading()
    notifier.reloaded()
    assert manager.heard() == []


@pytest.mark.parametrize(
    ("environment", "limit_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getppid())}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_ours_or_not(environment: dict[str, str], limit_s: float | None) -> None:
    assert Notifier(environment).watchdog_s == limit_s


def test_without_a_manager_nothing_is_told_and_nothing_fails() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.alive()
    assert not notifier.is_heard


def test_a_manager_that_is_gone_is_told_of_in_the_log_only(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with structlog.testing.capture_logs() as logs:
        notifier.ready()
    assert [(one["message"], one["why"]) for one in logs] == [("READY=1", "No such file or directory")]


def test_a_socket_of_another_kind_is_left_alone() -> None:
    with structlog.testing.capture_logs() as logs:
        notifier = Notifier({"NOTIFY_SOCKET": "vsock:2:1234"})
    assert logs[0]["socket"] == "vsock:2:1234"
    assert not notifier.is_heard


def test_what_a_full_queue_does_not_take_goes_out_later(manager: Manager) -> None:
    notifier = Notifier({**manager.environment, "WATCHDOG_USEC": "1000000"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.settimeout(0)
        with suppress(BlockingIOError):
            while True:
                other.sendto(b"noise", notifier._address)
    notifier.ready()
    notifier.alive()  # kept back: what is owed is no sign of life
    assert set(manager.heard()) == {"noise"}
    notifier.alive()
    assert manager.heard() == ["READY=1", "WATCHDOG=1"]


async def test_a_status_is_told_when_it_changes(manager: Manager) -> None:
    notifier, counts = Notifier(manager.environment), iter([1, 1, 1, 2, 2])
    turns = 0

    async def turn(_pause_s: float) -> None:
        nonlocal turns
        turns += 1
        if turns == 5:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await keep_told(notifier, lambda: f"{next(counts)} devices", lambda: True, turn)
    assert manager.heard() == ["STATUS=1 devices", "STATUS=2 devices"]


@pytest.mark.parametrize(("limit_s", "every_s"), [(30.0, 7.0), (4.0, 1.0), (0.4, 0.1)])
async def test_the_watchdog_is_fed_four_times_in_its_limit(manager: Manager, limit_s: float, every_s: float) -> None:
    notifier = Notifier({**manager.environment, "WATCHDOG_USEC": str(int(limit_s * 1e6))})
    passed, fed = 0.0, list[float]()

    async def turn(pause_s: float) -> None:
        nonlocal passed
        fed.extend(passed for one in manager.heard() if one == "WATCHDOG=1")
        passed += pause_s
        if passed > limit_s:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await keep_told(notifier, lambda: "fine", lambda: True, turn)
    assert fed[0] == 0
    assert max(later - sooner for sooner, later in pairwise(fed)) == pytest.approx(every_s)


async def test_a_loop_that_is_stuck_is_not_fed(manager: Manager) -> None:
    notifier = Notifier({**manager.environment, "WATCHDOG_USEC": "40000"})
    task = asyncio.create_task(keep_told(notifier, lambda: "fine", lambda: True))
    await asyncio.sleep(0.03)
    assert manager.heard().count("WATCHDOG=1") > 1
    time.sleep(0.1)  # noqa: ASYNC251  the loop, stuck
    assert manager.heard() == []
    await asyncio.sleep(0.03)
    assert "WATCHDOG=1" in manager.heard()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_core_that_has_ended_in_part_is_not_fed(manager: Manager) -> None:
    notifier = Notifier({**manager.environment, "WATCHDOG_USEC": "40000"})
    with structlog.testing.capture_logs() as logs:
        await told_for(0.05, notifier, alive=False)
    assert manager.heard() == ["STATUS=fine"]
    assert len(logs) == 1
