"""What changes without a word from the kernel, and still tells whether the host uses a device.

File systems that are mounted in another mount namespace than process 1's, what consoles stand on, and whether VFIO
devices are open. Everything else that a read of the uses looks at is announced: see `watch`.
"""

from __future__ import annotations

from collections.abc import Iterator

from hostdevd.core.drivers import is_vfio_driver
from hostdevd.host.block_uses import LISTED_FILE_SYSTEMS
from hostdevd.host.sysfs import HostTree

_PCI_DRIVERS = "/sys/bus/pci/drivers"
_CONSOLES = "/sys/class/vtconsole"

Untold = tuple[tuple[str, ...], ...]


def untold(tree: HostTree) -> Untold:
    """It, as it is now: equal to that of another moment when nothing has changed. `Unreadable` where it cannot be told.

    Some ten files and directories: a hundredth of what a read of all uses opens.
    """
    return (
        *(tuple(sorted(tree.names(f"/sys/fs/{fstype}"))) for fstype in LISTED_FILE_SYSTEMS),
        *(tuple(sorted(tree.names(f"/sys/fs/btrfs/{uuid}/devices"))) for uuid in sorted(tree.names("/sys/fs/btrfs"))),
        tuple(f"{name} {tree.value(f'{_CONSOLES}/{name}/bind')}" for name in sorted(tree.names(_CONSOLES))),
        tuple(sorted(_open_functions(tree))),
    )


def _open_functions(tree: HostTree) -> Iterator[str]:
    """Each function on a VFIO driver, with how many have it open."""
    for driver in filter(is_vfio_driver, tree.names(_PCI_DRIVERS)):
        for address in tree.names(f"{_PCI_DRIVERS}/{driver}"):
            if ":" in address:  # `bind`, `new_id` and the like are none
                yield f"{address} {tree.value(f'{_PCI_DRIVERS}/{driver}/{address}/enable')}"
