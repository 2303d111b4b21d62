"""Whether a host is as it was when its uses were read: what the kernel tells of, and what it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hostdevd.core.model import HostUses
from hostdevd.host import running
from hostdevd.host.running import RunningHost
from hostdevd.host.sysfs import HostTree, Unreadable
from hostdevd.host.untold import untold
from hostdevd.host.watch import HostWatch
from unit.host.builder import HostBuilder

VFIO = "/sys/bus/pci/drivers/vfio-pci"
FUNCTION = "/sys/devices/pci0000:00/0000:00:03.0"
NVME = "/sys/devices/pci0000:00/0000:00:04.0/nvme/nvme0"
LIO_PATH = "/sys/kernel/config/target/core/iblock_0/first/udev_path"
PPPOE_HEADER = "Id       Address              Device\n"


@pytest.fixture
def busy(host: HostBuilder) -> HostBuilder:
    """With one of everything that is looked at."""
    host.directory("/sys/fs/ext4/sda1")
    host.directory("/sys/fs/btrfs/1234/devices/sdb")
    host.write("/sys/class/vtconsole/vtcon0/bind", "0\n")
    host.write(f"{FUNCTION}/enable", "0\n")
    host.link(f"{VFIO}/0000:00:03.0", FUNCTION)
    host.write(f"{VFIO}/new_id", "")
    host.write("/sys/bus/pci/drivers/e1000e/new_id", "")
    host.disk("sdb")
    host.write("/proc/1/net/pppoe", PPPOE_HEADER)
    host.link("/sys/class/nvme/nvme0", NVME)
    host.directory(NVME)
    return host


CHANGES: dict[str, Callable[[HostBuilder], object]] = {
    "a file system in another mount namespace": lambda host: host.directory("/sys/fs/xfs/sdc1"),
    "a journal on a disk of its own": lambda host: host.directory("/proc/fs/jbd2/sdc"),
    "a disk that a target serves": lambda host: host.write(LIO_PATH, "/dev/sdb\n"),
    "a member of a btrfs": lambda host: host.directory("/sys/fs/btrfs/1234/devices/sdc"),
    "a disk below a mapping that is not live yet": lambda host: host.directory(f"{host.path_of('sdb')}/holders/dm-0"),
    "another path of a namespace": lambda host: host.directory(f"{NVME}/nvme0c0n1"),
    "a signature that udev has written": lambda host: host.write("/run/udev/data/b8:77", "E:ID_FS_TYPE=btrfs\n"),
    "a VLAN of a container": lambda host: host.asked4("eth0", 2),
    "a PPPoE session": lambda host: host.append("/proc/1/net/pppoe", "00000001 52:54:00:12:34:56 eth0\n"),
    "a console": lambda host: host.write("/sys/class/vtconsole/vtcon0/bind", "1\n"),
    "an open VFIO device": lambda host: host.write(f"{FUNCTION}/enable", "1\n"),
    "a function on vfio-pci": lambda host: host.link(f"{VFIO}/0000:00:04.0", FUNCTION),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_announced_is_found_by_looking(busy: HostBuilder, change: str) -> None:
    before = untold(busy.tree)
    assert untold(busy.tree) == before
    CHANGES[change](busy)
    assert untold(busy.tree) != before


def test_what_cannot_be_looked_at_is_not_taken_for_unchanged(busy: HostBuilder) -> None:
    busy.unreadable("/sys/class/vtconsole/vtcon0/bind")
    with pytest.raises(Unreadable):
        untold(busy.tree)


async def test_what_changed_while_it_was_read_is_no_moment_to_go_by(
    busy: HostBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is away for the time of the read alone, say: nothing tells of it before and afterwards."""
    port = RunningHost(busy.root)
    numbers = iter((7, 7, 7, 8, 8))
    monkeypatch.setattr(HostTree, "live", property(lambda _: True))
    monkeypatch.setattr(HostWatch, "told", lambda _: next(numbers))
    monkeypatch.setattr(running, "read_uses", lambda _, __: HostUses())
    uses = await port.uses()
    assert uses.as_of is not None
    assert (await port.uses()).as_of is None
    assert not await port.is_still(uses.as_of)


async def test_a_recorded_host_never_claims_to_be_as_it_was(busy: HostBuilder) -> None:
    port = RunningHost(busy.root)
    await port.start(lambda _: None)
    uses = await port.uses()
    assert uses.as_of is None
    assert not await port.is_still(uses.as_of)
    await port.close()


async def test_only_an_open_watch_without_gaps_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = HostWatch(HostTree(Path("/")))
    assert watch.told() is None
    watch.open(lambda _: None)
    try:
        monkeypatch.setattr(watch, "gaps", ())
        assert watch.told() is not None
        monkeypatch.setattr(watch, "gaps", ("mounts are not watched",))
        assert watch.told() is None
        monkeypatch.setattr(watch, "gaps", ())
    finally:
        watch.close()
    assert watch.told() is None


async def test_what_waits_to_be_read_counts_before_the_loop_has_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = HostWatch(HostTree(Path("/")))
    read, write = os.pipe()
    watch.open(lambda _: None)
    try:
        monkeypatch.setattr(watch, "gaps", ())
        before = watch.told()
        assert watch.told() == before
        watch._sources.register(read)
        os.write(write, b"a change")
        assert watch.told() != before  # and nothing was awaited
    finally:
        watch.close()
        os.close(read)
        os.close(write)
