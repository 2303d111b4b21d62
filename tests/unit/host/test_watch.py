"""Changes of the host arrive, not too often, and stop when the watch is closed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hostdevd.core.ports import Event, HostChanged
from hostdevd.host import rtnetlink
from hostdevd.host.coalesce import Coalescer
from hostdevd.host.running import RunningHost
from hostdevd.host.sysfs import HostTree
from hostdevd.host.watch import HostWatch
from unit.host.builder import HostBuilder


async def test_the_first_change_is_told_at_once_and_the_next_ones_together() -> None:
    told: list[Event] = []
    changes = Coalescer(told.append, interval_s=0.02)
    changes.changed("/sys/a")
    assert told == [HostChanged("/sys/a")]
    for path in ("/sys/b", "/sys/c", "/sys/b"):
        changes.changed(path)
    assert len(told) == 1
    await asyncio.sleep(0.06)
    assert told == [HostChanged("/sys/a"), HostChanged("")]
    changes.changed("/sys/d")
    assert told[-1] == HostChanged("/sys/d")
    changes.changed("/sys/e")
    changes.close()
    await asyncio.sleep(0.06)
    assert len(told) == 3


async def test_a_recorded_host_is_quiet_and_closes(host: HostBuilder) -> None:
    told: list[Event] = []
    running = RunningHost(host.root)
    await running.start(told.append)
    await asyncio.sleep(0.01)
    await running.close()
    await running.close()
    assert told == []


async def test_the_live_host_is_watched_without_a_busy_loop() -> None:
    told: list[Event] = []
    watch = HostWatch(HostTree())
    watch.open(told.append)
    await asyncio.sleep(0.2)
    watch.close()
    # Other things happen on a machine, but not at every turn of the loop.
    assert len(told) <= 5


async def test_a_source_that_cannot_be_had_is_told_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(rtnetlink, "shares_network_of_init", lambda _: True)
    monkeypatch.setattr(rtnetlink, "open_listener", refuse)
    watch = HostWatch(HostTree(Path("/")))
    watch.open(lambda _: None)
    watch.close()
    assert any("addresses and routes" in gap and "not here" in gap for gap in watch.gaps)


def test_only_routes_to_everywhere_matter() -> None:
    def message(kind: int, prefix: int) -> tuple[int, bytes]:
        return kind, bytes([2, prefix]) + bytes(10)

    assert rtnetlink._matters(*message(24, 0))
    assert not rtnetlink._matters(*message(24, 24))
    assert rtnetlink._matters(16, b"")


async def test_the_port_answers_of_a_recorded_host(host: HostBuilder) -> None:
    host.write("/proc/sys/kernel/random/boot_id", "0-1-2\n")
    sda = host.disk("sda")
    host.mount(host.number_of("sda"), "/")
    running = RunningHost(host.root)
    assert running.boot_id() == "0-1-2"
    assert running.block_paths("/dev/sda") == (sda,)
    assert sda in (await running.uses()).by_path
    assert len(await running.checks()) == 5
