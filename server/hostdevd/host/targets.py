"""What the host's own storage targets give to others: LIO (iSCSI, Fibre Channel and more), nvmet (NVMe over Fabrics).

Both are set up in configfs, and tell there which device each store is; nothing in sysfs does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from hostdevd.host.sysfs import HostTree

_CONFIG = "/sys/kernel/config"
_LIO = f"{_CONFIG}/target/core"
_NVMET = f"{_CONFIG}/nvmet/subsystems"
# What the kernel has open; `udev_path` is only what whoever set it up wrote.
_LIO_BLOCK = re.compile(r"iBlock device: (\S+)")
_LIO_FILE = re.compile(r"File: (\S+)")
_CHARACTER_CLASSES = ("scsi_tape", "scsi_generic", "scsi_changer", "nvme")


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
        # `iblock_0`, `fileio_1`, `pscsi_0`; `alua` and the like have no stores.
        for name in tree.names(f"{_LIO}/{plugin}"):
            info = tree.value(f"{_LIO}/{plugin}/{name}/info")
            path = (
                _first(_LIO_BLOCK, info) or tree.value(f"{_LIO}/{plugin}/{name}/udev_path") or _first(_LIO_FILE, info)
            )
            if path:
                yield Store(os.path.join("/dev", path), f"LIO {name}")  # noqa: PTH118  a path of the host
    for subsystem in tree.names(_NVMET):
        namespaces = (f"namespaces/{number}" for number in tree.names(f"{_NVMET}/{subsystem}/namespaces"))
        for part in (*namespaces, "passthru"):
            # Only while it is enabled it has the device open.
            if tree.value(f"{_NVMET}/{subsystem}/{part}/enable") == "1":
                yield Store(tree.value(f"{_NVMET}/{subsystem}/{part}/device_path"), f"nvmet {subsystem}")


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def carrier(tree: HostTree, path: str) -> str | None:
    """The sysfs path of the device whose character node this is: a SCSI device, an NVMe controller's PCI function."""
    directory, _, name = (tree.real(path) or path).rpartition("/")
    if directory != "/dev" and not directory.startswith("/dev/"):
        return None  # a file may have any name
    for kind in _CHARACTER_CLASSES:
        found = tree.link(f"/sys/class/{kind}/{name}")
        if found is not None and f"/{kind}/" in found:
            return found.rpartition(f"/{kind}/")[0]
    return None
