"""What plans ask of the host: BARs of a function, the generic node of a LUN, the kernel's release.

`resource` of a function has one line per region, `start end flags` in hexadecimal: the first six are the BARs, what
follows is the ROM, the regions of virtual functions and a bridge's windows. Nothing but a warning hangs on
them, so what cannot be read is left out.
"""

from __future__ import annotations

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.model import Bar
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


def has_generic_node(tree: HostTree, address: ScsiAddress) -> bool:
    """Whether a LUN has a SCSI generic node, looked for where libvirt looks for its name; True if not known."""
    path = f"/sys/bus/scsi/devices/{address}"
    try:
        return not tree.exists(path) or bool(tree.names(f"{path}/scsi_generic"))
    except Unreadable:
        return True


def kernel_release(tree: HostTree) -> str:
    """The running kernel's release; empty where it cannot be told."""
    try:
        return tree.value("/proc/sys/kernel/osrelease")
    except Unreadable:
        return ""


def _bar(line: str) -> Bar | None:
    try:
        start, end, flags = (int(part, 16) for part in line.split())
    except ValueError:
        return None
    # One that the firmware found no room for starts at 0 and has its size all the same.
    if not flags & _MEMORY or end <= start:
        return None
    return Bar(end - start + 1, wide=bool(flags & _MEMORY_64))
