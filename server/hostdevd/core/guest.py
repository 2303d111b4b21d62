"""What a guest lacks to take devices (rules.md, Attach 2): looked at before anything is touched.

Slots of the right kind, controllers, hotplug, the hypervisor itself. A running guest has what it has; an
inactive definition grows PCI ports by itself, but no controllers: libvirt would add one in silence, and a
rollback would leave it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hostdevd.core.drives import free_drive, has_controller
from hostdevd.core.model import (
    Domain,
    DomainDef,
    GuestHardware,
    HolderRole,
    MdevFacts,
    PciFacts,
    Reason,
    ScsiFacts,
    UsbFacts,
)
from hostdevd.core.plan import PlannedDevice
from hostdevd.core.store import Store

_X86 = frozenset({"x86_64", "i686"})
_WITHOUT_PCI = re.compile(r"(isapc|microvm|none)\b")
_Q35_VERSION = re.compile(r"pc-q35-([0-9]+)\.([0-9]+)", re.ASCII)
_ACPI_HOTPLUG_SINCE = (6, 1)
_HYPERVISORS = frozenset({"kvm", "qemu"})
"""Domain types of libvirt's QEMU driver. VFIO needs no KVM: an emulated guest (`qemu`) takes a device too."""

_Devices = tuple[PlannedDevice, ...]


def guest_blockers(store: Store, domain: Domain, devices: _Devices) -> Iterator[Reason]:
    """What the guest lacks to take the devices, in the order of api.md; each is told once."""
    yield from _slots(domain, devices)
    yield from _controllers(store, domain, devices)
    if domain.live is not None and any(device.live and _on_pci_bus(device) for device in devices):
        yield from no_pci_hotplug(domain, domain.live.hardware)
    if domain.vm.managed_save and not domain.vm.state.active:
        yield Reason(
            "MANAGED_SAVE_PRESENT",
            domain.vm.name,
            f"{domain.vm.name} has a saved state, from which it would start without the device",
            "start and shut down the VM, or remove its saved state (virsh managedsave-remove)",
        )
    yield from _hypervisor(store, domain, devices)


def no_pci_hotplug(domain: Domain, hardware: GuestHardware) -> Iterator[Reason]:
    """Why nothing can be put on, or taken from, the PCI buses of this guest while it runs.

    QEMU tells a guest of type `pc` by ACPI, and one of type q35 too since machine version 6.1; a q35 of an
    earlier version is told by its root ports themselves. A version that does not read so (a
    distribution's) is taken for a newer one. Other architectures have ways of their own.
    """
    name = domain.vm.name
    if _WITHOUT_PCI.match(hardware.machine):
        text = f"{name} is of the machine type {hardware.machine}, which has no PCI hotplug"
        yield Reason("HOTPLUG_UNSUPPORTED", name, text, "use a VM of the machine type q35")
    elif hardware.arch in _X86 and not hardware.acpi and not _has_native_hotplug(hardware.machine):
        text = f"{name} has no ACPI, by which QEMU tells a running guest of this machine type of PCI devices"
        remedy = "add <features><acpi/></features> to its definition and restart it, or use the scope CONFIG"
        yield Reason("HOTPLUG_UNSUPPORTED", name, text, remedy)


def _has_native_hotplug(machine: str) -> bool:
    version = _Q35_VERSION.fullmatch(machine)
    return version is not None and (int(version[1]), int(version[2])) < _ACPI_HOTPLUG_SINCE


# --- PCI slots ---------------------------------------------------------------------------------------


def _slots(domain: Domain, devices: _Devices) -> Iterator[Reason]:
    live = [device for device in devices if device.live and _on_pci_bus(device)]
    if domain.live is not None and live and not _WITHOUT_PCI.match(domain.live.hardware.machine):
        yield from _live_slots(domain, domain.live.hardware, live)
    config = [device for device in devices if device.config and _on_pci_bus(device)]
    if domain.config is not None and config:
        yield from _config_slots(domain, domain.config.hardware, config)
    usb = sum(device.live and isinstance(device.node.facts, UsbFacts) for device in devices)
    free = domain.live.hardware.free_usb_ports if domain.live is not None else None
    if free is not None and usb > free and domain.live is not None and domain.live.hardware.usb_controller:
        text = f"{domain.vm.name} has no free USB port"
        remedy = "detach a USB device, or add a controller (or one with more ports) and restart the VM"
        yield Reason("GUEST_HAS_NO_SLOT", domain.vm.name, text, remedy)


def _on_pci_bus(device: PlannedDevice) -> bool:
    """Whether it takes a slot of the guest; what is only reserved takes none."""
    return device.role is HolderRole.VISIBLE and isinstance(device.node.facts, PciFacts | MdevFacts)


