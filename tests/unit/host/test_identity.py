"""Who a device is, in words that do not change when buses and hosts are numbered anew."""

from __future__ import annotations

import pytest

from hostdevd.core.addresses import MdevUuid, PciAddress, ScsiAddress, UsbAddress
from hostdevd.core.model import Facts, MdevFacts, NodeDevice, PciFacts, ScsiFacts, UsbFacts
from hostdevd.core.ports import IdentityFacts
from hostdevd.host.identity import identity_facts
from unit.host.builder import HostBuilder

ROOT = "/sys/devices/pci0000:00"
SCSI = ScsiFacts(ScsiAddress(2, 0, 1, 3))


def facts(host: HostBuilder, path: str, of: Facts) -> IdentityFacts:
    return identity_facts(host.tree, NodeDevice(name="d", type="t", path=path, facts=of))


def pci(host: HostBuilder, address: str) -> IdentityFacts:
    return facts(host, "", PciFacts(PciAddress.parse(address), 0x020000, 0x8086, 0x10D3))


def acpi(host: HostBuilder, name: str = r"\_SB_.PCI0") -> None:
    host.write("/sys/devices/LNXSYSTM:00/PNP0A08:00/path", f"{name}\n")
    host.link(f"{ROOT}/firmware_node", "/sys/devices/LNXSYSTM:00/PNP0A08:00")


def test_a_function_is_at_its_host_bridge_and_slots(host: HostBuilder) -> None:
    acpi(host)
    path = f"{ROOT}/0000:00:1c.0/0000:01:00.1"
    host.write(f"{path}/subsystem_vendor", "0x1af4\n")
    host.write(f"{path}/subsystem_device", "0x1100\n")
    host.link("/sys/bus/pci/devices/0000:01:00.1", path)
    assert pci(host, "0000:01:00.1") == IdentityFacts(root=r"\_SB_.PCI0", path="1c.0/0.1", subsystem="1af4:1100")


def test_a_renumbered_bus_changes_nothing(host: HostBuilder) -> None:
    acpi(host)
    for bus in ("01", "05"):
        host.link(f"/sys/bus/pci/devices/0000:{bus}:00.0", host.directory(f"{ROOT}/0000:00:1c.0/0000:{bus}:00.0"))
    assert pci(host, "0000:01:00.0") == pci(host, "0000:05:00.0")


def test_without_acpi_the_root_is_domain_and_bus(host: HostBuilder) -> None:
    host.link("/sys/bus/pci/devices/0000:00:03.0", host.directory(f"{ROOT}/0000:00:03.0"))
    assert pci(host, "0000:00:03.0") == IdentityFacts(root="0000:00", path="3.0")


def test_behind_a_made_up_domain_the_outer_place_counts(host: HostBuilder) -> None:
    path = f"{ROOT}/0000:00:0e.0/pci10000:e0/10000:e0:01.0/10000:e1:00.0"
    host.link("/sys/bus/pci/devices/10000:e1:00.0", host.directory(path))
    assert pci(host, "10000:e1:00.0") == IdentityFacts(root="0000:00", path="e.0/bus/1.0/0.0")


def test_a_usb_device_is_at_its_controllers_port(host: HostBuilder) -> None:
    acpi(host)
    path = host.directory(f"{ROOT}/0000:00:14.0/usb1/1-2/1-2.1")
    host.write(f"{path}/serial", "A123 \n")
    host.write(f"{path}/1-2.1:1.0/bInterfaceClass", "08\n")
    host.write(f"{path}/1-2.1:1.1/bInterfaceClass", "03\n")
    host.directory(f"{path}/1-2.1.4")
    assert facts(host, path, UsbFacts(UsbAddress(1, 4), 1, 2)) == IdentityFacts(
        root=r"\_SB_.PCI0/14.0", path="2.1", serial="A123", interfaces="08,03"
    )


def test_a_controller_of_the_board_has_a_place_too(host: HostBuilder) -> None:
    path = host.directory("/sys/devices/platform/soc/fe980000.usb/usb3/3-1")
    told = facts(host, path, UsbFacts(UsbAddress(3, 2), 1, 2))
    assert told == IdentityFacts(root="platform/soc/fe980000.usb", path="1")


def test_a_lun_has_wwid_serial_and_a_path_without_numbers_of_discovery(host: HostBuilder) -> None:
    for number in ("2", "7"):
        path = host.directory(f"{ROOT}/0000:00:05.0/virtio{number}/host{number}/target{number}:0:1/{number}:0:1:3")
        host.write(f"{path}/wwid", "naa.5000c50012345678\n")
        host.write(f"{path}/vpd_pg80", b"\x00\x80\x00\x08  ABC123rest")
        assert facts(host, path, SCSI) == IdentityFacts(
            serial="ABC123", wwid="naa.5000c50012345678", path="0000:00/5.0/0:1:3"
        )


