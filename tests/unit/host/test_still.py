"""Whether a host is as it was when its uses were read: what the kernel tells of, and what it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hostdevd.host.running import RunningHost
from hostdevd.host.sysfs import HostTree, Unreadable
from hostdevd.host.untold import untold
from hostdevd.host.watch import HostWatch
from unit.host.builder import HostBuilder

VFIO = "/sys/bus/pci/drivers/vfio-pci"
FUNCTION = "/sys/devices/pci0000:00/0000:00:03.0"


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
    return host


CHANGES: dict[str, Callable[[HostBuilder], object]] = {
    "a file system in another mount namespace": lambda host: host.directory("/sys/fs/xfs/sdc1"),
    "a member of a btrfs": lambda host: host.directory("/sys/fs/btrfs/1234/devices/sdc"),
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
