"""What the host uses, or another running VM holds, is not started from; read at that moment, not from the file."""

from __future__ import annotations

import errno
import itertools
import os
import runpy
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hostdevd.host import elsewhere
from unit.hook.guarded import ALIAS, BOOT, HOOK, NIC_KEY, OTHER_VM, GuardedHost, disk, domain, pci, scsi, usb

LUN_KEY = "scsi|naa.5000c50015ea71aa|0000:00/5.0/0:0:1"
ADAPTER = "0000:00:05.0"
OTHER_BOOT = "99999999-2222-4333-8444-555555555555"
IN_USE = "is in use by the host"


@pytest.fixture
def lun(host: GuardedHost) -> GuardedHost:
    host.lun()
    host.guard({ALIAS: LUN_KEY})
    return host


def test_a_disk_mounted_since(lun: GuardedHost) -> None:
    assert lun.start(domain(scsi())).passes()
    lun.mount(lun.number_of("sdb"), r"/mnt/my\040disk", "/dev/sdb")
    assert lun.start(domain(scsi())).refuses("2:0:0:1", IN_USE, "is mounted at /mnt/my disk")


def test_a_partition_mounted_since(lun: GuardedHost) -> None:
    lun.partition("sdb", "sdb1")
    assert lun.start(domain(scsi())).passes()
    lun.mount(lun.number_of("sdb1"), "/mnt")
    assert lun.start(domain(scsi())).refuses(IN_USE, "/mnt")


def test_swap_since(lun: GuardedHost) -> None:
    lun.append("/proc/swaps", "/dev/sdb partition 65532 0 -2\n")
    assert lun.start(domain(scsi())).refuses(IN_USE, "swap")


@pytest.mark.parametrize(("name", "dm"), [("dm-0", ("vg0-root", "LVM-x")), ("md0", None)])
def test_a_volume_or_an_array_that_stands_on_it(lun: GuardedHost, name: str, dm: tuple[str, str] | None) -> None:
    lun.stacked(name, "sdb", dm=dm)
    assert lun.start(domain(scsi())).refuses(IN_USE, dm[0] if dm else name)


def test_a_mount_of_what_stands_on_it(lun: GuardedHost) -> None:
    lun.stacked("dm-0", "sdb", dm=("secret", "CRYPT-x"))
    lun.mount(lun.number_of("dm-0"), "/secret")
    assert lun.start(domain(scsi())).refuses("/secret")


def test_a_btrfs_member_and_a_mount_that_process_1_does_not_see(lun: GuardedHost) -> None:
    lun.link("/sys/fs/btrfs/u-u/devices/sdb", lun.path_of("sdb"))
    assert lun.start(domain(scsi())).refuses("btrfs")
    lun.at("/sys/fs/btrfs/u-u/devices/sdb").unlink()
    lun.directory("/sys/fs/ext4/sdb")
    assert lun.start(domain(scsi())).refuses("is mounted")


@pytest.mark.parametrize("kind", ["LVM2_member", "zfs_member", "linux_raid_member"])
def test_what_a_guest_wrote_on_its_disk_keeps_it_from_nothing(lun: GuardedHost, kind: str) -> None:
    lun.write(f"/run/udev/data/b{lun.number_of('sdb')}", f"E:ID_FS_TYPE={kind}\n")
    assert lun.start(domain(scsi())).passes()


