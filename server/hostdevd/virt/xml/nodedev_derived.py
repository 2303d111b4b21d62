"""Fields that the API has beside libvirt's: the familiar text of numbers that people read in hex."""

from __future__ import annotations

from collections.abc import Iterable

from hostdevd.core.addresses import PciAddress
from hostdevd.virt.xml.nodedev_classes import pci_class_name, usb_class_name
from hostdevd.virt.xml.nodedev_rules import Detail


def number(detail: Detail, name: str) -> int | None:
    """A field's number, None when it is absent."""
    value = detail.get(name)
    return value if isinstance(value, int) else None


def words(detail: Detail, name: str) -> str | None:
    """A field's text, None when it is absent."""
    value = detail.get(name)
    return value if isinstance(value, str) else None


def nested(detail: Detail, name: str) -> Detail | None:
    """A field's message, None when it is absent."""
    value = detail.get(name)
    return value if isinstance(value, dict) else None


def numbers(detail: Detail, *names: str) -> tuple[int, ...] | None:
    """All these numbers, None when one of them is absent."""
    found = [value for value in map(detail.get, names) if isinstance(value, int)]
    return tuple(found) if len(found) == len(names) else None


def function_address(detail: Detail) -> PciAddress | None:
    """Where the PCI function is; libvirt's schema allows numbers that are no address: they are fields alone."""
    place = numbers(detail, "domain", "bus", "slot", "function")
    return None if place is None else PciAddress.of(*place)


def _vendor_product(detail: Detail) -> None:
    ids = numbers(detail, "vendor_id", "product_id")
    if ids is not None:
        detail["id"] = "{:04x}:{:04x}".format(*ids)


def pci(detail: Detail) -> None:
    """Address, id, class in hex and words, header type."""
    address = function_address(detail)
    if address is not None:
        detail["address"] = str(address)
    _vendor_product(detail)
    class_code = number(detail, "class")
    if class_code is not None:
        detail["class_id"] = f"0x{class_code:06x}"
        name = pci_class_name(class_code)
        if name is not None:
            detail["class_name"] = name
        # libvirt tells the header type of bridges only. A libvirt too old to tell the class may be too
        # old to tell a bridge, and the absence means nothing there.
        detail.setdefault("header_type", "endpoint")


usb_device = _vendor_product


def usb_interface(detail: Detail) -> None:
    """The class triple in hex, and the class's name."""
    triple = numbers(detail, "class", "subclass", "protocol")
    if triple is not None:
        detail["class_id"] = "{:02x}:{:02x}:{:02x}".format(*triple)
    interface_class = number(detail, "class")
    name = None if interface_class is None else usb_class_name(interface_class)
    if name is not None:
        detail["class_name"] = name


def scsi(detail: Detail) -> None:
    """The address, `2:0:0:0`."""
    place = numbers(detail, "host", "bus", "target", "lun")
    if place is not None:
        detail["address"] = "{}:{}:{}:{}".format(*place)


_WWN_LINKS = ("/dev/disk/by-id/wwn-", "/dev/disk/by-id/nvme-eui.", "/dev/disk/by-id/nvme-nvme.")


def storage_links(detail: Detail, devnodes: Iterable[str]) -> None:
    """The world-wide name: libvirt's XML has no element for it, udev names links by it."""
    for prefix in _WWN_LINKS:
        found = [link.removeprefix(prefix) for link in devnodes if link.startswith(prefix)]
        if found:
            detail["wwn"] = min(found)
            return


def ccw_address(detail: Detail) -> None:
    """The address in the channel subsystem, `0.0.ff02`."""
    place = numbers(detail, "cssid", "ssid", "devno")
    if place is not None:
        detail["address"] = "{:x}.{:x}.{:04x}".format(*place)


def ap_card(detail: Detail) -> None:
    """The adapter in hex, `07`."""
    adapter = number(detail, "ap_adapter")
    if adapter is not None:
        detail["address"] = f"{adapter:02x}"


def ap_queue(detail: Detail) -> None:
    """Adapter and domain in hex, `07.0038`."""
    place = numbers(detail, "ap_adapter", "ap_domain")
    if place is not None:
        detail["address"] = "{:02x}.{:04x}".format(*place)
