"""A VM without a system for virsh to play with, and the elements that virsh puts into it and takes out."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = {"bench": "6c616221-0000-4000-8000-000062656e63", "passing": "6c616221-0000-4000-8000-007061737369"}
"""VMs by name and UUID: one that is defined, one that is only created. Emulated: their firmware boots in no time."""


def domain(name: str, *elements: str) -> str:
    """The definition of a VM with these elements."""
    return f"""<domain type='qemu'><name>{name}</name><uuid>{NAMES[name]}</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
<devices><controller type='usb' index='0' model='qemu-xhci'/><controller type='scsi' index='0' model='virtio-scsi'/>
<memballoon model='none'/>{"".join(elements)}</devices></domain>"""


@dataclass(frozen=True)
class Facts:
    """What the lab's topology knows of its devices now, by role."""

    devices: dict[str, Any]

    @classmethod
    def read(cls) -> Facts:
        told = subprocess.run(["lab-topology"], check=True, capture_output=True, text=True).stdout
        return cls(json.loads(told)["devices"])

    def block(self, role: str) -> str:
        return f"/dev/{self.devices[role]['block'][0]}"

    def address(self, role: str) -> str:
        """The PCI address."""
        return str(self.devices[role]["address"])

    def pci(self, role: str, managed: str = "yes") -> str:
        source = f"<source>{self.pci_address(role)}</source>"
        return f"<hostdev mode='subsystem' type='pci' managed='{managed}'>{source}</hostdev>"

    def pci_address(self, role: str) -> str:
        bus, slot, function = self.address(role).removeprefix("0000:").replace(".", ":").split(":")
        return f"<address type='pci' domain='0x0000' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"

    def usb_by_address(self, role: str) -> str:
        at = self.devices[role]
        where = f"<address bus='{at['bus']}' device='{at['device']}'/>"
        return f"<hostdev mode='subsystem' type='usb'><source>{where}</source></hostdev>"

    def usb_by_product(self, role: str) -> str:
        ids = self.devices[role]
        what = f"<vendor id='0x{ids['vendor']}'/><product id='0x{ids['product']}'/>"
        return f"<hostdev mode='subsystem' type='usb'><source startupPolicy='optional'>{what}</source></hostdev>"

    def lun(self, role: str) -> str:
        _, bus, target, unit = self.devices[role]["address"].split(":")
        where = (
            f"<adapter name='{self.devices[role]['adapter']}'/><address bus='{bus}' target='{target}' unit='{unit}'/>"
        )
        return f"<hostdev mode='subsystem' type='scsi'><source>{where}</source></hostdev>"

    def disk(self, role: str, target: str) -> str:
        driver = "<driver name='qemu' type='raw'/>"
        ends = f"<source dev='{self.block(role)}'/><target dev='{target}' bus='scsi'/>"
        return f"<disk type='block' device='disk'>{driver}{ends}</disk>"


def files(directory: Path, contents: dict[str, str]) -> dict[str, str]:
    """These texts as files; their paths."""
    paths = {}
    for name, text in contents.items():
        path = directory / f"{name}.xml"
        path.write_text(text)
        paths[name] = str(path)
    return paths
