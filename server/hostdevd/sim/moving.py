"""Devices that are found elsewhere: PCI buses and SCSI hosts counted anew, a USB device in another port.

Names, paths and addresses in the documents change; who the devices are does not, and no domain's XML is
touched: what stands there now names whatever came to the old place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lxml import etree

from hostdevd.sim.world import World
from hostdevd.virt.xml.numbers import number
from hostdevd.virt.xml.parser import parse

_Match = re.Match[str]
_SCSI_SEGMENT = re.compile(r"(?<=/)(host(?=[0-9]+(?:/|$))|target|(?=[0-9]+(?::[0-9]+){3}(?:/|$)))([0-9]+)")
"""`host3`, `target3:0:0` or `3:0:0:1`, and not the `0000:01:00.0` of a PCI function."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Old to new: PCI bus numbers (of domain 0), SCSI host numbers, USB ports as sysfs names them (`2-4`)."""

    buses: Mapping[int, int] = field(default_factory=dict)
    hosts: Mapping[int, int] = field(default_factory=dict)
    ports: Mapping[str, str] = field(default_factory=dict)

    def of_name(self, name: str) -> str:
        """A node device's name after the moves."""
        if name.startswith("pci_0000_"):
            return re.sub(r"(?<=^pci_0000_)[0-9a-f]{2}(?=_)", self._bus, name)
        if name.startswith("scsi_"):
            return re.sub(r"(?<=^scsi_)(host|target|)([0-9]+)(?=_|$)", self._host, name)
        for old, new in self.ports.items():
            old_name, new_name = (f"usb_{re.sub('[-.]', '_', port)}" for port in (old, new))
            if name == old_name or name.startswith(f"{old_name}_"):
                return new_name + name.removeprefix(old_name)
        return name

    def of_path(self, path: str) -> str:
        """A sysfs path after the moves."""
        path = re.sub(r"(?<=/0000:)[0-9a-f]{2}(?=:)", self._bus, path)
        path = re.sub(_SCSI_SEGMENT, self._host, path)
        for old, new in self.ports.items():
            path = re.sub(rf"(?<=/){re.escape(old)}(?=[:/]|$)", new, path)
        return path

    def of_document(self, xml: str) -> str:
        """A node device's document after the moves."""
        root = parse(xml)
        _each(root, ("name", "parent"), self.of_name)
        _each(root, ("path",), self.of_path)
        _each(root, ("capability[@type='pci']/bus",), lambda text: str(self.buses.get(int(text), int(text))))
        _each(root, ("capability[@type='scsi']/host", "capability[@type='scsi_host']/host"), self._host_number)
        _each(root, ("capability[@type='scsi_target']/target",), lambda text: self.of_path(f"/{text}")[1:])
        for address in root.iterfind("capability//address[@bus]"):
            bus = number(address.get("bus"), 0xFF)
            if bus is not None and bus in self.buses:
                address.set("bus", f"0x{self.buses[bus]:02x}")
        return etree.tostring(root, encoding="unicode")

    def _bus(self, found: _Match) -> str:
        bus = int(found[0], 16)
        return f"{self.buses.get(bus, bus):02x}"

    def _host(self, found: _Match) -> str:
        return found[1] + self._host_number(found[2])

    def _host_number(self, text: str) -> str:
        return str(self.hosts.get(int(text), int(text)))


def move(world: World, moves: Moves) -> set[str]:
    """Carry the moves out, without any event; the names that came or went."""
    before = set(world.kernel.devices)
    world.kernel.rewrite(moves.of_document, moves.of_name)
    world.uses = {moves.of_name(name): uses for name, uses in world.uses.items()}
    world.identities = {moves.of_name(name): facts for name, facts in world.identities.items()}
    return {name for old in before if (name := moves.of_name(old)) != old} | {
        old for old in before if moves.of_name(old) != old
    }


def _each(root: etree._Element, places: tuple[str, ...], change: Callable[[str], str]) -> None:
    for place in places:
        for element in root.iterfind(place):
            element.text = change((element.text or "").strip())
