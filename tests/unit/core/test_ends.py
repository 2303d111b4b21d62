"""What a caller waits for at the end of an operation, and before it: no read that tells nothing of what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from hostdevd.core import engine
from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import AssignmentState
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import HostUseKind, PciFacts
from hostdevd.core.ports import HostdevSpec, Target
from hostdevd.virt.xml.hostdev import build_hostdev
from unit.core.rig import HeldCall, Machine, Shape, machine

ATTACHED, DETACHED = AssignmentState.ATTACHED, AssignmentState.DETACHED
VFIO_USER = HostUseKind.VFIO_USER


class Held:
    """Reads of the host's uses that do not end before they may."""

    def __init__(self, on: Machine, patched: pytest.MonkeyPatch) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()
        good = on.sim.host.uses

        async def uses(_: object) -> object:
            self.asked.set()
            await self.may.wait()
            return await good()

        patched.setattr(on.sim.host, "uses", uses)


async def test_an_attach_and_a_detach_end_before_the_hosts_uses_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on: Machine
    reads: list[Held] = []

    async def hold(call: str, arguments: Mapping[str, object]) -> None:
        if call == "attach" and arguments["target"] is Target.LIVE:  # the last look is over
            reads.append(Held(on, monkeypatch))

    async with machine(tmp_path, before_call=hold) as on:
        async with asyncio.timeout(5):
            held = await on.attach(Shape("nic_single"))
            done = await on.detach(held.name)
        assert (held.state, done.state) == (ATTACHED, DETACHED)
        await asyncio.wait_for(reads[0].asked.wait(), 5)  # and they are read all the same
        assert on.core.store.devices[on.name("nic_single")].eligibility.available
        for one in reads:
            one.may.set()


async def test_what_stays_on_vfio_is_looked_at_before_its_detach_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        held = await on.attach(Shape("nic_single"))
        reads = Held(on, monkeypatch)
        detach = asyncio.create_task(on.detach(held.name))
        await asyncio.wait_for(reads.asked.wait(), 5)
        await asyncio.sleep(0.1)
        assert not detach.done()
        reads.may.set()
        assert (await detach).state is DETACHED


async def test_a_use_of_a_vfio_driver_ends_with_the_driver(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        name = on.name("nic_single")

        def kinds() -> set[HostUseKind]:
            return {use.kind for use in on.core.store.devices[name].host_uses}

        for detail, bound, told in (
            ("vfio-pci", "vfio-pci", {VFIO_USER}),
            ("vfio-pci", "e1000e", set()),
            ("uio_pci_generic", "uio_pci_generic", {VFIO_USER}),
        ):
            on.sim.controls.remove_uses(name)
            on.sim.controls.set_driver(name, bound)
            on.sim.controls.add_use(name, VFIO_USER, detail)
            await on.core.engine.fresh()
            assert kinds() == told, (detail, bound)


async def test_a_detach_waits_for_the_service_that_gives_back_as_long_as_its_caller_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PATIENCE_S", 0.05)
    reattach = HeldCall("nodedev_reattach")
    async with machine(tmp_path, before_call=reattach) as on:
        held = await on.attach(Shape("nic_single"))
        on.sim.controls.destroy_domain("alpha")
        await reattach.going.wait()
        detach = asyncio.create_task(on.detach(held.name, wait_s=30.0))
        await asyncio.sleep(0.2)
        assert not detach.done()
        reattach.may.set()
        assert (await detach).state is DETACHED


class Reads:
    """For `before_call`: the VMs that libvirt was asked about, one by one."""

    def __init__(self) -> None:
        self.of: list[object] = []

    async def __call__(self, call: str, arguments: Mapping[str, object]) -> None:
        if call == "domain":
            self.of.append(arguments["uuid"])


async def test_a_vm_is_as_it_was_read_only_until_something_is_told_of_it(tmp_path: Path) -> None:
    reads = Reads()
    async with machine(tmp_path, before_call=reads) as on:
        sync, name = on.core.sync, on.name("nic_single")
        uuid = on.sim.world.named("alpha").uuid
        since = sync.moment()
        await sync.read_domain(uuid, ChangeSource.RECONCILE)
        reads.of.clear()
        await sync.known_domain(uuid, since, ChangeSource.OPERATION)
        assert reads.of == []
        on.sim.controls.virsh_attach("alpha", by_hand(on, name), Target.LIVE)
        await asyncio.sleep(0)  # it is told, and not followed yet
        found = await sync.known_domain(uuid, since, ChangeSource.OPERATION)
        assert uuid in reads.of
        assert found is on.core.store.domains[uuid]
        assert on.held("nic_single") == {("alpha", True, False)}


async def test_a_vm_is_read_again_after_libvirt_was_away(tmp_path: Path) -> None:
    reads = Reads()
    async with machine(tmp_path, before_call=reads) as on:
        sync, uuid = on.core.sync, on.sim.world.named("alpha").uuid
        since = sync.moment()
        await sync.read_domain(uuid, ChangeSource.RECONCILE)
        on.sim.controls.disconnect()
        on.sim.controls.reconnect()
        await asyncio.sleep(0)
        reads.of.clear()
        await sync.known_domain(uuid, since, ChangeSource.OPERATION)
        assert reads.of == [uuid]


async def test_a_detach_finds_the_new_vm_that_has_the_name_of_one_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        name = on.name("nic_single")
        monkeypatch.setattr(on.sim.world, "emit", lambda _event: None)  # libvirt does not tell of it
        on.sim.controls.undefine_domain("spare")
        definition = (
            "<domain type='kvm'><name>spare</name><memory>1024</memory><os><type>hvm</type></os><devices/></domain>"
        )
        on.sim.controls.define_domain(definition)
        on.sim.controls.virsh_attach("spare", by_hand(on, name), Target.CONFIG)
        done = await on.detach(vm="spare", device=name)
        assert done.vm.uuid == on.sim.world.named("spare").uuid
        assert on.held("nic_single") == set()


def by_hand(on: Machine, name: str) -> str:
    """The element that another tool would give."""
    facts = on.core.store.devices[name].node.facts
    assert isinstance(facts, PciFacts)
    return build_hostdev(HostdevSpec("ua-by-hand", PciAddress.parse(str(facts.address)), managed=True))
