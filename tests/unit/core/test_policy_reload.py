"""A policy that is replaced while the service runs, and one that judges by drivers while they change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import AssignmentState, Scope
from hostdevd.core.behind import catch_up
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import HostUses
from hostdevd.core.policy import Policy, parse_policy
from hostdevd.core.ports import DriverState
from hostdevd.core.store import Store
from unit.core.made import Drivers, pci, store, usb
from unit.core.rig import Machine, Shape, machine, until

NIC, MATE, STICK = pci("01:00.0"), pci("01:00.1"), usb("stick", 5)
RECONCILE = ChangeSource.RECONCILE


def deny(**matchers: object) -> Policy:
    return parse_policy({"deny": [{"name": "no", **matchers}]})


def allow(**matchers: object) -> Policy:
    return parse_policy({"allow": [{"name": "yes", **matchers}]})


def fill() -> Store:
    found = store(drivers=Drivers())
    with found.change(ChangeSource.EVENT):
        found.put_devices([NIC, MATE, STICK])
    return found


def put(on: Store, policy: Policy) -> None:
    on.put_policy(policy)
    on.catch_up_some(len(on.devices))


def codes(on: Store, name: str) -> list[str]:
    return [reason.code for reason in on.devices[name].eligibility.reasons]


# --- replacing it ----------------------------------------------------------------------------------------


def test_a_new_policy_is_one_revision_with_what_it_changes() -> None:
    found = fill()
    before = found.revision
    put(found, deny(address="0000:01:00.1"))
    assert found.revision == before + 1
    (batch,) = found.device_history.since(before)
    assert {(change.key, change.source) for change in batch.changes} == {(NIC.name, RECONCILE), (MATE.name, RECONCILE)}
    assert codes(found, NIC.name) == ["GROUP_MEMBER_INELIGIBLE"]
    assert codes(found, MATE.name) == ["POLICY_DENIED"]
    assert [group.eligibility.eligible for group in found.groups.values()] == [False]
    put(found, Policy())
    assert codes(found, NIC.name) == codes(found, MATE.name) == []
    assert [group.eligibility.eligible for group in found.groups.values()] == [True]


async def test_a_policy_reaches_the_devices_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """To judge 5,000 devices takes 0.7 s, in which no call would be answered."""
    monkeypatch.setattr("hostdevd.core.behind.PORTION", 1)
    found, seen = fill(), []
    found.on_commit.append(lambda _: seen.append([codes(found, one.name) for one in (NIC, STICK)]))
    found.put_policy(deny(type="pci"))
    assert not seen
    found.put_policy(deny(type="usb_device"))
    await catch_up(found)
    assert seen == [[[], ["POLICY_DENIED"]]]
    assert not found.behind


async def test_a_fault_leaves_no_view_behind_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with machine(tmp_path) as on:
        store, looks = on.core.store, 0
        real = store._senses.driver

        def broken_once(address: PciAddress) -> DriverState:
            nonlocal looks
            looks += 1
            if looks == 30:
                raise OSError(5, "Input/output error")
            return real(address)

        monkeypatch.setattr(store, "_senses", replace(store._senses, driver=broken_once))
        store.put_policy(deny(type="pci"))
        await until(on, lambda: not store.behind)
        assert looks > 30
        assert not any(view.eligibility.eligible for view in store.devices.values() if view.node.type == "pci")


def test_a_policy_that_says_the_same_changes_nothing() -> None:
    found = fill()
    put(found, deny(uid=found.devices[STICK.name].uid))
    assert codes(found, STICK.name) == ["POLICY_DENIED"]
    before = found.revision
    put(found, deny(uid=found.devices[STICK.name].uid))
    put(found, deny(id="1234:*", comment=""))
    assert found.revision == before


def test_what_arrives_later_is_judged_by_the_policy_too() -> None:
    found = fill()
    put(found, deny(**{"class": "02"}))
    other = pci("02:00.0", group=2)
    with found.change(ChangeSource.EVENT):
        found.put_devices([other])
    assert codes(found, other.name) == ["POLICY_DENIED"]


async def test_a_denied_device_is_not_attached(tmp_path: Path) -> None:
    async with machine(tmp_path, policy=deny(driver="e1000e")) as on:
        with pytest.raises(HostdevError) as refused:
            await on.attach(Shape("nic_single"))
        assert refused.value.reason == "DEVICE_NOT_ELIGIBLE"
        assert [reason.code for reason in refused.value.reasons] == ["POLICY_DENIED"]
        put(on.core.store, Policy())
        assert (await on.attach(Shape("nic_single"))).state is AssignmentState.ATTACHED


async def test_what_is_held_when_it_is_denied_stays_and_can_be_given_back(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        held = await on.attach(Shape("nic_single"))
        put(on.core.store, deny(type="pci"))
        assert on.assignment(held.name).state is AssignmentState.ATTACHED
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        assert on.driver("nic_single") == "e1000e"


@pytest.mark.parametrize(("device", "back"), [("pci_0000_00_01_0", []), ("pci_0000_14_00_0", ["DRIVER_NOT_RESTORED"])])
async def test_what_is_accepted_is_attached_and_given_back(tmp_path: Path, device: str, back: list[str]) -> None:
    """The boot console; and a driver_override, which libvirt clears, so that the kernel's own driver follows."""
    async with machine(tmp_path, policy=allow(type="pci")) as on:
        held = await on.attach(Shape(device))
        assert held.state is AssignmentState.ATTACHED
        assert [one.code for one in (await on.detach(held.name)).conditions] == back


