"""Which disks the host uses: mounts, swap, and everything that claims a disk below them.

Three kinds of evidence are joined, since each is blind somewhere: what process 1 has mounted; what stands
on a device in sysfs (`holders`, `/sys/fs`), whoever mounted it; and the signatures that udev found, for
members that nothing has opened yet: an inactive volume group, a pool that is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hostdevd.core.model import HostUseKind
from hostdevd.host.blocks import SYS_BLOCK, BlockGraph
from hostdevd.host.findings import Findings
from hostdevd.host.mounts import Mount, parse_mount, swap_devices
from hostdevd.host.sysfs import HostTree
from hostdevd.host.targets import carrier, served

_STORAGE = "storage"
# The volume group in a device-mapper name: hyphens of its own are doubled (`vg--a-root`).
_VOLUME_GROUP = re.compile(r"((?:[^-]|--)+)-(?!-)")
_SIGNATURES: Mapping[str, HostUseKind] = {
    "LVM1_member": HostUseKind.LVM_PV,
    "LVM2_member": HostUseKind.LVM_PV,
    "zfs_member": HostUseKind.ZFS_MEMBER,
    "btrfs": HostUseKind.BTRFS_MEMBER,
    "ceph_bluestore": HostUseKind.CEPH_OSD,
    "mpath_member": HostUseKind.MULTIPATH_MEMBER,
    "DM_snapshot_cow": HostUseKind.DM_HOLDER,
    "drbd": HostUseKind.DM_HOLDER,
    "bcache": HostUseKind.DM_HOLDER,
}
UDEV_DATA = "/run/udev/data"
# File systems that list their mounted devices by kernel name, whichever mount namespace they are in.
LISTED_FILE_SYSTEMS = ("ext4", "xfs", "f2fs")
JOURNALS = "/proc/fs/jbd2"
"""The journals of ext4 and ocfs2: `sda1-8` for inode 8 of sda1, `sdb` for one that has the whole device."""


def find_block_uses(tree: HostTree, findings: Findings) -> None:
    """Add the uses of all disks, under the sysfs paths of whole disks."""
    graph = BlockGraph(tree)
    with findings.source(_STORAGE, "block devices"):
        numbers = graph.numbers()
        with findings.source(_STORAGE, "mounts"):
            _mounts(tree, graph, numbers, findings)
        with findings.source(_STORAGE, "swap"):
            _swap(tree, graph, findings)
        with findings.source(_STORAGE, "mounted file systems"):
            _file_systems(tree, graph, findings)
        with findings.source(_STORAGE, "btrfs members"):
            _btrfs(tree, graph, findings)
        with findings.source(_STORAGE, "journals"):
            for name in filter(graph.path, tree.names(JOURNALS)):
                findings.add(graph.disks(name), HostUseKind.MOUNT, f"(journal on {name})")
        with findings.source(_STORAGE, "storage targets"):
            _targets(tree, graph, findings)
        for disk in graph.disk_paths():
            with findings.source(_STORAGE, f"the controllers of {disk}"):
                findings.share(disk, graph.functions(disk))
        for name in numbers.values():
            with findings.source(_STORAGE, f"holders of {name}"):
                _holders(tree, graph, name, findings)
        with findings.source(_STORAGE, "udev database"):
            _signatures(tree, graph, numbers, findings)
    with findings.source("pci", "NVMe subsystems"):
        # libvirt lists a shared namespace below no PCI device, so a gap about storage would pass its
        # controllers by.
        if findings.lacks(_STORAGE) and graph.has_shared_namespaces():
            findings.unknown("pci", "an NVMe namespace may be in use: what would tell of storage is unknown")


# --- what is mounted ---------------------------------------------------------------------------------


def _mounts(tree: HostTree, graph: BlockGraph, numbers: Mapping[str, str], findings: Findings) -> None:
    mounts: dict[str, list[Mount]] = {}
    for line in tree.require("/proc/1/mountinfo").split("\n"):
        if line:
            with findings.source(_STORAGE, "mounts"):
                mount = parse_mount(line)
                name = _mounted_device(mount, graph, numbers, findings)
                if name is not None:
                    mounts.setdefault(name, []).append(mount)
                for path in mount.others:
                    other = graph.named(path)
                    if other is None:
                        findings.unknown(_STORAGE, f"{path}, which {mount.point} needs, is not found")
                    else:
                        mounts.setdefault(other, []).append(mount)
    for name, places in mounts.items():
        # A bind mount of a directory repeats what the mount of the whole file system says.
        shown = [mount for mount in places if mount.whole] or places
        with findings.source(_STORAGE, f"the disks below {name}"):
            for mount in shown:
                findings.add(graph.disks(name), HostUseKind.MOUNT, mount.point)


def _mounted_device(mount: Mount, graph: BlockGraph, numbers: Mapping[str, str], findings: Findings) -> str | None:
    if mount.number in numbers:
        return numbers[mount.number]
    if not mount.anonymous:
        findings.unknown(_STORAGE, f"{mount.point} is a mount of device {mount.number}, which sysfs does not have")
        return None
    if not mount.source.startswith("/dev/"):
        return None
    # bcachefs names all its members: /dev/sda:/dev/sdb. One is enough to look further from.
    name = graph.named(mount.source)
    if name is None and mount.fstype == "bcachefs":
        for part in mount.source.split(":"):
            member = graph.named(part)
            if member is None:
                findings.unknown(_STORAGE, f"{mount.point} is a mount of {part}, which is not found")
            else:
                findings.add(graph.disks(member), HostUseKind.MOUNT, mount.point)
        return None
    # Of btrfs, /sys/fs/btrfs tells the members; FUSE servers call themselves what they like.
    if name is None and mount.fstype != "btrfs" and not mount.fstype.startswith("fuse"):
        findings.unknown(_STORAGE, f"{mount.point} is a mount of {mount.source}, which is not found")
    return name


def _swap(tree: HostTree, graph: BlockGraph, findings: Findings) -> None:
    for path in swap_devices(tree.require("/proc/swaps")):
        name = graph.named(path)
        if name is None:
            findings.unknown(_STORAGE, f"the swap device {path} is not found")
        else:
            findings.add(graph.disks(name), HostUseKind.SWAP, path)


def _file_systems(tree: HostTree, graph: BlockGraph, findings: Findings) -> None:
    for fstype in LISTED_FILE_SYSTEMS:
        for name in tree.names(f"/sys/fs/{fstype}"):
            if graph.path(name):
                detail = f"({fstype}, outside the view of process 1)"
                findings.add(graph.disks(name), HostUseKind.MOUNT, detail, weak=True)


def _btrfs(tree: HostTree, graph: BlockGraph, findings: Findings) -> None:
    for uuid in tree.names("/sys/fs/btrfs"):
        for name in tree.names(f"/sys/fs/btrfs/{uuid}/devices"):
            label = tree.value(f"/sys/fs/btrfs/{uuid}/label") or uuid
            if graph.path(name):
                findings.add(graph.disks(name), HostUseKind.BTRFS_MEMBER, label)
            else:
                findings.unknown(_STORAGE, f"{name} of the btrfs {label} is not found")


def _targets(tree: HostTree, graph: BlockGraph, findings: Findings) -> None:
    for store in served(tree):
        name = graph.named(store.path)
        device = carrier(tree, store.path) if name is None else None
        if name is not None:
            findings.add(graph.disks(name), HostUseKind.DM_HOLDER, store.target)
        elif device is not None:
            findings.add((device,), HostUseKind.DM_HOLDER, store.target)
        elif store.path.startswith("/dev/") and not tree.exists(store.path.rpartition("/")[0]):
            # Else it is a file, which is its mounted file system's business, or its device has gone.
            findings.unknown(_STORAGE, f"{store.path}, which {store.target} serves, cannot be looked for")


# --- what stands on it -------------------------------------------------------------------------------


def _holders(tree: HostTree, graph: BlockGraph, name: str, findings: Findings) -> None:
    for holder in graph.holders(name):
        findings.add(graph.disks(name), *_role(tree, holder))
    if not graph.is_virtual(name):
        return
    slaves = graph.slaves(name)
    if slaves and name == graph.whole(name):
        role = _role(tree, name)
        for slave in slaves:
            findings.add(graph.disks(slave), *role)


def _role(tree: HostTree, holder: str) -> tuple[HostUseKind, str]:
    """What being below this device makes of a disk."""
    if holder.startswith("md"):
        return HostUseKind.MD_MEMBER, holder
    label = tree.value(f"{SYS_BLOCK}/{holder}/dm/name") or holder
    owner = tree.value(f"{SYS_BLOCK}/{holder}/dm/uuid").partition("-")[0]
    if owner == "LVM":
        group = _VOLUME_GROUP.match(label)
        return HostUseKind.LVM_PV, group[1].replace("--", "-") if group else label
    if owner == "mpath":
        return HostUseKind.MULTIPATH_MEMBER, label
    return HostUseKind.DM_HOLDER, label


# --- what is written on it ---------------------------------------------------------------------------


def _signatures(tree: HostTree, graph: BlockGraph, numbers: Mapping[str, str], findings: Findings) -> None:
    unseen = []
    for number, name in numbers.items():
        if graph.is_virtual(name):
            continue  # its members are claimed as holders
        text = tree.read(f"{UDEV_DATA}/b{number}")
        if text is None:
            unseen.append(name)
            continue
        if "E:ID_FS_TYPE=" in text or "E:DM_MULTIPATH" in text:
            _signature(text, graph, name, findings)
    if unseen:
        some = ", ".join(sorted(unseen)[:8])
        findings.unknown(_STORAGE, f"udev has not recorded what is on {some}; is systemd-udevd running?")


def _signature(text: str, graph: BlockGraph, name: str, findings: Findings) -> None:
    told = dict(line[2:].partition("=")[::2] for line in text.split("\n") if line.startswith("E:"))
    fstype = told.get("ID_FS_TYPE", "")
    kind = _SIGNATURES.get(fstype)
    if fstype.endswith("_raid_member"):
        kind = HostUseKind.MD_MEMBER
    if kind is not None:
        named = kind not in {HostUseKind.LVM_PV, HostUseKind.MULTIPATH_MEMBER}
        detail = (told.get("ID_FS_LABEL") or told.get("ID_FS_UUID") or fstype) if named else ""
        findings.add(graph.disks(name), kind, detail, weak=True)
    if told.get("DM_MULTIPATH_DEVICE_PATH") == "1":
        findings.add(graph.disks(name), HostUseKind.MULTIPATH_MEMBER, weak=True)
