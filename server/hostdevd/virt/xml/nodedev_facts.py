"""The few typed values that the core's rules need, taken from a device's detail.

None where the detail lacks what such facts cannot be without, an address above all: the reader then adds
a condition, and the device is listed with what is known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.model import MdevFacts, NetFacts, PciFacts, ScsiFacts, StorageFacts, UsbFacts, UsbInterfaceFacts
from hostdevd.virt.xml.nodedev_derived import function_address, nested, number, numbers, words
from hostdevd.virt.xml.nodedev_rules import Detail


@dataclass(frozen=True, slots=True)
class Source:
    """What is read of a device before its facts."""

    name: str
    path: str | None
    detail: Detail


def pci(source: Source) -> PciFacts | None:
    """Without vendor or product the ids are 0: the device must keep its place in its IOMMU group."""
    detail = source.detail
    address = function_address(detail)
    if address is None:
        return None
    group = nested(detail, "iommu_group")
    phys_function = nested(detail, "phys_function")
    virt_functions = nested(detail, "virt_functions")
    vpd = nested(detail, "vpd")
    readonly = nested(vpd, "readonly") if vpd else None
    serial = words(readonly, "serial_number") if readonly else None
    pf_address = words(phys_function, "address") if phys_function else None
    return PciFacts(
        address=address,
        class_code=number(detail, "class"),
        vendor_id=number(detail, "vendor_id") or 0,
        product_id=number(detail, "product_id") or 0,
        iommu_group=number(group, "number") if group else None,
        iommu_addresses=_addresses(group.get("addresses")) if group else (),
        header_type=words(detail, "header_type"),
        express="pci_express" in detail,
        phys_function=PciAddress.parse(pf_address) if pf_address else None,
        virt_functions=_addresses(virt_functions.get("addresses")) if virt_functions else (),
        mdev_capable="mdev_types" in detail,
        vpd_serial=serial.strip() if serial else None,
        numa_node=number(detail, "numa_node"),
    )


def _addresses(found: object) -> tuple[PciAddress, ...]:
    return tuple(map(PciAddress.parse, found)) if isinstance(found, list) else ()


def usb_device(source: Source) -> UsbFacts | None:
    """Bus, device, vendor and product, all needed: by them libvirt names the device."""
    found = numbers(source.detail, "bus", "device", "vendor_id", "product_id")
    if found is None:
        return None
    bus, device, vendor_id, product_id = found
    return UsbFacts(UsbAddress(bus, device), vendor_id, product_id)


def usb_interface(source: Source) -> UsbInterfaceFacts | None:
    """The interface's class."""
    interface_class = number(source.detail, "class")
    return None if interface_class is None else UsbInterfaceFacts(interface_class)


def scsi(source: Source) -> ScsiFacts | None:
    """The whole address is needed."""
    place = numbers(source.detail, "host", "bus", "target", "lun")
    return None if place is None else ScsiFacts(ScsiAddress(*place))


_MDEV_NAME = re.compile(r"mdev_([0-9a-f]{8}(?:[_-][0-9a-f]{4}){3}[_-][0-9a-f]{12})(?:_.*)?", re.IGNORECASE)


def mdev(source: Source) -> MdevFacts | None:
    """Before libvirt 7.3 the UUID is told only by the device's name.

    A device that is defined but not started has no sysfs path and no group: libvirt writes number 0 then.
    """
    uuid = words(source.detail, "uuid")
    if uuid is None:
        match = _MDEV_NAME.fullmatch(source.name)
        if match is None:
            return None
        uuid = match[1].replace("_", "-")
    group = number(source.detail, "iommu_group") if source.path else None
    return MdevFacts(MdevUuid(uuid.strip().lower()), group)


def net(source: Source) -> NetFacts | None:
    """The MAC address in lower case: it is compared."""
    interface = words(source.detail, "interface")
    mac = words(source.detail, "address")
    return None if interface is None else NetFacts(interface, mac.lower() if mac else None)


def storage(source: Source) -> StorageFacts | None:
    """The block device with what tells one disk from another."""
    detail = source.detail
    block = words(detail, "block")
    return None if block is None else StorageFacts(block, words(detail, "serial"), words(detail, "wwn"))
