"""A host of any size as a node file of libvirt's test driver: what the benchmark's daemon serves.

The mix is that of a server with many functions: of ten devices four are PCI endpoints in groups of their own, two are
their network interfaces, one is a PCI bridge, two are USB (a device and its interface), one is a disk's controller with
what hangs on it left out. Domains hold PCI functions, running and shut off alternately.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

_SYSTEM_UUID = UUID(int=0x0C0FFEE0_0000_4000_8000_000000000001)


def pci_address(number: int) -> tuple[int, int, int, int]:
    """Domain, bus, slot and function of the PCI function of that number."""
    return number >> 16, (number >> 8) & 0xFF, (number >> 3) & 0x1F, number & 7


def pci_name(number: int) -> str:
    """libvirt's name of it."""
    return "pci_{:04x}_{:02x}_{:02x}_{:x}".format(*pci_address(number))


def _computer() -> str:
    return (
        "<device><name>computer</name><capability type='system'><product>Bench</product>"
        "<hardware><vendor>Bench</vendor><version>1</version><serial>1</serial>"
        f"<uuid>{_SYSTEM_UUID}</uuid></hardware>"
        "<firmware><vendor>Bench</vendor><version>1</version><release_date>01/01/2026</release_date></firmware>"
        "</capability></device>"
    )


VPORT = (
    "<device><parent>scsi_host1</parent><capability type='scsi_host'><capability type='fc_host'>"
    "<wwnn>2000000012345678</wwnn><wwpn>1000000012345678</wwpn></capability></capability></device>"
)
"""What the test driver's own host can be asked to make: a virtual port."""


def _function(number: int, class_code: int, header: str = "") -> str:
    domain, bus, slot, function = pci_address(number)
    address = f"domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'"
    return (
        f"<device><name>{pci_name(number)}</name>"
        f"<path>/sys/devices/pci{domain:04x}:{bus:02x}/{domain:04x}:{bus:02x}:{slot:02x}.{function:x}</path>"
        "<parent>computer</parent>"
        "<driver><name>igb</name></driver>"
        "<capability type='pci'>"
        f"<class>0x{class_code:06x}</class>"
        f"<domain>{domain}</domain><bus>{bus}</bus><slot>{slot}</slot><function>{function}</function>"
        "<product id='0x10c9'>82576 Gigabit Network Connection</product>"
        "<vendor id='0x8086'>Intel Corporation</vendor>"
        f"{header}"
        f"<iommuGroup number='{number}'><address {address}/></iommuGroup>"
        "<numa node='0'/>"
        "<pci-express><link validity='cap' port='0' speed='2.5' width='4'/>"
        "<link validity='sta' speed='2.5' width='4'/></pci-express>"
        "</capability></device>"
    )


def _net(number: int) -> str:
    mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, *number.to_bytes(4, "big")))
    return (
        f"<device><name>net_eth{number}_{mac.replace(':', '_')}</name>"
        f"<path>/sys/devices/net/eth{number}</path><parent>{pci_name(number)}</parent>"
        f"<capability type='net'><interface>eth{number}</interface><address>{mac}</address>"
        "<link speed='1000' state='up'/><feature name='rx'/><feature name='tx'/><feature name='tso'/>"
        "<feature name='gso'/><capability type='80203'/></capability></device>"
    )


def _usb(number: int) -> tuple[str, str]:
    bus, device = 1 + number // 120, 2 + number % 120
    name = f"usb_{bus}_{device}"
    device_xml = (
        f"<device><name>{name}</name><path>/sys/devices/usb{bus}/{bus}-{device}</path><parent>computer</parent>"
        "<driver><name>usb</name></driver>"
        f"<capability type='usb_device'><bus>{bus}</bus><device>{device}</device>"
        "<product id='0x5583'>Ultra Fit</product><vendor id='0x0781'>SanDisk</vendor></capability></device>"
    )
    interface_xml = (
        f"<device><name>{name}_1_0</name><path>/sys/devices/usb{bus}/{bus}-{device}/{bus}-{device}:1.0</path>"
        f"<parent>{name}</parent><driver><name>usb-storage</name></driver>"
        "<capability type='usb'><number>0</number><class>8</class><subclass>6</subclass><protocol>80</protocol>"
        "</capability></device>"
    )
    return device_xml, interface_xml


def devices(count: int) -> Iterator[str]:
    """So many devices, the computer first."""
    made = 1
    yield _computer()
    for ten in range(count):
        number = ten * 8
        header = "<capability type='pci-bridge'/>"
        some = [
            _function(number, 0x060400, header),
            *(_function(number + index, 0x020000) for index in (1, 2, 3, 4)),
            _net(number + 1),
            _net(number + 2),
            *_usb(ten),
            _function(number + 5, 0x010802),
        ]
        for device in some:
            if made == count:
                return
            made += 1
            yield device


def endpoint(number: int) -> int:
    """The PCI number of the endpoint of that count: those that domains may hold."""
    return number // 4 * 8 + 1 + number % 4


def _domain(number: int, *, running: bool) -> str:
    domain, bus, slot, function = pci_address(endpoint(number))
    address = f"domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'"
    state = (
        "" if running else "<test:runstate xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>5</test:runstate>"
    )
    return (
        f"<domain type='test'><name>vm{number}</name><uuid>{UUID(int=number + 1)}</uuid><memory>65536</memory>{state}"
        "<os><type>hvm</type></os><devices>"
        "<disk type='file' device='disk'><source file='/var/lib/guest.img'/><target dev='vda' bus='virtio'/></disk>"
        "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"
        f"<hostdev mode='subsystem' type='pci' managed='yes'><source><address {address}/></source>"
        "<alias name='ua-bench'/></hostdev>"
        "</devices></domain>"
    )


def node_file(path: Path, device_count: int, domain_count: int) -> Path:
    """Write the file; every second domain runs."""
    domains = (_domain(number, running=number % 2 == 0) for number in range(domain_count))
    body = "".join((*domains, *devices(device_count)))
    path.write_text(f"<node>{body}</node>")
    return path
