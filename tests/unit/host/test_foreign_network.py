"""A libvirt that lists interfaces that this host lacks is another host's: nothing that is read here counts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hostdevd.core.model import Check, CheckCode, CheckStatus, HostUses
from hostdevd.host import running
from hostdevd.host.checks import read_checks
from hostdevd.host.interfaces import foreign_interfaces
from hostdevd.host.running import RunningHost
from hostdevd.host.uses import read_uses
from unit.host.builder import HostBuilder


def lists(*answers: set[str] | None) -> Callable[[], frozenset[str] | None]:
    """What libvirt lists, one after the other, the last one for ever."""
    left = list(answers)

    def listed() -> frozenset[str] | None:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return None if answer is None else frozenset(answer)

    return listed


class Live:
    """A host that is taken for the running one; its reads are counted."""

    def __init__(self, host: HostBuilder, monkeypatch: pytest.MonkeyPatch, settle_s: float = 5.0) -> None:
        self.port = RunningHost(Path("/"))
        self.reads = 0

        def foreign(_: object, listed: frozenset[str]) -> frozenset[str]:
            return foreign_interfaces(host.tree, listed)

        def uses(_: object, foreign: frozenset[str]) -> HostUses:
            self.reads += 1
            return read_uses(host.tree, foreign)

        monkeypatch.setattr(running, "foreign_interfaces", foreign)
        monkeypatch.setattr(running, "read_uses", uses)
        monkeypatch.setattr(running, "SETTLE_S", settle_s)
        monkeypatch.setattr(running, "_LOOK_AGAIN_S", 0.01)

    async def unknown(self, *answers: set[str] | None) -> tuple[tuple[str, str], ...]:
        return (await self.port.uses(lists(*answers))).unknown


def test_what_libvirt_lists_and_the_host_has_is_not_foreign(host: HostBuilder) -> None:
    host.nic("eth0")
    assert foreign_interfaces(host.tree, frozenset({"eth0"})) == frozenset()
    assert foreign_interfaces(host.tree, frozenset({"eth0", "eth7"})) == {"eth7"}


def test_where_the_hosts_network_cannot_be_seen_that_is_what_is_told(host: HostBuilder) -> None:
    host.unreadable("/proc/1/net/dev")
    assert foreign_interfaces(host.tree, frozenset({"eth7"})) == frozenset()
    assert [kind for kind, _ in host.uses().unknown] == ["net"]


def test_a_foreign_interface_makes_everything_unknown_by_name(host: HostBuilder) -> None:
    ((kind, message),) = read_uses(host.tree, frozenset({"eth7", "eth1"})).unknown
    assert kind == "pci"
    assert "eth1, eth7" in message
    ((_, message),) = read_uses(host.tree, frozenset(f"veth{n}" for n in range(9))).unknown
    assert message.count("veth") == 5
    assert "4 more" in message


def test_the_report_fails_with_a_remedy(host: HostBuilder) -> None:
    checks = read_checks(host.tree, read_uses(host.tree, frozenset({"eth7"})))
    told: Check = next(check for check in checks if check.code is CheckCode.HOST_USES)
    assert told.status is CheckStatus.FAIL
    assert "eth7" in told.message
    assert "network namespace" in told.remedy


async def test_a_rename_that_libvirt_tells_a_little_later_refuses_nothing(
    host: HostBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.nic("eth0")
    live = Live(host, monkeypatch)
    assert await live.unknown({"eth0"}) == ()
    assert await live.unknown({"eth0", "old"}, {"eth0", "old"}, {"eth0"}) == ()
    assert live.reads == 4


async def test_what_stays_is_told_waited_for_once_and_heals_at_once(
    host: HostBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live(host, monkeypatch, settle_s=0.1)
    assert await live.unknown(set()) == ()
    (gap,) = await live.unknown({"eth7"})
    assert "eth7" in gap[1]
    before = live.reads
    assert 2 < before < 16  # at a pace, not as fast as it can
    assert await live.unknown({"eth7"}) == (gap,)
    assert live.reads == before + 1
    host.nic("eth7")
    assert await live.unknown({"eth7"}) == ()
    assert live.reads == before + 2


async def test_while_libvirt_is_silent_the_last_word_stands(host: HostBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    host.nic("eth0")
    live = Live(host, monkeypatch, settle_s=0.0)
    assert await live.unknown(None) == ()
    (gap,) = await live.unknown({"eth0", "eth7"})
    assert await live.unknown(None) == (gap,)
    assert await live.unknown({"eth0"}) == ()
    assert await live.unknown(None) == ()


async def test_a_recorded_tree_is_compared_with_no_libvirt(host: HostBuilder) -> None:
    recorded = RunningHost(host.root)
    assert (await recorded.uses(lists({"eth7"}))).unknown == ()
    checks = {check.code: check.status for check in await recorded.checks(lists({"eth7"}))}
    assert checks[CheckCode.HOST_USES] is not CheckStatus.FAIL
