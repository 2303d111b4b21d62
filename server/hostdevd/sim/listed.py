"""What libvirt tells of a function's neighbours, worked out anew at each read, as libvirt does.

The document of a simulated function is fixed; which virtual functions it has and who is in its IOMMU group
depends on what is plugged in and seen now.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import NodeDevice, PciFacts


def with_neighbours(node: NodeDevice, here: Iterable[NodeDevice]) -> NodeDevice:
    """The device as it lists its VFs and its group when these devices are on the host."""
    facts = node.facts
    if not isinstance(facts, PciFacts):
        return node
    functions = [one.facts for one in here if isinstance(one.facts, PciFacts)]
    vfs = _kept(facts.virt_functions, [one.address for one in functions if one.phys_function == facts.address])
    members = facts.iommu_addresses
    if members:
        members = _kept(members, [one.address for one in functions if one.iommu_group == facts.iommu_group])
    if (vfs, members) == (facts.virt_functions, facts.iommu_addresses):
        return node
    detail = dict(node.detail)
    for name, addresses in (("virt_functions", vfs), ("iommu_group", members)):
        told = detail.get(name)
        if addresses or isinstance(told, dict):
            detail[name] = {**(told if isinstance(told, dict) else {}), "addresses": [str(one) for one in addresses]}
    return replace(node, facts=replace(facts, virt_functions=vfs, iommu_addresses=members), detail=detail)


def _kept(told: tuple[PciAddress, ...], now: list[PciAddress]) -> tuple[PciAddress, ...]:
    """Those of `now`, the known ones in the order in which they were told, new ones after them."""
    return (*(one for one in told if one in now), *dict.fromkeys(one for one in now if one not in told))
