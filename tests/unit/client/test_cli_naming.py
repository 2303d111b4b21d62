"""Devices by PCI address, interface and disk; what a list says when nothing fits; remedies in hostdevctl's words."""

from __future__ import annotations

import grpc
import pytest

from hostdev.cli.words import remedy
from hostdev.v1 import assignment_pb2, device_pb2, service_pb2
from unit.client.fake_host import CAMERA, DISK, ETH1, GPU, NIC
from unit.client.fake_server import FakeHostdevd, Refused, error_info
from unit.client.outcome import Run


def with_interface(server: FakeHostdevd, name: str, interface: str) -> None:
    device = next(one for one in server.devices if one.name == name)
    device.net.interface = interface


@pytest.mark.parametrize("given", ["0000:01:00.0", "01:00.0", GPU])
def test_a_pci_address_is_a_device(hostdevctl: Run, given: str) -> None:
    assert hostdevctl("device", given, "-o", "name").out == f"{GPU}\n"


def test_an_interface_is_the_device_that_has_it(server: FakeHostdevd, hostdevctl: Run) -> None:
    with_interface(server, ETH1, "eth1")
    shown = hostdevctl("attach", "web", "eth1", "--yes")
    assert (shown.status, shown.err) == (0, f"hostdevctl: eth1 is {NIC}\n")
    assert {request.device for request in server.asked(service_pb2.AttachRequest)} == {NIC}


@pytest.mark.parametrize("given", ["nvme0n1", "/dev/nvme0n1"])
def test_a_disk_is_the_device_that_has_it(server: FakeHostdevd, hostdevctl: Run, given: str) -> None:
    disk = device_pb2.Device(name="block_nvme0n1_X", type="storage", parent=DISK)
    disk.storage.block = "/dev/nvme0n1"
    server.devices.append(disk)
    assert hostdevctl("why", given, "-o", "name").out == f"{DISK}\n"


def test_a_name_that_fits_two_devices_is_refused(server: FakeHostdevd, hostdevctl: Run) -> None:
    with_interface(server, ETH1, "lan")
    server.devices.append(device_pb2.Device(name="net_lan_2", type="net", parent=CAMERA))
    with_interface(server, "net_lan_2", "lan")
    shown = hostdevctl("detach", "web", "lan")
    assert shown.status == 1
    assert f"lan fits several devices: {NIC}, {CAMERA}; name one of them" in shown.err
    assert not server.asked(service_pb2.DetachRequest)


def test_what_nothing_has_is_left_to_the_server(hostdevctl: Run) -> None:
    shown = hostdevctl("device", "eth7")
    assert (shown.status, shown.err) == (1, "hostdevctl: DEVICE_NOT_FOUND: no device is called eth7\n")


def test_a_list_without_an_entry_says_which_name_is_unknown(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.holders = []
    server.refusals["Attach"] = Refused(grpc.StatusCode.NOT_FOUND, "no VM", error_info("VM_NOT_FOUND", vm="typo"))
    shown = hostdevctl("holders", "--vm", "typo", "--device", GPU)
    assert (shown.status, shown.out, shown.err) == (0, "", "no VM is called typo\n")
    assert all(request.validate_only for request in server.asked(service_pb2.AttachRequest))
    del server.refusals["Attach"]
    assert hostdevctl("holders", "--vm", "web").err == "no VM holds a device\n"
    assert hostdevctl("holders", "--device", "nothing").err == "no device is called nothing\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("use the group policy WHOLE_GROUP or RESERVE_REST", "use --group-policy whole-group or reserve-rest"),
        ("start it, or ask for the scope CONFIG", "start it, or ask for --scope config"),
        ("ask for the scope LIVE, or define the VM", "ask for --scope live, or define the VM"),
        ("modprobe vfio-pci; CONFIG_VFIO is there", "modprobe vfio-pci; CONFIG_VFIO is there"),
    ],
)
def test_remedies_name_options(said: str, shown: str) -> None:
    assert remedy(said) == shown


def test_a_blocker_tells_its_remedy_so(server: FakeHostdevd, hostdevctl: Run) -> None:
    blocker = server.plan.blockers.add(message="web is shut off", remedy="ask for the scope CONFIG")
    assert blocker.code == 0
    assert "→ ask for --scope config" in hostdevctl("plan", "web", GPU).out
    assert server.asked(service_pb2.AttachRequest)[0].scope == assignment_pb2.SCOPE_AUTO
