"""The hook as libvirt runs it: a process with a host of its own below a directory, and a domain on its input."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from hostdevd.guard_file import NAME, replace_file
from unit.host.builder import HostBuilder

HOOK = Path(__file__).parents[3] / "deploy/hooks/qemu.d/hostdevd"
VM = "8f1f5b7e-7c3b-4c55-9a3f-6f0c8ad0a001"
OTHER_VM = "8f1f5b7e-7c3b-4c55-9a3f-6f0c8ad0a002"
BOOT = "11111111-2222-4333-8444-555555555555"
ALIAS = "ua-hostdev-0123456789ab-0"
NIC_KEY = "pci|0000:00|3.0|8086:10d3:8086:0000|"


class Outcome:
    def __init__(self, status: int, said: str) -> None:
        self.status = status
        self.said = said

    def __repr__(self) -> str:
        return f"status {self.status}: {self.said}"

    def passes(self) -> bool:
        return (self.status, self.said) == (0, "")

    def refuses(self, *words: str) -> bool:
        return (
            self.status == 1
            and self.said.startswith("hostdevd refuses to start spare: ")
            and all(word in self.said for word in words)
        )


class GuardedHost(HostBuilder):
    """A host with a guard file, a NIC and a disk on a SCSI adapter."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.write("/proc/sys/kernel/random/boot_id", BOOT + "\n")
        self.directory("/run/libvirt/qemu")
        self.directory("/var/lib/hostdevd")
        self.card("0000:00:03.0")

    def card(self, address: str, device: str = "0x10d3", group: int = 3, driver: str = "e1000e") -> str:
        path = self.function(
            address,
            driver,
            vendor="0x8086",
            device=device,
            subsystem_vendor="0x8086",
            subsystem_device="0x0000",
            enable="1",
            **{"class": "0x020000"},
        )
        self.into_group(address, group)
        return path

    def into_group(self, address: str, group: int) -> None:
        path = f"/sys/devices/pci0000:00/{address}"
        self.link(f"/sys/kernel/iommu_groups/{group}/devices/{address}", path)
        self.link(f"{path}/iommu_group", f"/sys/kernel/iommu_groups/{group}")

    def bind(self, address: str, driver: str) -> None:
        link = self.at(f"/sys/bus/pci/devices/{address}/driver")
        link.unlink(missing_ok=True)
        self.directory(f"/sys/bus/pci/drivers/{driver}")
        link.symlink_to(self.at(f"/sys/bus/pci/drivers/{driver}"))

    def lun(self, address: str = "2:0:0:1", wwid: str = "naa.5000c50015ea71aa", disk: str = "sdb") -> str:
        host, bus, target, _ = address.split(":")
        controller = f"/sys/devices/pci0000:00/0000:00:05.0/virtio1/host{host}"
        path = f"{controller}/target{host}:{bus}:{target}/{address}"
        self.write(f"{path}/wwid", wwid + "\n")
        self.link(f"/sys/bus/scsi/devices/{address}", path)
        self.disk(disk, path)
        return path

    def stick(self, name: str = "1-2", serial: str = "STICK1", ids: str = "1234:0001") -> str:
        path = f"/sys/devices/pci0000:00/0000:00:06.0/usb1/{name}"
        vendor, product = ids.split(":")
        facts = {"idVendor": vendor, "idProduct": product, "serial": serial, "busnum": "1", "devnum": name[2:]}
        for key, told in facts.items():
            self.write(f"{path}/{key}", told + "\n")
        self.link(f"/sys/bus/usb/devices/{name}", path)
        return path

    def guard(
        self,
        assigned: Mapping[str, str | list[str]] | None = None,
        *,
        boot: str = BOOT,
        held: Mapping[str, list[dict[str, str]]] | None = None,
        consoles: list[str] | None = None,
        version: int = 1,
    ) -> None:
        """Write the file; `assigned` is identity keys by alias of `VM`."""
        entries = {
            alias: {"uid": "dev-abc", "name": "pci_0000_00_03_0", "keys": [keys] if isinstance(keys, str) else keys}
            for alias, keys in (assigned or {}).items()
        }
        told = {
            "version": version,
            "boot_id": boot,
            "assigned": {VM: entries},
            "held": held or {},
            "consoles": consoles or [],
        }
        replace_file(self.at(f"/var/lib/hostdevd/{NAME}"), json.dumps(told))

    def start(self, xml: str | bytes, *operation: str) -> Outcome:
        """Have libvirt's question put to the hook."""
        done = subprocess.run(
            [str(HOOK), "spare", *(operation or ("prepare", "begin")), "-"],
            input=xml if isinstance(xml, bytes) else xml.encode(),
            capture_output=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOSTDEVD_GUARD_ROOT": str(self.root)},
        )
        assert done.stdout == b""  # the XML stays as it is
        return Outcome(done.returncode, done.stderr.decode())


def domain(*devices: str) -> str:
    """What libvirt gives: the live XML before the process runs, with more in it than anybody needs."""
    return f"""<domain type='kvm' id='3'>
  <name>spare</name>
  <uuid>{VM}</uuid>
  <metadata><x:note xmlns:x='http://example.org/hostdev'>of a hostdev</x:note></metadata>
  <memory unit='KiB'>262144</memory>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    {"".join(devices)}
    <memballoon model='none'/>
  </devices>
</domain>"""


def alias_of(alias: str) -> str:
    return f"<alias name='{alias}'/>" if alias else ""


def pci(address: str = "0000:00:03.0", alias: str = ALIAS, tag: str = "hostdev") -> str:
    where, bus, rest = address.split(":")
    slot, function = rest.split(".")
    kind = "mode='subsystem' type='pci'" if tag == "hostdev" else "type='hostdev'"
    return (
        f"<{tag} {kind} managed='yes'><driver name='vfio'/><source>"
        f"<address domain='0x{where}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source>"
        f"{alias_of(alias)}<address type='pci' domain='0x0000' bus='0x07' slot='0x00' function='0x0'/></{tag}>"
    )


def scsi(address: str = "2:0:0:1", alias: str = ALIAS, more: str = "") -> str:
    host, bus, target, unit = address.split(":")
    return (
        f"<hostdev mode='subsystem' type='scsi' managed='no'><source><adapter name='scsi_host{host}'/>"
        f"<address bus='{bus}' target='{target}' unit='{unit}'/></source>{more}{alias_of(alias)}"
        "<address type='drive' controller='0' bus='0' target='0' unit='3'/></hostdev>"
    )


def usb(ids: str = "1234:0001", alias: str = ALIAS) -> str:
    vendor, product = ids.split(":")
    return (
        "<hostdev mode='subsystem' type='usb' managed='no'><source startupPolicy='optional'>"
        f"<vendor id='0x{vendor}'/><product id='0x{product}'/></source>{alias_of(alias)}</hostdev>"
    )


def mdev(alias: str = ALIAS) -> str:
    return (
        "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'><source>"
        f"<address uuid='4b20d080-1b54-4048-85b3-a6a62d165c01'/></source>{alias_of(alias)}</hostdev>"
    )


def disk(path: str, more: str = "", device: str = "disk") -> str:
    return (
        f"<disk type='block' device='{device}'><driver name='qemu' type='raw'/><source dev='{path}' index='1'/>"
        f"<target dev='vda' bus='virtio'/>{more}<alias name='virtio-disk0'/></disk>"
    )
