"""The memory regions (BARs) of a PCI function, from sysfs.

`resource` has one line per region, `start end flags` in hexadecimal: the first six are the BARs, what
follows is the ROM, the regions of virtual functions and a bridge's windows. Nothing but a warning hangs on
them, so what cannot be read is left out.
"""

from __future__ import annotations

from hostdevd.core.addresses import PciAddress
from hostdevd.core.ports import Bar
from hostdevd.host.drivers import PCI_DEVICES
from hostdevd.host.sysfs import HostTree, Unreadable

_BARS = 6
_MEMORY = 0x200
_MEMORY_64 = 0x100000
"""`IORESOURCE_MEM` and `IORESOURCE_MEM_64` of the kernel's `linux/ioport.h`."""


def read_bars(tree: HostTree, address: PciAddress) -> tuple[Bar, ...]:
    """The memory BARs of the function; never raises."""
    try:
        text = tree.value(f"{PCI_DEVICES}/{address}/resource")
    except Unreadable:
        return ()
    return tuple(bar for line in text.split("\n")[:_BARS] if (bar := _bar(line)) is not None)


def _bar(line: str) -> Bar | None:
    try:
        start, end, flags = (int(part, 16) for part in line.split())
    except ValueError:
        return None
    # One that the firmware found no room for starts at 0 and has its size all the same.
    if not flags & _MEMORY or end <= start:
        return None
    return Bar(end - start + 1, wide=bool(flags & _MEMORY_64))
