"""Numbers that change under devices that stay who they are."""

from __future__ import annotations

import pytest

from hostdevd.sim.moving import Moves

MOVES = Moves(buses={1: 0x21, 4: 1}, hosts={3: 7}, ports={"2-4": "2-6"})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("pci_0000_01_00_0", "pci_0000_21_00_0"),
        ("pci_0000_04_00_1", "pci_0000_01_00_1"),
        ("pci_0000_00_04_0", "pci_0000_00_04_0"),
        ("scsi_host3", "scsi_host7"),
        ("scsi_target3_0_0", "scsi_target7_0_0"),
        ("scsi_3_0_0_1", "scsi_7_0_0_1"),
        ("scsi_generic_sg3", "scsi_generic_sg3"),
        ("usb_2_4", "usb_2_6"),
        ("usb_2_4_1_0", "usb_2_6_1_0"),
        ("usb_2_41", "usb_2_41"),
        ("net_eth1_52_54_00_1a_b0_01", "net_eth1_52_54_00_1a_b0_01"),
    ],
)
def test_names(before: str, after: str) -> None:
    assert MOVES.of_name(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/net/e",
            "/sys/devices/pci0000:00/0000:00:01.0/0000:21:00.0/net/e",
        ),
        ("/a/host3/target3:0:0/3:0:0:1/block/sdd", "/a/host7/target7:0:0/7:0:0:1/block/sdd"),
        ("/a/host33/target33:0:0/33:0:0:1", "/a/host33/target33:0:0/33:0:0:1"),
        ("/a/usb2/2-4/2-4:1.0/host6", "/a/usb2/2-6/2-6:1.0/host6"),
        ("/a/usb2/2-4.1", "/a/usb2/2-4.1"),
    ],
)
def test_paths(before: str, after: str) -> None:
    assert MOVES.of_path(before) == after
