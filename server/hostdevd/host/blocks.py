"""The graph of block devices: partitions on disks, stacks of md, dm and loop on them, NVMe namespaces.

Every node is a kernel name as in `/sys/class/block`. Questions go downwards, to the disks on which the
data lies at last; each answer is kept for the life of the graph, which is one read of the host.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from hostdevd.host.sysfs import HostTree, Unreadable

SYS_BLOCK = "/sys/class/block"
_BACKED = {"loop": "loop/backing_file", "zram": "backing_dev"}
_VIRTUAL = "/sys/devices/virtual/block/"
_NVME_HEAD = re.compile(r"(?P<subsystem>.*/nvme-subsystem/[^/]+)/nvme(?P<number>\d+)n(?P<namespace>\d+)")
_NVME_CONTROLLER = re.compile(r"nvme\d+")
_FABRICS = "/sys/devices/virtual/nvme-fabrics/"
_FABRICS_DISK = re.compile(rf"(?P<controller>{_FABRICS}.*/nvme\d+)/nvme\d+n\d+")
_FC_HOSTS = "/sys/class/fc_host"
# host_traddr=nn-0x20000090fae0b5f5:pn-0x10000090fae0b5f5: the port of this host, which `port_name` has too.
# As whoever connected it wrote it: in capitals, without 0x.
_FC_PORT = re.compile(r"host_traddr=[^,]*pn-(?:0x)?([0-9a-fA-F]+)")
_FUNCTION = re.compile(r"/sys/devices/.*/[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7](?=/)")


class BlockGraph:
    """The host's block devices, read as far as asked."""

    def __init__(self, tree: HostTree) -> None:
        self._tree = tree
        self._path: dict[str, str | None] = {}
        self._slaves: dict[str, tuple[str, ...]] = {}
        self._disks: dict[str, frozenset[str]] = {}
        self._whole: dict[str, str] = {}
        self._dm_names: dict[str, str] | None = None

    def path(self, name: str) -> str | None:
        """The sysfs path (`/sys/devices/.../block/sda/sda1`) of a kernel name, None when there is none."""
        if name not in self._path:
            self._path[name] = self._tree.link(f"{SYS_BLOCK}/{name}") if _is_name(name) else None
        return self._path[name]

    def numbers(self) -> dict[str, str]:
        """All block devices that can be opened: kernel name by `major:minor`.

        The hidden per-controller disks of a multipath NVMe namespace have no number and are not listed.
        """
        found = {}
        for name in self._tree.require_names(SYS_BLOCK):
            number = self._tree.value(f"{SYS_BLOCK}/{name}/dev")
            if number:
                found[number] = name
        return found

    def whole(self, name: str) -> str:
        """The disk of a partition; any other device itself."""
        if name not in self._whole:
            path = self.path(name)
            is_partition = path is not None and self._tree.exists(f"{path}/partition")
            self._whole[name] = path.split("/")[-2] if path and is_partition else name
        return self._whole[name]

    def slaves(self, name: str) -> tuple[str, ...]:
        """What this device is made of, one step: members of md and dm, the device behind a loop."""
        whole = self.whole(name)
        if whole not in self._slaves:
            below = self._tree.names(f"{SYS_BLOCK}/{whole}/slaves")
            if whole.startswith(tuple(_BACKED)):
                below += self._behind(whole)
            self._slaves[whole] = below
        return self._slaves[whole]

    def holders(self, name: str) -> tuple[str, ...]:
        """What is made of this very device, one step."""
        return self._tree.names(f"{SYS_BLOCK}/{name}/holders")

    def is_virtual(self, name: str) -> bool:
        """Made by the kernel out of other devices, memory, files or the network."""
        return (self.path(name) or _VIRTUAL).startswith(_VIRTUAL)

    def disks(self, name: str) -> frozenset[str]:
        """The sysfs paths of the whole disks that hold this device's data.

        For a namespace that several NVMe controllers share, also the paths of those controllers' PCI
        functions: the shared disk lies in `/sys/devices/virtual` and hangs below none of them.
        """
        if name not in self._disks:
            self._disks[name] = frozenset()  # ends a loop of links, which the kernel does not make
            try:
                below = self.slaves(name)
                self._disks[name] = (
                    frozenset[str]().union(*map(self.disks, below)) if below else self._bottom(self.whole(name))
                )
            except Unreadable:
                del self._disks[name]  # else the next who asks would be told of none
                raise
        return self._disks[name]

    def _bottom(self, disk: str) -> frozenset[str]:
        path = self.path(disk)
        if path is None:
            return frozenset()
        functions = frozenset[str]()
        with suppress(
            Unreadable
        ):  # whoever asks for all of them is told of the gap; the disk itself is used all the same
            functions = self.functions(path)
        return frozenset({path, *functions})

    def disk_paths(self) -> Iterable[str]:
        """The sysfs paths of all block devices."""
        return filter(None, map(self.path, self._tree.require_names(SYS_BLOCK)))

    def functions(self, disk: str) -> frozenset[str]:
        """The sysfs paths of the PCI functions that reach an NVMe disk which lies below none of them; `Unreadable`."""
        return frozenset[str]().union(*map(self._functions, self._controllers(disk)))

    def has_shared_namespaces(self) -> bool:
        """Whether a disk of this host is an NVMe namespace that several controllers may share, or a remote one."""
        subsystems = "/sys/class/nvme-subsystem"
        return any(path.startswith(_FABRICS) for path in self.disk_paths()) or any(
            re.fullmatch(r"nvme\d+n\d+", entry)
            for subsystem in self._tree.names(subsystems)
            for entry in self._tree.names(f"{subsystems}/{subsystem}")
        )

    def _controllers(self, path: str) -> Iterable[str]:
        """The sysfs paths of the NVMe controllers that reach a disk that lies below none of their PCI functions."""
        remote = _FABRICS_DISK.fullmatch(path)
        if remote is not None:
            return [remote["controller"]]
        head = _NVME_HEAD.fullmatch(path)
        if head is None:
            return []
        # The directory itself, by the disk's own path: the entry in /sys/class is a link to it, and the controllers
        # in it are links from there.
        directory = head["subsystem"]
        controllers = {}
        for name in filter(_NVME_CONTROLLER.fullmatch, self._tree.names(directory)):
            where = self._tree.link(f"{directory}/{name}")
            if where is not None:
                controllers[name] = where  # of one that is gone the link stays while somebody has it open
        # nvme0c1n3: namespace 3 of subsystem 0 by way of controller 1. A subsystem's controllers need not
        # have all its namespaces; where that is not told, all of them count.
        ways = {
            name
            for name, where in controllers.items()
            if self._tree.exists(f"{where}/nvme{head['number']}c{name[4:]}n{head['namespace']}")
        }
        return [controllers[name] for name in ways or controllers]

    def _functions(self, controller: str) -> frozenset[str]:
        """The PCI function of a controller; of a remote one, the adapter's that it is reached by."""
        if not controller.startswith(_FABRICS):
            return _function_of(controller)
        if self._tree.value(f"{controller}/transport") != "fc":
            return frozenset()  # reached by an interface that has an address, which is a use of its own
        address = self._tree.value(f"{controller}/address")
        told = _FC_PORT.search(address)
        port = int(told[1], 16) if told is not None else None
        for host in self._tree.names(_FC_HOSTS) if port is not None else ():
            if _number(self._tree.value(f"{_FC_HOSTS}/{host}/port_name")) == port:
                return _function_of(self._tree.link(f"{_FC_HOSTS}/{host}") or "")
        raise Unreadable(f"{controller}/address", f"{address!r} is the address of no Fibre Channel port of the host")

    def _behind(self, name: str) -> tuple[str, ...]:
        """What sysfs names in a file and not among `slaves`."""
        backing = self._tree.value(f"{SYS_BLOCK}/{name}/{_BACKED[name.rstrip('0123456789')]}")
        below = self.named(backing) if backing.startswith("/dev/") else None
        return (below,) if below else ()

    def named(self, path: str) -> str | None:
        """The kernel name of a device node by any of its paths and links; None when it is no block device.

        A sandbox may hide the nodes, so a name that `/dev` does not know is looked for in sysfs too.
        """
        if not path.startswith("/") or "\0" in path:
            return None
        real = self._tree.real(path) or os.path.normpath(path)
        name = real.removeprefix("/dev/").replace("/", "!")
        if real.startswith("/dev/") and self.path(name):
            return name
        return self._by_node(real) or self._by_dm_name(real)

    def _by_node(self, path: str) -> str | None:
        try:
            status = Path(self._tree.outer(path)).stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISBLK(status.st_mode):
            return None
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        link = self._tree.link(f"/sys/dev/block/{number}")
        return link.rpartition("/")[2] if link else None

    def _by_dm_name(self, path: str) -> str | None:
        mapped = path.removeprefix("/dev/mapper/")
        if mapped == path:
            return None
        if self._dm_names is None:
            self._dm_names = {
                self._tree.value(f"{SYS_BLOCK}/{name}/dm/name"): name
                for name in self._tree.names(SYS_BLOCK)
                if name.startswith("dm-")
            }
        return self._dm_names.get(mapped)


def block_paths(tree: HostTree, path: str) -> tuple[str, ...]:
    """The sysfs paths of the disks below a device node's path; empty when it is no block device.

    Reads only what lies on the way: some ten files. What may not be read on the way down is left out,
    but never the device itself.
    """
    graph = BlockGraph(tree)
    try:
        name = graph.named(path)
    except Unreadable:
        name = path.rpartition("/")[2]
    if name is None:
        return ()
    try:
        return tuple(sorted(graph.disks(name)))
    except Unreadable:
        own = graph.path(name)
        return (own,) if own else ()


def _function_of(path: str) -> frozenset[str]:
    """The sysfs path of the PCI function that this path is below; none where it is below none."""
    found = _FUNCTION.match(path)
    return frozenset({found[0]} if found is not None else ())


def _number(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _is_name(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and name not in {".", ".."}
