"""Adding hostdevs to a domain's two definitions, and taking them away.

Works on `<hostdev>` documents, as libvirt does: what hostdevd sends and what another tool sends take the
same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from lxml import etree

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.model import DomainEntry, HolderRole, PciFacts
from hostdevd.core.ports import DeviceRemovalFailed, DeviceRemoved, DomainChanged, HypervisorError
from hostdevd.sim.faults import ErrorNumber, device_in_use, invalid, no_alias, refusal
from hostdevd.sim.guestxml import GuestXml
from hostdevd.sim.passthrough import open_pci, prepare_pci, release
from hostdevd.sim.usbmatch import find_usb
from hostdevd.sim.world import World
from hostdevd.virt.xml.domain import find_element, hostdev_entry
from hostdevd.virt.xml.parser import XmlInvalid, parse
from hostdevd.virt.xml.sources import drive_address

# --- adding ------------------------------------------------------------------------------------------


def attach_live(world: World, uuid: str, xml: str) -> str:
    """Hot-plug a hostdev; its alias. What was bound for it is given back when that fails."""
    domain = world.running(uuid)
    hostdev, entry = _hostdev(xml)
    guest = GuestXml(domain.live or "")
    _refuse_alias_twice(guest, entry.alias)
    with world.changing():
        take_host_device(world, hostdev, entry)
        bound = prepare_pci(world, [entry])
        try:
            place(world, guest, hostdev, grow=False)
            open_pci(world, [entry])
        except HypervisorError:
            release(world, bound)
            raise
        guest.devices.append(hostdev)
        guest.set_aliases()
        with _children_of(world, entry):
            domain.live = guest.text()
        # DEVICE_ADDED.
        world.emit(DomainChanged(uuid))
    return _alias(hostdev)


def attach_config(world: World, uuid: str, xml: str) -> None:
    """Add a hostdev to the configuration; libvirt 9.0.0 tells nobody, and looks at nothing of the host."""
    domain = world.persistent(uuid)
    hostdev, entry = _hostdev(xml)
    guest = GuestXml(domain.config or "")
    _refuse_alias_twice(guest, entry.alias)
    if any(present.source == entry.source for _, present in _hostdevs(guest)):
        raise invalid("device is already in the domain configuration")
    with world.changing():
        place(world, guest, hostdev, grow=True)
        guest.devices.append(hostdev)
        guest.strip_runtime()
        domain.config = guest.text()


def place(world: World, guest: GuestXml, hostdev: etree._Element, *, grow: bool) -> None:
    """Give the hostdev its address in the guest."""
    kind = hostdev.get("type")
    if kind == "pci":
        entry = hostdev_entry(hostdev)
        device = world.kernel.pci(entry.source) if entry and isinstance(entry.source, PciAddress) else None
        facts = None if device is None else device.node.facts
        # Without the device libvirt cannot look, and takes it for an express one.
        guest.place_pci(hostdev, express=not isinstance(facts, PciFacts) or facts.express, grow=grow)
    elif kind == "mdev":
        guest.place_pci(hostdev, express=True, grow=grow)
    elif kind == "usb":
        guest.place_usb(hostdev)
    elif kind == "scsi":
        guest.check_drive(hostdev, drive_address(hostdev.find("address")) or (0, 0, 0, 0), grow=grow)


# --- what is not PCI: find it, and see that no running domain has it ------------------------------------


def take_host_device(world: World, hostdev: etree._Element, entry: DomainEntry) -> None:
    """Look for the host's USB device, LUN or mediated device, and refuse one that a running domain has."""
    check = _TAKE.get(type(entry.source))
    if check is not None:
        check(world, hostdev, entry)


def _take_usb(world: World, hostdev: etree._Element, _entry: DomainEntry) -> None:
    found = find_usb(world, hostdev)
    holder = None if found is None else world.in_use_by(found)
    if holder is not None:
        raise device_in_use("USB device", f"{found}", holder.name)


def _take_scsi(world: World, _hostdev: etree._Element, entry: DomainEntry) -> None:
    if not world.kernel.at(entry.source):
        raise refusal(
            ErrorNumber.SYSTEM_ERROR,
            f"cannot open directory '/sys/bus/scsi/devices/{entry.source}/scsi_generic': No such file or directory",
        )
    holder = world.in_use_by(entry.source)
    if holder is not None:
        raise invalid(f"SCSI device {entry.source} is already in use by other domain(s) as '{holder.name}'")


