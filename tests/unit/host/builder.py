"""Builds the /sys, /proc and /run of a host in a directory, in the words of the rules."""

from __future__ import annotations

import os
from pathlib import Path

from hostdevd.core.model import HostUse, HostUses
from hostdevd.host.sysfs import HostTree
from hostdevd.host.uses import read_uses

NET_DEV_HEADER = "Inter-|   Receive\n face |bytes\n"
ROUTE_HEADER = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
SWAPS_HEADER = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


class _StrictTree(HostTree):
    """One that is asked for links only where one step leads somewhere: in directories that are no links."""

    def link(self, path: str) -> str | None:
        directory = os.path.dirname(path)  # noqa: PTH120  a path of the host, not of this machine
        real = self.real(directory)
        assert real in {directory, None}, f"{directory} is {real}"  # None: it is not there
        return super().link(path)


class HostBuilder:
    """A host with nothing but an empty PCI bus, to which devices and their uses are added."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in (
            "/sys/class/block",
            "/sys/class/net",
            "/sys/bus/pci/devices",
            "/run/udev/data",
            "/dev",
        ):
            self.directory(directory)
        self.write("/proc/1/mountinfo", "22 27 0:21 / /proc rw,relatime - proc proc rw\n")
        self.write("/proc/swaps", SWAPS_HEADER)
        self.write("/proc/1/net/dev", NET_DEV_HEADER)
        self.write("/proc/1/net/route", ROUTE_HEADER)
        self.write("/proc/1/net/fib_trie", "Main:\nLocal:\n")
        self.write("/proc/1/net/ipv6_route", "")
        self.write("/proc/1/net/dev_mcast", "")
        self.write("/proc/1/net/igmp", "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n")
        self.write("/proc/1/net/if_inet6", "")
        self._minor = 0

    @property
    def tree(self) -> HostTree:
        return _StrictTree(self.root)

    def uses(self) -> HostUses:
        return read_uses(self.tree)

    def uses_of(self, path: str) -> tuple[HostUse, ...]:
        """The uses at a path, on a host where nothing is unknown."""
        uses = self.uses()
        assert uses.unknown == ()
        return uses.by_path.get(path, ())

    # --- files ---------------------------------------------------------------------------------------

    def at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def directory(self, path: str) -> str:
        self.at(path).mkdir(parents=True, exist_ok=True)
        return path

    def write(self, path: str, text: str | bytes) -> None:
        self.directory(os.path.dirname(path))  # noqa: PTH120  a path of the host, not of this machine
        self.at(path).write_bytes(text if isinstance(text, bytes) else text.encode())

    def append(self, path: str, text: str) -> None:
        self.write(path, self.at(path).read_bytes() + text.encode())

    def link(self, path: str, target: str) -> None:
        """As the kernel writes it: relative to where its directory is, which may be reached by links itself."""
        self.directory(os.path.dirname(path))  # noqa: PTH120
        self.at(path).symlink_to(os.path.relpath(self.at(target), self.at(path).parent.resolve()))

    def unreadable(self, path: str) -> None:
        """Make reading fail for root too: a link to itself cannot be opened (ELOOP)."""
        self.at(path).unlink()
        self.at(path).symlink_to(self.at(path).name)

    # --- block devices -------------------------------------------------------------------------------

    def disk(self, name: str, parent: str = "/sys/devices/pci0000:00/0000:00:05.0/host0", udev: str = "") -> str:
        """A whole disk below a controller; its sysfs path."""
        between = "" if parent.endswith(("nvme0", "nvme1")) or "/nvme-" in parent else "/block"
        return self._block(f"{parent}{between}/{name}", udev)

    def partition(self, disk: str, name: str, udev: str = "") -> str:
        path = self._block(f"{self.path_of(disk)}/{name}", udev)
        self.write(f"{path}/partition", "1\n")
        return path

    def stacked(self, name: str, *below: str, dm: tuple[str, str] | None = None) -> str:
        """A virtual block device on others; `dm` is (name, uuid) of device-mapper."""
        path = self._block(f"/sys/devices/virtual/block/{name}", None)
        for lower in below:
            self.link(f"{path}/slaves/{lower}", self.path_of(lower))
            self.link(f"{self.path_of(lower)}/holders/{name}", path)
        if dm:
            self.write(f"{path}/dm/name", f"{dm[0]}\n")
            self.write(f"{path}/dm/uuid", f"{dm[1]}\n")
        return path

    def path_of(self, block: str) -> str:
        found = self.tree.link(f"/sys/class/block/{block}")
        assert found
        return found

    def number_of(self, block: str) -> str:
        return self.tree.value(f"{self.path_of(block)}/dev")

    def mount(self, number: str, point: str, source: str = "/dev/x", fstype: str = "ext4", within: str = "/") -> None:
        line = f"27 1 {number} {within} {point} rw,relatime shared:1 - {fstype} {source} rw\n"
        self.append("/proc/1/mountinfo", line)

    def _block(self, path: str, udev: str | None) -> str:
        name = path.rpartition("/")[2]
        self._minor += 1
        number = f"8:{self._minor}"
        self.write(f"{path}/dev", f"{number}\n")
        self.directory(f"{path}/holders")
        self.directory(f"{path}/slaves")
        self.link(f"/sys/class/block/{name}", path)
        self.write(f"/dev/{name}", "")
        if udev is not None:
            self.write(f"/run/udev/data/b{number}", f"I:1234\n{udev}\n")
        return path

    # --- interfaces ----------------------------------------------------------------------------------

    def nic(self, name: str, slot: str = "0000:00:03.0") -> str:
        return self._interface(name, f"/sys/devices/pci0000:00/{slot}/net/{name}")

    def virtual_nic(self, name: str, *lower: str) -> str:
        path = self._interface(name, f"/sys/devices/virtual/net/{name}")
        for below in lower:
            self.link(f"{path}/lower_{below}", self.interface(below))
            self.link(f"{self.interface(below)}/upper_{name}", path)
        return path

    def enslave(self, name: str, master: str) -> None:
        self.link(f"{self.interface(name)}/master", self.interface(master))

    def interface(self, name: str) -> str:
        found = self.tree.link(f"/sys/class/net/{name}")
        assert found
        return found

    def address4(self, name: str, address: str, network: str, mask: str) -> None:
        """An address with its connected network; network and mask in the kernel's hex."""
        self.append("/proc/1/net/fib_trie", f"           |-- {address}\n              /32 host LOCAL\n")
        self.append("/proc/1/net/route", f"{name}\t{network}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n")

    def asked4(self, name: str, count: int) -> None:
        """So many ask an interface for what is for all hosts, itself included, as it does while it is up."""
        self.append("/proc/1/net/dev_mcast", f"3    {name:<15} {count:<5} {0:<5} 01005e000001\n")
        self.join4(name, "010000E0")

    def join4(self, name: str, group: str) -> None:
        """The host itself is in a group: the kernel's hex of a machine with the least byte first."""
        lines = f"3\t{name:<10}: {1:>5}      V3\n\t\t\t\t{group}     1 0:00000000\t\t0\n"
        self.append("/proc/1/net/igmp", lines)

    def default4(self, name: str) -> None:
        self.append("/proc/1/net/route", f"{name}\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")

    def _interface(self, name: str, path: str) -> str:
        self.write(f"{path}/ifindex", "3\n")
        self.link(f"/sys/class/net/{name}", path)
        self.append("/proc/1/net/dev", f"{name:>6}: 0 0 0 0\n")
        return path

    # --- PCI -----------------------------------------------------------------------------------------

    def function(self, address: str, driver: str | None = None, **attributes: str) -> str:
        path = self.directory(f"/sys/devices/pci0000:00/{address}")
        self.link(f"/sys/bus/pci/devices/{address}", path)
        if driver:
            self.directory(f"/sys/bus/pci/drivers/{driver}")
            self.link(f"{path}/driver", f"/sys/bus/pci/drivers/{driver}")
        for name, value in attributes.items():
            self.write(f"{path}/{name}", f"{value}\n")
        return path