def test_ports_of_a_sata_controller_are_told_apart(host: HostBuilder) -> None:
    found = set()
    for number in (4, 5):
        ata = f"{ROOT}/0000:00:1f.2/ata{number}"
        host.write(f"{ata}/ata_port/ata{number}/port_no", f"{number - 3}\n")
        path = host.directory(f"{ata}/host{number}/target{number}:0:0/{number}:0:0:0")
        found.add(facts(host, path, SCSI).path)
    assert found == {"0000:00/1f.2/ata-1/0:0:0", "0000:00/1f.2/ata-2/0:0:0"}


def test_transports_with_names_are_named(host: HostBuilder) -> None:
    sas = f"{ROOT}/0000:00:05.0/host2/port-2:0/end_device-2:0"
    host.write(f"{sas}/sas_device/end_device-2:0/sas_address", "0x5000c5001\n")
    fibre = f"{ROOT}/0000:00:06.0/host3/rport-3:0-0"
    host.write(f"{fibre}/fc_remote_ports/rport-3:0-0/port_name", "0x2100\n")
    iscsi = "/sys/devices/platform/host4/session1"
    host.write(f"{iscsi}/iscsi_session/session1/targetname", "iqn.2003-01.org.x:t\n")
    found = [
        facts(host, host.directory(f"{place}/target{number}:0:0/{number}:0:0:1"), SCSI).path
        for number, place in ((2, sas), (3, fibre), (4, iscsi))
    ]
    assert found == [
        "0000:00/5.0/sas-0x5000c5001/0:0:1",
        "0000:00/6.0/fc-0x2100/0:0:1",
        "platform/iscsi-iqn.2003-01.org.x:t/0:0:1",
    ]


def test_two_channels_of_one_controller_are_told_apart(host: HostBuilder) -> None:
    paths = [host.directory(f"{ROOT}/0000:00:05.0/host{n}/target{n}:0:0/{n}:0:0:0") for n in (9, 10)]
    assert [facts(host, path, SCSI).path for path in paths] == ["0000:00/5.0/host0/0:0:0", "0000:00/5.0/host1/0:0:0"]


def test_what_is_gone_or_of_another_type_has_no_facts(host: HostBuilder) -> None:
    assert pci(host, "0000:00:09.0") == IdentityFacts()
    assert facts(host, f"{ROOT}/gone", SCSI) == IdentityFacts()
    assert facts(host, "/sys/gone", UsbFacts(UsbAddress(1, 2), 1, 2)) == IdentityFacts()
    assert facts(host, "/sys/x", MdevFacts(MdevUuid("0"))) == IdentityFacts()


def test_a_root_hub_is_its_controllers_for_one_version_of_usb(host: HostBuilder) -> None:
    found = []
    for bus, version in ((1, "2.00"), (2, "3.00"), (3, "2.00")):
        path = host.directory(f"{ROOT}/0000:00:14.0/usb{bus}")
        host.write(f"{path}/version", f" {version}\n")
        host.write(f"{path}/serial", f"0000:0{bus}:14.0\n")  # the kernel gives it the controller's address
        found.append(facts(host, path, UsbFacts(UsbAddress(bus, 1), 0x1D6B, 2)))
    assert found[0] == found[2] == IdentityFacts(root="0000:00/14.0", path="root-2.00")
    assert found[1] != found[0]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("0000:{bus}:00.0/usb{n}/{n}-2/{n}-2:1.0", "2:1.0"),
        ("0000:{bus}:00.0/usb{n}/{n}-0:1.0", "0:1.0"),
        ("0000:{bus}:00.0/usb{n}/{n}-2/{n}-2:1.0/host{n}", "2:1.0"),
        ("0000:{bus}:00.0/virtio{n}/host{n}/target{n}:0:1", "0:1"),
        ("0000:{bus}:00.0/virtio{n}/host{n}/target{n}:0:1/{n}:0:1:3/scsi_generic/sg{n}", "0:1:3/scsi_generic"),
        ("0000:{bus}:00.0/virtio{n}/host{n}/target{n}:0:1/{n}:0:1:3/block/sd{disk}", "0:1:3/block"),
        ("0000:{bus}:00.0/virtio{n}/block/vd{disk}", "block"),
        ("0000:{bus}:00.0/nvme/nvme{n}/nvme{n}n2", "nvme/n2"),
        ("0000:{bus}:00.0/drm/card{n}", "drm/card"),
    ],
)
def test_what_has_no_name_of_its_own_has_a_place_without_numbers_of_discovery(
    host: HostBuilder, path: str, place: str
) -> None:
    for bus, number, disk in (("01", 3, "a"), ("05", 11, "ab")):
        here = host.directory(f"{ROOT}/0000:00:1c.0/{path.format(bus=bus, n=number, disk=disk)}")
        told = identity_facts(host.tree, NodeDevice(name="d", type="t", path=here))
        assert told == IdentityFacts(path=f"0000:00/1c.0/0.0/{place}")
