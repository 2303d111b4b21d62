"""libvirt's way with host devices: look, bind, let QEMU open, give back.

Its conflict checks look at running domains only, and never at what the host uses. It binds only what a
definition names, and remembers not which driver was there but only that it bound something itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import DomainEntry, HolderRole, PciFacts
from hostdevd.core.ports import HypervisorError
from hostdevd.sim.faults import ErrorNumber, device_in_use, invalid, qemu_refused, refusal
from hostdevd.sim.kernel import VFIO, SimDevice
from hostdevd.sim.world import World

_OPEN_NOT_VIABLE = (
    "vfio {address}: group {group} is not viable\n"
    "Please ensure all devices within the iommu_group are bound to their vfio bus driver."
)


def nodedev_detach(world: World, name: str) -> None:
    """Bind a PCI function to vfio-pci, whatever the host does with it; refused while a domain has it."""
    with world.changing():
        device = world.kernel.device(name)
        address = _unused_pci(world, device)
        world.kernel.bind_vfio(device)
        world.libvirt.detached.add(address)


def nodedev_reattach(world: World, name: str) -> None:
    """Give a PCI function back to the kernel; refused while a domain has it."""
    with world.changing():
        device = world.kernel.device(name)
        address = _unused_pci(world, device)
        world.libvirt.detached.discard(address)
        world.kernel.give_back(device)


def prepare_pci(world: World, entries: Sequence[DomainEntry]) -> list[PciAddress]:
    """Check and bind the PCI functions of these entries; what was bound, nothing if it fails.

    The caller owes `release` of it when the attempt fails later.
    """
    functions = [(entry, _function(world, entry.source)) for entry in entries if isinstance(entry.source, PciAddress)]
    for entry, device in functions:
        holder = world.in_use_by(entry.source)
        if holder is not None:
            raise device_in_use("PCI device", str(entry.source), holder.name)
        if not entry.managed and device.driver != VFIO:
            raise invalid(f"Unmanaged PCI device {entry.source} must be manually detached from the host")
    bound: list[PciAddress] = []
    for _, device in functions:
        if device.driver == VFIO:
            # Found bound: it stays bound when it leaves, managed or not.
            continue
        try:
            world.kernel.bind_vfio(device)
        except HypervisorError:
            release(world, bound)
            raise
        address = _address(device)
        bound.append(address)
        world.libvirt.gives_back.add(address)
    return bound


def open_pci(world: World, entries: Iterable[DomainEntry]) -> None:
    """QEMU opens the IOMMU groups of what the guest shall see; the kernel refuses one that is not viable."""
    for entry in entries:
        if not isinstance(entry.source, PciAddress) or entry.role is not HolderRole.VISIBLE:
            continue
        device = _function(world, entry.source)
        group = world.kernel.not_viable(device)
        if group is not None:
            raise qemu_refused(_OPEN_NOT_VIABLE.format(address=entry.source, group=group))


def release(world: World, addresses: Iterable[PciAddress]) -> None:
    """Rebind, one after the other, what libvirt bound itself; it never looks at the groups."""
    for address in addresses:
        if address not in world.libvirt.gives_back:
            continue
        world.libvirt.gives_back.discard(address)
        device = world.kernel.pci(address)
        if device is not None:
            world.kernel.give_back(device)


def restart_libvirt(world: World) -> None:
    """A new daemon forgets what was nodedev-detached, and then honours managed='yes' for it again."""
    with world.changing():
        for domain in world.domains.values():
            for entry in domain.live_entries():
                if entry.managed and entry.source in world.libvirt.detached and isinstance(entry.source, PciAddress):
                    world.libvirt.gives_back.add(entry.source)
        world.libvirt.detached.clear()


def _unused_pci(world: World, device: SimDevice) -> PciAddress:
    address = _address(device)
    holder = world.in_use_by(address)
    if holder is not None:
        raise device_in_use("PCI device", str(address), holder.name)
    return address


def _address(device: SimDevice) -> PciAddress:
    if not isinstance(device.node.facts, PciFacts):
        raise refusal(ErrorNumber.INVALID_ARG, f"device {device.node.name} is not a PCI device")
    return device.node.facts.address


def _function(world: World, address: PciAddress) -> SimDevice:
    device = world.kernel.pci(address)
    if device is None:
        raise refusal(
            ErrorNumber.SYSTEM_ERROR,
            f"Device {address} not found: could not access /sys/bus/pci/devices/{address}/config: "
            "No such file or directory",
        )
    return device
