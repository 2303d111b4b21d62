"""The daemon may die, freeze, come late and come back."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from hostdevd.core.ports import Connected, Disconnected, DomainChanged, HypervisorGone, NoSuchObject, Workers
from rpc.conftest import GUARD_S

if TYPE_CHECKING:
    from rpc.conftest import Connect, Daemon

pytestmark = pytest.mark.asyncio

Tool = Callable[..., Awaitable[Any]]

UUID = "33333333-3333-4333-8333-333333333333"
DOMAIN = f"""
<domain type='test'><name>vm3</name><uuid>{UUID}</uuid><memory>8192</memory><os><type>hvm</type></os></domain>
"""


def define(connection: Any) -> None:
    """What another tool does."""
    connection.defineXML(DOMAIN)


async def test_a_killed_daemon_is_noticed_and_found_again(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, events):
        daemon.kill()
        await events.wait_for(Connected, Disconnected)
        with pytest.raises(HypervisorGone):
            await port.node_devices()

        daemon.start()
        await events.wait_for(Connected, Disconnected, Connected)
        assert sum(isinstance(event, Disconnected) for event in events.all) == 1
        assert await port.node_devices()

        await other_tool(daemon.uri(), define)
        await events.wait_for(Connected, Disconnected, Connected, DomainChanged(UUID))


async def test_a_read_that_loses_the_daemon_is_no_short_list(
    daemon: Daemon, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    import libvirt  # noqa: PLC0415

    describe = libvirt.virNodeDevice.XMLDesc
    described: list[str] = []

    def kill_after_the_first(device: libvirt.virNodeDevice, flags: int = 0) -> str:
        xml: str = describe(device, flags)
        described.append(xml)
        daemon.kill()
        return xml

    async with connect(daemon.uri()) as (port, _):
        monkeypatch.setattr(libvirt.virNodeDevice, "XMLDesc", kill_after_the_first)
        with pytest.raises(HypervisorGone):
            await port.node_devices()
        assert described
        monkeypatch.undo()


async def test_a_read_that_takes_too_long_gives_the_connection_up(
    daemon: Daemon, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with connect(daemon.uri()) as (port, events):
        release = threading.Event()
        monkeypatch.setattr("hostdevd.virt.connection.READ_TIMEOUT_S", 0.1)
        with pytest.raises(HypervisorGone):
            await port._connection.read(release.wait)
        release.set()
        monkeypatch.undo()
        # Whoever was told that libvirt is gone is told again when it is back.
        await events.wait_for(Connected, Disconnected, Connected)
        assert await port.node_devices()


async def test_many_restarts_leave_nothing_behind(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, events):
        threads = threading.active_count()
        for _ in range(3):
            events.clear()
            daemon.kill()
            daemon.start()
            await events.wait_for(Disconnected, Connected)
        assert threading.active_count() == threads
        assert port.stuck_calls == 0


async def test_a_frozen_daemon_is_noticed_by_keepalive(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, events):
        daemon.signal(signal.SIGSTOP)
        waiting = asyncio.create_task(port.node_device_names())
        await events.wait_for(Disconnected)
        with pytest.raises(HypervisorGone):
            await waiting

        events.clear()
        daemon.signal(signal.SIGCONT)
        await events.wait_for(Connected)
        assert await port.node_devices()


async def test_a_caller_that_leaves_does_not_harm_the_others(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, events):
        daemon.signal(signal.SIGSTOP)
        leaving = [asyncio.create_task(port.node_device_names()) for _ in range(20)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        daemon.signal(signal.SIGCONT)
        assert await port.node_device_names()
        assert Disconnected not in map(type, events.all)


async def test_a_daemon_that_is_not_there_yet_is_waited_for(daemon: Daemon, connect: Connect) -> None:
    daemon.kill()
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, lambda: loop.run_in_executor(None, daemon.start))
    async with connect(daemon.uri()) as (port, events):
        assert events.all == [Connected()]
        assert await port.node_devices()


async def test_after_close_no_thread_and_no_event_is_left(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    await other_tool(daemon.uri(), define)
    before = set(threading.enumerate())
    async with connect(daemon.uri()) as (port, events):
        assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) <= before
    told = len(events.all)
    await other_tool(daemon.uri(), define)
    assert len(events.all) == told
    with pytest.raises(HypervisorGone):
        await port.domains()


async def test_closing_while_the_daemon_is_frozen_comes_back(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()):
        daemon.signal(signal.SIGSTOP)


async def test_frozen_for_a_moment_again_and_again_leaves_nothing_behind(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, events):
        await asyncio.gather(*(port.node_devices() for _ in range(20)))
        threads, tasks = threading.active_count(), len(asyncio.all_tasks())
        for _ in range(20):
            daemon.signal(signal.SIGSTOP)
            reads = [asyncio.create_task(port.domains()) for _ in range(40)]
            await asyncio.sleep(0.01)
            # More wait than there are threads, and half of them for nobody.
            assert threading.active_count() == threads
            for task in reads[::2]:
                task.cancel()
            daemon.signal(signal.SIGCONT)
            done = await asyncio.gather(*reads, return_exceptions=True)
            assert all(isinstance(one, asyncio.CancelledError) for one in done[::2])
            assert all(isinstance(one, list) for one in done[1::2])
        await port.node_device_names()
        assert (threading.active_count(), len(asyncio.all_tasks())) == (threads, tasks)
        assert port.stuck_calls == 0
        assert Disconnected not in map(type, events.all)


ASKED_BY: ContextVar[str] = ContextVar("asked_by", default="nobody")


class Told:
    """A call observer that remembers: which function, whether it failed, and in whose context."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool, str]] = []

    def called(self, function: str, seconds: float, *, failed: bool) -> None:
        assert 0 < seconds < GUARD_S
        self.calls.append((function, failed, ASKED_BY.get()))


