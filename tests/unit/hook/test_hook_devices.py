"""The devices that a VM would get are the ones that were assigned, or it does not start."""

from __future__ import annotations

import pytest

from unit.hook.guarded import ALIAS, BOOT, NIC_KEY, VM, GuardedHost, domain, mdev, pci, scsi, usb

LUN_KEY = "scsi|naa.5000c50015ea71aa|0000:00/5.0/0:0:1"
OTHER_BOOT = "99999999-2222-4333-8444-555555555555"


@pytest.mark.parametrize("boot", [BOOT, OTHER_BOOT])
def test_the_assigned_function_starts_also_before_the_service_in_the_next_boot(host: GuardedHost, boot: str) -> None:
    host.guard({ALIAS: NIC_KEY}, boot=boot)
    assert host.start(domain(pci())).passes()


@pytest.mark.parametrize("tag", ["hostdev", "interface"])
def test_an_address_at_which_another_device_is_now(host: GuardedHost, tag: str) -> None:
    host.card("0000:00:04.0", group=4)
    host.guard({ALIAS: NIC_KEY}, boot=OTHER_BOOT)
    said = host.start(domain(pci("0000:00:04.0", tag=tag)))
    assert said.refuses("0000:00:04.0 is not the device that was assigned", "dev-abc", "another device is there now")
    assert "the assigned one is at 0000:00:03.0" in said.said


def test_another_card_in_the_same_slot(host: GuardedHost) -> None:
    host.guard({ALIAS: "pci|0000:00|3.0|8086:1533:8086:0001|"})
    assert host.start(domain(pci())).refuses("another device is there now", "not on this host")


def test_an_address_at_which_nothing_is_now(host: GuardedHost) -> None:
    host.guard({ALIAS: NIC_KEY})
    assert host.start(domain(pci("0000:09:00.0"))).refuses("nothing is there now", "at 0000:00:03.0")


def test_an_address_in_the_xml_that_the_service_rewrote_is_right(host: GuardedHost) -> None:
    """The file names no address, so it need not change with one."""
    host.guard({ALIAS: "pci|0000:00|4.0|8086:10d3:8086:0000|serial"})
    host.card("0000:00:04.0", group=4)
    assert host.start(domain(pci("0000:00:04.0"))).passes()


def test_a_virtual_function_is_told_by_its_parent_and_number(host: GuardedHost) -> None:
    parent = "/sys/devices/pci0000:00/0000:00:03.0"
    for index, address in enumerate(["0000:00:03.2", "0000:00:03.4"]):
        path = host.card(address, "0x10ed", 10 + index)
        host.link(f"{path}/physfn", parent)
        host.link(f"{parent}/virtfn{index}", path)
    host.guard({ALIAS: f"vf|{NIC_KEY}S1|1"})
    assert host.start(domain(pci("0000:00:03.4"))).passes()
    assert host.start(domain(pci("0000:00:03.2"))).refuses("is not the device that was assigned", "at 0000:00:03.4")


def test_a_lun_by_its_name_whichever_number_its_host_has(host: GuardedHost) -> None:
    host.lun("7:0:0:1")
    host.guard({ALIAS: LUN_KEY}, boot=OTHER_BOOT)
    assert host.start(domain(scsi("7:0:0:1"))).passes()
    assert host.start(domain(scsi("2:0:0:1"))).refuses("nothing is there now", "at 7:0:0:1")


def test_a_lun_at_whose_address_another_one_is(host: GuardedHost) -> None:
    host.lun("2:0:0:1", "naa.1111", "sdb")
    host.lun("2:0:0:2", disk="sdc")
    host.guard({ALIAS: LUN_KEY})
    assert host.start(domain(scsi())).refuses("another device is there now", "at 2:0:0:2")


def test_a_lun_without_a_name_of_its_own_is_told_by_its_place(host: GuardedHost) -> None:
    host.lun("2:0:0:1", "")
    host.guard({ALIAS: "scsi||0000:00/5.0/0:0:1"})
    assert host.start(domain(scsi())).passes()
    host.guard({ALIAS: "scsi||0000:00/5.0/0:0:2"})
    assert host.start(domain(scsi())).refuses("another device is there now")


def test_an_assigned_usb_device_may_be_absent_and_its_port_may_change(host: GuardedHost) -> None:
    keys = ["usb|1234:0001|STICK1|08|0000:00/6.0|2", "usb-serial|1234:0001|STICK1"]
    host.guard({ALIAS: keys})
    assert host.start(domain(usb())).passes()
    host.stick("1-7")
    assert host.start(domain(usb())).passes()


def test_another_stick_of_the_same_product_is_not_the_assigned_one(host: GuardedHost) -> None:
    host.guard({ALIAS: ["usb|1234:0001|STICK1|08|0000:00/6.0|2", "usb-serial|1234:0001|STICK1"]})
    host.stick(serial="STRANGER")
    assert host.start(domain(usb())).refuses("is not the one that was assigned")
    host.stick("1-3")  # two of them: libvirt takes neither
    assert host.start(domain(usb())).passes()


def test_a_serial_may_have_the_sign_between_a_keys_parts(host: GuardedHost) -> None:
    host.guard({ALIAS: ["usb|1234:0001|A|B|08|0000:00/6.0|2", "usb-serial|1234:0001|A|B"]})
    host.stick(serial="A|B")
    assert host.start(domain(usb())).passes()
    host.guard({ALIAS: ["usb|1234:0001|A|C|08|0000:00/6.0|2", "usb-serial|1234:0001|A|C"]})
    assert host.start(domain(usb())).refuses("is not the one that was assigned")


def test_a_mediated_device_is_what_its_uuid_says(host: GuardedHost) -> None:
    host.guard({ALIAS: "mdev|4b20d080-1b54-4048-85b3-a6a62d165c01"})
    assert host.start(domain(mdev())).passes()


def test_what_another_tool_configured_is_not_held_against_the_file(host: GuardedHost) -> None:
    host.guard({ALIAS: "pci|0000:00|9.0|8086:1533:8086:0001|"})
    assert host.start(domain(pci(alias=""))).passes()
    assert host.start(domain(pci(alias="ua-virt-manager"))).passes()
    assert host.start(domain(pci("0000:09:00.0", alias=""))).passes()  # libvirt itself says that it is not there


def test_another_vms_alias_says_nothing(host: GuardedHost) -> None:
    host.guard({ALIAS: "pci|0000:00|9.0|8086:1533:8086:0001|"})
    assert host.start(domain(pci()).replace(VM, "8f1f5b7e-7c3b-4c55-9a3f-6f0c8ad0a009")).passes()


def test_all_that_is_wrong_is_said_at_once(host: GuardedHost) -> None:
    host.guard({ALIAS: "pci|a|1.0|8086:1:2:3|", "ua-hostdev-0123456789ab-1": LUN_KEY})
    said = host.start(domain(pci(), scsi(alias="ua-hostdev-0123456789ab-1")))
    assert said.refuses("0000:00:03.0 is not", "2:0:0:1 is not")
    assert len(said.said.splitlines()) == 2
