"""A disk is in use when anything of the host stands on it, however far up."""

from __future__ import annotations

from hostdevd.core.model import HostUse, HostUseKind
from hostdevd.host.blocks import block_paths
from unit.host.builder import SWAPS_HEADER, HostBuilder

MOUNT, SWAP = HostUseKind.MOUNT, HostUseKind.SWAP


def kinds(uses: tuple[HostUse, ...]) -> set[tuple[str, str]]:
    return {(use.kind.value, use.detail) for use in uses}


def test_a_free_disk_has_no_use(host: HostBuilder) -> None:
    sda = host.disk("sda", udev="E:ID_FS_TYPE=ext4")
    assert host.uses_of(sda) == ()


def test_a_mounted_partition_uses_its_disk(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.partition("sda", "sda1")
    host.mount(host.number_of("sda1"), r"/srv/my\040data")
    assert host.uses_of(sda) == (HostUse(MOUNT, "/srv/my data"),)


def test_a_bind_mount_of_a_directory_is_told_only_without_the_whole(host: HostBuilder) -> None:
    sda, sdb = host.disk("sda"), host.disk("sdb")
    host.mount(host.number_of("sda"), "/")
    host.mount(host.number_of("sda"), "/var/lib/pods/1", within="/data")
    host.mount(host.number_of("sdb"), "/var/lib/pods/2", within="/data")
    assert host.uses_of(sda) == (HostUse(MOUNT, "/"),)
    assert host.uses_of(sdb) == (HostUse(MOUNT, "/var/lib/pods/2"),)


def test_a_hundred_mounts_are_told_in_a_few_words(host: HostBuilder) -> None:
    sda = host.disk("sda")
    for index in range(100):
        host.mount(host.number_of("sda"), f"/mnt/{index}")
    uses = host.uses_of(sda)
    assert len(uses) == 9
    assert uses[-1] == HostUse(MOUNT, "92 more")


def test_swap_on_a_lun(host: HostBuilder) -> None:
    sdb = host.disk("sdb")
    host.write("/proc/swaps", f"{SWAPS_HEADER}/dev/sdb\tpartition\t1048572\t0\t-2\n/swap.img\tfile\t1\t0\t-3\n")
    assert host.uses_of(sdb) == (HostUse(SWAP, "/dev/sdb"),)


def test_lvm_on_md_on_two_disks_uses_both(host: HostBuilder) -> None:
    disks = [host.disk(name) for name in ("sda", "sdb")]
    for name in ("sda", "sdb"):
        host.partition(name, f"{name}1")
    host.stacked("md0", "sda1", "sdb1")
    host.stacked("dm-0", "md0", dm=("vg--a-root", "LVM-abc"))
    host.mount(host.number_of("dm-0"), "/")
    for disk in disks:
        assert kinds(host.uses_of(disk)) == {("MOUNT", "/"), ("LVM_PV", "vg-a"), ("MD_MEMBER", "md0")}


def test_a_crypt_volume_uses_its_disk(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.stacked("dm-0", "sda", dm=("luks-home", "CRYPT-LUKS2-abc-luks-home"))
    assert kinds(host.uses_of(sda)) == {("DM_HOLDER", "luks-home")}


def test_both_paths_of_a_multipath_device_are_in_use(host: HostBuilder) -> None:
    sda = host.disk("sda", "/sys/devices/pci0000:00/0000:00:05.0/host0", "E:ID_FS_TYPE=mpath_member")
    sdb = host.disk("sdb", "/sys/devices/pci0000:00/0000:00:06.0/host1", "E:DM_MULTIPATH_DEVICE_PATH=1")
    host.stacked("dm-0", "sda", "sdb", dm=("mpatha", "mpath-360"))
    for disk in (sda, sdb):
        assert kinds(host.uses_of(disk)) == {("MULTIPATH_MEMBER", "mpatha")}


def test_holders_alone_tell_where_slaves_do_not(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.stacked("bcache0")
    host.link(f"{sda}/holders/bcache0", "/sys/devices/virtual/block/bcache0")
    assert kinds(host.uses_of(sda)) == {("DM_HOLDER", "bcache0")}


def test_a_mounted_loop_on_a_disk_uses_it(host: HostBuilder) -> None:
    sda = host.disk("sda")
    loop = host.stacked("loop0")
    host.write(f"{loop}/loop/backing_file", "/dev/sda\n")
    host.mount(host.number_of("loop0"), "/mnt")
    assert ("MOUNT", "/mnt") in kinds(host.uses_of(sda))


def test_signatures_tell_what_is_not_active(host: HostBuilder) -> None:
    expected = {
        "LVM2_member": ("LVM_PV", ""),
        "linux_raid_member": ("MD_MEMBER", "x:0"),
        "zfs_member": ("ZFS_MEMBER", "x:0"),
        "ceph_bluestore": ("CEPH_OSD", "x:0"),
        "btrfs": ("BTRFS_MEMBER", "x:0"),
        "mpath_member": ("MULTIPATH_MEMBER", ""),
    }
    for index, (fstype, use) in enumerate(expected.items()):
        name = f"sd{chr(ord('a') + index)}"
        disk = host.disk(name)
        host.partition(name, f"{name}1", udev=f"E:ID_FS_TYPE={fstype}\nE:ID_FS_LABEL=x:0")
        assert kinds(host.uses_of(disk)) == {use}


def test_every_member_of_a_mounted_btrfs_is_in_use(host: HostBuilder) -> None:
    sda, sdb = host.disk("sda"), host.disk("sdb")
    for name in ("sda", "sdb"):
        host.link(f"/sys/fs/btrfs/1-2/devices/{name}", host.path_of(name))
    host.write("/sys/fs/btrfs/1-2/label", "pool\n")
    host.mount("0:35", "/data", source="/dev/sda", fstype="btrfs", within="/@data")
    assert kinds(host.uses_of(sda)) == {("BTRFS_MEMBER", "pool"), ("MOUNT", "/data")}
    assert kinds(host.uses_of(sdb)) == {("BTRFS_MEMBER", "pool")}


def test_a_file_system_mounted_in_another_namespace_is_a_use(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.partition("sda", "sda1")
    host.directory("/sys/fs/ext4/features")
    host.directory("/sys/fs/ext4/sda1")
    assert [use.kind for use in host.uses_of(sda)] == [MOUNT]


def xfs(host: HostBuilder, disk: str, options: str) -> None:
    line = f"27 1 {host.number_of(disk)} / /data rw,relatime shared:1 - xfs /dev/{disk} {options}\n"
    host.append("/proc/1/mountinfo", line)


def test_the_log_and_the_real_time_device_of_an_xfs_are_in_use(host: HostBuilder) -> None:
    disks = [host.disk(name) for name in ("sda", "sdb", "sdc")]
    host.partition("sdb", "sdb1")
    # As the kernel writes them: a comma or a space in a path as an octal number.
    host.link("/dev/disk/by-label/my log", "/dev/sdb1")
    xfs(host, "sda", r"rw,attr2,logbufs=8,logdev=/dev/disk/by-label/my\040log,rtdev=/dev/sdc,noquota")
    assert [host.uses_of(disk) for disk in disks] == [(HostUse(MOUNT, "/data"),)] * 3


def test_a_log_that_is_not_found_makes_storage_unknown(host: HostBuilder) -> None:
    host.disk("sda")
    xfs(host, "sda", "rw,logdev=/dev/gone")
    assert host.uses().unknown == (("storage", "/dev/gone, which /data needs, is not found"),)


def test_a_journal_on_a_disk_of_its_own_is_in_use(host: HostBuilder) -> None:
    sda, sdb, sdc = (host.disk(name) for name in ("sda", "sdb", "sdc"))
    host.stacked("dm-8", "sdc", dm=("journals", "CRYPT-x"))
    host.directory("/proc/fs/jbd2/sda1-8")  # inode 8 of the file system itself
    for name in ("sdb", "dm-8"):
        host.directory(f"/proc/fs/jbd2/{name}")
    assert host.uses_of(sda) == ()
    assert host.uses_of(sdb) == (HostUse(MOUNT, "(journal on sdb)"),)
    assert HostUse(MOUNT, "(journal on dm-8)") in host.uses_of(sdc)


def test_what_the_hosts_own_targets_serve_is_in_use(host: HostBuilder) -> None:
    sda, sdb, sdc = (host.disk(name) for name in ("sda", "sdb", "sdc"))
    lio = "/sys/kernel/config/target/core"
    host.directory(f"{lio}/alua/lu_gps")
    host.write(f"{lio}/iblock_0/first/udev_path", "/dev/sda\n")
    host.write(f"{lio}/fileio_1/image/udev_path", "/srv/image.raw\n")
    host.write(f"{lio}/pscsi_2/unset/udev_path", "\n")
    host.write(f"{lio}/iblock_3/gone/udev_path", "/dev/sdz\n")
    host.write(f"{lio}/iblock_4/by-hand/udev_path", "\n")
    host.write(f"{lio}/iblock_4/by-hand/info", "Status: ACTIVATED\n        iBlock device: sde  readonly: 0\n")
    sde = host.disk("sde")
    for number, (path, enabled) in enumerate([("/dev/sdb", "1"), ("/dev/sdc", "0"), ("/srv/other.raw", "1")]):
        space = host.directory(f"/sys/kernel/config/nvmet/subsystems/nqn.2014-08.org:x/namespaces/{number}")
        host.write(f"{space}/device_path", f"{path}\n")
        host.write(f"{space}/enable", f"{enabled}\n")
    assert kinds(host.uses_of(sda)) == {("DM_HOLDER", "LIO first")}
    assert kinds(host.uses_of(sdb)) == {("DM_HOLDER", "nvmet nqn.2014-08.org:x")}
    assert kinds(host.uses_of(sde)) == {("DM_HOLDER", "LIO by-hand")}
    assert host.uses_of(sdc) == ()


def test_a_tape_or_a_controller_that_a_target_passes_through_is_in_use(host: HostBuilder) -> None:
    tape = "/sys/devices/pci0000:00/0000:00:05.0/host2/target2:0:0/2:0:0:1"
    host.link("/sys/class/scsi_tape/st0", host.directory(f"{tape}/scsi_tape/st0"))
    host.write("/dev/st0", "")
    host.link("/dev/tape/by-id/scsi-1234", "/dev/st0")
    host.write("/sys/kernel/config/target/core/fileio_1/image/udev_path", "/srv/nvme0\n")  # a file of that name
    host.write("/sys/kernel/config/target/core/pscsi_0/tape/udev_path", "/dev/tape/by-id/scsi-1234\n")
    function = "/sys/devices/pci0000:00/0000:00:04.0"
    host.link("/sys/class/nvme/nvme0", host.directory(f"{function}/nvme/nvme0"))
    passed = "/sys/kernel/config/nvmet/subsystems/nqn/passthru"
    host.write(f"{passed}/device_path", "/dev/nvme0\n")
    host.write(f"{passed}/enable", "1\n")
    assert kinds(host.uses_of(tape)) == {("DM_HOLDER", "LIO tape")}
    assert kinds(host.uses_of(function)) == {("DM_HOLDER", "nvmet nqn")}


def test_a_served_device_whose_links_are_out_of_sight_makes_storage_unknown(host: HostBuilder) -> None:
    host.write("/sys/kernel/config/target/core/iblock_0/first/udev_path", "/dev/disk/by-id/x\n")
    assert host.uses().unknown == (("storage", "/dev/disk/by-id/x, which LIO first serves, cannot be looked for"),)
    host.directory("/dev/disk/by-id")
    assert host.uses().unknown == ()


def test_an_nvme_namespace_uses_its_controller(host: HostBuilder) -> None:
    disk = host.disk("nvme0n1", "/sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0")
    host.partition("nvme0n1", "nvme0n1p2")
    host.mount(host.number_of("nvme0n1p2"), "/")
    assert kinds(host.uses_of(disk)) == {("MOUNT", "/")}


def shared_namespace(host: HostBuilder) -> str:
    """Two controllers of one subsystem, and its mounted namespace 1."""
    subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys2"
    head = host.disk("nvme2n1", subsystem)
    host.link("/sys/class/nvme-subsystem/nvme-subsys2", subsystem)
    for controller, slot in (("nvme0", "0000:00:04.0"), ("nvme1", "0000:00:05.0")):
        path = host.directory(f"/sys/devices/pci0000:00/{slot}/nvme/{controller}")
        host.link(f"{subsystem}/{controller}", path)
    host.mount(host.number_of("nvme2n1"), "/")
    return head


def test_a_shared_nvme_namespace_uses_the_controllers_that_reach_it(host: HostBuilder) -> None:
    head = shared_namespace(host)
    host.directory("/sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme2c0n1")
    uses = host.uses()
    assert uses.by_path.keys() == {head, "/sys/devices/pci0000:00/0000:00:04.0"}
    assert uses.shared == {head: ("/sys/devices/pci0000:00/0000:00:04.0",)}


def test_all_controllers_of_a_shared_namespace_count_when_none_is_told(host: HostBuilder) -> None:
    head = shared_namespace(host)
    functions = {"/sys/devices/pci0000:00/0000:00:04.0", "/sys/devices/pci0000:00/0000:00:05.0"}
    uses = host.uses()
    assert uses.by_path.keys() == {head, *functions}
    assert uses.shared == {head: tuple(sorted(functions))}


def test_a_controller_that_is_gone_hides_nothing(host: HostBuilder) -> None:
    """Its link stays in the subsystem for as long as somebody has /dev/nvme1 open."""
    head = shared_namespace(host)
    host.directory("/sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme2c0n1")
    host.at("/sys/devices/pci0000:00/0000:00:05.0/nvme/nvme1").rmdir()
    sda = host.disk("sda")
    host.stacked("md0", "sda")
    uses = host.uses()
    assert uses.by_path.keys() == {head, "/sys/devices/pci0000:00/0000:00:04.0", sda}
    assert (uses.unknown, uses.shared) == ((), {head: ("/sys/devices/pci0000:00/0000:00:04.0",)})


REMOTE = "/sys/devices/virtual/nvme-fabrics/ctl/nvme3"
ADAPTER = "/sys/devices/pci0000:00/0000:00:07.0/0000:08:00.1"


def fibre_channel(host: HostBuilder, port: str = "0x10000090fae0b5f5") -> None:
    """A controller reached by the second of two ports of an adapter."""
    for number, name in ((7, "0x10000090fae0b5f4"), (8, port)):
        at = f"{ADAPTER[:-1]}{number - 7}/host{number}/fc_host/host{number}"
        host.write(f"{at}/port_name", f"{name}\n")
        host.link(f"/sys/class/fc_host/host{number}", at)
    host.write(f"{REMOTE}/transport", "fc\n")
    host.write(
        f"{REMOTE}/address",
        "traddr=nn-0x200900a098d1f2e3:pn-0x200a00a098d1f2e3,host_traddr=nn-0x20000090fae0b5f5:pn-0x10000090fae0b5f5\n",
    )


def test_a_disk_over_fibre_channel_uses_the_port_that_it_is_reached_by(host: HostBuilder) -> None:
    fibre_channel(host)
    subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys3"
    head = host.disk("nvme3n1", subsystem)
    host.link(f"{subsystem}/nvme3", host.directory(REMOTE))
    host.mount(host.number_of("nvme3n1"), "/srv")
    uses = host.uses()
    assert uses.by_path.keys() == {head, ADAPTER}
    assert uses.unknown == ()
    assert uses.shared == {head: (ADAPTER,)}


def test_a_disk_over_fibre_channel_without_a_subsystem_does_too(host: HostBuilder) -> None:
    fibre_channel(host)
    disk = host.disk("nvme3n1", REMOTE)
    host.mount(host.number_of("nvme3n1"), "/srv")
    assert host.uses().by_path.keys() == {disk, ADAPTER}


def test_a_remote_disk_over_tcp_is_no_pci_devices(host: HostBuilder) -> None:
    host.write(f"{REMOTE}/transport", "tcp\n")
    disk = host.disk("nvme3n1", REMOTE)
    host.mount(host.number_of("nvme3n1"), "/srv")
    uses = host.uses()
    assert uses.by_path.keys() == {disk}
    assert uses.unknown == ()


def test_a_port_may_be_written_otherwise(host: HostBuilder) -> None:
    fibre_channel(host)
    host.write(f"{REMOTE}/address", "traddr=nn-0x1:pn-0x2,host_traddr=nn-20000090FAE0B5F5:pn-10000090FAE0B5F5,x=y\n")
    disk = host.disk("nvme3n1", REMOTE)
    host.mount(host.number_of("nvme3n1"), "/srv")
    assert host.uses().by_path.keys() == {disk, ADAPTER}


def test_a_port_that_is_not_found_makes_all_unknown_and_hides_nothing(host: HostBuilder) -> None:
    fibre_channel(host, port="0x10000090fae0b5ff")
    disk, sda = host.disk("nvme3n1", REMOTE), host.disk("sda")
    host.stacked("md0", "sda")
    host.mount(host.number_of("nvme3n1"), "/srv")
    uses = host.uses()
    assert {kind for kind, _ in uses.unknown} == {"storage", "pci"}
    assert uses.by_path.keys() == {disk, sda}
    assert block_paths(host.tree, "/dev/nvme3n1") == (disk,)


def test_the_disk_behind_a_compressed_swap_is_used(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.write(f"{host.stacked('zram0')}/backing_dev", "/dev/sda\n")
    host.append("/proc/swaps", "/dev/zram0\tpartition\t1048572\t0\t100\n")
    assert kinds(host.uses_of(sda)) == {("SWAP", "/dev/zram0"), ("DM_HOLDER", "zram0")}


def test_a_gap_about_storage_is_a_gap_about_shared_nvme_controllers(host: HostBuilder) -> None:
    shared_namespace(host)
    host.unreadable("/proc/1/mountinfo")
    assert {kind for kind, _ in host.uses().unknown} == {"storage", "pci"}


# --- what cannot be read -----------------------------------------------------------------------------


def test_unreadable_mounts_make_storage_unknown_and_nothing_else(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.stacked("md0", "sda")
    host.unreadable("/proc/1/mountinfo")
    uses = host.uses()
    assert [kind for kind, _ in uses.unknown] == ["storage"]
    assert "/proc/1/mountinfo" in uses.unknown[0][1]
    assert kinds(uses.by_path[sda]) == {("MD_MEMBER", "md0")}


def test_a_missing_file_that_every_host_has_makes_storage_unknown(host: HostBuilder) -> None:
    host.at("/proc/swaps").unlink()
    assert [kind for kind, _ in host.uses().unknown] == ["storage"]


def test_a_line_of_mountinfo_that_is_none_makes_storage_unknown_and_the_others_count(host: HostBuilder) -> None:
    sda = host.disk("sda")
    host.append("/proc/1/mountinfo", "nonsense\n")
    host.mount(host.number_of("sda"), "/")
    uses = host.uses()
    assert [kind for kind, _ in uses.unknown] == ["storage"]
    assert kinds(uses.by_path[sda]) == {("MOUNT", "/")}


def test_a_mount_of_a_device_that_sysfs_lacks_makes_storage_unknown(host: HostBuilder) -> None:
    host.mount("8:99", "/mnt")
    assert "8:99" in host.uses().unknown[0][1]


def test_a_disk_that_udev_has_not_seen_makes_storage_unknown(host: HostBuilder) -> None:
    host.disk("sda")
    host.at("/run/udev/data/b8:1").unlink()
    assert [kind for kind, _ in host.uses().unknown] == ["storage"]


def test_network_and_fuse_mounts_are_no_disks_business(host: HostBuilder) -> None:
    host.mount("0:50", "/nfs", source="server:/dev/x", fstype="nfs4")
    host.mount("0:51", "/fuse", source="/dev/fuse", fstype="fuse.portal")
    assert host.uses().unknown == ()


# --- from a domain's disk to the host's --------------------------------------------------------------


def test_block_paths_follow_links_and_stacks(host: HostBuilder) -> None:
    sda, sdb = host.disk("sda"), host.disk("sdb")
    host.partition("sdb", "sdb2")
    host.stacked("dm-0", "sda", "sdb2", dm=("vg0-vm", "LVM-abc"))
    host.link("/dev/disk/by-id/scsi-1", "/dev/sda")
    host.link("/dev/vg0/vm", "/dev/dm-0")
    assert block_paths(host.tree, "/dev/disk/by-id/scsi-1") == (sda,)
    assert block_paths(host.tree, "/dev/sdb2") == (sdb,)
    assert block_paths(host.tree, "/dev/vg0/vm") == (sda, sdb)
    assert block_paths(host.tree, "/dev/mapper/vg0-vm") == (sda, sdb)


def test_block_paths_of_what_is_no_block_device_are_none(host: HostBuilder) -> None:
    host.write("/var/lib/image.qcow2", "")
    for path in ("", "sda", "/", "/dev", "/dev/null", "/var/lib/image.qcow2", "/dev/../etc", "/dev/a\0b", "/x" * 5000):
        assert block_paths(host.tree, path) == ()


def test_the_disk_of_a_shared_namespace_leads_to_its_controllers(host: HostBuilder) -> None:
    head = shared_namespace(host)
    host.directory("/sys/devices/pci0000:00/0000:00:05.0/nvme/nvme1/nvme2c1n1")
    assert set(block_paths(host.tree, "/dev/nvme2n1")) == {head, "/sys/devices/pci0000:00/0000:00:05.0"}
