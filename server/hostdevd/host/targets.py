"""What the host's own storage targets give to others: LIO (iSCSI, Fibre Channel and more), nvmet (NVMe over Fabrics).

Both are set up in configfs, and tell there which device each store is; nothing in sysfs does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hostdevd.host.sysfs import HostTree

_CONFIG = "/sys/kernel/config"
_LIO = f"{_CONFIG}/target/core"
_NVMET = f"{_CONFIG}/nvmet/subsystems"


@dataclass(frozen=True, slots=True)
class Store:
    """A device node or file that a target serves, and what the target calls it."""

    path: str
    target: str


def served(tree: HostTree) -> Iterator[Store]:
    """Every store by a path; `Unreadable` where configfs may not be looked at.

    Of LIO also one that is not enabled yet: its path is set right before.
    """
    for plugin in tree.names(_LIO):
        # `iblock_0`, `fileio_1`; `alua` and the like have no stores.
        for name in tree.names(f"{_LIO}/{plugin}"):
            path = tree.value(f"{_LIO}/{plugin}/{name}/udev_path")
            if path:
                yield Store(path, f"LIO {name}")
    for subsystem in tree.names(_NVMET):
        for namespace in tree.names(f"{_NVMET}/{subsystem}/namespaces"):
            at = f"{_NVMET}/{subsystem}/namespaces/{namespace}"
            # Only while it is enabled it has the device open.
            if tree.value(f"{at}/enable") == "1":
                yield Store(tree.value(f"{at}/device_path"), f"nvmet {subsystem}")
