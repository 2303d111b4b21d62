"""The start guard where it stands: libvirt asks the hook, and its refusal reaches whoever started the VM."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api import ATTACHED, DETACHED, eventually
from hosts import LabHost

from hostdev.v1 import assignment_pb2
from hostdevd.core.addresses import PciAddress
from hostdevd.core.ports import HostdevSpec, Target

REPOSITORY = Path(__file__).parents[2]
HOOKS = Path("/etc/libvirt/hooks")
CONFIG = assignment_pb2.SCOPE_CONFIG
OURS = "hostdevd refuses to start spare: "


@pytest.fixture(autouse=True)
def _hook(lab: LabHost, tmp_path: Path) -> Iterator[None]:
    """The hook as `deploy/hooks/install` leaves it, pointed to the state of the service under test."""
    with guarded(lab.state, tmp_path):
        yield


@contextmanager
def guarded(state: Path, scratch: Path) -> Iterator[None]:
    environment = {**os.environ, "STATE_DIR": str(state)}
    subprocess.run([str(REPOSITORY / "deploy/hooks/install")], check=True, env=environment)
    _reloaded(scratch)
    try:
        yield
    finally:
        (HOOKS / "qemu.d/hostdevd").unlink()
        Path("/etc/hostdevd/guard.conf").unlink()
        _reloaded(scratch)


def _reloaded(scratch: Path) -> None:
    """libvirt looks for hooks anew when it reloads, and then runs the daemon's own: so that it has looked shows."""
    seen = scratch / "seen"
    seen.unlink(missing_ok=True)
    hook = HOOKS / "daemon"
    hook.write_text(f"#!/bin/sh\ntouch {seen}\n")
    hook.chmod(0o755)
    subprocess.run(["pkill", f"-{signal.SIGHUP.value}", "-x", "libvirtd"], check=True)
    eventually(seen.exists, bool)
    hook.unlink()


def start(vm: str = "spare") -> str:
    """What libvirt says when it does not start it; empty when it does."""
    done = subprocess.run(["virsh", "start", vm, "--paused"], check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr


@contextmanager
def started(lab: LabHost, vm: str = "spare") -> Iterator[None]:
    refusal = start(vm)
    assert refusal == ""
    try:
        yield
    finally:
        lab.virsh_destroy(vm)


def known_to_the_guard(lab: LabHost, uid: str) -> str:
    """The file's content once it has this device."""
    file = lab.state / "guard.json"
    return eventually(lambda: file.read_text() if file.exists() else "", lambda told: uid in told)


def test_a_file_system_mounted_since_keeps_the_vm_from_its_disk(lab: LabHost, tmp_path: Path) -> None:
    api, lun = lab.api, lab.roles["scsi_disk"]
    block = next(device for device in api.devices(types=["storage"]) if device.parent == lun).storage.block
    place = tmp_path / "mounted"
    place.mkdir()
    assert api.attach("spare", lun, scope=CONFIG).state == ATTACHED
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", block], check=True)
        subprocess.run(["mount", block, str(place)], check=True)
        try:
            refusal = start()
        finally:
            subprocess.run(["umount", str(place)], check=True)
        assert OURS in refusal
        assert f"is mounted at {place}" in refusal
        with started(lab):
            eventually(lambda: [holder.live for holder in api.holders(devices=[lun])], lambda live: live == [True])
    finally:
        assert api.detach("spare", lun).state == DETACHED
        subprocess.run(["wipefs", "-q", "-a", block], check=True)


def test_an_assigned_function_starts_with_its_vm(lab: LabHost) -> None:
    api, nic = lab.api, lab.roles["nic_single"]
    driver = api.driver(nic)
    assignment = api.attach("spare", nic, scope=CONFIG)
    try:
        known_to_the_guard(lab, assignment.devices[0].uid)
        with started(lab):
            eventually(lambda: api.driver(nic), lambda now: now == "vfio-pci")
        eventually(lambda: api.driver(nic), lambda now: now == driver)
    finally:
        assert api.detach("spare", nic).state == DETACHED


def test_an_address_at_which_another_device_is(lab: LabHost, tmp_path: Path) -> None:
    """As after a renumbering, before the service is up: the entry names a function that was never assigned."""
    api, nic, other = lab.api, lab.roles["nic_single"], lab.roles["switch_0"]
    assignment = api.attach("spare", nic, scope=CONFIG)
    alias = next(holder.alias for holder in api.holders(devices=[nic]) if holder.vm.name == "spare")
    wrong = HostdevSpec(alias, PciAddress.parse(api.device(other).pci.address), managed=True)
    last = tmp_path / "guard.json"
    last.write_text(known_to_the_guard(lab, assignment.devices[0].uid))
    Path("/etc/hostdevd/guard.conf").write_text(f"file = {last}\n")
    # The service that is up would put the entry right at once: for it there is none any more.
    assert api.detach(assignment=assignment.name).state == DETACHED
    lab.virsh_attach("spare", wrong, Target.CONFIG)
    try:
        refusal = start()
    finally:
        lab.virsh_detach("spare", alias, Target.CONFIG)
    assert OURS in refusal
    assert f"{wrong.source} is not the device that was assigned" in refusal
    assert f"the assigned one is at {api.device(nic).pci.address}" in refusal
    eventually(lambda: api.holders(vms=["spare"]), lambda held: held == [])


def test_a_device_in_use_keeps_a_vm_that_another_tool_configured(lab: LabHost) -> None:
    """Nothing of it was assigned by hostdevd; that the host uses it is enough."""
    mounted = PciAddress.parse(lab.api.device(lab.roles["nvme_mounted"]).pci.address)
    lab.virsh_attach("spare", HostdevSpec("ua-other-tool", mounted, managed=True), Target.CONFIG)
    try:
        refusal = start()
    finally:
        lab.virsh_detach("spare", "ua-other-tool", Target.CONFIG)
    assert OURS in refusal
    assert "is mounted at /mnt/lab" in refusal


def test_a_vm_without_host_devices_starts_whatever_the_guard_knows(lab: LabHost) -> None:
    Path("/etc/hostdevd/guard.conf").write_text("file = /nowhere/guard.json\n")
    with started(lab):
        pass
