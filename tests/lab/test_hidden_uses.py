"""Uses of the host of which sysfs, the mounts and the addresses say nothing: found, refused, and kept from a start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from api import codes, eventually, refused
from hosts import LabHost

from lab.shell import run

HOOK = Path(__file__).parents[2] / "deploy/hooks/qemu.d/hostdevd"
CONFIGFS = Path("/sys/kernel/config")
ELSEWHERE = "(a VLAN, macvlan or ipvlan on it is in another network namespace)"
KINDS = ("macvlan mode bridge", "macvlan mode passthru", "ipvlan mode l2", "vlan id 7")
NVMET = "nqn.2014-08.org.example:lab"


@contextmanager
def container_on(interface: str, kind: str) -> Iterator[None]:
    """A network namespace with an interface of this kind on the host's."""
    run("ip", "netns", "add", "container")
    try:
        run("ip", "link", "set", interface, "up")
        run("ip", "link", "add", "link", interface, "name", "inner", "netns", "container", "type", *kind.split())
        run("ip", "-n", "container", "link", "set", "inner", "up")
        assert not list(Path(f"/sys/class/net/{interface}").glob("upper_*"))
        yield
    finally:
        run("ip", "netns", "delete", "container")
        run("ip", "link", "set", interface, "down")


@contextmanager
def journal_of_a_container(block: str) -> Iterator[None]:
    """Of a file system on a file, which has its journal on the disk, mounted in a mount namespace of its own."""
    run("modprobe", "loop")
    image = Path("/mnt/journaled.img")
    with image.open("wb") as file:
        file.truncate(64 << 20)
    try:
        run("mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev", block)
        run("mke2fs", "-q", "-F", "-b", "4096", "-t", "ext4", "-J", f"device={block}", str(image))
        Path("/mnt/journaled").mkdir(exist_ok=True)
        run("udevadm", "settle")  # it reads what is on the disk now
        command = f"mount -o loop {image} /mnt/journaled && echo there && exec sleep 600"
        with subprocess.Popen(["unshare", "-m", "sh", "-c", command], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"there\n"
                yield
            finally:
                process.kill()
        journal = Path("/proc/fs/jbd2") / Path(block).name
        eventually(journal.exists, lambda there: not there)
        run("wipefs", "-q", "-a", block)
    finally:
        image.unlink()


@contextmanager
def served_by_lio(block: str) -> Iterator[None]:
    run("modprobe", "-a", "target_core_mod", "target_core_iblock")
    store = CONFIGFS / "target/core/iblock_0/first"
    store.mkdir(parents=True)
    try:
        (store / "control").write_text(f"udev_path={block}")
        (store / "udev_path").write_text(block)
        (store / "enable").write_text("1")
        yield
    finally:
        store.rmdir()
        store.parent.rmdir()


@contextmanager
def served_by_nvmet(block: str) -> Iterator[None]:
    run("modprobe", "nvmet")
    subsystem = CONFIGFS / "nvmet/subsystems" / NVMET
    space = subsystem / "namespaces/1"
    subsystem.mkdir()
    try:
        space.mkdir()
        try:
            (space / "device_path").write_text(block)
            (space / "enable").write_text("1")
            yield
        finally:
            (space / "enable").write_text("0")
            space.rmdir()
    finally:
        subsystem.rmdir()


@pytest.fixture(autouse=True)
def _configfs() -> None:
    """systemd mounts it wherever it is; the fast profile has no systemd."""
    run("modprobe", "configfs")
    if not CONFIGFS.is_mount():
        run("mount", "-t", "configfs", "configfs", str(CONFIGFS))


def hook_says(lab: LabHost, name: str) -> str:
    """What the start guard says of a VM that has this device; empty when it lets it start."""
    device = lab.api.device(name)
    if device.type == "pci":
        domain, bus, place = device.pci.address.split(":")
        slot, function = place.split(".")
        source = f"<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"
    else:
        at = device.scsi
        source = f"<adapter name='scsi_host{at.host}'/><address bus='{at.bus}' target='{at.target}' unit='{at.lun}'/>"
    xml = (
        "<domain type='kvm'><name>any</name><uuid>11111111-2222-4333-8444-555555555555</uuid><devices>"
        f"<hostdev mode='subsystem' type='{device.type}'><source>{source}</source></hostdev></devices></domain>"
    )
    command = [str(HOOK), "any", "prepare", "begin", "-"]
    done = subprocess.run(command, input=xml, check=False, capture_output=True, text=True)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


@pytest.mark.parametrize(
    ("role", "using", "kind", "detail", "guard"),
    [
        *(
            ("nic_single", partial(container_on, kind=kind), "GLOBAL_ADDRESS", ELSEWHERE, "another network namespace")
            for kind in KINDS
        ),
        ("scsi_disk", journal_of_a_container, "MOUNT", "(journal on {block})", "open on the host as jbd"),
        ("scsi_disk", served_by_lio, "DM_HOLDER", "LIO first", "is served by the host's LIO as first"),
        ("scsi_disk", served_by_nvmet, "DM_HOLDER", f"nvmet {NVMET}", f"is served by the host's nvmet as {NVMET}"),
    ],
)  # fmt: skip
def test_a_use_that_hides_is_found(  # noqa: PLR0913, PLR0917  a row of the table
    lab: LabHost,
    role: str,
    using: Callable[[str], AbstractContextManager[None]],
    kind: str,
    detail: str,
    guard: str,
) -> None:
    api, name = lab.api, lab.roles[role]
    user = next(one for one in api.devices(types=["storage", "net"]) if one.parent == name)
    node = user.storage.block or user.net.interface

    told_uses = partial(api.host_uses, user.name)
    eventually(told_uses, lambda told: told == [])
    assert hook_says(lab, name) == ""
    with using(node):
        # At once: what is refused is what the host uses now, not what was seen last.
        with refused("DEVICE_NOT_ELIGIBLE"):
            api.attach("alpha", name)
        assert told_uses() == [(kind, detail.format(block=Path(node).name))]
        assert codes(api.device(name).eligibility.reasons) == ["HOST_IN_USE"]
        assert guard in hook_says(lab, name)
    eventually(told_uses, lambda told: told == [])
    assert api.plan("alpha", name).blockers == []
    assert hook_says(lab, name) == ""
