"""Which device of the running lab is which role: QEMU's ids joined with the lab's sysfs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import LabError
from .qmp import Monitor
from .topology import Device, Topology

_PCI = Path("/sys/bus/pci/devices")
_USB = Path("/sys/bus/usb/devices")


class Lookup:
    """A view taken now: PCI addresses as the monitor tells them, the rest from sysfs."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        with Monitor() as monitor:
            self._pci = dict(_pci_addresses(monitor.execute("query-pci")))
            usb = [d.role for d in topology.devices if d.driver.startswith("usb-")]
            # Asked for, not taken from the file: a test may have plugged it in elsewhere.
            self._usb_ports = {role: port for role in usb if (port := _port_now(monitor, role)) is not None}

    def everything(self) -> dict[str, Any]:
        """All roles (also of devices added later), the guests, and scsi_debug's LUNs."""
        devices = {d.role: self.describe(d) for d in self._topology.devices}
        for role, address in self._pci.items():
            if role and role not in devices:
                devices[role] = {"role": role, "driver": "", **_pci_facts(address)}
        if self._topology.scsi_debug.max_luns:
            for host in sorted(Path("/sys/bus/pseudo/devices").glob("adapter*/host*")):
                for lun in _luns(host):
                    role = f"scsi_debug_{lun['address'].rpartition(':')[2]}"
                    devices[role] = {"role": role, "driver": "scsi_debug", **lun}
        guests = {
            g.name: {"machine": g.machine, "running": g.running, "persistent": g.persistent}
            for g in self._topology.guests
        }
        return {"devices": devices, "guests": guests}

    def describe(self, device: Device) -> dict[str, Any]:
        """One role. ``present`` is false for what is not plugged; other keys are then missing."""
        own: dict[str, Any] = {"role": device.role, "driver": device.driver}
        if device.role in self._pci:
            return own | _pci_facts(self._pci[device.role])
        controller, _, _bus = device.get("bus").rpartition(".")
        if device.driver.startswith("usb-"):
            if device.role not in self._usb_ports or controller not in self._pci:
                return own | {"kind": "usb", "present": False}
            return own | _usb_facts(self._pci[controller], self._usb_ports[device.role])
        if device.driver in ("scsi-hd", "scsi-cd", "scsi-block") and controller in self._pci:
            return own | _scsi_facts(self._pci[controller], device)
        return own | {"kind": "other", "present": False}


def _port_now(monitor: Monitor, role: str) -> str | None:
    try:
        return str(monitor.execute("qom-get", path=f"/machine/peripheral/{role}", property="port"))
    except LabError:
        return None


def _pci_addresses(buses: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for bus in buses:
        for device in bus["devices"]:
            address = f"0000:{device['bus']:02x}:{device['slot']:02x}.{device['function']}"
            yield device["qdev_id"], address
            inner = device.get("pci_bridge", {}).get("devices")
            if inner:
                yield from _pci_addresses([{"devices": inner}])


def _pci_facts(address: str) -> dict[str, Any]:
    path = _PCI / address
    if not path.exists():
        return {"kind": "pci", "present": False, "address": address}
    group, bound = path / "iommu_group", path / "driver"
    functions = sorted(p for p in path.glob("virtfn*"))
    return {
        "kind": "pci",
        "present": True,
        "address": address,
        "nodedev": "pci_" + re.sub(r"[:.]", "_", address),
        "vendor": (path / "vendor").read_text().strip()[2:],
        "product": (path / "device").read_text().strip()[2:],
        "class": (path / "class").read_text().strip()[2:],
        "iommu_group": int(group.resolve().name) if group.exists() else None,
        "bound": bound.resolve().name if bound.exists() else None,
        "net": sorted(p.name for p in path.glob("**/net/*") if p.parent.name == "net" and p.is_dir()),
        "block": _blocks(path),
        "virtual_functions": [p.resolve().name for p in functions],
    }


def _usb_facts(controller: str, port: str) -> dict[str, Any]:
    # QEMU numbers a port once; Linux shows it on the USB 2 or the USB 3 root hub.
    for path in _USB.iterdir():
        if path.name.partition("-")[2] == port and ":" not in path.name and controller in str(path.resolve()):
            return {
                "kind": "usb",
                "present": True,
                "nodedev": "usb_" + re.sub(r"[-.]", "_", path.name),
                "sysfs": path.name,
                "bus": int((path / "busnum").read_text()),
                "device": int((path / "devnum").read_text()),
                "port": port,
                "vendor": (path / "idVendor").read_text().strip(),
                "product": (path / "idProduct").read_text().strip(),
                "serial": (path / "serial").read_text().strip() if (path / "serial").exists() else None,
                "block": _blocks(path),
                "luns": [lun for host in sorted(path.glob("**/host[0-9]*")) for lun in _luns(host)],
            }
    return {"kind": "usb", "present": False, "port": port}


def _scsi_facts(controller: str, device: Device) -> dict[str, Any]:
    wanted = (device.get("channel", "0"), device.get("scsi-id", "0"), device.get("lun", "0"))
    for host in (_PCI / controller).glob("virtio*/host*"):
        for lun in _luns(host):
            if tuple(lun["address"].split(":")[1:]) == wanted:
                return lun
    return {"kind": "scsi", "present": False}


def _luns(host: Path) -> list[dict[str, Any]]:
    return [
        {
            "kind": "scsi",
            "present": True,
            "address": path.name,
            "nodedev": "scsi_" + path.name.replace(":", "_"),
            "adapter": f"scsi_{host.name}",
            "block": _blocks(path),
        }
        for path in sorted(host.glob("target*/*:*:*:*"))
    ]


def _blocks(path: Path) -> list[str]:
    own = str(path.resolve()) + "/"
    return sorted(p.name for p in Path("/sys/block").iterdir() if str(p.resolve()).startswith(own))
