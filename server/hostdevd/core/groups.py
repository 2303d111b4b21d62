"""IOMMU groups as the API shows them, and what disappears from the host with a device."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum, unique

from hostdevd.core.graph import DeviceGraph, endpoints, group_mates_of, is_bridge, is_transparent_bridge
from hostdevd.core.model import NodeDevice, PciFacts

UidOf = Callable[[str], str]


@unique
class MemberRole(StrEnum):
    """A group's member goes to the guest with it, or is a PCI-to-PCI bridge that stays."""

    ENDPOINT = "ENDPOINT"
    BRIDGE = "BRIDGE"


@unique
class AffectedRole(StrEnum):
    """Bound away with the group, or gone because what it stands on is."""

    ENDPOINT = "ENDPOINT"
    CHILD = "CHILD"


@dataclass(frozen=True, slots=True)
class Affected:
    """A device that a caller loses on the host when it assigns another one."""

    name: str
    type: str
    role: AffectedRole
    uid: str = ""
    """Set where it must be told after the device has gone."""


def member_role(device: NodeDevice) -> MemberRole:
    """BRIDGE for class 0x0604 alone."""
    return MemberRole.BRIDGE if is_transparent_bridge(device) else MemberRole.ENDPOINT


def group_uid(members: Iterable[NodeDevice], uid_of: UidOf) -> str:
    """The group's stable name, from its endpoints' uids: the kernel's number changes between boots."""
    members = tuple(members)
    named = endpoints(members) or members
    smallest = min(uid_of(member.name) for member in named)
    return "grp-" + hashlib.sha256(smallest.encode()).hexdigest()[:20]


def affected(graph: DeviceGraph, device: NodeDevice) -> tuple[Affected, ...]:
    """What else the host loses: the group's other endpoints and everything below all of them.

    VFs do not hang below their PF in libvirt's tree, so they are added by what the two say of each other; and shared
    NVMe namespaces below none of their controllers: they are added by what the host says.
    """
    mates = group_mates_of(graph, device)
    found: dict[str, Affected] = {
        mate.name: Affected(mate.name, mate.type, AffectedRole.ENDPOINT) for mate in mates if mate.name != device.name
    }
    for mate in mates:
        below = [*graph.descendants(mate.name), *graph.shared_disks(mate)]
        for function in graph.virtual_functions(mate.facts) if isinstance(mate.facts, PciFacts) else ():
            for name in graph.at(function):
                below += [graph.nodes[name], *graph.descendants(name)]
        for child in below:
            if child.name != device.name and child.name not in found and child.type in _LOST and not is_bridge(child):
                found[child.name] = Affected(child.name, child.type, AffectedRole.CHILD)
    return tuple(found.values())


# What a user would miss; USB interfaces, SCSI hosts and targets only carry these.
_LOST = frozenset({"net", "storage", "scsi", "usb_device", "pci", "mdev", "drm", "vdpa"})
