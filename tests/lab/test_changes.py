"""What changes on the host shows: hardware that comes and goes, drivers, virtual functions, the host's uses.

By an event, not by the reconcile that looks every few seconds: each change tells its source. A reconcile may by
chance be the first to see one, so a change is made again until it was once told by an event.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest
from api import ATTACHED, DETACHED, codes, eventually, refused
from hosts import LabHost, lab_roles
from streams import Stream

from hostdev.v1 import device_pb2, service_pb2
from lab.shell import run

UPSERT, REMOVE = service_pb2.CHANGE_KIND_UPSERT, service_pb2.CHANGE_KIND_REMOVE
PCI = Path("/sys/bus/pci")
LONG_S = 180.0
ROUNDS = 8

Wanted = Callable[[device_pb2.Device], bool]


class Changes:
    """What WatchDevices tells from now on, one change at a time."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._stream.next("bookmark")
        self._told: list[service_pb2.DeviceChange] = []
        self.sources: list[int] = []

    def until(self, kind: int, wanted: Wanted) -> device_pb2.Device:
        """The first change of this kind from here on whose device is as wanted; its source is noted."""
        while True:
            while self._told:
                change = self._told.pop(0)
                if change.kind == kind and wanted(change.device):
                    self.sources.append(change.source)
                    return change.device
            self._told += self._stream.next("change_batch", LONG_S).change_batch.changes

    def rounds(self, each: int, at_least: int = 1) -> Iterator[int]:
        """Rounds with so many changes each, until every one of those was once told by an event."""
        for number in range(ROUNDS):
            told = [service_pb2.CHANGE_SOURCE_EVENT in self.sources[place::each] for place in range(each)]
            if number >= at_least and all(told):
                return
            yield number
        raise AssertionError(f"never by an event: {self.sources}")


@contextmanager
def watching(lab: LabHost) -> Iterator[Changes]:
    stream = Stream(lab.api.stub.WatchDevices(service_pb2.WatchDevicesRequest(changes_only=True)))
    try:
        yield Changes(stream)
    finally:
        stream.end()


def udev_is_done() -> None:
    """It opens what is new to see what is on it; meanwhile nobody can take that away."""
    run("udevadm", "settle", "--timeout=120")


def named(name: str) -> Wanted:
    return lambda device: device.name == name


def below(parent: str, type_: str) -> Wanted:
    return lambda device: device.parent == parent and device.type == type_


def child(lab: LabHost, parent: str, type_: str) -> device_pb2.Device:
    (found,) = (device for device in lab.api.devices(types=[type_]) if device.parent == parent)
    return found


# --- PCI: a card, a driver, virtual functions ----------------------------------------------------------


@contextmanager
def card_in_the_spare_port() -> Iterator[None]:
    run("lab-qmp", "device_add", "driver=e1000e", "bus=spare_port", "id=nic_added")
    try:
        yield
    finally:
        run("lab-qmp", "device_del", "id=nic_added")


def test_a_card_that_is_plugged_in_appears_and_goes_again(lab: LabHost) -> None:
    port = lab.roles["spare_port"]
    uids = set()
    with watching(lab) as changes:
        for _ in changes.rounds(3, at_least=2):
            with card_in_the_spare_port():
                card = changes.until(UPSERT, below(port, "pci"))
                interface = changes.until(UPSERT, below(card.name, "net"))
                assert lab_roles()["nic_added"] == card.name
                assert eventually(partial(lab.api.driver, card.name), bool) == "e1000e"
                assert lab.api.device(card.name).eligibility.available
                assert [member.name for member in lab.api.group_of(card.name).members] == [card.name]
                uids.add((card.uid, interface.uid))
            assert changes.until(REMOVE, named(card.name)).uid == card.uid
            with refused("DEVICE_NOT_FOUND"):
                lab.api.device(card.uid)
    assert len(uids) == 1


