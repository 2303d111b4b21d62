"""What the store shows of the host: devices, groups and holders with everything that the rules say of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from hostdevd.core.groups import MemberRole
from hostdevd.core.model import Eligibility, Holder, HostUse, NodeDevice


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as it is listed; `revision` is the one at which anything of it last changed."""

    node: NodeDevice
    uid: str
    children: tuple[str, ...]
    driver: str | None
    group: str | None
    eligibility: Eligibility
    host_uses: tuple[HostUse, ...]
    holders: tuple[Holder, ...]
    revision: int = field(compare=False, default=0)

    @property
    def name(self) -> str:
        """The libvirt name."""
        return self.node.name


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of an IOMMU group."""

    name: str
    uid: str
    role: MemberRole
    driver: str | None


@dataclass(frozen=True, slots=True)
class GroupView:
    """An IOMMU group as it is listed.

    `viable`: every endpoint is bound to a VFIO driver or to none, so that the kernel would let a VM have it.
    """

    uid: str
    iommu_group: int
    members: tuple[GroupMember, ...]
    eligibility: Eligibility
    viable: bool
    holders: tuple[Holder, ...]
