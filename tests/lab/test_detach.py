"""Taking devices back from guests that answer late, never, or die, while libvirt and the host move on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api import ATTACHED, DETACHED, LONG_S, WAIT_S, Api, eventually, refused
from google.protobuf.duration_pb2 import Duration
from hosts import LabHost, managed_pci, virsh
from libvirtd import restart_libvirtd

from hostdev.v1 import assignment_pb2, device_pb2, holder_pb2, service_pb2
from hostdevd.core.ports import Target

LIVE = assignment_pb2.SCOPE_LIVE
CONFIG = assignment_pb2.SCOPE_CONFIG
DETACHING = assignment_pb2.ASSIGNMENT_STATE_DETACHING


@contextmanager
def paused(vm: str) -> Iterator[None]:
    """A guest that runs no instruction: it answers nothing until it goes on."""
    virsh("suspend", vm)
    try:
        yield
    finally:
        virsh("resume", vm)


MUTE = """<domain type='qemu'><name>mute</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices>
<controller type='pci' index='0' model='pcie-root'/>
<controller type='pci' index='1' model='pcie-root-port'/>
<controller type='usb' model='none'/><memballoon model='none'/>
</devices>
</domain>"""
"""A guest without a system: its firmware answers nothing, and boots in no time."""


@contextmanager
def mute(directory: Path) -> Iterator[None]:
    """The guest that never answers, until it ends."""
    definition = directory / "mute.xml"
    definition.write_text(MUTE)
    virsh("create", str(definition))
    try:
        yield
    finally:
        if "mute" in virsh("list", "--name").split():
            virsh("destroy", "mute")


def ask(api: Api, name: str, wait_s: int = 2) -> assignment_pb2.Assignment:
    request = service_pb2.DetachRequest(assignment=name, wait=Duration(seconds=wait_s))
    return api.stub.Detach(request, timeout=LONG_S).assignment


def state(api: Api, name: str) -> assignment_pb2.AssignmentState.ValueType:
    return api.stub.GetAssignment(service_pb2.GetAssignmentRequest(name=name)).assignment.state


@pytest.mark.parametrize("meanwhile", [pytest.param("nothing", marks=pytest.mark.full), "libvirtd is killed"])
def test_a_guest_that_answers_late_is_waited_for_after_the_caller_has_gone(lab: LabHost, meanwhile: str) -> None:
    api, names = lab.api, [lab.roles["dual_0"], lab.roles["dual_1"]]
    drivers = [api.driver(name) for name in names]
    assignment = api.attach("alpha", names[0], scope=LIVE)
    position = api.stub.ListHolders(service_pb2.ListHoldersRequest()).resume_token
    with paused("alpha"):
        assert ask(api, assignment.name).state == DETACHING
        assert [api.driver(name) for name in names] == ["vfio-pci"] * 2
        if meanwhile != "nothing":
            restart_libvirtd(api)
    eventually(lambda: state(api, assignment.name), lambda now: now == DETACHED)
    assert [api.driver(name) for name in names] == drivers
    watch = api.stub.WatchHolders(service_pb2.WatchHoldersRequest(resume_token=position), timeout=LONG_S)
    gone = set[str]()
    for message in watch:
        gone |= {
            one.holder.device for one in message.change_batch.changes if one.kind == service_pb2.CHANGE_KIND_REMOVE
        }
        if gone >= set(names):
            break
    watch.cancel()


@pytest.mark.parametrize("end", ["destroyed", pytest.param("crashed", marks=pytest.mark.full)])
def test_a_guest_that_never_answers_keeps_the_device_until_it_ends(lab: LabHost, tmp_path: Path, end: str) -> None:
    api, name = lab.api, lab.roles["nic_single"]
    driver = api.driver(name)
    with mute(tmp_path):
        assignment = api.attach("mute", name, scope=LIVE)
        assert ask(api, assignment.name).state == DETACHING
        assert ask(api, assignment.name).state == DETACHING  # joined, not asked again
        with refused("OPERATION_IN_PROGRESS") as caught:
            api.attach("alpha", name)
        assert caught[0].info.metadata["vm_name"] == "mute"
        if end == "destroyed":
            virsh("destroy", "mute")
        else:
            subprocess.run(["pkill", "-9", "-f", "guest=mute,"], check=True)
        eventually(lambda: state(api, assignment.name), lambda now: now == DETACHED)
        assert api.driver(name) == driver
        assert api.holders(devices=[name]) == []


@pytest.mark.full
def test_a_paused_guest_takes_a_device_and_has_it_when_it_goes_on(lab: LabHost) -> None:
    api, name = lab.api, lab.roles["nic_single"]
    before = lab.guest_pci_ids("alpha") or []
    with paused("alpha"):
        assert api.attach("alpha", name).state == ATTACHED
        assert api.holders(devices=[name])[0].vm.state == holder_pb2.VM_STATE_PAUSED
    eventually(lambda: len(lab.guest_pci_ids("alpha") or []), lambda count: count == len(before) + 1)
    assert api.detach("alpha", name).state == DETACHED


def test_nothing_is_given_back_before_the_whole_group_has_left(lab: LabHost) -> None:
    api, names = lab.api, [lab.roles["dual_0"], lab.roles["dual_1"]]
    drivers = [api.driver(name) for name in names]
    assignment = api.attach("alpha", names[0], scope=LIVE)
    aliases = {holder.device: holder.alias for holder in api.holders(devices=names)}
    virsh("detach-device-alias", "alpha", aliases[names[0]], "--live")
    get = service_pb2.GetAssignmentRequest(name=assignment.name)
    found = eventually(lambda: api.stub.GetAssignment(get).assignment, lambda now: bool(now.conditions))
    assert [one.code for one in found.conditions] == [device_pb2.CONDITION_CODE_GROUP_SPLIT]
    restart_libvirtd(api)
    time.sleep(1)
    assert [api.driver(name) for name in names] == ["vfio-pci"] * 2
    assert api.detach(assignment=assignment.name).state == DETACHED
    assert [api.driver(name) for name in names] == drivers


def test_a_device_that_its_operator_gave_to_vfio_stays_there(lab: LabHost) -> None:
    api, name = lab.api, lab.roles["switch_1"]
    driver, address = api.driver(name), api.device(name).pci.address
    sysfs = f"/sys/bus/pci/devices/{address}"
    _write(f"{sysfs}/driver_override", "vfio-pci")
    _write(f"{sysfs}/driver/unbind", address)
    _write("/sys/bus/pci/drivers_probe", address)
    try:
        eventually(lambda: api.driver(name), lambda now: now == "vfio-pci")
        for scope in (LIVE, assignment_pb2.SCOPE_AUTO):
            assert api.attach("alpha", name, scope=scope).devices[0].original_driver == "vfio-pci"
            done = api.detach("alpha", name)
            assert (done.state, list(done.conditions)) == (DETACHED, [])
            assert api.driver(name) == "vfio-pci"
    finally:
        _write(f"{sysfs}/driver_override", "\n")
        _write("/sys/bus/pci/drivers/vfio-pci/unbind", address)
        _write("/sys/bus/pci/drivers_probe", address)
    eventually(lambda: api.driver(name), lambda now: now == driver)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123  sysfs wants one plain write
        file.write(text)


def test_a_device_that_is_pulled_out_of_the_host_is_not_lost_to_the_record(lab: LabHost) -> None:
    api = lab.api
    known = {device.name for device in api.devices(types=["pci"])}
    subprocess.run(["lab-qmp", "device_add", "driver=e1000e", "bus=spare_port", "id=nic_pulled"], check=True)
    try:
        name = eventually(lambda: {one.name for one in api.devices(types=["pci"])} - known, bool).pop()
        eventually(lambda: api.device(name).eligibility.available, bool)
        assignment = api.attach("alpha", name, scope=LIVE)
    finally:
        subprocess.run(["lab-qmp", "device_del", "id=nic_pulled"], check=True)
    eventually(lambda: {one.name for one in api.devices(types=["pci"])}, lambda now: now == known)
    assert ask(api, assignment.name, WAIT_S).state == DETACHED
    assert api.holders(devices=[name]) == []
    api.stub.ForgetAssignment(service_pb2.ForgetAssignmentRequest(name=assignment.name))


@pytest.mark.parametrize("via", ["DISK", "INTERFACE"])
def test_what_other_elements_of_a_definition_take_is_held(lab: LabHost, via: str) -> None:
    api = lab.api
    if via == "DISK":
        name = lab.roles["lun_1"]
        block = next(device for device in api.devices(types=["storage"]) if device.parent == name).storage.block
        virsh("attach-disk", "spare", block, "sdq", "--targetbus", "scsi", "--config")
        undo = ["detach-disk", "spare", "sdq", "--config"]
    else:
        name = lab.roles["switch_0"]
        address = api.device(name).pci.address
        virsh("attach-interface", "spare", "hostdev", address, "--managed", "--mac", "52:54:00:1a:bf:01", "--config")
        undo = ["detach-interface", "spare", "hostdev", "--mac", "52:54:00:1a:bf:01", "--config"]
    try:
        held = eventually(lambda: api.holders(devices=[name]), bool)
        assert [(one.vm.name, one.live, one.config) for one in held] == [("spare", False, True)]
        assert held[0].via == holder_pb2.HolderVia.Value(f"HOLDER_VIA_{via}")
        with refused("HELD_BY_OTHER_VM"):
            api.attach("alpha", name)
    finally:
        virsh(*undo)
    eventually(lambda: api.holders(devices=[name]), lambda now: not now)


def test_a_detach_of_what_virsh_attached_survives_libvirtd(lab: LabHost) -> None:
    api, name = lab.api, lab.roles["nic_single"]
    driver = api.driver(name)
    lab.virsh_attach("alpha", managed_pci(api, name, "ua-by-hand"), Target.LIVE)
    eventually(lambda: api.holders(devices=[name]), bool)
    with paused("alpha"):
        request = service_pb2.DetachRequest(vm="alpha", device=name, wait=Duration(seconds=2))
        taken = api.stub.Detach(request, timeout=LONG_S).assignment
        assert taken.state == DETACHING
        restart_libvirtd(api)
    eventually(lambda: state(api, taken.name), lambda now: now == DETACHED)
    assert api.driver(name) == driver
