"""What an element of a domain's XML names on the host: `<source>` in each of its forms.

Each reader takes a `<source>` element and gives the address or None; none of them raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from uuid import UUID

from lxml import etree

from hostdevd.core.addresses import (
    BlockPath,
    DeviceSource,
    MdevUuid,
    PciAddress,
    ScsiAddress,
    UsbAddress,
    UsbProduct,
)
from hostdevd.virt.xml.numbers import number, numbers

SourceReader = Callable[[etree._Element], DeviceSource | None]

_SCSI_HOST = re.compile(r"scsi_host([0-9]{1,9})", re.ASCII)
_UINT = 0xFFFF_FFFF
_PATH_MAX = 4096
"""The kernel's: what is longer names no file."""
_PORT_CHARS = 32
"""A port is a few numbers with dots between them, one a hub."""


def pci_address(address: etree._Element | None) -> PciAddress | None:
    """`<address domain= bus= slot= function=/>`; the domain and function may be left out."""
    if address is None or address.get("type", "pci") != "pci":
        return None
    read = numbers(
        (
            (address.get("domain", "0"), _UINT),
            (address.get("bus"), 0xFF),
            (address.get("slot"), 0x1F),
            (address.get("function", "0"), 0x7),
        )
    )
    return None if read is None else PciAddress(*read)


def pci(source: etree._Element) -> PciAddress | None:
    """A PCI function."""
    return pci_address(source.find("address"))


def usb(source: etree._Element) -> UsbAddress | UsbProduct | None:
    """A USB device, by address where one is told: it is the more precise of the two."""
    address = source.find("address")
    if address is not None:
        place = numbers(((address.get("bus"), _UINT), (address.get("device"), _UINT)))
        # libvirt's own mark of "no address" is all zero.
        if place is not None and any(place):
            return UsbAddress(*place)
    ids = numbers(((_child(source, "vendor", "id"), 0xFFFF), (_child(source, "product", "id"), 0xFFFF)))
    return None if ids is None else UsbProduct(*ids)


def scsi(source: etree._Element) -> ScsiAddress | None:
    """A logical unit behind a host's SCSI adapter; iSCSI sources name nothing on this host."""
    adapter = _SCSI_HOST.fullmatch(_child(source, "adapter", "name") or "")
    address = source.find("address")
    if adapter is None or address is None:
        return None
    read = numbers(
        (
            (address.get("bus"), _UINT),
            (address.get("target"), _UINT),
            (address.get("unit"), 0xFFFF_FFFF_FFFF_FFFF),
        )
    )
    return None if read is None else ScsiAddress(int(adapter[1]), *read)


def mdev(source: etree._Element) -> MdevUuid | None:
    """A mediated device by its UUID."""
    try:
        return MdevUuid(str(UUID(_child(source, "address", "uuid") or "")))
    except ValueError:
        return None


def block(source: etree._Element) -> BlockPath | None:
    """A block device by its path."""
    path = source.get("dev", "")
    return BlockPath(path) if 0 < len(path) <= _PATH_MAX else None


def device_file(source: etree._Element) -> BlockPath | None:
    """A file that is a block device all the same: libvirt accepts `type='file'` for it."""
    path = source.get("file", "")
    return BlockPath(path) if path.startswith("/dev/") and len(path) <= _PATH_MAX else None


HOSTDEV: Mapping[str, SourceReader] = {"pci": pci, "usb": usb, "scsi": scsi, "mdev": mdev}
"""By the `type` of `<hostdev mode='subsystem'>`."""

DISK: Mapping[str, SourceReader] = {"block": block, "file": device_file, "nvme": pci}
"""By the `type` of `<disk>`, and of the elements that continue it (`<backingStore>`, `<mirror>`)."""


def _child(element: etree._Element, tag: str, attribute: str) -> str | None:
    child = element.find(tag)
    return None if child is None else child.get(attribute)


def drive_address(address: etree._Element | None) -> tuple[int, int, int, int] | None:
    """(controller, bus, target, unit) of `<address type='drive' …/>`."""
    if address is None or address.get("type") != "drive":
        return None
    read = numbers(tuple((address.get(key, "0"), _UINT) for key in ("controller", "bus", "target", "unit")))
    return None if read is None else (read[0], read[1], read[2], read[3])


def _pci_text(address: etree._Element) -> str | None:
    place = pci_address(address)
    return None if place is None else str(place)


def _drive_text(address: etree._Element) -> str | None:
    place = drive_address(address)
    return None if place is None else ":".join(map(str, place))


def _usb_text(address: etree._Element) -> str | None:
    bus, port = number(address.get("bus"), _UINT), address.get("port")
    return None if bus is None or not port or len(port) > _PORT_CHARS else f"{bus}:{port}"


def _ccw_text(address: etree._Element) -> str | None:
    read = numbers(((address.get("cssid"), 0xFE), (address.get("ssid"), 3), (address.get("devno"), 0xFFFF)))
    return None if read is None else "{:x}.{:x}.{:04x}".format(*read)


_GUEST: Mapping[str, Callable[[etree._Element], str | None]] = {
    "pci": _pci_text,
    "drive": _drive_text,
    "usb": _usb_text,
    "ccw": _ccw_text,
}


def guest_address(address: etree._Element | None) -> str | None:
    """A guest address as text; None where libvirt has given none or the kind has no name of its own.

    PCI `0000:07:00.0`; drive `controller:bus:target:unit`; USB `bus:port`; CCW `fe.0.0001`.
    """
    if address is None:
        return None
    read = _GUEST.get(address.get("type", ""))
    return None if read is None else read(address)
