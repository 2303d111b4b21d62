"""What a domain's XML takes and has."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from hostdevd.core.addresses import BlockPath, MdevUuid, PciAddress, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.model import (
    DomainDef,
    DomainEntry,
    GuestHardware,
    HolderRole,
    HolderVia,
    ScsiController,
)
from hostdevd.virt.xml.domain import domain_def, is_running_xml, network_macs

DATA = Path(__file__).parent / "data"
DOMAINS = ("q35-live.xml", "q35-limits-live.xml", "i440fx-inactive.xml", "pool-live.xml")


def read(name: str) -> str:
    return (DATA / name).read_text(encoding="utf-8")


def test_every_kind_of_holder_in_a_running_q35_guest() -> None:
    assert domain_def(read("q35-live.xml")).entries == (
        DomainEntry(HolderVia.DISK, BlockPath("/dev/disk/by-id/wwn-0x5000c500a1b2c3d4"), "scsi0-0-0-0", "0:0:0:0"),
        DomainEntry(HolderVia.DISK, BlockPath("/dev/vg0/base"), "scsi0-0-0-0", "0:0:0:0"),
        DomainEntry(HolderVia.DISK, BlockPath("/dev/sdq"), "sata0-0-1", "0:0:0:1"),
        DomainEntry(HolderVia.DISK, PciAddress(0, 4, 0, 0), "virtio-disk0", "0000:01:00.0", managed=True),
        DomainEntry(HolderVia.INTERFACE, PciAddress(0, 6, 16, 1), "hostdev0", "0000:07:00.0", managed=True),
        DomainEntry(HolderVia.HOSTDEV, PciAddress(0, 5, 0, 0), "ua-hostdev-1", "0000:09:00.0"),
        DomainEntry(HolderVia.HOSTDEV, PciAddress(0, 5, 0, 1), "ua-hostdev-2", managed=True, role=HolderRole.RESERVED),
        DomainEntry(HolderVia.HOSTDEV, UsbAddress(1, 7), "ua-hostdev-3", "0:2"),
        DomainEntry(HolderVia.HOSTDEV, UsbProduct(0x046D, 0xC31C), "ua-hostdev-4", "0:3", missing=True),
        DomainEntry(HolderVia.HOSTDEV, ScsiAddress(2, 0, 1, 2**64 - 1), "ua-hostdev-5", "0:0:0:5"),
        DomainEntry(HolderVia.HOSTDEV, MdevUuid("c2177883-f1bb-47f0-914d-32a22e3a8804"), "ua-hostdev-6"),
    )


def test_hardware_of_a_q35_guest() -> None:
    assert domain_def(read("q35-live.xml")).hardware == GuestHardware(
        machine="pc-q35-7.2",
        pcie=True,
        # Ports 4 and 5; port 6 is empty too, but takes nothing while the guest runs.
        free_pcie_slots=2,
        # A pcie-to-pci-bridge has slots 1 to 31, one of them taken by the lsilogic controller.
        free_pci_slots=30,
        usb_controller=True,
        scsi_controllers=(
            # An iSCSI unit takes a place like any other; disks of other buses do not.
            ScsiController(0, "virtio-scsi", frozenset({(0, 0, 0), (0, 0, 5), (0, 0, 6)})),
            ScsiController(1, "lsilogic"),
        ),
        hypervisor="kvm",
        arch="x86_64",
        spare_buses=255 - 10,
        # Fifteen, less those of two hostdevs.
        free_usb_ports=13,
    )


def test_limits_of_a_q35_guest() -> None:
    definition = domain_def(read("q35-limits-live.xml"))
    assert definition.entries == ()
    assert definition.hardware == GuestHardware(
        machine="pc-q35-9.2",
        pcie=True,
        free_pcie_slots=1,
        # Slots of the bridge; the port that it stands in is taken.
        free_pci_slots=31,
        usb_controller=True,
        hypervisor="kvm",
        arch="x86_64",
        acpi=True,
        spare_buses=255 - 3,
        # Six of the EHCI (its companions lend theirs), three of the OHCI, eight of the hub, less three.
        free_usb_ports=14,
        memory_bytes=8 << 30,
        hard_limit_bytes=9 * 10**9,
        hole64_bytes=64 << 30,
        iommu=True,
    )


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        ("<memory>1024</memory>", 1 << 20),
        ("<memory unit='b'>4096</memory>", 4096),
        ("<memory unit='GB'>2</memory>", 2 * 10**9),
        ("<memory unit='furlong'>2</memory>", None),
        ("<memory unit='KiB'>much</memory>", None),
        ("<memory/>", None),
        ("", None),
    ],
)
def test_memory_in_every_unit(memory: str, expected: int | None) -> None:
    assert domain_def(f"<domain>{memory}<devices/></domain>").hardware.memory_bytes == expected


def test_usb_ports_of_an_unknown_controller_are_not_counted() -> None:
    controllers = "<controller type='usb' model='qemu-xhci'/><controller type='usb' model='novel'/>"
    assert domain_def(f"<domain><devices>{controllers}</devices></domain>").hardware.free_usb_ports is None


def test_an_inactive_i440fx_definition() -> None:
    definition = domain_def(read("i440fx-inactive.xml"))
    assert definition.entries == (
        DomainEntry(HolderVia.HOSTDEV, PciAddress(0, 5, 1, 0), guest_address="0000:00:04.0", managed=True),
        DomainEntry(HolderVia.HOSTDEV, UsbProduct(0x0951, 0x1666)),
    )
    # pci-root has slots 3 to 31, of which 3, 4 and 5 are taken; the bridge has 31.
    assert definition.hardware == GuestHardware(
        machine="pc-i440fx-7.2",
        pcie=False,
        free_pci_slots=26 + 31,
        usb_controller=False,
        hypervisor="kvm",
        arch="x86_64",
        spare_buses=254,
        free_usb_ports=0,
    )


def test_a_function_from_a_networks_pool_is_told_by_the_inactive_definition() -> None:
    live = read("pool-live.xml")
    assert [entry.via for entry in domain_def(live).entries] == [HolderVia.INTERFACE]
    entries = domain_def(live, network_macs(read("i440fx-inactive.xml"))).entries
    assert entries == (
        DomainEntry(HolderVia.NETWORK_POOL, PciAddress(0, 6, 16, 3), "hostdev0", "0000:00:03.0", managed=True),
    )


@pytest.mark.parametrize(
    "interface",
    [
        pytest.param(
            "<interface type='network'><source network='p'/><actual type='hostdev' managed='yes'>"
            "<source><address type='pci' bus='0x06' slot='0x10'/></source></actual></interface>",
            id="status form",
        ),
        pytest.param(
            "<interface type='hostdev' managed='yes'><source network='p'>"
            "<address type='pci' bus='0x06' slot='0x10'/></source></interface>",
            id="network named at the source",
        ),
    ],
)
def test_pool_functions_in_other_forms(interface: str) -> None:
    (entry,) = domain_def(f"<domain><devices>{interface}</devices></domain>").entries
    assert entry == DomainEntry(HolderVia.NETWORK_POOL, PciAddress(0, 6, 16, 0), managed=True)


def test_a_mirror_holds_its_device() -> None:
    xml = (
        "<domain><devices><disk type='block'><source dev='/dev/sda'/>"
        "<mirror type='block'><source dev='/dev/sdb'/></mirror></disk></devices></domain>"
    )
    assert [str(entry.source) for entry in domain_def(xml).entries] == ["/dev/sda", "/dev/sdb"]


def test_a_usb_address_of_zeros_is_none() -> None:
    xml = (
        "<domain><devices><hostdev type='usb'><source><vendor id='1'/><product id='2'/>"
        "<address bus='0' device='0'/></source></hostdev></devices></domain>"
    )
    assert [entry.source for entry in domain_def(xml).entries] == [UsbProduct(1, 2)]


@pytest.mark.parametrize("address", ["bus='256' slot='0'", "bus='-1' slot='0'", "bus='x' slot='0'", "slot='0'", ""])
def test_an_unreadable_address_is_left_out(address: str) -> None:
    xml = f"<domain><devices><hostdev type='pci'><source><address {address}/></source></hostdev></devices></domain>"
    assert domain_def(xml) == DomainDef()


def test_a_running_domain_has_an_id() -> None:
    assert is_running_xml(read("q35-live.xml"))
    assert not is_running_xml(read("i440fx-inactive.xml"))


# --- nothing well-formed makes it fail ---------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "",
        "pci",
        "usb",
        "scsi",
        "mdev",
        "drive",
        "block",
        "nvme",
        "yes",
        "0",
        "0x",
        "010",
        "08",
        "-1",
        "9" * 11,
        "\u0663",
    ]
) | st.text("09afxX.:-_ /", max_size=6)


@given(st.data(), st.sampled_from(DOMAINS))
def test_any_change_of_a_definition_is_still_read(data: st.DataObject, name: str) -> None:
    root = etree.fromstring(read(name).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        element = data.draw(st.sampled_from(list(root.iter())))
        parent = element.getparent()
        match data.draw(st.sampled_from(["drop", "set", "unset", "rename", "copy", "text"])):
            case "drop" if parent is not None:
                parent.remove(element)
            case "set" if element.keys():
                element.set(data.draw(st.sampled_from(element.keys())), data.draw(WORDS))
            case "unset" if element.keys():
                del element.attrib[data.draw(st.sampled_from(element.keys()))]
            case "rename":
                element.tag = data.draw(st.sampled_from(["hostdev", "source", "address", "disk", "{urn:x}y"]))
            case "copy" if parent is not None:
                root.append(etree.fromstring(etree.tostring(element, with_tail=False)))
            case "text":
                element.text = data.draw(WORDS)
    assert isinstance(domain_def(etree.tostring(root, encoding="unicode")), DomainDef)


@given(st.text(max_size=200))
def test_no_text_is_a_domain_without_a_gap(text: str) -> None:
    assert domain_def(text).gap
