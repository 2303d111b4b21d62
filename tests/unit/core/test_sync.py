"""The store follows the host through reads that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hostdevd.app import Ports, run_core
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import Domain, HostUseKind, HostUses, NetFacts, NodeDevice, PciFacts, undescribed
from hostdevd.core.ports import HostChanged, HypervisorGone, Listed
from hostdevd.core.sync import Pace
from hostdevd.sim.simulation import simulate
from hostdevd.virt.xml.parser import XmlInvalid
from unit.core.rig import DELAYS, PACE, FastClock, machine, until

FAULTS: list[Callable[[], Exception]] = [
    lambda: HypervisorGone("not done within 30 s"),
    lambda: XmlInvalid("malformed"),
    lambda: OSError("no such file"),
]
faults = pytest.mark.parametrize("fault", FAULTS, ids=["gone", "xml", "os"])


class FailOnce:
    """The next call of this name fails."""

    def __init__(self, call: str = "", fault: Callable[[], Exception] = FAULTS[0]) -> None:
        self.call = call
        self.fault = fault
        self.failed = False

    async def __call__(self, name: str, _arguments: Mapping[str, object]) -> None:
        if name == self.call and not self.failed:
            self.failed = True
            raise self.fault()


@faults
async def test_a_first_walk_that_fails_is_done_again(tmp_path: Path, fault: Callable[[], Exception]) -> None:
    clock = FastClock()
    sim = simulate(clock, None, None, FailOnce("domains", fault))
    async with run_core(Ports(sim.hypervisor, sim.host), tmp_path, clock, delays=DELAYS, pace=PACE) as core:
        await asyncio.wait_for(core.sync.synced.wait(), 5)


@faults
@pytest.mark.parametrize("call", ["node_device", "domain"])
async def test_what_was_told_before_a_read_that_failed_is_read(
    tmp_path: Path, fault: Callable[[], Exception], call: str
) -> None:
    before = FailOnce(fault=fault)
    async with machine(tmp_path, before_call=before) as on:
        before.call = call
        on.sim.controls.unplug_device(on.name("usb_stick"))
        alpha = next(one.vm.uuid for one in on.core.store.domains.values() if one.vm.name == "alpha")
        on.sim.controls.destroy_domain("alpha")
        await until(on, lambda: on.name("usb_stick") not in on.core.store.devices)
        async with asyncio.timeout(5):
            while on.core.store.domains[alpha].vm.state.active:  # noqa: ASYNC110  without holders it is no revision
                await asyncio.sleep(0.01)
        assert before.failed


async def test_uses_that_could_not_be_read_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as on:
        good = on.sim.host.uses
        failed: list[bool] = []

        async def uses(_: object) -> HostUses:
            if not failed:
                failed.append(True)
                raise OSError("no such file")
            return await good()

        monkeypatch.setattr(on.sim.host, "uses", uses)
        name = on.name("nic_single")
        on.sim.controls.add_use(name, HostUseKind.VFIO_USER, "(1234)")
        await until(on, lambda: not on.core.store.devices[name].eligibility.eligible)
        assert failed


async def test_the_host_is_asked_with_what_libvirt_lists_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        good, told = on.sim.host.uses, list[bool | None]()

        async def uses(listed: Listed) -> HostUses:
            while "eth1" in (listed() or ()):  # noqa: ASYNC110  as the running host does, but for ever
                await asyncio.sleep(0.001)
            told.append(True)
            return await good()

        monkeypatch.setattr(on.sim.host, "uses", uses)
        name = on.name("nic_single")
        interface = next(one.name for one in on.core.store.graph.descendants(name) if one.type == "net")
        # The kernel tells at once, libvirt a little later, and is heard while the host waits for it.
        on.core.sync._on_event(HostChanged())
        await asyncio.sleep(0.02)
        assert not told
        on.sim.controls.unplug_device(interface)
        async with asyncio.timeout(5):
            while not told:  # noqa: ASYNC110  nothing else tells
                await asyncio.sleep(0.01)


async def test_a_libvirt_that_does_not_answer_lists_nothing_known(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        assert "eth1" in (on.core.sync.listed() or ())
        on.sim.controls.disconnect()
        await asyncio.sleep(0.01)
        assert on.core.sync.listed() is None


async def test_the_first_read_is_compared_with_what_it_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FastClock()
    sim = simulate(clock, None)
    asked: list[frozenset[str] | None] = []

    async def uses(listed: Listed) -> HostUses:
        asked.append(listed())
        return HostUses(unknown=(("pci", "libvirt lists the interface eth1"),))

    monkeypatch.setattr(sim.host, "uses", uses)
    async with run_core(Ports(sim.hypervisor, sim.host), tmp_path, clock, delays=DELAYS, pace=PACE) as core:
        await core.sync.synced.wait()
        assert {"eth0", "eth1", "eth14"} <= (asked[0] or set())
        eligible = [view.name for view in core.store.devices.values() if view.eligibility.eligible]
        assert eligible == []


async def test_a_driver_override_that_changes_alone_is_noticed(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        name = on.name("nic_single")
        on.sim.controls.set_driver(name, on.driver("nic_single"), "pci-stub")
        await on.core.sync.read_uses(ChangeSource.RECONCILE)
        codes = [reason.code for reason in on.core.store.devices[name].eligibility.reasons]
        assert codes == ["DRIVER_OVERRIDE"]
        on.sim.controls.set_driver(name, on.driver("nic_single"), None)
        await on.core.sync.read_uses(ChangeSource.RECONCILE)
        assert on.core.store.devices[name].eligibility.eligible


async def test_a_domain_that_cannot_be_read_does_not_hide_the_hosts_uses(tmp_path: Path) -> None:
    clock = FastClock()
    failing = FailOnce()

    async def always(name: str, _arguments: Mapping[str, object]) -> None:
        if failing.failed and name == "domains":
            raise XmlInvalid("malformed")

    sim = simulate(clock, None, None, always)
    pace = Pace(reconcile_s=20.0, retry_s=1.0)
    async with run_core(Ports(sim.hypervisor, sim.host), tmp_path, clock, delays=DELAYS, pace=pace) as core:
        await core.sync.synced.wait()
        failing.failed = True
        await asyncio.sleep(0.1)
        name = sim.roles["nic_single"]
        synced = core.sync.synced_time
        device = sim.world.kernel.device(name)
        assert isinstance(device.node.facts, PciFacts)
        device.override = "pci-stub"  # nothing tells of it
        async with asyncio.timeout(5):
            while core.store.devices[name].eligibility.eligible:  # noqa: ASYNC110  as above
                await asyncio.sleep(0.01)
        assert core.sync.synced_time == synced


async def test_a_device_that_libvirt_could_not_describe_is_listed_and_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        name, mate = on.name("dual_0"), on.name("dual_1")
        good = on.sim.hypervisor.node_device

        async def node_device(asked: str) -> NodeDevice:
            return undescribed(asked, "cannot open config") if asked == name else await good(asked)

        monkeypatch.setattr(on.sim.hypervisor, "node_device", node_device)
        await on.core.sync._read_devices([name])
        view = on.core.store.devices[name]
        assert [one.message for one in view.node.conditions] == ["libvirt could not describe it: cannot open config"]
        assert not view.eligibility.eligible
        # Whether the mate may go is not known either.
        assert [one.code for one in on.core.store.devices[mate].eligibility.reasons] == ["GROUP_MEMBER_INELIGIBLE"]
        monkeypatch.setattr(on.sim.hypervisor, "node_device", good)
        await on.core.sync._read_unknown_devices()
        assert on.core.store.devices[name].eligibility.eligible
        assert on.core.store.devices[mate].eligibility.eligible


async def test_node_devices_that_libvirt_fell_silent_of_are_heard_again(tmp_path: Path) -> None:
    clock = FastClock()
    sim = simulate(clock, None)
    pace = Pace(reconcile_s=20.0, retry_s=1.0)
    async with run_core(Ports(sim.hypervisor, sim.host), tmp_path, clock, delays=DELAYS, pace=pace) as core:
        await core.sync.synced.wait()
        sim.hypervisor.deaf = True
        name = sim.roles["usb_stick"]
        sim.controls.unplug_device(name)
        async with asyncio.timeout(5):
            while sim.hypervisor.deaf:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.01)
        assert name not in core.store.devices
        assert core.sync.connected
        changes = [change for batch in core.store.device_history.since(0) for change in batch.changes]
        assert {change.source for change in changes if change.key == name and change.after is None} == {
            ChangeSource.RECONCILE
        }


async def test_an_answer_of_a_libvirt_that_is_gone_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as on:
        good, late = on.sim.hypervisor.domains, asyncio.Event()

        async def domains() -> Sequence[Domain]:
            found = await good()
            await late.wait()
            return [*found, replace(found[0], vm=replace(found[0].vm, uuid="0" * 32))]

        monkeypatch.setattr(on.sim.hypervisor, "domains", domains)
        reading = asyncio.create_task(on.core.sync.read_domains(ChangeSource.RECONCILE))
        await asyncio.sleep(0.01)
        monkeypatch.setattr(on.sim.hypervisor, "domains", good)
        on.sim.controls.disconnect()
        on.sim.controls.reconnect()
        await asyncio.sleep(0.01)
        await on.core.sync.synced.wait()
        late.set()
        await reading
        assert "0" * 32 not in on.core.store.domains


async def test_an_interface_that_goes_with_our_own_unbinding_is_not_another_hosts(tmp_path: Path) -> None:
    """libvirt lists it a while longer: in the lab, the next member of the group was refused for that."""
    async with machine(tmp_path) as m:
        store, sync, name = m.core.store, m.core.sync, m.name("nic_single")
        (facts,) = (node.facts for node in store.graph.descendants(name) if isinstance(node.facts, NetFacts))
        listed = sync.listed()
        assert listed is not None
        assert facts.interface in listed
        store.freeze("vm", [store.identities.uid(name)])
        assert sync.listed() == listed - {facts.interface}
        with store.change(ChangeSource.EVENT):
            store.thaw("vm", [store.identities.uid(name)])
        assert sync.listed() == listed
