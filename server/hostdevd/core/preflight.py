"""What stands in the way of an attach besides the device itself: holders, its group, the guest."""

from __future__ import annotations

from collections.abc import Iterator

from hostdevd.core.assignments import Assignment, GroupPolicy
from hostdevd.core.graph import group_mates_of
from hostdevd.core.model import (
    Domain,
    Holder,
    HolderRole,
    MdevFacts,
    NodeDevice,
    PciFacts,
    Reason,
    ScsiFacts,
    UsbFacts,
    Vm,
)
from hostdevd.core.plan import PlannedDevice
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
    for holder in other_holders(store, domain, target):
        where = "runs with it" if holder.live else "has it in its configuration"
        yield Reason(
            "HELD_BY_OTHER_VM",
            holder.vm.name,
            f"{holder.device} is held by the virtual machine {holder.vm.name}, which {where}",
            f"detach it from {holder.vm.name} first",
        )
    told = {holder.vm.uuid for holder in other_holders(store, domain, target)}
    for assignment in other_claims(store, domain, target):
        if assignment.vm.uuid not in told:
            yield Reason(
                "HELD_BY_OTHER_VM",
                assignment.vm.name,
                f"{target.name} or a member of its group is assigned to the virtual machine {assignment.vm.name}",
                f"detach the assignment {assignment.name} first",
            )


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


def guest_blockers(domain: Domain, devices: tuple[PlannedDevice, ...]) -> Iterator[Reason]:
    """What the guest lacks to take the devices."""
    vm = domain.vm
    if domain.live is not None:
        yield from _slot_blockers(domain, [device for device in devices if device.live])
    kinds = {type(device.node.facts) for device in devices if device.live or device.config}
    for definition, used in ((domain.live, "live"), (domain.config, "config")):
        if definition is None or not any(getattr(device, used) for device in devices):
            continue
        if UsbFacts in kinds and not definition.hardware.usb_controller:
            yield Reason("GUEST_HAS_NO_CONTROLLER", vm.name, f"{vm.name} has no USB controller", "add one (qemu-xhci)")
            break
        if ScsiFacts in kinds and not any(
            controller.model.startswith("virtio") for controller in definition.hardware.scsi_controllers
        ):
            text = f"{vm.name} has no virtio-scsi controller"
            yield Reason("GUEST_HAS_NO_CONTROLLER", vm.name, text, "add a SCSI controller of model virtio-scsi")
            break
    if vm.managed_save and not vm.state.active:
        yield Reason(
            "MANAGED_SAVE_PRESENT",
            vm.name,
            f"{vm.name} has a saved state, from which it would start without the device",
            "start and shut down the VM, or remove its saved state (virsh managedsave-remove)",
        )


def _slot_blockers(domain: Domain, devices: list[PlannedDevice]) -> Iterator[Reason]:
    if domain.live is None:
        return
    hardware = domain.live.hardware
    shown = [
        device.node.facts
        for device in devices
        if device.role is HolderRole.VISIBLE and isinstance(device.node.facts, PciFacts | MdevFacts)
    ]
    # A mediated device has no capability to look at; libvirt takes it for an express one.
    takes_express = [not isinstance(facts, PciFacts) or facts.express for facts in shown]
    express = sum(takes_express) if hardware.pcie else 0
    conventional = len(shown) - express
    for needed, free, kind, remedy in (
        (express, hardware.free_pcie_slots, "PCI Express", "add pcie-root-port controllers and restart the VM"),
        (
            conventional,
            hardware.free_pci_slots,
            "conventional PCI",
            "add a pcie-to-pci-bridge (q35) or pci-bridge controller and restart the VM",
        ),
    ):
        if needed > free:
            yield Reason(
                "GUEST_HAS_NO_SLOT",
                domain.vm.name,
                f"{domain.vm.name} has {free} free {kind} slots, {needed} are needed",
                remedy,
            )
