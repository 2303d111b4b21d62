"""Hosts for libvirt's test driver, written as its node files."""

from __future__ import annotations

from collections.abc import Iterable

COMPUTER = (
    "<device><name>computer</name><capability type='system'><hardware><vendor>x</vendor>"
    "<uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid></hardware></capability></device>"
)


def pci_name(bus: int) -> str:
    return f"pci_0000_{bus:02x}_00_0"


def pci(bus: int, product: str = "p") -> str:
    """A function alone on its bus and in its IOMMU group."""
    address = f"<address domain='0' bus='{bus}' slot='0' function='0'/>"
    return (
        f"<device><name>{pci_name(bus)}</name><parent>computer</parent><path>/sys/devices/pci{bus}</path>"
        f"<capability type='pci'><class>0x020000</class><domain>0</domain><bus>{bus}</bus><slot>0</slot>"
        f"<function>0</function><product id='0x1'>{product}</product><vendor id='0x8086'>v</vendor>"
        f"<iommuGroup number='{bus}'>{address}</iommuGroup></capability></device>"
    )


def vm_uuid(number: int) -> str:
    return f"44444444-4444-4444-8444-{number:012d}"


def vm(number: int, buses: Iterable[int], name: str = "") -> str:
    """A domain that holds these functions; the driver starts it where it stands in a node file."""
    hostdevs = "".join(
        f"<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='0' bus='{bus}' slot='0' "
        f"function='0'/></source><alias name='ua-{bus}'/></hostdev>"
        for bus in buses
    )
    return (
        f"<domain type='test'><name>{name or f'vm{number}'}</name><uuid>{vm_uuid(number)}</uuid><memory>8192</memory>"
        f"<os><type>hvm</type></os><devices>{hostdevs}</devices></domain>"
    )


def node(vms: Iterable[str], devices: Iterable[str]) -> str:
    return f"<node>{''.join(vms)}{COMPUTER}{''.join(devices)}</node>"