def refusals(
    host: GuardedHost, xml: str, fault: int, monkeypatch: pytest.MonkeyPatch, times: int = sys.maxsize
) -> tuple[list[str], set[tuple[str, int]]]:
    """What the hook says when the first so many exclusive openings fail so, and what it opened."""
    monkeypatch.setenv("HOSTDEVD_GUARD_ROOT", str(host.root))
    hook = runpy.run_path(str(HOOK))
    monkeypatch.setitem(hook["Guard"].__init__.__globals__, "CLAIMS_PASS_S", 0.3)
    opened = set()
    failures = itertools.count()
    really = os.open

    def refuse(path: str, flags: int) -> int:
        opened.add((path, flags & (os.O_EXCL | os.O_NONBLOCK)))
        if next(failures) < times:
            raise OSError(fault, "refused")
        return really(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    return list(hook["Guard"](hook["parse"](xml.encode())).refusals()), opened


@pytest.mark.parametrize(("fault", "words"), [(errno.EBUSY, ["open on the host as zfs_member"]), (errno.ENXIO, [])])
def test_a_pool_that_the_host_has_open_is_a_use(
    lun: GuardedHost, monkeypatch: pytest.MonkeyPatch, fault: int, words: list[str]
) -> None:
    """No sysfs file tells of ZFS; the exclusive opening that does needs a kernel, so it is played here."""
    lun.write(f"/run/udev/data/b{lun.number_of('sdb')}", "E:ID_FS_TYPE=zfs_member\n")
    said, opened = refusals(lun, domain(scsi()), fault, monkeypatch)
    assert opened == {(str(lun.at("/dev/sdb")), os.O_EXCL | os.O_NONBLOCK)}  # else a drive would close its tray
    assert [word for word in words if word in said[0]] == words
    assert len(said) == len(words)


def test_a_disk_that_the_host_has_claimed_for_what_nothing_tells_is_a_use(
    lun: GuardedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, _ = refusals(lun, domain(scsi()), errno.EBUSY, monkeypatch)
    assert "2:0:0:1 is in use by the host: it is claimed on the host" in said[0]


def test_a_claim_that_passes_is_waited_out(lun: GuardedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusals(lun, domain(scsi()), errno.EBUSY, monkeypatch, times=2)[0] == []


def test_a_disk_that_may_not_be_asked_counts_as_claimed(lun: GuardedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError):
        refusals(lun, domain(scsi()), errno.EACCES, monkeypatch)


def test_a_tape_or_a_controller_that_a_target_passes_through(host: GuardedHost) -> None:
    host.card(ADAPTER, group=5)
    path = f"/sys/devices/pci0000:00/{ADAPTER}"
    host.write("/dev/st0", "")
    host.link("/sys/class/scsi_tape/st0", host.directory(f"{path}/host2/target2:0:0/2:0:0:1/scsi_tape/st0"))
    tape = "/sys/kernel/config/target/core/pscsi_0/tape/udev_path"
    host.write(tape, "/srv/st0\n")  # a file of that name
    assert host.start(domain(pci(ADAPTER, alias=""))).passes()
    host.write(tape, "/dev/st0\n")
    assert host.start(domain(pci(ADAPTER, alias=""))).refuses("is served by the host's LIO as tape")
    host.at(tape).unlink()
    host.link("/sys/class/nvme/nvme0", host.directory(f"{path}/nvme/nvme0"))
    host.write("/sys/kernel/config/nvmet/subsystems/nqn/passthru/device_path", "/dev/nvme0\n")
    host.write("/sys/kernel/config/nvmet/subsystems/nqn/passthru/enable", "1\n")
    assert host.start(domain(pci(ADAPTER, alias=""))).refuses("is served by the host's nvmet as nqn")


@pytest.mark.parametrize("files", [
    {"target/core/iblock_0/first/udev_path": "/dev/sdb"},
    {"nvmet/subsystems/first/namespaces/1/device_path": "/dev/sdb", "nvmet/subsystems/first/namespaces/1/enable": "1"},
])  # fmt: skip
def test_a_disk_that_the_hosts_own_target_serves(lun: GuardedHost, files: dict[str, str]) -> None:
    for path, text in files.items():
        lun.write(f"/sys/kernel/config/{path}", text + "\n")
    assert lun.start(domain(scsi())).refuses("is served by the host's", "as first")
    *_, last = files
    lun.write(f"/sys/kernel/config/{last}", "0\n")  # a path to no disk, and disabled
    assert lun.start(domain(scsi())).passes()


def test_what_a_target_has_open_counts_more_than_what_it_was_told(lun: GuardedHost) -> None:
    store = "/sys/kernel/config/target/core/iblock_0/first"
    lun.write(f"{store}/udev_path", "/dev/sdc\n")
    lun.write(f"{store}/info", "Status: ACTIVATED\n        iBlock device: sdb  UDEV PATH: /dev/sdc  readonly: 0\n")
    assert lun.start(domain(scsi())).refuses("is served by the host's LIO as first")


@pytest.mark.parametrize("boot", [BOOT, OTHER_BOOT])
def test_an_adapter_with_a_disk_in_use_in_any_boot_and_whoever_configured_it(host: GuardedHost, boot: str) -> None:
    host.card(ADAPTER, group=5)
    host.lun()
    host.guard(boot=boot)
    host.mount(host.number_of("sdb"), "/")
    assert host.start(domain(pci(ADAPTER, alias=""))).refuses(ADAPTER, IN_USE, "is mounted at /")


def test_a_group_mate_in_use(host: GuardedHost) -> None:
    host.card(ADAPTER, group=3, driver="ahci")
    host.lun()
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci())).passes()
    host.mount(host.number_of("sdb"), "/data")
    assert host.start(domain(pci())).refuses(f"{ADAPTER}, in the same IOMMU group as 0000:00:03.0", "/data")


def test_a_bridge_in_the_group_brings_nothing_with_it(host: GuardedHost) -> None:
    bridge = host.function(ADAPTER, "pcieport", enable="2", **{"class": "0x060400"})
    host.into_group(ADAPTER, 3)
    host.disk("sdb", f"{bridge}/0000:01:00.0/host9")
    host.mount(host.number_of("sdb"), "/data")
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci())).passes()


