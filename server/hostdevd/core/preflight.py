"""What stands in the way of an attach besides the device itself and the guest: other VMs, its group."""

from __future__ import annotations

from collections.abc import Iterator

from hostdevd.core.assignments import Assignment, GroupPolicy
from hostdevd.core.graph import group_mates_of
from hostdevd.core.model import Domain, Holder, NodeDevice, Reason, Vm
from hostdevd.core.store import Store


def other_holders(store: Store, domain: Domain, target: NodeDevice) -> tuple[Holder, ...]:
    """Who else holds the device, a member of its group, its PF, its VFs or its parent."""
    return tuple(holder for holder in store.blocking_holders(target) if holder.vm.uuid != domain.vm.uuid)


def other_claims(store: Store, domain: Domain, target: NodeDevice) -> tuple[Assignment, ...]:
    """The open assignments of other VMs: theirs while the device is out of the guest too, after a re-plug say."""
    return tuple(one for one in store.claims(target) if one.vm.uuid != domain.vm.uuid)


def other_vms(store: Store, domain: Domain, target: NodeDevice) -> Iterator[Vm]:
    """The VMs that stand in the way."""
    yield from (holder.vm for holder in other_holders(store, domain, target))
    yield from (assignment.vm for assignment in other_claims(store, domain, target))


def held_by_others(store: Store, domain: Domain, target: NodeDevice) -> Iterator[Reason]:
    """Each holder that stands in the way."""
    yield from map(_held, other_holders(store, domain, target))
    told = {holder.vm.uuid for holder in other_holders(store, domain, target)}
    for assignment in other_claims(store, domain, target):
        if assignment.vm.uuid not in told:
            yield Reason(
                "HELD_BY_OTHER_VM",
                assignment.vm.name,
                f"{target.name} or a member of its group is assigned to the virtual machine {assignment.vm.name}",
                f"detach the assignment {assignment.name} first",
            )


def _held(holder: Holder) -> Reason:
    where = "runs with it" if holder.live else "has it in its configuration"
    return Reason(
        "HELD_BY_OTHER_VM",
        holder.vm.name,
        f"{holder.device} is held by the virtual machine {holder.vm.name}, which {where}",
        f"detach it from {holder.vm.name} first",
    )


def holdings(store: Store, device: str) -> Iterator[tuple[Reason, Vm]]:
    """Each VM that has a device, by its libvirt name, or whose open assignment it is."""
    holders = store.holders_of(device)
    yield from ((_held(holder), holder.vm) for holder in holders)
    told = {holder.vm.uuid for holder in holders}
    for assignment in store.claims_on(device):
        if assignment.vm.uuid not in told:
            text = f"{device} is assigned to the virtual machine {assignment.vm.name}"
            remedy = f"detach the assignment {assignment.name} first"
            yield Reason("HELD_BY_OTHER_VM", assignment.vm.name, text, remedy), assignment.vm


def other_endpoints(store: Store, target: NodeDevice, policy: GroupPolicy) -> Iterator[Reason]:
    """`SINGLE_ONLY` and a group with others."""
    others = [mate.name for mate in group_mates_of(store.graph, target) if mate.name != target.name]
    if policy is GroupPolicy.SINGLE_ONLY and others:
        yield Reason(
            "GROUP_HAS_OTHER_ENDPOINTS",
            target.name,
            f"the IOMMU group of {target.name} has other endpoints: {', '.join(others)}",
            "use the group policy WHOLE_GROUP or RESERVE_REST",
        )
