"""A stick is pulled out of the lab host and plugged in again while a guest has it: the guest gets it again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from api import ATTACHED, DETACHED, Api, eventually
from hosts import LabHost

from hostdev.v1 import assignment_pb2, device_pb2, service_pb2

LIVE = assignment_pb2.SCOPE_LIVE
MISSING = device_pb2.CONDITION_CODE_DEVICE_MISSING
LONG_S = 240.0
PORTS = {"stick1": ("4", "STICK1"), "twin_a": ("2", "TWIN"), "twin_b": ("3", "TWIN")}
"""The ports and serials of deploy/lab/topology.toml."""
FREE_PORT = "6"


def lab_qmp(*arguments: str) -> None:
    done = subprocess.run(["lab-qmp", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def pull(role: str) -> None:
    lab_qmp("device_del", f"id={role}")


def plug(role: str, port: str = "") -> None:
    own, serial = PORTS[role]
    where = ("driver=usb-storage", "bus=usb.0", f"port={port or own}", f"drive={role}", f"id={role}")
    lab_qmp("device_add", *where, f"serial={serial}")


def serials(vm: str) -> list[str]:
    """The serials of the USB devices that a guest sees."""
    command = ["lab-guest", vm, "lsusb"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line for line in shown.splitlines() if line.rstrip().endswith("]")]
    return sorted(line.rstrip().rpartition("[")[2][:-1] for line in lines)


def present(api: Api, uid: str) -> str | None:
    """The name of the device with this uid, None while it is not on the host."""
    return next((device.name for device in api.devices(types=["usb_device"]) if device.uid == uid), None)


def assignment(api: Api, name: str) -> assignment_pb2.Assignment:
    return api.stub.GetAssignment(service_pb2.GetAssignmentRequest(name=name)).assignment


def conditions(api: Api, name: str) -> set[int]:
    by_service = device_pb2.CONDITION_CODE_CONFIG_BY_SERVICE
    return {int(condition.code) for condition in assignment(api, name).conditions} - {by_service}


def follow(api: Api, name: str, uid: str, vm: str) -> str:
    """Wait until a guest has an assignment's device again, live and with nothing to say; its name now."""

    def found() -> tuple[set[int], list[tuple[str, bool, str]]]:
        at = present(api, uid)
        holders = api.holders(devices=[at]) if at is not None else []
        return conditions(api, name), [(one.vm.name, one.live, one.assignment) for one in holders]

    eventually(found, lambda seen: seen == (set(), [(vm, True, name)]), LONG_S)
    at = present(api, uid)
    assert at is not None
    return at


@pytest.fixture
def stick(lab: LabHost) -> Iterator[device_pb2.Device]:
    """The stick with a serial of its own; in its port again afterwards."""
    device = lab.api.device(lab.roles["stick1"])
    yield device
    if present(lab.api, device.uid) != lab.roles["stick1"]:
        subprocess.run(["lab-qmp", "device_del", "id=stick1"], check=False, capture_output=True)
        eventually(lambda: present(lab.api, device.uid), lambda name: name is None)
        plug("stick1")
        eventually(lambda: present(lab.api, device.uid), lambda name: name == lab.roles["stick1"])


@pytest.mark.parametrize(
    "port",
    [pytest.param("", id="the same port"), pytest.param(FREE_PORT, id="another port", marks=pytest.mark.full)],
)
def test_a_stick_that_is_plugged_in_again_is_in_the_guest_again(
    lab: LabHost, stick: device_pb2.Device, port: str
) -> None:
    api = lab.api
    held = api.attach("alpha", stick.name, scope=LIVE)
    assert held.state == ATTACHED
    eventually(lambda: serials("alpha"), lambda seen: "STICK1" in seen, LONG_S)
    pull("stick1")
    # The guest itself notices when it next reads from the stick: QEMU asks an idle device nothing.
    eventually(lambda: conditions(api, held.name), lambda seen: seen == {MISSING}, LONG_S)
    assert assignment(api, held.name).state == ATTACHED
    plug("stick1", port)
    name = follow(api, held.name, stick.uid, "alpha")
    assert (name == stick.name) == (not port)
    eventually(lambda: serials("alpha"), lambda seen: seen.count("STICK1") == 1, LONG_S)
    assert api.detach(assignment=held.name).state == DETACHED
    eventually(lambda: serials("alpha"), lambda seen: "STICK1" not in seen, LONG_S)


@pytest.mark.full
def test_a_stick_that_flaps_ends_in_the_guest(lab: LabHost, stick: device_pb2.Device) -> None:
    api = lab.api
    held = api.attach("alpha", stick.name, scope=LIVE)
    for _ in range(4):
        pull("stick1")
        eventually(lambda: present(api, stick.uid), lambda name: name is None)
        plug("stick1")
        eventually(lambda: present(api, stick.uid), lambda name: name is not None)
    follow(api, held.name, stick.uid, "alpha")
    eventually(lambda: serials("alpha"), lambda seen: seen.count("STICK1") == 1, LONG_S)
    assert api.detach(assignment=held.name).state == DETACHED


def test_a_stick_that_stays_away_can_be_detached(lab: LabHost, stick: device_pb2.Device) -> None:
    api = lab.api
    held = api.attach("alpha", stick.name, scope=LIVE)
    pull("stick1")
    eventually(lambda: conditions(api, held.name), lambda seen: seen == {MISSING}, LONG_S)
    assert api.detach(assignment=held.name).state == DETACHED
    plug("stick1")
    eventually(lambda: present(api, stick.uid), lambda name: name is not None)
    assert api.device(stick.name).eligibility.available


def test_twins_go_back_each_to_its_own_guest(lab: LabHost) -> None:
    api = lab.api
    roles = {"twin_a": "alpha", "twin_b": "brief"}
    uids = {role: api.device(lab.roles[role]).uid for role in roles}
    held = {role: api.attach(vm, lab.roles[role]).name for role, vm in roles.items()}
    try:
        for role in roles:
            pull(role)
            eventually(lambda: present(api, uids[role]), lambda name: name is None)  # noqa: B023  waited for here
        for role in reversed(roles):
            plug(role)
        for role, vm in roles.items():
            assert follow(api, held[role], uids[role], vm) == lab.roles[role]
            eventually(lambda: serials(vm), lambda seen: seen.count("TWIN") == 1, LONG_S)  # noqa: B023  the same
    finally:
        for name in held.values():
            assert api.detach(assignment=name).state == DETACHED


def test_a_guest_that_started_without_a_stick_gets_it_when_it_is_plugged_in(lab: LabHost) -> None:
    """By vendor:product in the configuration: `missing` in the live XML at first."""
    api, role = lab.api, "usb_unique"
    device = api.device(lab.roles[role])
    held = api.attach("spare", device.name)
    assert (held.live, held.config) == (False, True)
    lab_qmp("device_del", f"id={role}")
    try:
        eventually(lambda: conditions(api, held.name), lambda seen: seen == {MISSING}, LONG_S)
        lab.virsh_start("spare")
        eventually(lambda: assignment(api, held.name).vm.state, lambda state: state != held.vm.state, LONG_S)
    finally:
        lab_qmp("device_add", "driver=usb-audio", "bus=usb.0", "port=5", "audiodev=lab_audio", f"id={role}")
    try:
        follow(api, held.name, device.uid, "spare")
    finally:
        lab.virsh_destroy("spare")
    assert api.detach(assignment=held.name).state == DETACHED