def test_a_shared_nvme_namespace_is_in_use_by_its_controllers(host: GuardedHost) -> None:
    nvme = host.card("0000:00:07.0", group=7, driver="nvme")
    subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    host.link("/sys/class/nvme-subsystem/nvme-subsys0", host.directory(subsystem))
    host.link(f"{subsystem}/nvme0", host.directory(f"{nvme}/nvme/nvme0"))
    host.directory(f"{nvme}/nvme/nvme0/nvme0c0n1")
    host.disk("nvme0n1", "/sys/devices/virtual/nvme-subsystem/nvme-subsys0")
    host.mount(host.number_of("nvme0n1"), "/mnt/lab")
    host.guard()
    source = (
        "<source type='pci' managed='yes' namespace='1'><address domain='0x0' bus='0x0' slot='0x7' function='0x0'/>"
    )
    taken = f"<disk type='nvme' device='disk'>{source}</source><target dev='vdb' bus='virtio'/></disk>"
    assert host.start(domain(taken)).refuses("0000:00:07.0", "/mnt/lab")


def test_a_pool_on_a_shared_namespace_is_a_use_of_its_controller(
    host: GuardedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvme = host.card("0000:00:07.0", group=7, driver="nvme")
    subsystem = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0"
    host.disk("nvme0n1", subsystem)
    host.link(f"{subsystem}/nvme0", host.directory(f"{nvme}/nvme/nvme0"))
    host.write(f"/run/udev/data/b{host.number_of('nvme0n1')}", "E:ID_FS_TYPE=zfs_member\n")
    host.guard()
    source = "<source><address domain='0x0' bus='0x0' slot='0x7' function='0x0'/></source>"
    taken = f"<hostdev mode='subsystem' type='pci' managed='yes'>{source}</hostdev>"
    said, _ = refusals(host, domain(taken), errno.EBUSY, monkeypatch)
    assert "is open on the host as zfs_member" in "".join(said)


def test_a_disk_over_fibre_channel_is_in_use_by_its_port(host: GuardedHost) -> None:
    adapter = host.card("0000:00:07.0", group=7, driver="lpfc")
    host.write(f"{adapter}/host7/fc_host/host7/port_name", "0x10000090fae0b5f5\n")
    host.link("/sys/class/fc_host/host7", f"{adapter}/host7/fc_host/host7")
    remote = "/sys/devices/virtual/nvme-fabrics/ctl/nvme3"
    host.write(f"{remote}/transport", "fc\n")
    host.write(f"{remote}/address", "traddr=nn-0x1:pn-0x2,host_traddr=nn-0x3:pn-0x10000090fae0b5f5\n")
    host.disk("nvme3n1", remote)
    host.mount(host.number_of("nvme3n1"), "/srv")
    host.guard()
    source = "<source><address domain='0x0' bus='0x0' slot='0x7' function='0x0'/></source>"
    taken = f"<hostdev mode='subsystem' type='pci' managed='yes'>{source}</hostdev>"
    assert host.start(domain(taken)).refuses("0000:00:07.0", "/srv")


def test_the_guard_knows_the_same_drivers_as_the_service() -> None:
    assert runpy.run_path(str(HOOK))["COUNT_NOTHING"] == elsewhere.COUNT_NOTHING


@pytest.mark.parametrize(("driver", "most"), [("e1000e", 1), ("i40e", 2), ("somebodys-own", 2)])
@pytest.mark.parametrize("more", [0, 1])
def test_a_driver_counts_as_well(host: GuardedHost, driver: str, most: int, more: int) -> None:
    host.link(f"{host.nic('eth0')}/device", "/sys/devices/pci0000:00/0000:00:03.0")
    host.bind("0000:00:03.0", driver)
    host.guard({ALIAS: NIC_KEY})
    host.asked4("eth0", most + more)
    outcome = host.start(domain(pci()))
    assert outcome.refuses("eth0 carries a VLAN, macvlan or ipvlan") if more else outcome.passes()


@pytest.mark.parametrize(
    "harmless",
    [
        lambda host: host.asked4("eth0", 1),
        lambda host: (host.asked4("eth0", 2), host.join4("eth0", "010080EF")),
        lambda host: (host.asked4("eth0", 2), host.write(f"{host.virtual_nic('vlan7', 'eth0')}/flags", "0x1003\n")),
        lambda host: (host.virtual_nic("vlan7", "eth0"), host.asked4("vlan7", 2)),
    ],
)
def test_who_asks_a_card_and_is_known(host: GuardedHost, harmless: object) -> None:
    host.nic("eth0")
    host.guard({ALIAS: NIC_KEY})
    assert callable(harmless)
    harmless(host)
    assert host.start(domain(pci())).passes()


@pytest.mark.parametrize(
    ("use", "word"),
    [
        (lambda host: (host.virtual_nic("br0"), host.enslave("eth0", "br0")), "is a port of br0"),
        (lambda host: host.default4("eth0"), "default route"),
        (lambda host: host.address4("eth0", "192.0.2.7", "000200C0", "00FFFFFF"), "IPv4"),
        (lambda host: host.write("/proc/1/net/if_inet6", f"{'20010db8':0<32} 03 40 00 80 eth0\n"), "IPv6"),
        (lambda host: (host.virtual_nic("vlan7", "eth0"), host.default4("vlan7")), "vlan7 carries"),
        (lambda host: host.asked4("eth0", 2), "eth0 carries a VLAN, macvlan or ipvlan"),
        (lambda host: (host.virtual_nic("vlan7", "eth0"), host.asked4("vlan7", 3)), "vlan7 carries a VLAN, macvlan"),
    ],
)
def test_an_interface_in_use(host: GuardedHost, use: object, word: str) -> None:
    host.nic("eth0")
    host.guard({ALIAS: NIC_KEY})
    host.write("/proc/1/net/if_inet6", f"{'fe80':0<32} 03 40 20 80 eth0\n")
    assert host.start(domain(pci())).passes()
    assert callable(use)
    use(host)
    assert host.start(domain(pci(tag="interface"))).refuses("0000:00:03.0", IN_USE, "eth0", word)


def test_an_interface_lent_to_a_container(host: GuardedHost) -> None:
    host.directory("/sys/devices/pci0000:00/0000:00:03.0/net")
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci())).refuses("another network namespace")


