"""What a guest has to take a device with: slots, controllers, memory, ACPI, read from its XML.

The numbers of slots are libvirt's (`virDomainPCIAddressBusSetModel` and the machine's own reservations).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lxml import etree

from hostdevd.core.model import GuestHardware, ScsiController
from hostdevd.virt.xml.guest_memory import hard_limit_bytes, hole64_bytes, memory_bytes
from hostdevd.virt.xml.guest_usb import free_usb_ports
from hostdevd.virt.xml.numbers import number
from hostdevd.virt.xml.sources import drive_address, pci_address

_PCIE_PORTS = frozenset({"pcie-root-port", "pcie-switch-downstream-port"})

_FIRST_CONVENTIONAL_SLOT: Mapping[str, int] = {
    # 0 is the host bridge, 1 the PIIX3, and libvirt keeps 2 for the primary video card.
    "pci-root": 3,
    # 0 belongs to the bridge's own hotplug controller.
    "pci-bridge": 1,
    "pcie-to-pci-bridge": 1,
}
"""Buses that take a conventional function, also while the guest runs; a dmi-to-pci-bridge does not."""

_LAST_SLOT = 31
_LAST_BUS = 255
"""`index` of a PCI controller, which libvirt also makes its `chassis`, is a bus number."""
_PCIE_MACHINES = ("q35", "virt")


@dataclass(frozen=True, slots=True)
class _Bus:
    index: int
    model: str
    hotplug: bool


def guest_hardware(domain: etree._Element) -> GuestHardware:
    """Slots and controllers of the `<domain>` element; empty ones where it does not tell."""
    os_type = domain.find("os/type")
    machine = "" if os_type is None else os_type.get("machine", "")
    facts = GuestHardware(
        machine=machine,
        pcie=_pcie_machine(machine),
        hypervisor=domain.get("type", ""),
        arch="" if os_type is None else os_type.get("arch", ""),
        acpi=domain.find("features/acpi") is not None,
        memory_bytes=memory_bytes(domain),
        hard_limit_bytes=hard_limit_bytes(domain),
    )
    devices = domain.find("devices")
    if devices is None:
        return facts
    buses = tuple(_buses(devices))
    used = frozenset(_used_slots(devices))
    return replace(
        facts,
        pcie=facts.pcie or any(bus.model == "pcie-root" for bus in buses),
        free_pcie_slots=_free_pcie_slots(buses, used),
        free_pci_slots=_free_pci_slots(buses, used),
        usb_controller=any(
            controller.get("model") != "none" for controller in devices.iterfind("controller[@type='usb']")
        ),
        scsi_controllers=tuple(_scsi_controllers(devices)),
        spare_buses=_LAST_BUS - max((bus.index for bus in buses), default=0),
        free_usb_ports=free_usb_ports(devices),
        hole64_bytes=hole64_bytes(devices),
        iommu=devices.find("iommu") is not None,
    )


def _pcie_machine(machine: str) -> bool:
    # `q35`, `pc-q35-7.2`, `virt`, `virt-7.2`, but not `s390-ccw-virtio`.
    return any(part in _PCIE_MACHINES for part in machine.split("-"))


def _buses(devices: etree._Element) -> Iterator[_Bus]:
    for controller in devices.iterfind("controller[@type='pci']"):
        index = number(controller.get("index"), _LAST_BUS)
        if index is not None:
            target = controller.find("target")
            hotplug = target is None or target.get("hotplug") != "off"
            yield _Bus(index, controller.get("model", ""), hotplug)


def _used_slots(devices: etree._Element) -> Iterator[tuple[int, int]]:
    for address in devices.iterfind("*/address[@type='pci']"):
        place = pci_address(address)
        if place is not None:
            yield place.bus, place.slot


def _free_pcie_slots(buses: tuple[_Bus, ...], used: frozenset[tuple[int, int]]) -> int:
    taken = {bus for bus, _ in used}
    return sum(bus.model in _PCIE_PORTS and bus.hotplug and bus.index not in taken for bus in buses)


def _free_pci_slots(buses: tuple[_Bus, ...], used: frozenset[tuple[int, int]]) -> int:
    return sum(
        (bus.index, slot) not in used
        for bus in buses
        if bus.hotplug and bus.model in _FIRST_CONVENTIONAL_SLOT
        for slot in range(_FIRST_CONVENTIONAL_SLOT[bus.model], _LAST_SLOT + 1)
    )


def _scsi_controllers(devices: etree._Element) -> Iterator[ScsiController]:
    drives: defaultdict[int, set[tuple[int, int, int]]] = defaultdict(set)
    for number_, *place in _scsi_drives(devices):
        drives[number_].add((place[0], place[1], place[2]))
    for controller in devices.iterfind("controller[@type='scsi']"):
        index = number(controller.get("index"), 0xFFFF_FFFF)
        if index is not None:
            yield ScsiController(index, controller.get("model", ""), frozenset(drives.get(index, ())))


def _scsi_drives(devices: etree._Element) -> Iterator[tuple[int, int, int, int]]:
    # IDE, SATA and floppy disks have drive addresses too, on controllers of their own.
    on_scsi = (
        *(disk for disk in devices.iterfind("disk") if disk.find("target[@bus='scsi']") is not None),
        *devices.iterfind("hostdev[@type='scsi']"),
    )
    for element in on_scsi:
        drive = drive_address(element.find("address"))
        if drive is not None:
            yield drive
