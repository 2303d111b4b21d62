"""How many USB devices a guest can still take, by libvirt's count of its controllers' ports.

A definition gets hubs when its ports run out; a running guest gets "No free USB ports".
"""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from hostdevd.virt.xml.numbers import number

_PORTS: Mapping[str, int] = {
    # virDomainUSBAddressControllerModelToPorts; the UHCI companions of ICH9 lend their ports to its EHCI.
    "piix3-uhci": 2,
    "piix4-uhci": 2,
    "vt82c686b-uhci": 2,
    "ehci": 6,
    "ich9-ehci1": 6,
    "ich9-uhci1": 0,
    "ich9-uhci2": 0,
    "ich9-uhci3": 0,
    "pci-ohci": 3,
    "nec-xhci": 4,
    "qemu-xhci": 4,
    "none": 0,
}
_HUB_PORTS = 8


def free_usb_ports(devices: etree._Element) -> int | None:
    """Ports without a device on all controllers and hubs; None without a controller of a known number."""
    controllers = devices.findall("controller[@type='usb']")
    if not controllers:
        return None
    total = 0
    for controller in controllers:
        ports = number(controller.get("ports"), 0xFF)
        if ports is None:
            ports = _PORTS.get(controller.get("model", ""))
        if ports is None:
            return None
        total += ports
    total += _HUB_PORTS * sum(1 for _ in devices.iterfind("hub[@type='usb']"))
    used = {
        (address.get("bus"), address.get("port"))
        for address in devices.iterfind("*/address[@type='usb']")
        if address.get("port") is not None
    }
    return max(total - len(used), 0)