def test_an_interface_of_a_sub_function_lent_to_a_container(host: GuardedHost) -> None:
    sub_function = "/sys/devices/pci0000:00/0000:00:03.0/mlx5_core.sf.4"
    host.link("/sys/bus/auxiliary/devices/mlx5_core.sf.4", host.directory(sub_function))
    host.directory(f"{sub_function}/net")
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci())).refuses("another network namespace")


def test_a_vfio_device_that_somebody_has_open(host: GuardedHost) -> None:
    host.bind("0000:00:03.0", "vfio-pci")
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci())).refuses("is open in another program")
    host.write("/sys/devices/pci0000:00/0000:00:03.0/enable", "0\n")  # merely bound is no use
    assert host.start(domain(pci())).passes()


def test_a_console_is_the_hosts_as_long_as_its_driver_drives_it(host: GuardedHost) -> None:
    host.guard({ALIAS: NIC_KEY}, consoles=["0000:00:03.0"])
    assert host.start(domain(pci())).refuses("boot console")
    host.guard({ALIAS: NIC_KEY}, consoles=["0000:00:03.0"], boot=OTHER_BOOT)
    assert host.start(domain(pci())).passes()


def test_a_stick_that_the_host_mounted(host: GuardedHost) -> None:
    stick = host.stick()
    host.disk("sdc", f"{stick}/1-2:1.0/host3/target3:0:0/3:0:0:0")
    host.guard()
    assert host.start(domain(usb(alias=""))).passes()
    host.mount(host.number_of("sdc"), "/media/stick")
    assert host.start(domain(usb(alias=""))).refuses("USB device 1234:0001", "/media/stick")


def test_what_cannot_be_read_counts_as_in_use(lun: GuardedHost) -> None:
    lun.unreadable("/proc/1/mountinfo")
    assert lun.start(domain(scsi())).refuses("the start guard could not look")
    assert lun.start(domain()).passes()


# --- other VMs -----------------------------------------------------------------------------------------


def holder(via: str = "HOSTDEV") -> list[dict[str, str]]:
    return [{"uuid": OTHER_VM, "name": "alpha", "via": via}]


