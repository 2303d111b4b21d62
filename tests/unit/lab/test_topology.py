"""The lab's topology file and the QEMU arguments made of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[3] / "deploy" / "lab"
sys.path.insert(0, str(LAB))

from hostlab.errors import LabError
from hostlab.guests import domain_xml
from hostlab.qemu import Boot, arguments, device_arguments, option
from hostlab.topology import Topology, parse

DISKS = Path("/disks")


@pytest.fixture(scope="module")
def shipped() -> Topology:
    """The topology in the tree."""
    return parse((LAB / "topology.toml").read_text())


def devices(text: str) -> list[str]:
    """The -device arguments of a topology's text."""
    made = device_arguments(parse(text), DISKS)
    return [value for flag, value in zip(made[::2], made[1::2], strict=True) if flag == "-device"]


def boot(*, iommu: bool = True, server_port: int | None = None) -> Boot:
    """Some boot's files."""
    here = Path("/files")
    return Boot(
        kernel=here,
        initramfs=here,
        config_dir=here,
        output_dir=here,
        capabilities_dir=here,
        guests_dir=here,
        disk_dir=DISKS,
        state_disk=here,
        qmp_socket=here,
        console_log=here,
        agent_port=4000,
        server_port=server_port,
        cpus=2,
        iommu=iommu,
    )


def test_a_device_with_a_root_port_sits_behind_it() -> None:
    made = devices("[[device]]\nrole='nic'\ndriver='e1000e'\nroot_port='0x2'\nmac='aa'")
    assert made == [
        "pcie-root-port,id=port_nic,bus=pcie.0,addr=0x2,chassis=1",
        "e1000e,id=nic,bus=port_nic,mac=aa",
    ]


def test_ports_get_chassis_numbers_of_their_own() -> None:
    made = devices(
        "[[device]]\nrole='a'\ndriver='pcie-root-port'\n"
        "[[device]]\nrole='b'\ndriver='e1000e'\nroot_port='2'\n"
        "[[device]]\nrole='c'\ndriver='xio3130-downstream'\n"
        "[[device]]\nrole='d'\ndriver='pcie-root-port'\nchassis=9"
    )
    chassis = [text.partition("chassis=")[2] for text in made if "chassis=" in text]
    assert chassis == ["1", "2", "3", "9"]


def test_a_disk_becomes_a_node_named_like_its_device() -> None:
    made = device_arguments(parse("[[device]]\nrole='s'\ndriver='usb-storage'\ndisk={size_mib=1}"), DISKS)
    assert made[0] == "-blockdev"
    assert "node-name=s," in made[1]
    assert "file.filename=/disks/s.img" in made[1]
    assert made[3].endswith("drive=s")


def test_an_unplugged_device_has_its_disk_only() -> None:
    made = device_arguments(
        parse("[[device]]\nrole='s'\ndriver='usb-storage'\nplugged=false\ndisk={size_mib=1}"), DISKS
    )
    assert made[0] == "-blockdev"
    assert len(made) == 2


def test_values_are_written_as_qemu_reads_them() -> None:
    assert option("x", [("a", True), ("b", False), ("c", 3), ("d", "1,2")]) == "x,a=on,b=off,c=3,d=1,,2"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[device]]\nrole='a'", "role and driver"),
        ("[[device]]\nrole='a'\ndriver='x'\n[[device]]\nrole='a'\ndriver='y'", "twice"),
        ("[[device]]\nrole='a'\ndriver='x'\nlist=[1]", "must be text"),
        ("[[device]]\nrole='a'\ndriver='x'\ndisk={format='ntfs'}", "disk format"),
        ("[[guest]]\nmemory_mib=1", "needs a name"),
        ("[machine]\nmemory=1", "no key 'memory'"),
        ("[devices]", "unknown table"),
        ("not toml", "topology"),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(LabError, match=says):
        parse(text)


def test_the_shipped_topology_keeps_the_twins_alike(shipped: Topology) -> None:
    twins = [shipped.device("twin_a"), shipped.device("twin_b")]
    assert len({(t.driver, t.get("serial")) for t in twins}) == 1
    assert len({t.get("port") for t in twins}) == 2


def test_the_shipped_topology_leaves_the_labs_own_slots(shipped: Topology) -> None:
    slots = [d.root_port or d.get("addr") for d in shipped.devices if d.root_port or d.get("bus") == "pcie.0"]
    assert len(set(slots)) == len(slots)
    assert all(int(slot.partition(".")[0], 16) < 0x18 for slot in slots)


def test_only_loopback_is_listened_on(shipped: Topology) -> None:
    line = " ".join(arguments(shipped, boot(server_port=50051)))
    assert line.count("hostfwd=") == line.count("hostfwd=tcp:127.0.0.1:") == 2
    assert "vnc" not in line


def test_the_iommu_can_be_left_out(shipped: Topology) -> None:
    assert any("intel-iommu" in a for a in arguments(shipped, boot()))
    without = arguments(shipped, boot(iommu=False))
    assert not any("intel-iommu" in a for a in without)
    assert any("intel_iommu=off" in a for a in without)


def test_guests_have_a_shell_and_what_the_rules_need(shipped: Topology) -> None:
    by_name = {guest.name: domain_xml(guest) for guest in shipped.guests}
    assert all("name='lab.shell'" in xml and "model='virtio-scsi'" in xml for xml in by_name.values())
    assert "pcie-to-pci-bridge" in by_name["alpha"]
    assert "pcie" not in by_name["legacy"]
    assert "acpiphp.disable=1" in by_name["deaf"]
