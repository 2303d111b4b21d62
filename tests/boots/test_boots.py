"""Reboots of a host: after one with more hardware every device is known again; one without an IOMMU says so.

Boots of one machine with one state, in this order: as it is, with cards in front of all others, as it was with
the IOMMU off.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from boots.lab_boot import TOPOLOGY, Record, boot

pytestmark = pytest.mark.timeout(1800)

# A card in a slot before all others shifts the PCI bus numbers; a USB controller and a SCSI host on the first bus
# are found before those behind ports and take their numbers.
CARDS_IN_FRONT = """
[[device]]
role = "extra_nic"
driver = "e1000e"
root_port = "0x1"
mac = "52:54:00:1a:b0:e0"

[[device]]
role = "extra_usb"
driver = "qemu-xhci"
bus = "pcie.0"
addr = "0x16"

[[device]]
role = "extra_scsi"
driver = "virtio-scsi-pci"
bus = "pcie.0"
addr = "0x17"

[[device]]
role = "extra_disk"
driver = "scsi-hd"
bus = "extra_scsi.0"
serial = "lab-extra"
disk = { size_mib = 8 }

"""
# Some of each kind, which must be elsewhere then: else the test would show nothing.
MUST_MOVE = {
    "nic_single", "bridge_ac97", "dual_1", "twoport_0", "switch_1", "nvme_sriov", "disk_md", "usb", "usb_idle", "scsi",
    "nic_single/net", "nic_address/net",
    "usb_keyboard", "usb_unique", "twin_a", "twin_b", "stick1", "stick1/scsi",
    "scsi_disk", "lun_swap", "lun_lvm", "scsi_debug_0", "scsi_debug_3", "scsi_disk/storage",
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boots")


@pytest.fixture(scope="module")
def first(directory: Path) -> Record:
    return boot(directory, "first")


@pytest.fixture(scope="module")
def moved(directory: Path, first: Record) -> Record:
    assert first.devices
    before, first_row, after = TOPOLOGY.read_text().partition("[[device]]")
    topology = directory / "moved.toml"
    topology.write_text(before + CARDS_IN_FRONT + first_row + after)
    return boot(directory, "moved", topology=topology)


@pytest.fixture(scope="module")
def without_iommu(directory: Path, moved: Record) -> Record:
    assert moved.devices
    return boot(directory, "without_iommu", "--iommu", "off")


def test_every_device_keeps_its_uid_although_it_is_elsewhere(first: Record, moved: Record) -> None:
    addresses, now_at = first.by_label("address"), moved.by_label("address")
    elsewhere = {label for label in addresses if addresses[label] != now_at.get(label)}
    assert elsewhere >= MUST_MOVE, MUST_MOVE - elsewhere
    uids, uids_now = first.by_label("uid"), moved.by_label("uid")
    assert {label: uids_now.get(label) for label in uids} == uids
    assert {device["uid"]: device["type"] for device in moved.devices}.items() >= {
        device["uid"]: device["type"] for device in first.devices
    }.items()


def test_the_new_cards_got_uids_of_their_own(first: Record, moved: Record) -> None:
    known = {device["uid"] for device in first.devices}
    new = {device["label"]: device["uid"] for device in moved.devices if device["uid"] not in known}
    assert {"extra_nic", "extra_nic/net", "port_extra_nic", "extra_usb", "extra_scsi", "extra_disk"} <= new.keys()
    assert all(label.removeprefix("port_").startswith("extra_") for label in new)
    assert len({device["uid"] for device in moved.devices}) == len(moved.devices)


def test_names_were_given_to_other_devices_meanwhile(first: Record, moved: Record) -> None:
    """The reason for uids: some of the old names now mean something else."""
    labels, labels_now = ({device["name"]: device["label"] for device in one.devices} for one in (first, moved))
    changed = {name for name in labels.keys() & labels_now.keys() if labels[name] != labels_now[name]}
    assert len(changed) > 20


def test_without_an_iommu_the_host_says_what_to_do(without_iommu: Record) -> None:
    check = without_iommu.checks["IOMMU"]
    assert check["status"] == "FAIL"
    assert "intel_iommu=off" in check["message"]  # how the kernel was started
    assert "BIOS" in check["remedy"]
    assert without_iommu.checks["LIBVIRT"]["status"] == "PASS"


def test_without_an_iommu_no_pci_device_is_eligible_and_each_says_why(without_iommu: Record) -> None:
    functions = [device for device in without_iommu.of_type("pci") if device["reasons"] != ["BRIDGE"]]
    assert len(functions) > 20
    for device in functions:
        assert "NO_IOMMU" in device["reasons"], device
        assert "GROUP_MEMBER_INELIGIBLE" not in device["reasons"], device
        assert "intel_iommu=on" in device["remedies"][device["reasons"].index("NO_IOMMU")]
        assert not device["eligible"]


def test_without_an_iommu_usb_and_scsi_go_to_guests_all_the_same(without_iommu: Record) -> None:
    eligible = {device["label"] for device in without_iommu.devices if device["eligible"]}
    assert eligible == {
        "usb_keyboard", "usb_tablet", "usb_unique", "twin_a", "twin_b", "stick1",
        "scsi_disk", "scsi_debug_0", "scsi_debug_1", "scsi_debug_2", "scsi_debug_3",
    }  # fmt: skip


def test_the_iommu_and_a_card_that_went_again_change_no_uid(first: Record, without_iommu: Record) -> None:
    assert without_iommu.by_label("uid") == first.by_label("uid")
