"""`<hostdev>` elements, built from a spec, and read back before anybody gets to see them.

Element builders only: no text of a caller's is ever pasted into XML. Reading back holds what libvirt would
understand against what was meant; the reader is the one that reads libvirt's own XML.
`sgio` and `rawio` are never written: 9.0.0 refuses the one, and the other gives the guest the whole bus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lxml import etree

from hostdevd.core.addresses import BlockPath, MdevUuid, NetworkName, PciAddress, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.model import DomainEntry, HolderRole
from hostdevd.core.ports import HostdevSpec
from hostdevd.virt.xml.domain import hostdev_entry
from hostdevd.virt.xml.parser import XmlInvalid, parse
from hostdevd.virt.xml.sources import drive_address, pci_address

_USER_ALIAS = re.compile(r"ua-[A-Za-z0-9_-]{1,64}", re.ASCII)

_TYPES: Mapping[type, str] = {
    PciAddress: "pci",
    UsbAddress: "usb",
    UsbProduct: "usb",
    ScsiAddress: "scsi",
    MdevUuid: "mdev",
}


def build_hostdev(spec: HostdevSpec) -> str:
    """The XML of `spec`; ValueError when it asks for what its kind of device does not have."""
    kind = _TYPES[type(spec.source)]
    _check(spec, kind)
    hostdev = etree.Element("hostdev", mode="subsystem", type=kind)
    if kind == "pci":
        hostdev.set("managed", "yes" if spec.managed else "no")
    if kind == "mdev":
        hostdev.set("model", "vfio-pci")
    source = etree.SubElement(hostdev, "source")
    if spec.optional:
        source.set("startupPolicy", "optional")
    _fill_source(source, spec)
    etree.SubElement(hostdev, "alias", name=spec.alias)
    if spec.unassigned:
        etree.SubElement(hostdev, "address", type="unassigned")
    if spec.guest is not None:
        etree.SubElement(hostdev, "address", {"type": "pci", **_pci(spec.guest)})
    if spec.drive is not None:
        names = ("controller", "bus", "target", "unit")
        places = dict(zip(names, map(str, spec.drive), strict=True))
        etree.SubElement(hostdev, "address", {"type": "drive", **places})
    xml = etree.tostring(hostdev, encoding="unicode")
    if _read_back(xml) != spec:
        raise XmlInvalid(f"what was built does not read back as {spec}: {xml}")
    return xml


def _check(spec: HostdevSpec, kind: str) -> None:
    refused = {
        "the alias is not a user alias (ua-...)": _USER_ALIAS.fullmatch(spec.alias) is None,
        "managed is for PCI": spec.managed and kind != "pci",
        "unassigned is for PCI": spec.unassigned and kind != "pci",
        "a guest's PCI address is for a PCI function that is shown": spec.guest is not None
        and (kind != "pci" or spec.unassigned),
        "optional is for USB": spec.optional and kind != "usb",
        "a SCSI device, and no other, needs a drive address": (spec.drive is None) == (kind == "scsi"),
    }
    faults = [fault for fault, holds in refused.items() if holds]
    if faults:
        raise ValueError(f"{spec}: {'; '.join(faults)}")


def _fill_source(source: etree._Element, spec: HostdevSpec) -> None:
    match spec.source:
        case PciAddress():
            etree.SubElement(source, "address", _pci(spec.source))
        case UsbAddress(bus, device):
            etree.SubElement(source, "address", bus=str(bus), device=str(device))
        case UsbProduct(vendor_id, product_id):
            etree.SubElement(source, "vendor", id=f"0x{vendor_id:04x}")
            etree.SubElement(source, "product", id=f"0x{product_id:04x}")
        case ScsiAddress(host, bus, target, lun):
            etree.SubElement(source, "adapter", name=f"scsi_host{host}")
            etree.SubElement(source, "address", bus=str(bus), target=str(target), unit=str(lun))
        case MdevUuid(uuid):
            etree.SubElement(source, "address", uuid=uuid)


def _pci(address: PciAddress) -> dict[str, str]:
    return {
        "domain": f"0x{address.domain:04x}",
        "bus": f"0x{address.bus:02x}",
        "slot": f"0x{address.slot:02x}",
        "function": f"0x{address.function:x}",
    }


def _read_back(xml: str) -> HostdevSpec | None:
    hostdev = parse(xml)
    entry: DomainEntry | None = hostdev_entry(hostdev)
    source = hostdev.find("source")
    if entry is None or source is None or isinstance(entry.source, BlockPath | NetworkName):
        return None
    return HostdevSpec(
        alias=entry.alias or "",
        source=entry.source,
        managed=entry.managed,
        unassigned=entry.role is HolderRole.RESERVED,
        optional=source.get("startupPolicy") == "optional",
        drive=drive_address(hostdev.find("address")),
        guest=pci_address(hostdev.find("address")),
    )