def test_a_driver_that_is_unbound_and_bound_shows_at_once(lab: LabHost) -> None:
    name = lab.roles["nic_single"]
    address = lab.api.device(name).pci.address
    with watching(lab) as changes:
        for _ in changes.rounds(2):
            interface = child(lab, name, "net")
            try:
                (PCI / "drivers/e1000e/unbind").write_text(address)
                changes.until(UPSERT, lambda device: device.name == name and not device.HasField("driver"))
                assert not lab.api.device(name).HasField("driver")
                eventually(lambda: lab.api.device(name).children, lambda children: not children)
                assert lab.api.device(name).eligibility.eligible
            finally:
                (PCI / "drivers/e1000e/bind").write_text(address)
            changes.until(UPSERT, lambda device: device.name == name and device.driver == "e1000e")
            assert lab.api.driver(name) == "e1000e"
            back = eventually(lambda: lab.api.device(name).children, bool)
            assert lab.api.device(back[0]).uid == interface.uid


@contextmanager
def virtual_functions(address: str, count: int) -> Iterator[None]:
    """VFs without a driver: the lab's NVMe gives them no queues, so nvme would only wait for them."""
    function = PCI / "devices" / address
    (function / "sriov_drivers_autoprobe").write_text("0")
    (function / "sriov_numvfs").write_text(str(count))
    try:
        yield
    finally:
        (function / "sriov_numvfs").write_text("0")
        (function / "sriov_drivers_autoprobe").write_text("1")


def test_virtual_functions_come_and_go_and_their_parent_says_so(lab: LabHost) -> None:
    api, parent = lab.api, lab.roles["nvme_sriov"]
    address = api.device(parent).pci.address
    assert api.device(parent).eligibility.eligible
    uids = []

    def is_new(device: device_pb2.Device) -> bool:
        return device.pci.phys_function.address == address

    own = {item.name for item in api.eligible()[parent].affected}
    with watching(lab) as changes:
        for _ in changes.rounds(2, at_least=2):
            with virtual_functions(address, 2):
                changes.until(UPSERT, is_new)
                functions = eventually(partial(api.devices, types=["pci"]), lambda all_: sum(map(is_new, all_)) == 2)
                functions = list(filter(is_new, functions))
                held = eventually(
                    lambda: api.device(parent), lambda device: len(device.pci.virt_functions.addresses) == 2
                )
                assert list(held.pci.virt_functions.addresses) == [function.pci.address for function in functions]
                assert codes(held.eligibility.reasons) == ["HAS_CHILD_FUNCTIONS"]
                one = api.eligible(include_ineligible=True)[parent]
                assert {item.name for item in one.affected} == {*own, *(function.name for function in functions)}
                functions = [api.device(function.name) for function in functions]
                assert all(function.eligibility.available for function in functions)
                groups = [api.group_of(function.name) for function in functions]
                assert [[member.name for member in group.members] for group in groups] == [
                    [function.name] for function in functions
                ]
                assert len({held.group, *(group.uid for group in groups)}) == 3
                uids.append([function.uid for function in functions])
                assert len({held.uid, *uids[-1]}) == 3
            changes.until(REMOVE, named(functions[0].name))
            eventually(lambda: [one.name for one in api.devices() if is_new(one)], lambda left: not left)
            alone = eventually(lambda: api.device(parent), lambda device: not device.pci.virt_functions.addresses)
            assert codes(alone.eligibility.reasons) == []
    assert all(found == uids[0] for found in uids)


# --- what the host uses ----------------------------------------------------------------------------------

DISK, NIC = "scsi_disk", "nic_single"  # a disk of its own: scsi_debug's LUNs share their content


@contextmanager
def mounted(block: str) -> Iterator[None]:
    run("mkfs.ext4", "-q", "-F", block)
    Path("/mnt/changes").mkdir(exist_ok=True)
    run("mount", block, "/mnt/changes")
    try:
        yield
    finally:
        run("umount", "/mnt/changes")


@contextmanager
def swapping(block: str) -> Iterator[None]:
    run("mkswap", block)
    run("swapon", block)
    try:
        yield
    finally:
        run("swapoff", block)


@contextmanager
def in_an_array(block: str) -> Iterator[None]:
    run("mdadm", "--create", "/dev/md/changes", "--level=1", "--raid-devices=2", "--metadata=1.2", "--run",
        block, "missing")  # fmt: skip
    try:
        yield
    finally:
        udev_is_done()
        run("mdadm", "--stop", "/dev/md/changes")
        run("mdadm", "--zero-superblock", block)


@contextmanager
def addressed(interface: str) -> Iterator[None]:
    run("ip", "address", "add", "198.51.100.1/24", "dev", interface)
    try:
        yield
    finally:
        run("ip", "address", "del", "198.51.100.1/24", "dev", interface)


