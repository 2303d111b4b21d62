"""The driver of a PCI function as sysfs has it now, and whether a VFIO device is open."""

from __future__ import annotations

from collections.abc import Callable

from hostdevd.core.addresses import PciAddress
from hostdevd.core.ports import DriverState
from hostdevd.host.sysfs import HostTree, Unreadable

PCI_DEVICES = "/sys/bus/pci/devices"


def driver_of(tree: HostTree, path: str) -> str | None:
    """The name of the driver bound to the device at this sysfs path, None when there is none."""
    return tree.linked_name(f"{path}/driver")


def driver_state(tree: HostTree, address: PciAddress, override_of: Callable[[str], str]) -> DriverState:
    """Driver and override of a PCI function; `override_of` tells the latter by the address.

    An override that cannot be read is reported as `unreadable`: the rules refuse any override that is no
    vfio driver, so this fails closed.
    """
    path = f"{PCI_DEVICES}/{address}"
    try:
        if not tree.exists(path):
            return DriverState(present=False)
        driver = driver_of(tree, path)
    except Unreadable:
        return DriverState(present=True, override="unreadable")
    try:
        override = override_of(str(address))
    except Unreadable:
        return DriverState(present=True, driver=driver, override="unreadable")
    return DriverState(present=True, driver=driver, override=override or None)


def is_open(tree: HostTree, path: str) -> bool:
    """Whether somebody holds the VFIO device at this sysfs path open.

    vfio-pci enables the function when its file is opened and disables it when the last user has gone, so
    `enable` counts users. `Unreadable` when it does not say.
    """
    text = tree.value(f"{path}/enable")
    if not text.isdecimal():
        raise Unreadable(f"{path}/enable", f"no number: {text!r}")
    return int(text) != 0
