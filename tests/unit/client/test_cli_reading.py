"""Every command that only looks, without a terminal, against the fake server."""

from __future__ import annotations

import json

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from hostdev.cli.explanation import explain
from hostdev.cli.marks import verdict
from hostdev.v1 import device_pb2, service_pb2
from unit.client import fake_host
from unit.client.fake_host import CAMERA, DISK, ETH1, GPU, GPU_GROUP, NIC, SOUND
from unit.client.fake_server import FakeHostdevd, Refused, error_info
from unit.client.outcome import Outcome, Run


def test_host_shows_checks_with_remedies(hostdevctl: Run) -> None:
    shown = hostdevctl("host")
    assert shown.status == 0
    assert "lab1" in shown.out
    assert "Boot with intel_iommu=on." in shown.out


def test_devices_is_one_line_for_each_without_escapes(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("devices")
    assert shown.status == 0
    assert len(shown.out.splitlines()) == 1 + len(server.devices)
    assert "\x1b" not in shown.out
    assert r"[red]Evil\x1b[2JCam[/red]" in shown.out
    assert not any(line.endswith(" ") for line in shown.out.splitlines())


def test_devices_as_json_is_the_apis_mapping(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("-o", "json", "devices")
    assert json.loads(shown.out) == [MessageToDict(device) for device in server.devices]
    assert json.loads(shown.out)[0]["iommuGroup"] == 14


def test_devices_as_names(server: FakeHostdevd, hostdevctl: Run) -> None:
    assert hostdevctl("-o", "name", "devices").out.split() == [device.name for device in server.devices]


def test_global_options_may_stand_behind_the_command(server: FakeHostdevd, hostdevctl: Run) -> None:
    expected = hostdevctl("-o", "name", "devices").out
    assert hostdevctl("devices", "-o", "name").out == expected
    assert hostdevctl("devices", "--output=name", "--address", server.address).out == expected
    assert hostdevctl("devices", "-oname").out == expected


def test_every_filter_reaches_the_server(server: FakeHostdevd, hostdevctl: Run) -> None:
    options = "--type pci --type net --id 10de:* --class 03 --driver nouveau --group 14 --numa 0 --parent computer"
    for command in ("devices", "eligible", "groups"):
        assert hostdevctl(command, *options.split(), "--affected-by", GPU).status == 0
        wanted = server.requests[-1].filter
        assert list(wanted.types) == ["pci", "net"]
        assert (list(wanted.ids), list(wanted.pci_classes), list(wanted.drivers)) == (["10de:*"], ["03"], ["nouveau"])
        assert (list(wanted.iommu_groups), list(wanted.numa_nodes)) == ([14], [0])
        assert (wanted.parent, wanted.affected_by) == ("computer", GPU)


def test_an_empty_list_says_so_beside_the_output(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.devices = []
    assert hostdevctl("devices") == Outcome(0, "", "no devices\n")
    assert hostdevctl("devices", "-o", "json") == Outcome(0, "[]\n", "")


def test_device_shows_what_is_known(hostdevctl: Run) -> None:
    shown = hostdevctl("device", fake_host.uid(GPU))
    assert shown.status == 0
    for text in (GPU, "GA102 [GeForce] VGA", "nouveau", "10de:2204", GPU_GROUP):
        assert text in shown.out
    assert json.loads(hostdevctl("device", GPU, "-o", "json").out)["pci"]["id"] == "10de:2204"


def test_eligible_shows_affected_devices_and_passes_its_flags(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("eligible", "--available")
    assert SOUND in next(line for line in shown.out.splitlines() if line.startswith(GPU))
    assert DISK not in shown.out
    assert "HOST_IN_USE" in hostdevctl("eligible", "--all").out
    first, second = server.asked(service_pb2.ListEligibleRequest)
    assert (first.available_only, first.include_ineligible) == (True, False)
    assert (second.available_only, second.include_ineligible) == (False, True)


def test_tree_hangs_devices_below_their_parents(hostdevctl: Run) -> None:
    lines = hostdevctl("tree").out.splitlines()
    assert lines[0] == "computer"
    assert any(line.startswith("│   ├── " + GPU) and "IOMMU group 14" in line for line in lines)
    assert any(NIC in line and "held by web" in line for line in lines)
    assert any(DISK in line and "host: MOUNT /" in line and "HOST_IN_USE" in line for line in lines)
    assert lines[-1].startswith(CAMERA)  # its parent is not listed


def test_why_tells_reasons_and_remedies(hostdevctl: Run) -> None:
    shown = hostdevctl("why", DISK)
    assert shown.status == 0
    assert "HOST_IN_USE" in shown.out
    assert "→ Unmount it first." in shown.out
    assert "the host uses it: MOUNT /" in shown.out


def test_why_says_that_nothing_stands_in_the_way_and_shows_the_group(hostdevctl: Run) -> None:
    shown = hostdevctl("why", GPU).out
    assert f"{GPU} can be assigned now" in shown
    assert "← this device" in shown
    assert SOUND in shown
    assert "stays with the host" in shown


def test_why_says_who_has_it(hostdevctl: Run) -> None:
    shown = hostdevctl("why", fake_host.uid(NIC)).out
    assert "web holds it (running, live+config, hostdev)" in shown
    assert f"hostdevctl detach web {NIC}" in shown
    assert f"{ETH1}  eth1  would vanish from the host" in shown


def test_why_says_what_it_can_of_a_holder_that_may_not_be_seen() -> None:
    [line] = explain(NIC, fake_host.TAKEN, ())
    assert "a virtual machine that you may not see holds it, or one holds what goes with it" in str(line)
    assert verdict(device_pb2.Device(eligibility=fake_host.TAKEN)).plain == "held, or what goes with it is"


def test_why_knows_groups_too(hostdevctl: Run) -> None:
    assert "IOMMU group 14 can be assigned now" in hostdevctl("why", GPU_GROUP).out


def test_groups_and_group(hostdevctl: Run) -> None:
    assert f"{GPU} {SOUND}" in hostdevctl("groups").out
    assert hostdevctl("groups", "-o", "name").out == GPU_GROUP + "\n"
    for name in (GPU_GROUP, SOUND):
        assert json.loads(hostdevctl("group", name, "-o", "json").out)["uid"] == GPU_GROUP
        assert "[snd_hda_intel]" in hostdevctl("group", name).out


def test_a_device_without_group_and_an_unknown_name(hostdevctl: Run) -> None:
    assert hostdevctl("group", CAMERA) == Outcome(1, "", "hostdevctl: GROUP_NOT_FOUND: it has no group\n")
    unknown = Outcome(1, "", "hostdevctl: DEVICE_NOT_FOUND: no device is called nope\n")
    assert hostdevctl("group", "nope") == unknown
    assert hostdevctl("why", "nope") == unknown


def test_holders(server: FakeHostdevd, hostdevctl: Run) -> None:
    assert "none: by another tool" in hostdevctl("holders", "--vm", "web", "--device", NIC).out
    asked = server.asked(service_pb2.ListHoldersRequest)[0]
    assert (list(asked.vms), list(asked.devices)) == (["web"], [NIC])
    assert json.loads(hostdevctl("holders", "-o", "json").out)[0]["vm"]["state"] == "VM_STATE_RUNNING"


def test_assignments_by_state(server: FakeHostdevd, hostdevctl: Run) -> None:
    shown = hostdevctl("assignments", "--vm", "web", "--device", GPU, "--state", "attached", "--state", "rolling-back")
    assert fake_host.ASSIGNMENT in shown.out
    asked = server.asked(service_pb2.ListAssignmentsRequest)[0]
    assert (asked.vm, asked.device, list(asked.states)) == ("web", GPU, [2, 5])


def test_a_call_that_is_not_served_says_so_in_one_line(hostdevctl: Run) -> None:
    shown = hostdevctl("mdev", "delete", "mdev_1")
    assert shown == Outcome(1, "", "hostdevctl: UNIMPLEMENTED: the server does not serve DeleteMediatedDevice\n")


def test_nobody_there_is_3(hostdevctl: Run) -> None:
    shown = hostdevctl("--address", "unix:/nonexistent/socket", "devices")
    assert (shown.status, shown.out) == (3, "")
    assert "cannot reach hostdevd at unix:/nonexistent/socket" in shown.err
    assert len(shown.err.splitlines()) == 1


def test_a_server_that_cannot_is_3_with_its_own_words(server: FakeHostdevd, hostdevctl: Run) -> None:
    server.refusals["ListDevices"] = Refused(
        grpc.StatusCode.UNAVAILABLE, "libvirt does not answer", error_info("LIBVIRT_DISCONNECTED")
    )
    assert hostdevctl("devices") == Outcome(3, "", "hostdevctl: LIBVIRT_DISCONNECTED: libvirt does not answer\n")


@pytest.mark.parametrize(
    "argv",
    [
        ["bogus"],
        ["device"],
        ["detach"],
        ["attach", "web"],
        ["devices", "--group", "-1"],
        ["attach", "web", GPU, "--wait", "-1"],
        ["attach", "web", GPU, "--scope", "half"],
        ["--address", "nowhere", "devices"],
        ["-o", "yaml", "devices"],
        ["mdev", "create", GPU, "type", "--attribute", "novalue"],
        ["vf", "set", NIC, "many"],
    ],
)
def test_usage_is_2(server: FakeHostdevd, hostdevctl: Run, argv: list[str]) -> None:
    shown = hostdevctl(*argv)
    assert (shown.status, shown.out) == (2, "")
    assert "Usage: hostdevctl" in shown.err
    assert server.requests == []


def test_nothing_becomes_a_traceback(hostdevctl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostdev.client.HostdevClient.get_host", lambda _: 1 / 0)
    shown = hostdevctl("host")
    assert shown.status == 1
    assert shown.err.startswith("hostdevctl: internal error: ZeroDivisionError")
    assert len(shown.err.splitlines()) == 1


def test_a_picture_shows_what_the_host_uses_far_below(server: FakeHostdevd, hostdevctl: Run) -> None:
    used = device_pb2.HostUse(kind=device_pb2.HOST_USE_KIND_MOUNT, detail="/boot")
    server.devices += [
        device_pb2.Device(name="scsi_host0", uid="dev-host0", type="scsi_host", parent=DISK),
        device_pb2.Device(name="block_sda", uid="dev-sda", type="storage", parent="scsi_host0", host_uses=[used]),
    ]
    server.affected[DISK] = ["block_sda"]
    lines = hostdevctl("why", DISK).out.splitlines()
    assert next(line for line in lines if "block_sda" in line).startswith("└── block_sda")
    assert lines[-1].strip() == "└── the host uses it: MOUNT /boot"
