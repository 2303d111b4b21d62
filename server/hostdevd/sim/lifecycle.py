"""Starting and stopping domains, and the host itself."""

from __future__ import annotations

from contextlib import suppress

from lxml import etree

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import VmState
from hostdevd.core.ports import (
    DomainChanged,
    DomainRebooted,
    DomainStarted,
    DomainStopped,
    HostChanged,
    HypervisorError,
    NodeDeviceChanged,
)
from hostdevd.sim.attachment import place, take_host_device
from hostdevd.sim.faults import ErrorNumber, invalid, refusal
from hostdevd.sim.guestxml import GuestXml
from hostdevd.sim.kernel import VFIO
from hostdevd.sim.moving import Moves, move
from hostdevd.sim.networks import give_from_pools
from hostdevd.sim.passthrough import open_pci, prepare_pci, release
from hostdevd.sim.simdomain import SimDomain
from hostdevd.sim.usbmatch import find_usb
from hostdevd.sim.world import LibvirtMemory, World
from hostdevd.virt.xml.domain import domain_def, hostdev_entry


def start(world: World, uuid: str) -> None:
    """Start a domain from its configuration: all its devices or none."""
    domain = world.domain(uuid)
    if domain.live is not None:
        raise invalid("domain is already running")
    guest = GuestXml(domain.config or "")
    with world.changing():
        give_from_pools(world, guest)
        bound = _take_devices(world, guest)
        try:
            for hostdev in guest.devices.iterfind("hostdev"):
                place(world, guest, hostdev, grow=True)
            guest.set_aliases()
            open_pci(world, domain_def(guest.text()).entries)
        except HypervisorError:
            release(world, bound)
            raise
        _run(world, domain, guest)
        world.emit(DomainStarted(uuid))
        world.emit(DomainChanged(uuid))


def stop(world: World, uuid: str) -> None:
    """The guest ends: shut down, destroyed or crashed. A transient domain is gone with it."""
    domain = world.running(uuid)
    held = [entry.source for entry in domain.live_entries()]
    nodes = [device.node for source in held for device in world.kernel.at(source)]
    with world.changing():
        for key in [key for key in world.unplugging if key[0] == uuid]:
            del world.unplugging[key]
        with world.kernel.watching(*nodes):
            domain.live, domain.state = None, VmState.SHUT_OFF
            if domain.config is None:
                del world.domains[uuid]
        release(world, [source for source in held if isinstance(source, PciAddress)])
        world.emit(DomainStopped(uuid))
        world.emit(DomainChanged(uuid))


def reboot(world: World, uuid: str) -> None:
    """The guest reboots: an unplug request that it had not answered is forgotten."""
    world.running(uuid)
    with world.changing():
        for key in [key for key in world.unplugging if key[0] == uuid]:
            del world.unplugging[key]
        world.emit(DomainRebooted(uuid))


def set_state(world: World, uuid: str, state: VmState) -> None:
    """Pause, suspend or resume a running guest."""
    domain = world.running(uuid)
    if not state.active:
        raise invalid(f"a running guest cannot be made {state}")
    with world.changing():
        domain.state = state
        world.emit(DomainChanged(uuid))


def define(world: World, domain: SimDomain, xml: str) -> None:
    """Another tool writes the configuration anew."""
    guest = GuestXml(xml)
    guest.complete()
    guest.strip_runtime()
    with world.changing():
        domain.config = guest.text()
        world.domains[domain.uuid] = domain
        world.emit(DomainChanged(domain.uuid))


def undefine(world: World, uuid: str) -> None:
    """The configuration goes; a running domain stays as a transient one."""
    domain = world.persistent(uuid)
    with world.changing():
        domain.config = None
        if domain.live is None:
            del world.domains[uuid]
        world.emit(DomainChanged(uuid))


def load(world: World, domain: SimDomain, xml: str, *, persistent: bool) -> None:
    """Put a domain of the node file into the machine, no events.

    What the file says is running is running: its devices are bound to vfio-pci as they must be, without
    asking whether they could have been attached that way.
    """
    guest = GuestXml(xml)
    guest.complete()
    for hostdev in guest.devices.iterfind("hostdev"):
        try:
            place(world, guest, hostdev, grow=True)
        except HypervisorError as error:
            raise ValueError(f"domain {domain.name!r}: {error.text}") from error
    if persistent:
        config = GuestXml(guest.text())
        config.strip_runtime()
        domain.config = config.text()
    world.domains[domain.uuid] = domain
    if not domain.state.active:
        return
    try:
        give_from_pools(world, guest)
    except HypervisorError as error:
        raise ValueError(f"domain {domain.name!r}: {error.text}") from error
    guest.set_aliases()
    for hostdev in guest.devices.iterfind("hostdev[@type='usb']"):
        _find_usb_of_running(world, hostdev)
    for entry in domain_def(guest.text()).entries:
        device = world.kernel.pci(entry.source) if isinstance(entry.source, PciAddress) else None
        if device is not None and device.driver != VFIO:
            device.driver = device.override = VFIO
            if entry.managed and isinstance(entry.source, PciAddress):
                world.libvirt.gives_back.add(entry.source)
    _run(world, domain, guest, domain.state)


def reboot_host(world: World, boot_id: str, moves: Moves) -> None:
    """The machine goes down without a word and comes up again: no guests, the boot's drivers, another boot id.

    The firmware and the kernel may count anew: `moves`.
    """
    with world.changing():
        move(world, moves)
        world.boot_id = boot_id
        world.unplugging.clear()
        world.libvirt = LibvirtMemory()
        for domain in tuple(world.domains.values()):
            domain.live, domain.state = None, VmState.SHUT_OFF
            if domain.config is None:
                del world.domains[domain.uuid]
        world.kernel.boot()
        for name in world.kernel.names():
            world.emit(NodeDeviceChanged(name))
        world.emit(HostChanged())


def _take_devices(world: World, guest: GuestXml) -> list[PciAddress]:
    for hostdev in guest.devices.iterfind("hostdev"):
        entry = hostdev_entry(hostdev)
        if entry is not None:
            take_host_device(world, hostdev, entry)
    # Read again: finding USB devices wrote addresses.
    entries = [entry for entry in domain_def(guest.text()).entries if not entry.missing]
    sources = [entry.source for entry in entries if isinstance(entry.source, PciAddress)]
    if len(set(sources)) < len(sources):
        raise refusal(ErrorNumber.XML_ERROR, "a PCI device stands twice in the definition")
    return prepare_pci(world, entries)


def _run(world: World, domain: SimDomain, guest: GuestXml, state: VmState = VmState.RUNNING) -> None:
    taken = {entry.source for entry in domain_def(guest.text()).entries}
    nodes = [device.node for source in taken for device in world.kernel.at(source)]
    used = {GuestXml(each.live).root.get("id") for each in world.domains.values() if each.live is not None}
    guest.root.set("id", str(next(n for n in range(1, len(used) + 2) if str(n) not in used)))
    with world.kernel.watching(*nodes):
        domain.live, domain.state, domain.managed_save = guest.text(), state, False


def _find_usb_of_running(world: World, hostdev: etree._Element) -> None:
    # A device that is not there, or not alone: the document stays as the file has it.
    with suppress(HypervisorError):
        find_usb(world, hostdev)