@contextmanager
def in_the_bridge(interface: str) -> Iterator[None]:
    run("ip", "link", "set", interface, "master", "br0")
    try:
        yield
    finally:
        run("ip", "link", "set", interface, "nomaster")


@pytest.mark.parametrize(
    ("role", "using", "kind", "detail"),
    [
        (DISK, mounted, "MOUNT", "/mnt/changes"),
        (DISK, swapping, "SWAP", "{node}"),
        (DISK, in_an_array, "MD_MEMBER", "md126"),
        (NIC, addressed, "GLOBAL_ADDRESS", "198.51.100.1"),
        (NIC, in_the_bridge, "BRIDGE_PORT", "br0"),
    ],
)
def test_a_use_shows_when_it_begins_and_when_it_ends(
    lab: LabHost, role: str, using: Callable[[str], AbstractContextManager[None]], kind: str, detail: str
) -> None:
    name = lab.roles[role]
    user = child(lab, name, "storage" if role == DISK else "net")
    node = user.storage.block or user.net.interface
    with watching(lab) as changes:
        for _ in changes.rounds(2):
            with using(node):
                used = changes.until(UPSERT, lambda device: device.name == name and not device.eligibility.eligible)
                assert [(reason.subject, *codes([reason])) for reason in used.eligibility.reasons] == [
                    (user.name, "HOST_IN_USE")
                ]
                eventually(
                    partial(lab.api.host_uses, user.name), lambda told: told == [(kind, detail.format(node=node))]
                )
            changes.until(UPSERT, lambda device: device.name == name and device.eligibility.eligible)
            assert lab.api.device(name).eligibility.available


def test_an_nvme_controller_is_in_use_by_a_namespace_that_may_be_shared(lab: LabHost) -> None:
    """The kernel makes such a disk below no PCI function, and libvirt lists it below none."""
    api, name = lab.api, lab.roles["nvme_sriov"]
    (lost,) = api.eligible()[name].affected
    disk = api.device(lost.name)
    assert (disk.type, disk.parent) == ("storage", "computer")
    with watching(lab) as changes:
        with mounted(disk.storage.block):
            changes.until(UPSERT, lambda device: device.name == name and not device.eligibility.eligible)
            eventually(
                lambda: [(reason.subject, reason.message) for reason in api.device(name).eligibility.reasons],
                lambda told: told == [(disk.name, f"{disk.name} is mounted at /mnt/changes")],
            )
            with refused("DEVICE_NOT_ELIGIBLE"):
                api.attach("alpha", name)
            assert codes(api.plan("alpha", name).blockers) == ["HOST_IN_USE"]
            assert api.driver(name) == "nvme"
        changes.until(UPSERT, lambda device: device.name == name and device.eligibility.eligible)
    assert api.attach("alpha", name).state == ATTACHED
    assert disk.uid not in {device.uid for device in api.devices()}
    assert api.detach("alpha", name).state == DETACHED
    eventually(lambda: [one.type for one in api.eligible()[name].affected], lambda types: types == ["storage"])


def test_a_volume_group_is_a_use_from_its_first_trace_to_its_last(lab: LabHost) -> None:
    name = lab.roles[DISK]
    user = child(lab, name, "storage")
    block = user.storage.block

    def shows(*details: str) -> None:
        eventually(
            partial(lab.api.host_uses, user.name), lambda told: told == [("LVM_PV", detail) for detail in details]
        )
        assert lab.api.device(name).eligibility.eligible == (not details)

    shows()
    try:
        run("pvcreate", "-ff", "-y", block)
        shows("")  # a signature: whose it is shows when a volume stands on it
        run("vgcreate", "changes", block)
        shows("")
        run("lvcreate", "-y", "-Wn", "-Zn", "-l", "1", "-n", "volume", "changes")
        shows("changes")
        udev_is_done()
        run("lvremove", "-y", "changes/volume")
        shows("")
        udev_is_done()
        run("vgremove", "-y", "changes")
        shows("")
    finally:
        udev_is_done()
        subprocess.run(["vgremove", "-ff", "-y", "changes"], check=False, capture_output=True)
        run("pvremove", "-ff", "-y", block)
    shows()
