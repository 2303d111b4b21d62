"""What the host does with a PCI function itself: the boot console, and drivers in user space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hostdevd.core.addresses import PciAddress
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.model import HostUseKind
from hostdevd.host.drivers import PCI_DEVICES, driver_of, is_open
from hostdevd.host.findings import Findings
from hostdevd.host.sysfs import HostTree

_PCI = "pci"
_NET = "net"
_CARRIERS = ("/sys/bus/usb/devices", "/sys/bus/auxiliary/devices")
"""Whose interfaces lie deeper below a PCI function: a USB adapter's, and those of a network card's sub functions."""
_LENT = "(its interface is in another network namespace)"
_SHARES = frozenset({"9pnet_virtio", "virtiofs", "virtio_fs"})
_SCREEN = re.compile(r"fb\d+|card\d+")


def find_pci_uses(tree: HostTree, findings: Findings) -> None:
    """Add the uses of PCI functions, under their sysfs paths.

    `VFIO_USER` is added for every open VFIO device: which of them a VM of libvirt's holds, and so are no
    use of the host's, the core knows.
    """
    with findings.source(_PCI, "PCI functions"):
        functions = dict(_functions(tree))
        with findings.source(_PCI, "boot console"):
            _console(tree, functions, findings)
        for address, path in functions.items():
            with findings.source(_PCI, f"function {address}"):
                function = _look_at(tree, path)
                _user_space(tree, function, findings)
                _lent_interface(tree, function, findings)
                _shared_directory(tree, function, findings)
    with findings.source(_NET, "interfaces of USB devices and sub functions"):
        _lent_interfaces_below(tree, findings)


@dataclass(frozen=True, slots=True)
class _Function:
    """A PCI function's path in sysfs, its driver, what its directory holds, and the virtio devices that it carries."""

    path: str
    driver: str | None
    names: tuple[str, ...]
    virtio: tuple[str, ...]


def _look_at(tree: HostTree, path: str) -> _Function:
    # One look at the directory answers most questions: this is most of the work of a read of all uses.
    names = tree.names(path)
    driver = driver_of(tree, path) if "driver" in names else None
    carried = (name for name in names if name.startswith("virtio") and name[len("virtio") :].isdecimal())
    virtio = tuple(f"{path}/{name}" for name in carried) if driver == "virtio-pci" else ()
    return _Function(path, driver, names, virtio)


def _functions(tree: HostTree) -> Iterator[tuple[str, str]]:
    if not tree.exists(PCI_DEVICES) and tree.require_names("/sys/bus"):
        return  # a machine without PCI
    for address in tree.require_names(PCI_DEVICES):
        PciAddress.parse(address)
        path = tree.link(f"{PCI_DEVICES}/{address}")
        if path is not None:
            yield address, path


def _console(tree: HostTree, functions: Mapping[str, str], findings: Findings) -> None:
    screens = [path for kind in ("graphics", "drm") for path in _screens(tree, kind)]
    boot = [path for path in functions.values() if tree.value(f"{path}/boot_vga") == "1"]
    # The firmware's frame buffer is a platform device that tells no PCI function, and the VGA text
    # console is no device at all: both are the boot VGA's.
    firmware = any("/pci" not in path and "/devices/virtual/" not in path for path in screens)
    text = any(
        "VGA" in tree.value(f"{console}/name") and tree.value(f"{console}/bind") == "1" for console in consoles(tree)
    )
    for path in functions.values():
        own = any(screen.startswith(f"{path}/") for screen in screens)
        if path in boot and (own or firmware or text):
            findings.add((path,), HostUseKind.PRIMARY_CONSOLE)
        elif not boot and own and any("/graphics/" in screen for screen in screens if screen.startswith(f"{path}/")):
            # Without VGA the only sign of a console is a frame buffer.
            findings.add((path,), HostUseKind.PRIMARY_CONSOLE)


def _screens(tree: HostTree, kind: str) -> Iterator[str]:
    for name in tree.names(f"/sys/class/{kind}"):
        if _SCREEN.fullmatch(name):
            path = tree.link(f"/sys/class/{kind}/{name}")
            if path is not None:
                yield path


def consoles(tree: HostTree) -> Iterator[str]:
    """The sysfs paths of what the kernel's text consoles can stand on; `bind` there tells whether they do."""
    return (f"/sys/class/vtconsole/{name}" for name in tree.names("/sys/class/vtconsole"))


def _user_space(tree: HostTree, function: _Function, findings: Findings) -> None:
    driver = function.driver
    if driver is None:
        return
    if is_vfio_driver(driver):
        if is_open(tree, function.path):
            findings.add((function.path,), HostUseKind.VFIO_USER, driver)
    elif "uio" in driver.split("_") or "uio" in function.names:
        findings.add((function.path,), HostUseKind.VFIO_USER, driver)


def _lent_interface(tree: HostTree, function: _Function, findings: Findings) -> None:
    """An interface in another network namespace (a container's) leaves an empty `net` directory behind.

    Nothing that the host may read tells what it does there, so it counts as having an address.
    """
    own = [f"{function.path}/net"] if "net" in function.names else []
    for directory in (*own, *(f"{device}/net" for device in function.virtio)):
        if _is_left(tree, directory):
            findings.add((function.path,), HostUseKind.GLOBAL_ADDRESS, _LENT)


def _lent_interfaces_below(tree: HostTree, findings: Findings) -> None:
    for bus in _CARRIERS:
        for name in tree.names(bus):
            path = tree.link(f"{bus}/{name}")
            if path is not None and _is_left(tree, f"{path}/net"):
                findings.add((path,), HostUseKind.GLOBAL_ADDRESS, _LENT)


def _is_left(tree: HostTree, directory: str) -> bool:
    return tree.exists(directory) and not tree.names(directory)


def _shared_directory(tree: HostTree, function: _Function, findings: Findings) -> None:
    """A directory that an outer host shares (9p, virtiofs) counts as mounted while its driver has it.

    Mounts do not tell: below an overlay, as a root often is, the share's own mount is out of sight.
    """
    for device in function.virtio:
        if driver_of(tree, device) in _SHARES:
            tag = tree.value(f"{device}/mount_tag").rstrip("\0")
            findings.add(
                (function.path,), HostUseKind.MOUNT, f"(shared directory {tag})" if tag else "(shared directory)"
            )
