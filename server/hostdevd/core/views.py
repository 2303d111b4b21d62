"""What the store shows of the host: devices, groups and holders with everything that the rules say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.graph import endpoints
from hostdevd.core.groups import MemberRole, UidOf, group_uid, member_role
from hostdevd.core.model import Eligibility, Holder, HostUse, NodeDevice
from hostdevd.core.selectors import Traits, traits


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as it is listed; `revision` is the one at which anything of it last changed.

    `host_driver` is the driver that rules judge it by: `driver`, or while it is away from the host the one of before.
    """

    node: NodeDevice
    uid: str
    children: tuple[str, ...]
    driver: str | None
    group: str | None
    eligibility: Eligibility
    host_uses: tuple[HostUse, ...]
    holders: tuple[Holder, ...]
    host_driver: str | None = None
    reaches: tuple[str, ...] = ()
    """Disks that go with it and lie elsewhere in the tree (`DeviceGraph.shared_disks`)."""
    revision: int = field(compare=False, default=0)

    @property
    def name(self) -> str:
        """The libvirt name."""
        return self.node.name

    @property
    def traits(self) -> Traits:
        """What rules look at."""
        return traits(self.node, self.uid, self.host_driver)


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


def group_view(
    number: int, members: tuple[NodeDevice, ...], devices: Mapping[str, DeviceView], uid_of: UidOf
) -> GroupView:
    """A group from the views of its members."""
    going = endpoints(members)
    views = [devices[member.name] for member in going]
    reasons = tuple(
        dict.fromkeys(
            reason for view in views for reason in view.eligibility.reasons if reason.code != "GROUP_MEMBER_INELIGIBLE"
        )
    )
    return GroupView(
        uid=group_uid(members, uid_of),
        iommu_group=number,
        members=tuple(
            GroupMember(member.name, uid_of(member.name), member_role(member), devices[member.name].driver)
            for member in members
        ),
        eligibility=Eligibility(
            eligible=bool(going) and not reasons,
            available=bool(going) and all(view.eligibility.available for view in views),
            reasons=reasons,
        ),
        viable=all(view.driver is None or is_vfio_driver(view.driver) for view in views),
        holders=tuple(holder for view in views for holder in view.holders),
    )
