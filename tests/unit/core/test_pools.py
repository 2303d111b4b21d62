"""What a libvirt network hands out is the host's until a guest has it, and what is not known of it is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hostdevd.app import _with_libvirts
from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import Scope
from hostdevd.core.behind import catch_up
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import (
    Check,
    CheckCode,
    CheckStatus,
    DomainEntry,
    HolderVia,
    HostUse,
    HostUseKind,
    HostUses,
    NetFacts,
    Network,
    NodeDevice,
)
from hostdevd.core.pools import PoolUses, pool_uses
from hostdevd.core.ports import HypervisorGone
from hostdevd.core.store import Store
from unit.core.made import domain, entry, pci, store
from unit.core.rig import Machine, Shape, machine, until

EVENT = ChangeSource.EVENT
PF = pci("17:00.0", group=43, vfs=("17:10.0",))
VF = pci("17:10.0", group=44, pf="17:00.0")
NEW_VF = pci("17:10.2", group=45, pf="17:00.0")  # made since libvirt was asked of the PF
NIC = pci("01:00.0")
DISK = pci("02:00.0", class_code=0x010802, group=2)
ETH = NodeDevice("net_eth14", "net", PF.name, f"{PF.path}/net/eth14", facts=NetFacts("eth14"))
HOST = PF, VF, NEW_VF, NIC, DISK, ETH
USE = HostUse(HostUseKind.NETWORK_POOL, "pool")
VF_AT = PciAddress.parse("0000:17:10.0")


def pool(pf: str | None = "eth14", *addresses: str, gap: str = "") -> Network:
    return Network("pool", "u", pf, tuple(PciAddress.parse(f"0000:{at}") for at in addresses), gap)


def joined(network: Network, *devices: NodeDevice) -> PoolUses:
    return pool_uses([network], "", DeviceGraph(devices or HOST))


def given(at: PciAddress, via: HolderVia) -> DomainEntry:
    return DomainEntry(via, at, "net0", managed=True)


def fill(*networks: Network) -> Store:
    found = store()
    with found.change(EVENT):
        found.put_devices(HOST)
        found.put_networks(networks)
    return found


def codes(found: Store, device: NodeDevice) -> list[str]:
    return [reason.code for reason in found.devices[device.name].eligibility.reasons]


# --- whose functions they are --------------------------------------------------------------------------


def test_an_interfaces_pool_is_all_of_its_vfs() -> None:
    assert joined(pool()) == PoolUses({VF.name: (USE,), NEW_VF.name: (USE,)})


def test_a_pool_may_list_any_function() -> None:
    assert joined(pool(None, "01:00.0")) == PoolUses({NIC.name: (USE,)})


def test_a_function_of_two_networks_is_in_use_by_both() -> None:
    other = Network("other", "v", None, (VF_AT,))
    found = pool_uses([pool(None, "17:10.0"), other], "", DeviceGraph(HOST))
    assert found.by_device[VF.name] == (USE, HostUse(HostUseKind.NETWORK_POOL, "other"))


def test_a_listed_function_that_is_not_there_is_nobodys() -> None:
    assert joined(pool(None, "17:10.6")) == PoolUses()


def test_an_interface_that_is_not_there_leaves_a_gap_unless_the_functions_are_listed() -> None:
    (gap,) = joined(pool("eth9")).gaps
    assert "pool" in gap
    assert "eth9" in gap
    assert joined(pool("eth9", "17:10.0")) == PoolUses({VF.name: (USE,)})


def test_what_could_not_be_read_of_a_network_is_a_gap_of_network_functions() -> None:
    found = joined(pool(None, "17:10.0", gap="an address"))
    assert found.by_device == {VF.name: (USE,)}
    assert [kind for kind, _ in found.unknown] == ["net"]


# --- the store -----------------------------------------------------------------------------------------


def test_free_functions_of_a_pool_are_in_use() -> None:
    found = fill(pool())
    assert found.devices[VF.name].host_uses == (USE,)
    assert codes(found, VF) == ["HOST_IN_USE"]
    reason = found.devices[VF.name].eligibility.reasons[0]
    assert "the libvirt network pool" in reason.message
    assert "virsh net-destroy pool" in reason.remedy
    assert codes(found, NIC) == []


def test_a_pool_that_ends_frees_them() -> None:
    found = fill(pool())
    with found.change(EVENT):
        found.put_networks([])
    assert codes(found, VF) == []


def test_vfs_that_are_made_later_belong_to_the_pool() -> None:
    found = store()
    with found.change(EVENT):
        found.put_networks([pool()])
        found.put_devices([PF, ETH])
    with found.change(EVENT):
        found.put_devices([NEW_VF])
    assert codes(found, NEW_VF) == ["HOST_IN_USE"]


@pytest.mark.parametrize("via", [HolderVia.NETWORK_POOL, HolderVia.INTERFACE])
def test_a_function_that_a_guest_has_from_the_pool_is_held_and_not_in_use(via: HolderVia) -> None:
    found = fill(pool())
    with found.change(EVENT):
        found.put_domains([domain("on", (given(VF_AT, via),))])
    view = found.devices[VF.name]
    assert view.host_uses == ()
    assert [holder.via for holder in view.holders] == [via]
    assert (view.eligibility.eligible, view.eligibility.available) == (True, False)
    with found.change(EVENT):
        found.put_domains([domain("on", None)])
    assert found.devices[VF.name].host_uses == (USE,)


def test_a_configuration_takes_nothing_out_of_the_pool() -> None:
    found = fill(pool())
    with found.change(EVENT):
        found.put_domains([domain("off", None, (entry(VF_AT),))])
    assert found.devices[VF.name].host_uses == (USE,)


def test_networks_that_cannot_be_read_make_network_functions_unknown_and_keep_what_was_known() -> None:
    found = fill(pool())
    with found.change(EVENT):
        found.lose_networks("virtnetworkd is away")
    found.catch_up_some(len(found.devices))
    assert codes(found, VF) == ["HOST_IN_USE", "HOST_USE_UNKNOWN"]
    assert codes(found, NIC) == ["HOST_USE_UNKNOWN"]
    assert "virtnetworkd is away" in found.devices[NIC.name].eligibility.reasons[0].message
    assert codes(found, DISK) == []
    assert len(found.pool_gaps) == 1
    with found.change(EVENT):
        found.put_networks([])
    found.catch_up_some(len(found.devices))
    assert [*codes(found, VF), *codes(found, NIC), *found.pool_gaps] == []


def test_a_read_without_news_is_no_revision() -> None:
    found = fill(pool())
    before = found.revision
    with found.change(EVENT):
        found.put_networks([pool()])
        found.put_uses(HostUses())
    assert found.revision == before


def test_the_report_fails_with_what_is_not_known() -> None:
    fine = Check(CheckCode.HOST_USES, CheckStatus.PASS, "all seen")
    told = _with_libvirts(fine, ("the pool is not known",))
    assert (told.status, told.message) == (CheckStatus.FAIL, "the pool is not known")
    assert "virtnetworkd" in told.remedy
    bad = Check(CheckCode.HOST_USES, CheckStatus.FAIL, "no /proc", "mount it")
    both = _with_libvirts(bad, ("the pool is not known",))
    assert both.message == "no /proc; the pool is not known"
    assert both.remedy.startswith("mount it; ")
    assert _with_libvirts(fine, ()) == fine
    vfio = Check(CheckCode.VFIO, CheckStatus.PASS, "loaded")
    assert _with_libvirts(vfio, ("the pool is not known",)) == vfio


# --- a running core ------------------------------------------------------------------------------------

POOL = """<network><name>other</name><forward mode='hostdev'>
<address type='pci' domain='0' bus='1' slot='0' function='0'/></forward></network>"""
CLIENT = """<domain type='kvm'><name>client</name><memory>1024</memory>
<os><type machine='pc-q35-7.2'>hvm</type></os><devices>
<interface type='network'><mac address='52:54:00:00:00:11'/><source network='vf-pool'/></interface>
</devices></domain>"""


def uses(on: Machine, role: str) -> tuple[HostUse, ...]:
    return on.core.store.devices[on.name(role)].host_uses


def reasons(on: Machine, role: str) -> list[str]:
    return [reason.code for reason in on.core.store.devices[on.name(role)].eligibility.reasons]


async def test_the_built_in_pool_is_refused(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        for role in ("vf_pool_0", "vf_pool_1"):
            assert reasons(on, role) == ["HOST_IN_USE"]
        assert reasons(on, "nic_pf") == ["HAS_CHILD_FUNCTIONS"]
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("vf_pool_0", scope=Scope.LIVE))
        assert [reason.code for reason in refused.value.reasons] == ["HOST_IN_USE"]


async def test_networks_are_followed_by_their_events(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.destroy_network("vf-pool")
        await until(on, lambda: not uses(on, "vf_pool_0"))
        assert reasons(on, "vf_pool_0") == []
        on.sim.controls.start_network("vf-pool")
        await until(on, lambda: uses(on, "vf_pool_0"))


async def test_a_guest_gets_a_function_of_the_pool_and_gives_it_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.define_domain(CLIENT)
        on.sim.controls.start_domain("client")
        await until(on, lambda: on.held("vf_pool_0"))
        (holder,) = on.core.store.holders_of(on.name("vf_pool_0"))
        assert (holder.via, holder.live, holder.config) == (HolderVia.NETWORK_POOL, True, False)
        assert uses(on, "vf_pool_0") == ()
        assert uses(on, "vf_pool_1") == (HostUse(HostUseKind.NETWORK_POOL, "vf-pool"),)
        on.sim.controls.destroy_domain("client")
        await until(on, lambda: uses(on, "vf_pool_0"))
        assert not on.held("vf_pool_0")


async def test_a_pool_that_starts_while_an_attach_waits_keeps_its_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.define_network(POOL)
        alpha = next(one for one in on.core.store.domains.values() if one.vm.name == "alpha")
        before = on.driver("nic_single")
        async with on.core.engine._attaching._effects.giving._steps.vm_lock(alpha.vm.uuid):
            task = asyncio.create_task(on.attach(Shape("nic_single", scope=Scope.LIVE)))
            await asyncio.sleep(0.1)
            monkeypatch.setattr(on.sim.hypervisor, "_deliver", lambda _: None)  # its event is late
            on.sim.controls.start_network("other")
        with pytest.raises(HostdevError) as failed:
            await task
        assert failed.value.metadata["step"] == "HOST_DETACH"
        assert "libvirt network other" in failed.value.metadata["why"]
        assert on.driver("nic_single") == before


async def test_networks_that_fail_hide_nothing_else_and_heal(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.fail_next("networks", 38, "Failed to connect socket")
        await on.core.sync.read_all()
        await catch_up(on.core.store)
        assert reasons(on, "nic_single") == ["HOST_USE_UNKNOWN"]
        assert reasons(on, "vf_pool_0") == ["HOST_IN_USE", "HOST_USE_UNKNOWN"]
        assert reasons(on, "usb_stick") == []
        await on.core.sync.read_networks(ChangeSource.RECONCILE)
        await catch_up(on.core.store)
        assert reasons(on, "nic_single") == []


async def test_a_connection_that_breaks_is_no_gap(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        on.sim.controls.fail_next("networks", gone=True, text="end of file")
        with pytest.raises(HypervisorGone):
            await on.core.sync.read_networks(ChangeSource.RECONCILE)
        assert reasons(on, "nic_single") == []


async def test_reading_the_api_asks_libvirt_nothing(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        before = on.sim.hypervisor.call_counts()
        assert uses(on, "vf_pool_0")
        await on.sim.host.checks(on.core.sync.listed)
        assert on.sim.hypervisor.call_counts() == before