async def test_every_call_is_told_in_the_context_of_who_asked(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, _):
        told, before = Told(), port.call_counts()
        port.observe(told)
        ASKED_BY.set("this test")
        assert await port.node_devices()
        with pytest.raises(NoSuchObject):
            await port.node_device("nothing")
        counted = Counter(port.call_counts())
        counted.subtract(before)
        assert +counted == Counter(function for function, _, _ in told.calls)
        assert [function for function, failed, _ in told.calls if failed] == ["virConnect.nodeDeviceLookupByName"]
        assert {asked for _, _, asked in told.calls} == {"this test"}


async def test_how_many_calls_wait_run_and_are_stuck_is_told(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, _):
        assert port.workers()["mutations"] == Workers(waiting=0, busy=0, stuck=0)
        from hostdevd.virt.connection import READ_THREADS  # noqa: PLC0415  needs libvirt

        release = threading.Event()
        reads = [asyncio.create_task(port._connection.read(release.wait)) for _ in range(READ_THREADS + 2)]
        try:
            async with asyncio.timeout(GUARD_S):
                while port.workers()["reads"] != Workers(waiting=2, busy=READ_THREADS, stuck=0):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            reads[0].cancel()
            await asyncio.wait({reads[0]})
            assert port.workers()["reads"] == Workers(waiting=2, busy=READ_THREADS, stuck=1)
        finally:
            release.set()
        await asyncio.gather(*reads[1:])


async def test_why_libvirt_does_not_answer_is_what_the_last_attempt_met(daemon: Daemon, connect: Connect) -> None:
    async with connect(daemon.uri()) as (port, events):
        assert port.why_away() == ""
        daemon.kill()
        await events.wait_for(Disconnected)
        async with asyncio.timeout(60):
            while "Failed to connect socket" not in port.why_away():  # noqa: ASYNC110  an attempt is no event
                await asyncio.sleep(0.01)
        daemon.start()
        await events.wait_for(Disconnected, Connected)
        assert port.why_away() == ""