def _kinds(hardware: GuestHardware, devices: list[PlannedDevice]) -> tuple[int, int]:
    """How many express and how many conventional slots the devices take."""
    # A mediated device has no capability to look at; libvirt takes it for an express one.
    express = sum(not isinstance(facts := device.node.facts, PciFacts) or facts.express for device in devices)
    return (express, len(devices) - express) if hardware.pcie else (0, len(devices))


def _live_slots(domain: Domain, hardware: GuestHardware, devices: list[PlannedDevice]) -> Iterator[Reason]:
    express, conventional = _kinds(hardware, devices)
    bridge = "pcie-to-pci-bridge" if hardware.pcie else "pci-bridge"
    for needed, free, kind, remedy in (
        (express, hardware.free_pcie_slots, "PCI Express", "add pcie-root-port controllers and restart the VM"),
        (conventional, hardware.free_pci_slots, "conventional PCI", f"add a {bridge} controller and restart the VM"),
    ):
        if needed > free:
            text = f"{domain.vm.name} has {free} free {kind} slots, {needed} are needed"
            yield Reason("GUEST_HAS_NO_SLOT", domain.vm.name, text, remedy)


def _config_slots(domain: Domain, hardware: GuestHardware, devices: list[PlannedDevice]) -> Iterator[Reason]:
    """An inactive definition gets the ports that it lacks, until the bus numbers are used up."""
    name = domain.vm.name
    if _WITHOUT_PCI.match(hardware.machine):
        text = f"the machine type {hardware.machine} of {name} has no PCI bus"
        yield Reason("GUEST_HAS_NO_SLOT", name, text, "use a VM of the machine type q35")
        return
    express, conventional = _kinds(hardware, devices)
    ports = max(express - hardware.free_pcie_slots, 0)
    if conventional > hardware.free_pci_slots:
        # One bridge has room for more than any group has; in a q35 it stands in a port of its own.
        ports += 2 if hardware.pcie else 1
    if ports > hardware.spare_buses:
        text = f"the configuration of {name} has no bus number left for the {ports} PCI controllers that it lacks"
        yield Reason("GUEST_HAS_NO_SLOT", name, text, "remove controllers or devices that the VM does not need")


# --- controllers -------------------------------------------------------------------------------------


def _controllers(store: Store, domain: Domain, devices: _Devices) -> Iterator[Reason]:
    name = domain.vm.name
    if any(not one.hardware.usb_controller for one in _used_by(domain, devices, UsbFacts)):
        yield Reason("GUEST_HAS_NO_CONTROLLER", name, f"{name} has no USB controller", "add one (qemu-xhci)")
    lun = _used_by(domain, devices, ScsiFacts)
    remedy = "add a SCSI controller of model virtio-scsi"
    if any(not has_controller(one) for one in lun):
        yield Reason("GUEST_HAS_NO_CONTROLLER", name, f"{name} has no virtio-scsi controller", remedy)
    elif lun and free_drive(domain) is None and not _holds_any(store, domain, devices):
        text = f"no virtio-scsi controller that {name} has now and in its configuration has a free unit"
        yield Reason("GUEST_HAS_NO_CONTROLLER", name, text, remedy)


def _used_by(domain: Domain, devices: _Devices, kind: type[UsbFacts | ScsiFacts]) -> list[DomainDef]:
    """The definitions that get a device of this kind."""
    mine = [device for device in devices if isinstance(device.node.facts, kind)]
    live = domain.live if any(device.live for device in mine) else None
    config = domain.config if any(device.config for device in mine) else None
    return [definition for definition in (live, config) if definition is not None]


def _holds_any(store: Store, domain: Domain, devices: _Devices) -> bool:
    """Whether the VM has it in its other definition: it then gets the same place in this one."""
    holders = (holder for device in devices for holder in store.holders_of(device.node.name))
    return any(holder.vm.uuid == domain.vm.uuid for holder in holders)


# --- the hypervisor ----------------------------------------------------------------------------------


def _hypervisor(store: Store, domain: Domain, devices: _Devices) -> Iterator[Reason]:
    definition = domain.live or domain.config
    kind = definition.hardware.hypervisor if definition is not None else ""
    if kind and kind not in _HYPERVISORS:
        text = f"{domain.vm.name} is a domain of type {kind}; hostdevd hands devices to QEMU guests (kvm, qemu)"
        yield Reason("HYPERVISOR_UNSUPPORTED", domain.vm.name, text, "choose a VM of the type kvm")
    for device in devices:
        wanted = device.live or device.config
        facts = device.node.facts
        if wanted and isinstance(facts, ScsiFacts) and not store.has_generic_node(facts.address):
            # QEMU passes a LUN through /dev/sgN and by nothing else: that is the hypervisor's limit, neither
            # the guest's nor the LUN's, so it is no reason of eligibility.
            text = f"{device.node.name} has no SCSI generic node (/dev/sgN) on the host, through which QEMU passes it"
            yield Reason("HYPERVISOR_UNSUPPORTED", device.node.name, text, "modprobe sg, and name it in modules-load.d")
