"""All domains, read again and again: as each would be read alone, at a fraction of the calls, parsing what changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from hostdevd.core.model import VmState
from rpc.nodefiles import vm, vm_uuid

if TYPE_CHECKING:
    from rpc.conftest import Connect, Daemon

pytestmark = pytest.mark.asyncio

Tool = Callable[..., Awaitable[Any]]


def five_states(connection: Any) -> None:
    for number in range(4):
        connection.defineXML(vm(number, [number + 1]))
    connection.lookupByName("vm1").create()
    connection.lookupByName("vm2").create()
    connection.lookupByName("vm2").suspend()
    connection.lookupByName("vm3").create()
    connection.lookupByName("vm3").managedSave(0)
    connection.createXML(vm(4, [5]))


async def test_all_are_read_as_each_alone(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, _):
        await other_tool(daemon.uri(), five_states)
        domains = {domain.vm.uuid: domain for domain in await port.domains()}
        assert len(domains) == 6
        for uuid, domain in domains.items():
            assert await port.domain(uuid) == domain
        found = [domains[vm_uuid(number)].vm for number in range(5)]
        assert [one.state for one in found] == [
            VmState.SHUT_OFF,
            VmState.RUNNING,
            VmState.PAUSED,
            VmState.SHUT_OFF,
            VmState.RUNNING,
        ]
        assert [one.managed_save for one in found] == [False, False, False, True, False]
        assert [one.persistent for one in found] == [True, True, True, True, False]


async def test_a_walk_costs_six_lists_and_the_definitions(daemon: Daemon, connect: Connect, other_tool: Tool) -> None:
    async with connect(daemon.uri()) as (port, _):
        await other_tool(daemon.uri(), five_states)
        before = port.call_counts()
        await port.domains()
        after = port.call_counts()
        spent = {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
        # Names and UUIDs are in the handles. Five persistent ones, and four that run.
        assert spent == {"virConnect.listAllDomains": 6, "virDomain.XMLDesc": 9}


async def test_what_reads_as_before_is_not_parsed_again(
    daemon: Daemon, connect: Connect, other_tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hostdevd.virt.xml import parser  # noqa: PLC0415  with the tests that need libvirt

    async with connect(daemon.uri()) as (port, _):
        await other_tool(daemon.uri(), five_states)
        first = {domain.vm.uuid: domain for domain in await port.domains()}
        parsed: list[str] = []
        good = parser.parse

        def parse(xml: str) -> Any:
            parsed.append(xml)
            return good(xml)

        monkeypatch.setattr("hostdevd.virt.xml.domain.parse", parse)
        again = {domain.vm.uuid: domain for domain in await port.domains()}
        assert again == first
        assert parsed == []
        await other_tool(daemon.uri(), lambda connection: connection.defineXML(vm(1, [2, 9])).name())
        changed = {domain.vm.uuid: domain for domain in await port.domains()}
        assert parsed
        assert all("vm1" in xml for xml in parsed)
        one = changed.pop(vm_uuid(1))
        assert one.config is not None
        assert len(one.config.entries) == 2
        assert one.live == first[vm_uuid(1)].live
        assert changed == {uuid: domain for uuid, domain in first.items() if uuid != vm_uuid(1)}

        # What is gone is forgotten.
        assert set(port._domains._said) == set(first)
        await other_tool(daemon.uri(), lambda connection: connection.lookupByName("vm4").destroy())
        await port.domains()
        assert set(port._domains._said) == set(first) - {vm_uuid(4)}
