"""Inputs in, views out: holders, uses of libvirt's own guests, frozen holders, and revisions for changes only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostdevd.core.addresses import BlockPath, PciAddress, UsbAddress, UsbProduct
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.history import ChangeSource
from hostdevd.core.holders import Held, held_by
from hostdevd.core.identity import Identities
from hostdevd.core.model import Domain, DomainEntry, HolderVia, HostUse, HostUseKind, HostUses, NodeDevice
from hostdevd.core.past import Lives
from hostdevd.core.ports import DriverState
from hostdevd.core.profiles import DEFAULT
from hostdevd.core.store import Store
from unit.core.made import Drivers, disk, domain, entry, lun, pci, store, usb

EVENT = ChangeSource.EVENT
AT = PciAddress.parse("0000:01:00.0")
NIC = pci("01:00.0")


def names(found: tuple[Held, ...]) -> dict[str, tuple[bool, bool]]:
    return {one.device: (one.live is not None, one.config is not None) for one in found}


def held(of: Domain, *devices: NodeDevice, paths: dict[str, str] | None = None) -> dict[str, tuple[bool, bool]]:
    known = paths or {}
    return names(held_by(of, DeviceGraph(devices), lambda path: (known[path],) if path in known else ()))


def fill(*devices: NodeDevice, domains: tuple[Domain, ...] = (), drivers: Drivers | None = None) -> Store:
    found = store(drivers=drivers)
    with found.change(EVENT):
        found.put_devices(devices)
        found.put_domains(domains)
    return found


# --- who holds what ------------------------------------------------------------------------------------


def test_a_shut_off_vms_configuration_holds() -> None:
    assert held(domain("off", None, (entry(AT),)), NIC) == {NIC.name: (False, True)}


def test_a_device_that_is_not_there_is_held_by_its_address() -> None:
    assert held(domain("off", None, (entry(AT),))) == {"0000:01:00.0": (False, True)}


def test_a_missing_entry_holds_nothing() -> None:
    assert held(domain("on", (entry(UsbAddress(1, 5), missing=True),)), usb("a", 5)) == {}


def test_twins_are_both_held_by_a_configuration_that_names_their_product() -> None:
    twins = usb("a", 5), usb("b", 6)
    product = entry(UsbProduct(0x1234, 1), "ua-x")
    assert held(domain("off", None, (product,)), *twins) == {"a": (False, True), "b": (False, True)}
    running = domain("on", (entry(UsbAddress(1, 6), "ua-x"),), (product,))
    assert held(running, *twins) == {"b": (True, True)}


def test_a_disk_on_a_lun_holds_the_lun() -> None:
    devices = lun("lun"), disk("block", "lun", "/dev/sdb")
    of = domain("off", None, (entry(BlockPath("/dev/sdb1")),))
    assert held(of, *devices, paths={"/dev/sdb1": "/sys/lun/block"}) == {"lun": (False, True)}


# --- the store -----------------------------------------------------------------------------------------


def test_a_holder_of_one_member_makes_the_group_unavailable() -> None:
    mate = pci("01:00.1")
    found = fill(NIC, mate, domains=(domain("off", None, (entry(AT),)),))
    assert found.devices[mate.name].eligibility.eligible
    assert not found.devices[mate.name].eligibility.available
    assert [holder.vm.name for holder in found.devices[NIC.name].holders] == ["off"]


def test_vfio_users_are_libvirts_own_guests_or_something_else() -> None:
    found = fill(NIC)
    use = HostUse(HostUseKind.VFIO_USER)
    with found.change(EVENT):
        found.put_uses(HostUses({NIC.path or "": (use,)}))
    assert found.devices[NIC.name].host_uses == (use,)
    assert not found.devices[NIC.name].eligibility.eligible
    with found.change(EVENT):
        found.put_domains([domain("on", (entry(AT),))])
    assert found.devices[NIC.name].host_uses == ()
    assert found.devices[NIC.name].eligibility.eligible


def test_a_revision_is_for_a_change() -> None:
    found = fill(NIC, domains=(domain("off", None, (entry(AT),)),))
    before = found.revision
    with found.change(EVENT):
        found.put_devices([NIC])
        found.put_domains(tuple(found.domains.values()))
        found.put_uses(HostUses())
        found.look_again([NIC.name])
    assert found.revision == before


def test_a_saved_image_is_no_change_of_who_holds_what() -> None:
    saved = domain("off", None, (entry(AT),))
    found = fill(NIC, domains=(saved,))
    before = found.revision
    with found.change(EVENT):
        found.put_domains([replace(saved, vm=replace(saved.vm, managed_save=True))])
    assert found.revision == before


def test_frozen_holders_stay_as_they_were_and_thaw_as_one_batch() -> None:
    mate = pci("01:00.1")
    on = domain("on", ())
    found = fill(NIC, mate, domains=(on,))
    uids = [found.devices[one.name].uid for one in (NIC, mate)]
    found.freeze(on.vm.uuid, uids)
    for entries in ((entry(AT),), (entry(AT), entry(PciAddress.parse("0000:01:00.1")))):
        with found.change(EVENT):
            found.put_domains([domain("on", entries)])
    assert found.holders == {}
    start = found.revision
    with found.change(ChangeSource.OPERATION):
        found.thaw(on.vm.uuid, uids)
    assert [len(batch.changes) for batch in found.holder_history.since(start)] == [2]


def test_a_driver_that_changed_is_weighed_with_the_mates_that_did_not() -> None:
    drivers, mate = Drivers(), pci("01:00.1")
    drivers.bound[PciAddress.parse("0000:01:00.1")] = DriverState(present=True, driver="x", override="x")
    found = fill(NIC, mate, drivers=drivers)
    drivers.bound[AT] = DriverState(present=True, driver=None)
    with found.change(EVENT):
        found.look_again([NIC.name])
    view = found.devices[NIC.name]
    assert view.driver is None
    assert [reason.code for reason in view.eligibility.reasons] == ["GROUP_MEMBER_INELIGIBLE"]


def test_a_group_is_viable_without_drivers_of_the_hosts() -> None:
    drivers = Drivers()
    found = fill(NIC, drivers=drivers)
    assert [group.viable for group in found.groups.values()] == [False]
    drivers.bound[AT] = DriverState(present=True, driver="vfio-pci")
    with found.change(EVENT):
        found.look_again([NIC.name])
    assert [group.viable for group in found.groups.values()] == [True]


def test_a_fault_in_the_middle_of_a_commit_loses_nothing() -> None:
    class Failing(Drivers):
        broken = False

        def __call__(self, address: PciAddress) -> DriverState:
            if self.broken:
                raise OSError("no such file")
            return super().__call__(address)

    drivers = Failing()
    found = fill(NIC, drivers=drivers)
    revision = found.revision
    drivers.broken = True
    with pytest.raises(OSError, match="no such file"), found.change(EVENT):
        found.put_domains([domain("on", (entry(AT),))])
    assert found.revision == revision
    drivers.broken = False
    with found.change(EVENT):
        pass
    assert found.revision == revision + 1
    assert [holder.vm.name for holder in found.devices[NIC.name].holders] == ["on"]
    batches = found.holder_history.since(revision)
    assert batches is not None
    assert sum(len(batch.changes) for batch in batches) == 1


def test_a_lun_is_held_as_soon_as_its_disk_has_a_name() -> None:
    """The path that the domain names leads nowhere until the disk is there; the LUN was there before."""
    known: dict[str, tuple[str, ...]] = {}
    senses = replace(store()._senses, block_paths=lambda path: known.get(path, ()))
    s = Store(senses, Identities(), DEFAULT, lives=Lives("e" * 32, "l" * 16), revision=0)
    vm = domain("vm", None, (DomainEntry(HolderVia.DISK, BlockPath("/dev/sda")),))
    with s.change(ChangeSource.EVENT):
        s.put_devices([lun("lun")])
        s.put_domains([vm])
    assert s.holders_of("lun") == ()
    known["/dev/sda"] = ("/sys/lun/sda",)
    with s.change(ChangeSource.EVENT):
        s.put_devices([disk("sda", "lun", "/dev/sda")])
    assert [holder.vm.name for holder in s.holders_of("lun")] == ["vm"]
