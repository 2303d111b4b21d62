"""Reboots of a host: after one with more hardware every device is known again; one without an IOMMU says so."""

from __future__ import annotations

import pytest

from boots.lab_boot import Boot

pytestmark = pytest.mark.timeout(2700)

# Some of each kind, which must be elsewhere then: else the test would show nothing.
MUST_MOVE = {
    "nic_single", "bridge_ac97", "dual_1", "twoport_0", "switch_1", "nvme_sriov", "disk_md", "usb", "usb_idle", "scsi",
    "nic_single/net", "nic_address/net",
    "usb_keyboard", "usb_unique", "twin_a", "twin_b", "stick1", "stick1/scsi",
    "scsi_disk", "lun_swap", "lun_lvm", "scsi_debug_0", "scsi_debug_3", "scsi_disk/storage",
}  # fmt: skip


def test_every_device_keeps_its_uid_although_it_is_elsewhere(first: Boot, moved: Boot) -> None:
    addresses, now_at = first.by_label("address"), moved.by_label("address")
    elsewhere = {label for label in addresses if addresses[label] != now_at.get(label)}
    assert elsewhere >= MUST_MOVE, MUST_MOVE - elsewhere
    uids, uids_now = first.by_label("uid"), moved.by_label("uid")
    assert {label: uids_now.get(label) for label in uids} == uids
    assert {device["uid"]: device["type"] for device in moved.devices}.items() >= {
        device["uid"]: device["type"] for device in first.devices
    }.items()


def test_the_new_cards_got_uids_of_their_own(first: Boot, moved: Boot) -> None:
    known = {device["uid"] for device in first.devices}
    new = {device["label"]: device["uid"] for device in moved.devices if device["uid"] not in known}
    assert {"extra_nic", "extra_nic/net", "port_extra_nic", "extra_usb", "extra_scsi", "extra_disk"} <= new.keys()
    assert all(label.removeprefix("port_").startswith("extra_") for label in new)
    assert len({device["uid"] for device in moved.devices}) == len(moved.devices)


def test_names_were_given_to_other_devices_meanwhile(first: Boot, moved: Boot) -> None:
    """The reason for uids: some of the old names now mean something else."""
    labels, labels_now = ({device["name"]: device["label"] for device in one.devices} for one in (first, moved))
    changed = {name for name in labels.keys() & labels_now.keys() if labels[name] != labels_now[name]}
    assert len(changed) > 20


@pytest.mark.full
def test_without_an_iommu_the_host_says_what_to_do(without_iommu: Boot) -> None:
    check = without_iommu.checks["IOMMU"]
    assert check["status"] == "FAIL"
    assert "intel_iommu=off" in check["message"]  # how the kernel was started
    assert "BIOS" in check["remedy"]
    assert without_iommu.checks["LIBVIRT"]["status"] == "PASS"


@pytest.mark.full
def test_without_an_iommu_no_pci_device_is_eligible_and_each_says_why(without_iommu: Boot) -> None:
    functions = [device for device in without_iommu.of_type("pci") if device["reasons"] != ["BRIDGE"]]
    assert len(functions) > 20
    for device in functions:
        assert "NO_IOMMU" in device["reasons"], device
        assert "GROUP_MEMBER_INELIGIBLE" not in device["reasons"], device
        assert "intel_iommu=on" in device["remedies"][device["reasons"].index("NO_IOMMU")]
        assert not device["eligible"]


@pytest.mark.full
def test_without_an_iommu_usb_and_scsi_go_to_guests_all_the_same(without_iommu: Boot) -> None:
    eligible = {device["label"] for device in without_iommu.devices if device["eligible"]}
    assert eligible == {
        "usb_keyboard", "usb_tablet", "usb_unique", "twin_a", "twin_b", "stick1",
        "scsi_disk", "scsi_debug_0", "scsi_debug_1", "scsi_debug_2", "scsi_debug_3",
    }  # fmt: skip


@pytest.mark.full
def test_the_iommu_and_a_card_that_went_again_change_no_uid(first: Boot, without_iommu: Boot) -> None:
    assert without_iommu.by_label("uid") == first.by_label("uid")
