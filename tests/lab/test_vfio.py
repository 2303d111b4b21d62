"""Failures that only a real VFIO can give, and what the kernel says of it all."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from api import ATTACHED, DETACHED, Refused, eventually, refused
from hosts import LabHost
from libvirtd import kill_libvirtd, start_libvirtd

from hostdev.v1 import assignment_pb2, service_pb2

LIVE = assignment_pb2.SCOPE_LIVE


@contextmanager
def somebody_takes_the_group(number: int) -> Iterator[None]:
    """Another process opens the VFIO group as soon as it is there, so that QEMU cannot."""
    stop = threading.Event()
    opened: list[int] = []

    def grab() -> None:
        while not stop.is_set() and not opened:
            with suppress(OSError):
                opened.append(os.open(f"/dev/vfio/{number}", os.O_RDWR))
            time.sleep(0.001)

    thread = threading.Thread(target=grab)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for descriptor in opened:
            os.close(descriptor)
    assert opened, "the group was never there"


@pytest.mark.parametrize("role", ["nic_single", "dual_0", "twoport_0"])
def test_an_attach_that_vfio_refuses_leaves_every_driver_as_it_was(lab: LabHost, role: str) -> None:
    api, name = lab.api, lab.roles[role]
    group = api.group_of(name)
    drivers = {member.name: member.driver for member in group.members}
    with somebody_takes_the_group(group.iommu_group), refused("ATTACH_FAILED") as caught:
        api.attach("alpha", name)
    metadata = caught[0].info.metadata
    assert (metadata["step"], metadata["rolled_back"]) == ("ATTACH_LIVE", "true")
    assert "libvirt_code" in metadata
    assert {member.name: member.driver for member in api.group_of(name).members} == drivers
    assert api.holders(devices=list(drivers)) == []
    failed = service_pb2.GetAssignmentRequest(name=metadata["assignment"])
    assert api.stub.GetAssignment(failed).assignment.state == assignment_pb2.ASSIGNMENT_STATE_FAILED
    assert api.attach("alpha", name, scope=LIVE).state == ATTACHED  # and it works when the group is free
    assert api.detach("alpha", name).state == DETACHED


def test_a_filesystem_mounted_since_keeps_the_disk(lab: LabHost, tmp_path: Path) -> None:
    api = lab.api
    lun = lab.roles["lun_1"]
    block = next(device for device in api.devices(types=["storage"]) if device.parent == lun).storage.block
    assert api.device(lun).eligibility.eligible
    subprocess.run(["mkfs.ext4", "-q", "-F", block], check=True)
    subprocess.run(["mount", block, str(tmp_path)], check=True)
    try:
        with refused("DEVICE_NOT_ELIGIBLE"):
            api.attach("alpha", lun)
        eventually(lambda: api.device(lun).eligibility.eligible, lambda eligible: not eligible)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    eventually(lambda: api.device(lun).eligibility.eligible, bool)


def test_the_service_goes_on_when_libvirtd_is_killed(lab: LabHost) -> None:
    api, name = lab.api, lab.roles["nic_single"]
    driver = api.driver(name)
    assignment = api.attach("alpha", name, scope=LIVE)
    kill_libvirtd()
    try:
        with refused("LIBVIRT_DISCONNECTED"):
            eventually(lambda: api.plan("alpha", lab.roles["switch_0"]), lambda _: False)
        assert api.driver(name) == "vfio-pci"  # reads answer from memory
    finally:
        start_libvirtd()
    assert eventually(lambda: _detached(lab, assignment.name), bool)
    assert api.driver(name) == driver


def _detached(lab: LabHost, name: str) -> bool:
    try:
        return lab.api.detach(assignment=name).state == DETACHED
    except grpc.RpcError as error:
        if Refused(error).code is not grpc.StatusCode.UNAVAILABLE:  # else libvirt is on its way back
            raise
        return False
