"""What libvirt does not tell of: found by comparing, and its events asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from hostdevd.app import Core, Ports, run_core
from hostdevd.core.history import ChangeSource
from hostdevd.core.sync import Pace
from hostdevd.ops.clock import SystemClock
from rpc.conftest import GUARD_S, private_daemon
from rpc.nodefiles import vm, vm_uuid

if TYPE_CHECKING:
    from hostdevd.virt.libvirt_port import LibvirtPort
    from rpc.conftest import Connect, Daemon

pytestmark = pytest.mark.asyncio

Tool = Callable[..., Awaitable[Any]]

VPORT = """
<device><parent>scsi_host1</parent><capability type='scsi_host'>
  <capability type='fc_host'><wwnn>2000000012345678</wwnn><wwpn>1000000012345678</wwpn></capability>
</capability></device>
"""
REGISTER = "virConnect.nodeDeviceEventRegisterAny"
NAME = "scsi_host12"
"""The one that the driver makes."""


def plug(connection: Any) -> None:
    assert connection.nodeDeviceCreateXML(VPORT, 0).name() == NAME


def unplug(connection: Any) -> None:
    connection.nodeDeviceLookupByName(NAME).destroy()


@asynccontextmanager
async def core_on(uri: str, directory: Path) -> AsyncIterator[tuple[Core, LibvirtPort]]:
    """A core that compares five times a second."""
    from hostdevd.host.foreign import ForeignHost  # noqa: PLC0415  with the tests that need libvirt
    from hostdevd.virt.libvirt_port import LibvirtPort  # noqa: PLC0415
    from hostdevd.virt.xml.nodedev import node_device  # noqa: PLC0415

    port = LibvirtPort(uri, node_device)
    ports = Ports(port, ForeignHost())
    async with run_core(ports, directory, SystemClock(), pace=Pace(reconcile_s=0.2)) as core:
        await until(lambda: core.sync.connected)
        yield core, port


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not holds():  # noqa: ASYNC110  no one thing tells of all that is waited for here
            await asyncio.sleep(0.01)


def source_of_last(core: Core) -> ChangeSource:
    """Who noticed that the device came or went."""
    changes = [change for batch in core.store.device_history.since(0) for change in batch.changes]
    return next(change.source for change in reversed(changes) if change.key == NAME)


async def test_node_devices_are_heard_again_after_their_events_ended_in_silence(
    daemon: Daemon, tmp_path: Path, other_tool: Tool
) -> None:
    async with core_on(daemon.uri(), tmp_path) as (core, port):
        session = port._connection._session
        assert session is not None
        for undo in session.undo_node_devices:
            undo()
        await other_tool(daemon.uri(), plug)
        await until(lambda: NAME in core.store.devices)
        assert source_of_last(core) is ChangeSource.RECONCILE
        calls = port.call_counts()[REGISTER]
        await until(lambda: port.call_counts()[REGISTER] == calls + 2)
        await other_tool(daemon.uri(), unplug)
        await until(lambda: NAME not in core.store.devices)
        assert source_of_last(core) is ChangeSource.EVENT
        await other_tool(daemon.uri(), plug)
        await until(lambda: NAME in core.store.devices)
        assert source_of_last(core) is ChangeSource.EVENT
        # Nothing was missed any more: it stays at that.
        await asyncio.sleep(1)
        assert port.call_counts()[REGISTER] == calls + 2
        assert core.sync.connected


async def test_a_domain_that_changes_in_silence_is_found(daemon: Daemon, tmp_path: Path, other_tool: Tool) -> None:
    await other_tool(daemon.uri(), lambda connection: connection.defineXML(vm(0, [1])).name())
    async with core_on(daemon.uri(), tmp_path) as (core, port):
        session = port._connection._session
        assert session is not None
        for undo in session.links[0].at_close:
            undo()
        session.links[0].at_close.clear()

        def held() -> set[tuple[str, bool, bool]]:
            return {(one.device[6:7], one.live, one.config) for one in core.store.holders.values()}

        for act, expected in (
            (
                lambda conn: conn.defineXML(vm(0, [1, 2])),
                {("1", False, True), ("2", False, True)},
            ),
            (lambda conn: conn.defineXML(vm(0, [2])), {("2", False, True)}),
            (lambda conn: conn.lookupByUUIDString(vm_uuid(0)).create(), {("2", True, True)}),
            # The live definition stays: only one of the two is another.
            (
                lambda conn: conn.defineXML(vm(0, [3])),
                {("2", True, False), ("3", False, True)},
            ),
            (lambda conn: conn.lookupByUUIDString(vm_uuid(0)).undefine(), {("2", True, False)}),
            (lambda conn: conn.lookupByUUIDString(vm_uuid(0)).destroy(), set()),
        ):
            await other_tool(daemon.uri(), lambda conn, act=act: act(conn) and None)
            await until(lambda expected=expected: held() == expected)  # type: ignore[misc]
        changes = [change for batch in core.store.holder_history.since(0) for change in batch.changes]
        assert {change.source for change in changes} == {ChangeSource.RECONCILE}


@pytest.fixture
def behind(libvirtd: str) -> Iterator[Daemon]:
    """The daemon behind the one that is connected to."""
    with private_daemon(libvirtd) as daemon:
        yield daemon


def through(front: Daemon, behind: Daemon) -> str:
    """A libvirt that serves what it has from another one, as virtqemud serves virtnodedevd's node devices."""
    return f"{front.uri()}&name={quote(behind.uri(), safe='')}"


@pytest.fixture
def _nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """virtqemud passes on that its own driver's connection closed, never that virtnodedevd's did."""
    import libvirt  # noqa: PLC0415

    monkeypatch.setattr(libvirt.virConnect, "registerCloseCallback", lambda *_: 0)
    monkeypatch.setattr(libvirt.virConnect, "unregisterCloseCallback", lambda *_: 0)


@pytest.mark.usefixtures("_nobody_tells")
async def test_the_daemon_behind_is_restarted_alone(
    daemon: Daemon, behind: Daemon, tmp_path: Path, other_tool: Tool
) -> None:
    async with core_on(through(daemon, behind), tmp_path) as (core, port):
        await other_tool(behind.uri(), plug)
        await until(lambda: NAME in core.store.devices)
        assert source_of_last(core) is ChangeSource.EVENT

        behind.kill()
        await until(lambda: not core.sync.connected)
        assert "a daemon behind" in core.sync.why_disconnected
        behind.start()  # without that device
        await until(lambda: core.sync.connected)
        assert NAME not in core.store.devices
        assert source_of_last(core) is ChangeSource.RECONCILE

        await other_tool(behind.uri(), plug)
        await until(lambda: NAME in core.store.devices)
        assert source_of_last(core) is ChangeSource.EVENT
        assert port.stuck_calls == 0


@pytest.mark.usefixtures("_nobody_tells")
async def test_without_the_one_behind_nothing_hangs_and_nothing_is_guessed(
    daemon: Daemon, behind: Daemon, connect: Connect
) -> None:
    from hostdevd.core.ports import Connected, Disconnected, HypervisorGone  # noqa: PLC0415

    async with connect(through(daemon, behind)) as (port, events):
        behind.kill()
        with pytest.raises(HypervisorGone):
            await port.node_device_names()
        await events.wait_for(Connected, Disconnected)
        with pytest.raises(HypervisorGone):
            await port.node_devices()
        behind.start()
        await events.wait_for(Connected, Disconnected, Connected)
        assert await port.node_devices()
