"""What changes without a word from the kernel, or before it, and still tells whether the host uses a device.

File systems that are mounted in another mount namespace than process 1's, what is about to be made of disks (links
are there before a device-mapper table is live, and a disk that is added to an md array is told of by nobody), paths of
NVMe namespaces, which are hidden, what the host's storage targets serve, udev's database, which is written before its
event, PPPoE, interfaces of other network namespaces, what consoles stand on, and whether VFIO devices are open.
Everything else that a read of the uses looks at is announced: see `watch`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hostdevd.core.drivers import is_vfio_driver
from hostdevd.host.block_uses import JOURNALS, LISTED_FILE_SYSTEMS, UDEV_DATA
from hostdevd.host.blocks import SYS_BLOCK
from hostdevd.host.elsewhere import all_hosts
from hostdevd.host.net_uses import PPPOE
from hostdevd.host.pci_uses import consoles
from hostdevd.host.sysfs import HostTree
from hostdevd.host.targets import served

_PCI_DRIVERS = "/sys/bus/pci/drivers"
_NVME = "/sys/class/nvme"
_NVME_PATH = re.compile(r"nvme\d+c\d+n\d+")

Untold = tuple[str, ...]


def untold(tree: HostTree) -> Untold:
    """It, as it is now: equal to that of another moment when nothing has changed. `Unreadable` where it cannot be told.

    A file or directory for each disk and each open VFIO device, and some ten more: a tenth of what a read of all uses
    opens.
    """
    return (
        *_listed(tree, *(f"/sys/fs/{fstype}" for fstype in LISTED_FILE_SYSTEMS), JOURNALS),
        *_listed(tree, *(f"/sys/fs/btrfs/{uuid}/devices" for uuid in tree.names("/sys/fs/btrfs"))),
        *_listed(tree, *(f"{SYS_BLOCK}/{name}/holders" for name in tree.names(SYS_BLOCK))),
        *sorted(_nvme_paths(tree)),
        *sorted(f"{store.path} {store.target}" for store in served(tree)),
        *sorted(f"{interface} {count}" for interface, count in all_hosts(tree).items()),
        f"udev {tree.changed_ns(UDEV_DATA)}",
        f"pppoe {tree.value(PPPOE)}",
        *sorted(f"{console} {tree.value(f'{console}/bind')}" for console in consoles(tree)),
        *sorted(_open_functions(tree)),
    )


def _listed(tree: HostTree, *directories: str) -> list[str]:
    return sorted(f"{directory}/{name}" for directory in directories for name in tree.names(directory))


def _nvme_paths(tree: HostTree) -> Iterator[str]:
    for controller in tree.names(_NVME):
        for name in filter(_NVME_PATH.fullmatch, tree.names(f"{_NVME}/{controller}")):
            yield f"{controller} {name}"


def _open_functions(tree: HostTree) -> Iterator[str]:
    """Each function on a VFIO driver, with how many have it open."""
    for driver in filter(is_vfio_driver, tree.names(_PCI_DRIVERS)):
        for address in tree.names(f"{_PCI_DRIVERS}/{driver}"):
            if ":" in address:  # `bind`, `new_id` and the like are none
                yield f"{address} {tree.value(f'{_PCI_DRIVERS}/{driver}/{address}/enable')}"
