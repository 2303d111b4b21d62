"""Whose XML changes without an event when another device comes or goes.

libvirt tells of the device that came or went alone. But a physical function's XML lists its virtual functions,
every member of an IOMMU group lists all of them, and the parent of mediated devices counts what is left: those
must be read again too, and they alone, so that the work does not grow with the host.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from hostdevd.core.addresses import PciAddress
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import NodeDevice, PciFacts

Fresh = Mapping[str, NodeDevice | None]
"""What was just read, by name; None was found to be gone."""


def outdated(graph: DeviceGraph, fresh: Fresh) -> set[str]:
    """Names of the devices that are here and whose last XML disagrees with what was just read."""
    now = _Now(graph, fresh)
    found = set[str]()
    for name, device in fresh.items():
        before = graph.get(name)
        found.update(*(_of_function(now, facts) for facts in {_pci(before), _pci(device)} if facts is not None))
        mdev = device or before
        if mdev is not None and mdev.type == "mdev" and (before is None or device is None) and mdev.parent is not None:
            found.add(mdev.parent)
    return {name for name in found if now.device(name) is not None}


class _Now:
    """The devices as they are after what was just read."""

    def __init__(self, graph: DeviceGraph, fresh: Fresh) -> None:
        self._graph = graph
        self._fresh = fresh
        self._at: defaultdict[PciAddress, set[str]] = defaultdict(set)
        self._in_group: defaultdict[int, set[str]] = defaultdict(set)
        for name, device in fresh.items():
            facts = _pci(device)
            if facts is not None:
                self._at[facts.address].add(name)
                if facts.iommu_group is not None:
                    self._in_group[facts.iommu_group].add(name)

    def device(self, name: str) -> NodeDevice | None:
        return self._fresh[name] if name in self._fresh else self._graph.get(name)

    def at(self, address: PciAddress) -> Iterator[tuple[str, PciFacts]]:
        for name in {*self._graph.at(address), *self._at[address]}:
            facts = _pci(self.device(name))
            if facts is not None and facts.address == address:
                yield name, facts

    def in_group(self, group: int) -> Iterator[tuple[str, PciFacts]]:
        for name in {*(member.name for member in self._graph.iommu_members(group)), *self._in_group[group]}:
            facts = _pci(self.device(name))
            if facts is not None and facts.iommu_group == group:
                yield name, facts


def _of_function(now: _Now, facts: PciFacts) -> Iterator[str]:
    """Who lists this function and should not, or does not and should."""
    here = [found for _, found in now.at(facts.address)]
    if facts.phys_function is not None:
        is_vf = any(found.phys_function == facts.phys_function for found in here)
        for name, pf in now.at(facts.phys_function):
            if (facts.address in pf.virt_functions) is not is_vf:
                yield name
    if facts.iommu_group is not None:
        is_member = any(found.iommu_group == facts.iommu_group for found in here)
        for name, mate in now.in_group(facts.iommu_group):
            # A libvirt that lists no members says nothing that could be wrong.
            if mate.iommu_addresses and (facts.address in mate.iommu_addresses) is not is_member:
                yield name


def _pci(device: NodeDevice | None) -> PciFacts | None:
    facts = device.facts if device is not None else None
    return facts if isinstance(facts, PciFacts) else None