def _take_mdev(world: World, _hostdev: etree._Element, entry: DomainEntry) -> None:
    if not world.kernel.at(entry.source):
        raise refusal(ErrorNumber.DEVICE_MISSING, f"mediated device '{entry.source}' not found")
    holder = world.in_use_by(entry.source)
    if holder is not None:
        raise device_in_use("mediated device", str(entry.source), holder.name)


_TAKE: Mapping[type, Callable[[World, etree._Element, DomainEntry], None]] = {
    UsbAddress: _take_usb,
    UsbProduct: _take_usb,
    ScsiAddress: _take_scsi,
    MdevUuid: _take_mdev,
}


# --- taking away ---------------------------------------------------------------------------------------


def detach_config(world: World, uuid: str, alias: str, entry: DomainEntry | None = None) -> None:
    """Take a device out of the configuration, by alias or as the entry's element; libvirt 9.0.0 tells nobody."""
    domain = world.persistent(uuid)
    guest = GuestXml(domain.config or "")
    with world.changing():
        element = None if entry is None else find_element(guest.root, entry)
        guest.remove(_by_alias(guest, alias) if element is None else element)
        domain.config = guest.text()


def needs_the_guest(world: World, uuid: str, alias: str) -> bool:
    """Whether the guest must let go of the device before it leaves.

    PCI hotplug asks the guest. QEMU takes USB and SCSI devices away as a pulled plug would, and a reserved
    function was never in the guest.
    """
    element = _by_alias(GuestXml(world.running(uuid).live or ""), alias)
    address = element.find("address")
    return address is not None and address.get("type") == "pci"


def remove_live(world: World, uuid: str, alias: str) -> None:
    """The device leaves the guest: libvirt gives back what it bound itself, then tells the alias."""
    domain = world.running(uuid)
    guest = GuestXml(domain.live or "")
    element = _by_alias(guest, alias)
    leaving = [entry for entry in domain.live_entries() if entry.alias == alias]
    guest.remove(element)
    with world.changing():
        world.unplugging.pop((uuid, alias), None)
        for entry in leaving:
            with _children_of(world, entry):
                domain.live = guest.text()
        domain.live = guest.text()
        release(world, [entry.source for entry in leaving if isinstance(entry.source, PciAddress)])
        world.emit(DeviceRemoved(uuid, alias))
        world.emit(DomainChanged(uuid))


def refuse_unplug(world: World, uuid: str, alias: str) -> None:
    """The guest says no: the device stays, DEVICE_REMOVAL_FAILED tells the alias."""
    with world.changing():
        world.unplugging.pop((uuid, alias), None)
        world.emit(DeviceRemovalFailed(uuid, alias))


# --- small parts -----------------------------------------------------------------------------------------


def _hostdev(xml: str) -> tuple[etree._Element, DomainEntry]:
    try:
        hostdev = parse(xml)
    except XmlInvalid as error:
        raise refusal(ErrorNumber.XML_ERROR, str(error)) from error
    entry = hostdev_entry(hostdev) if hostdev.tag == "hostdev" else None
    if entry is None:
        raise refusal(ErrorNumber.XML_ERROR, "the simulated host takes a <hostdev> of type pci, usb, scsi or mdev")
    if entry.role is HolderRole.RESERVED and not isinstance(entry.source, PciAddress):
        raise refusal(ErrorNumber.XML_ERROR, "address of type 'unassigned' is supported only for PCI hostdevs")
    return hostdev, entry


def _hostdevs(guest: GuestXml) -> list[tuple[etree._Element, DomainEntry]]:
    found = ((element, hostdev_entry(element)) for element in guest.devices.iterfind("hostdev"))
    return [(element, entry) for element, entry in found if entry is not None]


def _refuse_alias_twice(guest: GuestXml, alias: str | None) -> None:
    if alias is not None and guest.by_alias(alias) is not None:
        raise refusal(ErrorNumber.XML_ERROR, f"non unique alias detected: {alias}")


def _by_alias(guest: GuestXml, alias: str) -> etree._Element:
    element = guest.by_alias(alias)
    if element is None:
        raise no_alias(alias)
    return element


def _alias(hostdev: etree._Element) -> str:
    alias = hostdev.find("alias")
    return "" if alias is None else alias.get("name", "")


def _children_of(world: World, entry: DomainEntry) -> AbstractContextManager[None]:
    """What the host built on the device may vanish, or appear, as a guest takes it or lets go."""
    names = [device.node for device in world.kernel.at(entry.source)]
    return world.kernel.watching(*names)
