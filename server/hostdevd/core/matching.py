"""How devices are selected by id, class and address: one notation for the API's filter and the policy file.

Each `read_...` takes what somebody wrote and returns it in normal form, where a `*` at the end stands for
anything, or raises ValueError with the words `must look like ...`. Each `..._of` tells a device's own text,
empty where it has none; `Values` compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hostdevd.core.addresses import PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.model import NodeDevice, PciFacts, ScsiFacts, UsbFacts

_ID = re.compile(r"[0-9a-f]{4}:([0-9a-f]{4}|\*)", re.IGNORECASE)
_CLASS = re.compile(r"(0x)?[0-9a-f]{1,6}", re.IGNORECASE)
_PCI_BUS = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:)\*", re.IGNORECASE)
_PCI_SLOT = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.)\*", re.IGNORECASE)
_USB = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")
_SCSI = re.compile(r"([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9}):([0-9]{1,9})")
_LAST_SLOT = 0x1F


@dataclass(frozen=True, slots=True)
class Values:
    """Alternatives: texts, and beginnings of texts. What is empty fits none of them."""

    exact: frozenset[str]
    beginnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Iterable[str]) -> Values:
        """From values in normal form."""
        given = tuple(values)
        return cls(
            frozenset(value for value in given if not value.endswith("*")),
            tuple(value[:-1] for value in given if value.endswith("*")),
        )

    def fit(self, text: str) -> bool:
        """Whether any of them fits; as quick with a thousand values as with one."""
        return text in self.exact or text.startswith(self.beginnings)


def read_id(text: str) -> str:
    """Vendor and product: `8086:100e`, or `8086:*` for all of a vendor."""
    if not _ID.fullmatch(text):
        raise ValueError("must look like 8086:100e or 8086:*")
    return text.lower()


def read_class(text: str) -> str:
    """The beginning of a PCI class code: `03`, `0c0330`, `0x0c03`; all six digits are one too."""
    if not _CLASS.fullmatch(text):
        raise ValueError("must look like up to six hexadecimal digits")
    return text.lower().removeprefix("0x") + "*"


def read_address(text: str) -> str:
    """Where a device is: PCI `0000:05:01.0`, USB `1:5` (bus, device), SCSI `2:0:0:1` (host, bus, target, LUN).

    In a PCI address one `*` may stand for all that follows: `0000:05:01.*` is every function of a slot,
    `0000:05:*` everything on a bus.
    """
    normal = _pci(text) or _usb(text) or _scsi(text)
    if normal is None:
        raise ValueError("must look like 0000:05:01.0, 0000:05:01.* or 0000:05:* (PCI), 1:5 (USB) or 2:0:0:1 (SCSI)")
    return normal


def id_of(device: NodeDevice) -> str:
    """Vendor and product of a PCI function or USB device."""
    facts = device.facts
    return f"{facts.vendor_id:04x}:{facts.product_id:04x}" if isinstance(facts, PciFacts | UsbFacts) else ""


def class_of(device: NodeDevice) -> str:
    """The six digits of a PCI function's class, where libvirt tells it."""
    facts = device.facts
    return f"{facts.class_code:06x}" if isinstance(facts, PciFacts) and facts.class_code is not None else ""


def address_of(device: NodeDevice) -> str:
    """Where a PCI function, USB device or LUN is now; the number of colons keeps them apart."""
    facts = device.facts
    return str(facts.address) if isinstance(facts, PciFacts | UsbFacts | ScsiFacts) else ""


def _pci(text: str) -> str | None:
    for pattern, rest in ((_PCI_BUS, "00.0"), (_PCI_SLOT, "0")):
        match = pattern.fullmatch(text)
        if match is not None:
            first = _function(match[1] + rest)
            return f"{first.removesuffix(rest)}*" if first is not None else None
    return _function(text)


def _function(text: str) -> str | None:
    try:
        address = PciAddress.parse(text)
    except ValueError:
        return None
    return str(address) if address.slot <= _LAST_SLOT else None


def _usb(text: str) -> str | None:
    match = _USB.fullmatch(text)
    return str(UsbAddress(*map(int, match.groups()))) if match is not None else None


def _scsi(text: str) -> str | None:
    match = _SCSI.fullmatch(text)
    return str(ScsiAddress(*map(int, match.groups()))) if match is not None else None