def test_a_device_that_another_vm_holds_while_it_runs(lun: GuardedHost) -> None:
    lun.guard({ALIAS: LUN_KEY}, held={"scsi:2:0:0:1": holder()})
    lun.write("/run/libvirt/qemu/alpha.pid", "4711\n")
    assert lun.start(domain(scsi())).refuses("held by the running VM alpha")
    assert lun.start(domain(scsi(more="<shareable/>"))).passes()
    lun.at("/run/libvirt/qemu/alpha.pid").unlink()  # it ended, and the service did not write yet
    assert lun.start(domain(scsi())).passes()


def test_a_hold_of_another_boot_is_over(lun: GuardedHost) -> None:
    lun.guard({ALIAS: LUN_KEY}, held={"scsi:2:0:0:1": holder()}, boot=OTHER_BOOT)
    lun.write("/run/libvirt/qemu/alpha.pid", "4711\n")
    assert lun.start(domain(scsi())).passes()


def test_a_group_mate_that_another_vm_holds(host: GuardedHost) -> None:
    host.card("0000:00:03.1", group=3)
    host.guard({ALIAS: NIC_KEY}, held={"pci:0000:00:03.1": holder()})
    host.write("/run/libvirt/qemu/alpha.pid", "4711\n")
    host.bind("0000:00:03.1", "vfio-pci")
    assert host.start(domain(pci())).refuses("0000:00:03.1, in the same IOMMU group", "held by the running VM alpha")
    host.write("/sys/devices/pci0000:00/0000:00:03.1/enable", "0\n")  # detached, and the service did not write yet
    assert host.start(domain(pci())).passes()


def test_a_hold_that_ended_a_moment_ago_is_waited_out(lun: GuardedHost) -> None:
    file = lun.at("/var/lib/hostdevd/guard.json")
    lun.write("/run/libvirt/qemu/alpha.pid", "4711\n")
    after = file.read_text()
    lun.guard({ALIAS: LUN_KEY}, held={"scsi:2:0:0:1": holder()})
    before = file.read_text()
    file.unlink()
    os.mkfifo(file)  # each reading gets what is written to it then, however long that takes
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(lun.start, domain(scsi()))
        file.write_text(before)
        time.sleep(1.0)
        file.write_text(after)
        assert asked.result().passes()


# --- disks by their path -------------------------------------------------------------------------------


def test_a_mounted_disk_beside_a_host_device(host: GuardedHost) -> None:
    host.lun()
    host.partition("sdb", "sdb1")
    host.guard()
    assert host.start(domain(pci(alias=""), disk("/dev/sdb"))).passes()
    host.mount(host.number_of("sdb1"), "/mnt")
    assert host.start(domain(pci(alias=""), disk("/dev/sdb"))).refuses("/dev/sdb", IN_USE, "/mnt")
    assert host.start(domain(pci(alias=""), disk("/dev/sdb", "<readonly/>"))).passes()
    assert host.start(domain(pci(alias=""), disk("/dev/sdb", device="cdrom"))).passes()


def test_a_volume_of_the_hosts_volume_group_is_the_vms_own(host: GuardedHost) -> None:
    host.lun()
    host.stacked("dm-0", "sdb", dm=("vg0-guest", "LVM-1"))
    host.stacked("dm-1", "sdb", dm=("vg0-root", "LVM-2"))
    host.mount(host.number_of("dm-1"), "/")
    host.guard()
    assert host.start(domain(pci(alias=""), disk("/dev/mapper/vg0-guest"))).passes()
    assert host.start(domain(pci(alias=""), disk("/dev/mapper/vg0-root"))).refuses("is mounted at /")


def test_a_disk_on_a_lun_that_another_vm_holds_as_a_host_device(host: GuardedHost) -> None:
    host.lun()
    host.write("/run/libvirt/qemu/alpha.pid", "4711\n")
    host.guard(held={"scsi:2:0:0:1": holder()})
    assert host.start(domain(pci(alias=""), disk("/dev/sdb"))).refuses("/dev/sdb is held by the running VM alpha")
    host.guard(held={"scsi:2:0:0:1": holder("DISK")})
    assert host.start(domain(pci(alias=""), disk("/dev/sdb"))).passes()


def test_a_vm_with_nothing_but_disks_is_never_refused(host: GuardedHost) -> None:
    host.lun()
    host.mount(host.number_of("sdb"), "/mnt")
    assert host.start(domain(disk("/dev/sdb"))).passes()


def test_a_directory_shared_by_an_outer_host(host: GuardedHost) -> None:
    host.link(
        "/sys/devices/pci0000:00/0000:00:03.0/virtio3/driver", host.directory("/sys/bus/virtio/drivers/9pnet_virtio")
    )
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci())).refuses("shares a directory")