# --- drivers that hostdevd itself changes ----------------------------------------------------------------


def verdicts(on: Machine) -> list[tuple[str, ...]]:
    """What every later commit of the store says of the two functions of one group."""
    seen: list[tuple[str, ...]] = []

    def look(_revision: int) -> None:
        seen.extend(tuple(codes(on.core.store, on.name(role))) for role in ("dual_0", "dual_1"))

    on.core.store.on_commit.append(look)
    return seen


async def hide_the_networks_use(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    good = on.sim.host.uses

    async def uses(*_: object) -> HostUses:
        return replace(await good(), unknown=(("net", "netlink is not allowed"),))

    monkeypatch.setattr(on.sim.host, "uses", uses)
    await on.core.sync.read_uses(ChangeSource.EVENT)


async def test_a_rule_on_the_hosts_driver_fits_from_before_an_attach_to_after_its_detach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, policy=allow(driver="e1000e")) as on:
        await hide_the_networks_use(on, monkeypatch)
        seen = verdicts(on)
        held = await on.attach(Shape("dual_0", scope=Scope.LIVE))
        assert (on.driver("dual_0"), on.driver("dual_1")) == ("vfio-pci", "vfio-pci")
        await on.core.sync.read_uses(ChangeSource.RECONCILE)
        assert on.core.store.devices[on.name("dual_0")].driver == "vfio-pci"
        # The verdict counts here: what is attached is asked for in the other scope.
        assert (await on.attach(Shape("dual_0", scope=Scope.CONFIG))).name == held.name
        assert (await on.detach(held.name)).state is AssignmentState.DETACHED
        assert len(seen) > 4
        assert set(seen) == {()}


async def test_a_rule_on_the_hosts_driver_fits_while_an_attach_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(tmp_path, policy=allow(driver="e1000e")) as on:
        await hide_the_networks_use(on, monkeypatch)
        seen = verdicts(on)
        on.sim.controls.fail_next("attach", nth=2)
        with pytest.raises(HostdevError):
            await on.attach(Shape("dual_0", scope=Scope.LIVE))
        assert (on.driver("dual_0"), on.driver("dual_1")) == ("e1000e", "e1000e")
        assert set(seen) == {()}


async def test_a_rule_on_the_hosts_driver_fits_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = allow(driver="e1000e")
    async with machine(tmp_path, kept=True, policy=policy) as on:
        held = await on.attach(Shape("dual_0"))
    async with machine(tmp_path, kept=True, policy=policy) as on:
        await hide_the_networks_use(on, monkeypatch)
        assert on.driver("dual_0") == "vfio-pci"
        assert codes(on.core.store, on.name("dual_0")) == []
        await on.detach(held.name)
        assert codes(on.core.store, on.name("dual_0")) == []


async def test_what_hostdevd_binds_to_vfio_is_not_what_a_rule_on_vfio_means(tmp_path: Path) -> None:
    async with machine(tmp_path, policy=deny(driver="vfio-pci")) as on:
        seen = verdicts(on)
        await on.attach(Shape("dual_0"))
        await on.core.sync.read_uses(ChangeSource.RECONCILE)
        assert set(seen) == {()}
        # What its operator gave to vfio-pci is meant.
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        await on.core.sync.read_uses(ChangeSource.RECONCILE)
        assert codes(on.core.store, on.name("nic_single")) == ["POLICY_DENIED"]


async def test_a_device_that_is_only_configured_is_judged_by_what_is_bound(tmp_path: Path) -> None:
    async with machine(tmp_path, policy=deny(driver="vfio-pci")) as on:
        await on.attach(Shape("nic_single", "spare"))
        assert codes(on.core.store, on.name("nic_single")) == []
        on.sim.controls.bind_to_vfio(on.name("nic_single"))
        await on.core.sync.read_uses(ChangeSource.RECONCILE)
        assert codes(on.core.store, on.name("nic_single")) == ["POLICY_DENIED"]
