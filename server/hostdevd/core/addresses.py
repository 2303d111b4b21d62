"""Where a device is: the addresses by which libvirt, sysfs and domain XML name it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PCI = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class PciAddress:
    """A PCI function: domain 0-0xffffffff, bus 0-255, slot 0-31, function 0-7."""

    domain: int
    bus: int
    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"

    @classmethod
    def of(cls, domain: int, bus: int, slot: int, function: int) -> PciAddress | None:
        """The address of these numbers, None when one is out of its range."""
        fits = domain <= 0xFFFFFFFF and bus <= 0xFF and slot <= 0x1F and function <= 0x7  # noqa: PLR2004
        return cls(domain, bus, slot, function) if fits and min(domain, bus, slot, function) >= 0 else None

    @classmethod
    def parse(cls, text: str) -> PciAddress:
        """Read `0000:05:01.0`; ValueError for anything else."""
        match = _PCI.fullmatch(text)
        if match is None:
            raise ValueError(f"not a PCI address: {text!r}")
        domain, bus, slot, function = (int(part, 16) for part in match.groups())
        return cls(domain, bus, slot, function)


@dataclass(frozen=True, slots=True, order=True)
class UsbAddress:
    """A USB device by where it is plugged now: both numbers change with every plug and boot."""

    bus: int
    device: int

    def __str__(self) -> str:
        return f"{self.bus:03d}:{self.device:03d}"


@dataclass(frozen=True, slots=True, order=True)
class UsbProduct:
    """Any USB device of a vendor and product: what a domain's configuration names."""

    vendor_id: int
    product_id: int

    def __str__(self) -> str:
        return f"{self.vendor_id:04x}:{self.product_id:04x}"


@dataclass(frozen=True, slots=True, order=True)
class ScsiAddress:
    """A SCSI logical unit by host, bus, target and LUN; the host's number changes between boots."""

    host: int
    bus: int
    target: int
    lun: int

    def __str__(self) -> str:
        return f"{self.host}:{self.bus}:{self.target}:{self.lun}"

    @classmethod
    def parse(cls, text: str) -> ScsiAddress:
        """Read `3:0:0:1`; ValueError for anything else."""
        host, bus, target, lun = map(int, text.split(":"))
        return cls(host, bus, target, lun)


@dataclass(frozen=True, slots=True, order=True)
class MdevUuid:
    """A mediated device by its UUID (lower case)."""

    uuid: str

    def __str__(self) -> str:
        return self.uuid


@dataclass(frozen=True, slots=True, order=True)
class BlockPath:
    """A host's block device by the path that a domain's `<disk>` names, links and all."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, order=True)
class NetworkName:
    """A libvirt network of hostdev mode: the running domain's XML tells which function it gave."""

    name: str

    def __str__(self) -> str:
        return self.name


DeviceSource = PciAddress | UsbAddress | UsbProduct | ScsiAddress | MdevUuid | BlockPath | NetworkName
"""What an entry of a domain's XML names on the host."""
