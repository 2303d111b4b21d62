"""What a guest's definition says of memory: how much it may have, what may be locked, its window for BARs."""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from hostdevd.virt.xml.numbers import number

_UNITS: Mapping[str, int] = {
    # virScaleInteger; without a unit it is KiB.
    "": 1 << 10,
    "b": 1,
    "byte": 1,
    "bytes": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gib": 1 << 30,
    "t": 1 << 40,
    "tib": 1 << 40,
    "p": 1 << 50,
    "pib": 1 << 50,
    "e": 1 << 60,
    "eib": 1 << 60,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "pb": 10**15,
    "eb": 10**18,
}
_MOST = (1 << 64) - 1


def memory_bytes(domain: etree._Element) -> int | None:
    """The most that the guest can have, memory devices included."""
    return _size(domain.find("memory"))


def hard_limit_bytes(domain: etree._Element) -> int | None:
    """`<memtune><hard_limit>`: where it is set libvirt takes it for the limit of locked memory, too."""
    return _size(domain.find("memtune/hard_limit"))


def hole64_bytes(devices: etree._Element) -> int | None:
    """The window above 4 GiB that the definition sets for the BARs of all devices."""
    for controller in devices.iterfind("controller[@type='pci']"):
        if controller.get("model") in {"pcie-root", "pci-root"}:
            return _size(controller.find("pcihole64"))
    return None


def _size(element: etree._Element | None) -> int | None:
    if element is None:
        return None
    value, unit = number(element.text, _MOST), _UNITS.get(element.get("unit", "").lower())
    return value * unit if value is not None and unit is not None else None
