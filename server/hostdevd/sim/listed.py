"""What libvirt tells of a function's neighbours, worked out anew at each read, as libvirt does.

The document of a simulated function is fixed; which virtual functions it has and who is in its IOMMU group
depends on what is plugged in and seen now; so does how many mediated devices it can still make.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import NodeDevice, PciFacts

MdevKind = tuple[str, str]
"""A mediated device's parent and type."""
NONE: Counter[MdevKind] = Counter()


def with_neighbours(node: NodeDevice, here: Iterable[NodeDevice], first: Counter[MdevKind] = NONE) -> NodeDevice:
    """The device as it lists its VFs, its group and its instances when these devices are on the host.

    `first`: the mediated devices that were there when the documents were written.
    """
    here = tuple(here)
    facts = node.facts
    if not isinstance(facts, PciFacts):
        return node
    node = _with_instances(node, here, first)
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


def mdev_kinds(devices: Iterable[NodeDevice]) -> Counter[MdevKind]:
    """How many mediated devices there are of each kind."""
    return Counter((str(one.parent), str(one.detail.get("type_id"))) for one in devices if one.type == "mdev")


def _with_instances(node: NodeDevice, here: tuple[NodeDevice, ...], first: Counter[MdevKind]) -> NodeDevice:
    types: Any = node.detail.get("mdev_types", ())
    if not types:
        return node
    now = mdev_kinds(here)
    left = []
    for one in types:
        kind = node.name, one["id"]
        left.append({**one, "available_instances": max(0, one["available_instances"] + first[kind] - now[kind])})
    return replace(node, detail={**node.detail, "mdev_types": left})


def _kept(told: tuple[PciAddress, ...], now: list[PciAddress]) -> tuple[PciAddress, ...]:
    """Those of `now`, the known ones in the order in which they were told, new ones after them."""
    return (*(one for one in told if one in now), *dict.fromkeys(one for one in now if one not in told))
