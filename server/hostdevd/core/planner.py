"""From a request to a plan, or to every blocker at once: a pure function of the store (rules.md, "Attach").

A dry run and a real call go through here; only the real one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum, unique

from hostdevd.core.assignments import Assignment, GroupPolicy, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import group_mates_of
from hostdevd.core.groups import Affected, affected
from hostdevd.core.model import Domain, Holder, HolderRole, NodeDevice, PciFacts, Reason, ScsiFacts, UsbFacts
from hostdevd.core.store import Store, names_twin


@unique
class StepKind(StrEnum):
    """What a step does."""

    HOST_DETACH = "HOST_DETACH"
    ATTACH_LIVE = "ATTACH_LIVE"
    ATTACH_CONFIG = "ATTACH_CONFIG"
    VERIFY = "VERIFY"
    DETACH_LIVE = "DETACH_LIVE"
    DETACH_CONFIG = "DETACH_CONFIG"
    HOST_REATTACH = "HOST_REATTACH"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step: what, to which device (libvirt name), and how in words."""

    kind: StepKind
    device: str
    detail: str


@dataclass(frozen=True, slots=True)
class SideEffect:
    """Something that a caller may not expect, about a device or the VM as a whole."""

    message: str
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation does, in order, what it takes with it, and what stands in its way."""

    steps: tuple[PlanStep, ...] = ()
    affected: tuple[Affected, ...] = ()
    side_effects: tuple[SideEffect, ...] = ()
    blockers: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """What a caller asks for; `expected_affected` None is not checked."""

    vm: str
    device: str
    group_policy: GroupPolicy = GroupPolicy.WHOLE_GROUP
    scope: Scope = Scope.AUTO
    expected_affected: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device of the plan, and what has to be done for it."""

    node: NodeDevice
    role: HolderRole
    live: bool
    config: bool
    config_by_service: bool = False


@dataclass(frozen=True, slots=True)
class AttachPlan:
    """The plan with what the engine needs to carry it out.

    `extends` is the assignment that the work adds a scope to. `live` and `config` tell which definitions
    of the VM get something. `held_by` is the first holder that stands in the way.
    """

    domain: Domain
    target: NodeDevice
    devices: tuple[PlannedDevice, ...]
    live: bool
    config: bool
    plan: Plan
    extends: Assignment | None = None
    held_by: Holder | None = None


def find_vm(store: Store, vm: str) -> Domain:
    """The VM of this UUID or name; what looks like a UUID is one. `VM_NOT_FOUND` otherwise."""
    wanted = vm.lower()
    if _looks_like_uuid(wanted):
        found = store.domains.get(wanted)
    else:
        found = next((domain for domain in store.domains.values() if domain.vm.name == vm), None)
    if found is None:
        raise HostdevError(
            "VM_NOT_FOUND", f"there is no virtual machine {vm}", metadata={"vm": vm}, resource=("vm", vm)
        )
    return found


def find_device(store: Store, device: str) -> NodeDevice:
    """The device of this libvirt name or uid; `DEVICE_NOT_FOUND` otherwise."""
    view = store.device(device)
    if view is None:
        raise HostdevError(
            "DEVICE_NOT_FOUND",
            f"there is no device {device}",
            metadata={"device": device},
            resource=("device", device),
        )
    return view.node


def plan_attach(store: Store, request: AttachRequest) -> AttachPlan:
    """The plan of an attach, blockers included; raises for what is an error on a dry run too."""
    domain = find_vm(store, request.vm)
    target = find_device(store, request.device)
    lost = affected(store.graph, target)
    _check_expected(store, request, lost)
    scopes, scope_blockers = _scopes(domain, request.scope)
    extends = _own_assignment(store, domain, target)
    devices = tuple(_planned(store, domain, target, request.group_policy, scopes, extends))
    wanted = [device for device in devices if device.live or device.config]
    if not wanted and not scope_blockers:
        raise _already_attached(domain, target, extends)
    plan = Plan(
        steps=tuple(_steps(store, devices)),
        affected=lost,
        side_effects=tuple(_side_effects(store, domain, devices, lost)),
        blockers=(
            *_held_by_others(store, domain, target),
            *store.devices[target.name].eligibility.reasons,
            *_other_endpoints(store, target, request.group_policy),
            *scope_blockers,
            *_guest_blockers(domain, devices),
        ),
    )
    return AttachPlan(
        domain=domain,
        target=target,
        devices=devices,
        live=any(device.live for device in devices),
        config=any(device.config for device in devices),
        plan=plan,
        extends=extends,
        held_by=next(iter(other_holders(store, domain, target)), None),
    )


def blocked(plan: AttachPlan) -> HostdevError:
    """The error of a real call that its blockers stop: the first in the order of api.md gives the reason."""
    first = plan.plan.blockers[0]
    known = {"HELD_BY_OTHER_VM", *_PLAN_CODES}
    reason = first.code if first.code in known else "DEVICE_NOT_ELIGIBLE"
    metadata = {"device": plan.target.name, "vm_name": plan.domain.vm.name, "vm_uuid": plan.domain.vm.uuid}
    if reason == "HELD_BY_OTHER_VM" and plan.held_by is not None:
        metadata |= {"vm_name": plan.held_by.vm.name, "vm_uuid": plan.held_by.vm.uuid}
    message = first.message
    if reason == "DEVICE_NOT_ELIGIBLE":
        message = f"{plan.target.name} cannot be assigned: {first.message}"
    more = len(plan.plan.blockers) - 1
    if more:
        message += f" (and {more} more reason{'s' if more > 1 else ''})"
    return HostdevError(reason, message, metadata=metadata, reasons=plan.plan.blockers)


_PLAN_CODES = frozenset(
    {
        "GROUP_HAS_OTHER_ENDPOINTS",
        "SCOPE_UNAVAILABLE",
        "AMBIGUOUS_DEVICE",
        "DEVICE_CHANGED",
        "GUEST_HAS_NO_SLOT",
        "GUEST_HAS_NO_CONTROLLER",
        "HOTPLUG_UNSUPPORTED",
        "MANAGED_SAVE_PRESENT",
        "HYPERVISOR_UNSUPPORTED",
    }
)


def _looks_like_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        digit in "0123456789abcdef" for part in parts for digit in part
    )


def _check_expected(store: Store, request: AttachRequest, lost: tuple[Affected, ...]) -> None:
    if request.expected_affected is None:
        return
    now = {store.devices[item.name].uid for item in lost}
    expected = {view.uid if (view := store.device(given)) else given for given in request.expected_affected}
    if now != expected:
        raise HostdevError(
            "AFFECTED_SET_CHANGED",
            "the affected devices are not the expected ones",
            metadata={
                "missing": ",".join(sorted(expected - now)),
                "unexpected": ",".join(sorted(now - expected)),
                "device": request.device,
            },
        )


def _scopes(domain: Domain, scope: Scope) -> tuple[tuple[bool, bool], tuple[Reason, ...]]:
    """(live, config) that a scope means for this VM, and what of it the VM does not have."""
    vm = domain.vm
    active, persistent = vm.state.active, domain.config is not None
    if scope is Scope.AUTO:
        return (active, persistent), ()
    live = scope in {Scope.LIVE, Scope.LIVE_AND_CONFIG}
    config = scope in {Scope.CONFIG, Scope.LIVE_AND_CONFIG}
    blockers = []
    if live and not active:
        text = f"{vm.name} is not running, so there is no live definition to change"
        blockers.append(Reason("SCOPE_UNAVAILABLE", vm.name, text, "start it, or ask for the scope CONFIG"))
    if config and not persistent:
        text = f"{vm.name} is transient, so it has no configuration"
        blockers.append(Reason("SCOPE_UNAVAILABLE", vm.name, text, "ask for the scope LIVE, or define the VM"))
    return (live and active, config and persistent), tuple(blockers)


def _own_assignment(store: Store, domain: Domain, target: NodeDevice) -> Assignment | None:
    uid = store.identities.uid(target.name)
    for assignment in store.assignments.values():
        if assignment.vm.uuid == domain.vm.uuid and not assignment.state.closed:  # noqa: SIM102  two questions
            if any(device.uid == uid for device in assignment.devices):
                return assignment
    return None


def _planned(  # noqa: PLR0913, PLR0917  every one is a part of the request
    store: Store,
    domain: Domain,
    target: NodeDevice,
    policy: GroupPolicy,
    scopes: tuple[bool, bool],
    extends: Assignment | None,
) -> Iterator[PlannedDevice]:
    roles = {device.uid: device.role for device in extends.devices} if extends else {}
    for mate in group_mates_of(store.graph, target):
        reserved = policy is GroupPolicy.RESERVE_REST and mate.name != target.name
        uid = store.identities.uid(mate.name)
        role = roles.get(uid, HolderRole.RESERVED if reserved else HolderRole.VISIBLE)
        holding = [holder for holder in store.holders_of(mate.name) if holder.vm.uuid == domain.vm.uuid]
        has_live = any(holder.live for holder in holding)
        has_config = any(holder.config for holder in holding) or (extends is not None and extends.config)
        config = scopes[1] and not has_config
        yield PlannedDevice(
            node=mate,
            role=role,
            live=scopes[0] and not has_live,
            config=config,
            config_by_service=config and _is_twin(store, mate),
        )


def _is_twin(store: Store, device: NodeDevice) -> bool:
    return isinstance(device.facts, UsbFacts) and names_twin(store.graph, device.facts.address)


def _already_attached(domain: Domain, target: NodeDevice, assignment: Assignment | None) -> HostdevError:
    metadata = {"device": target.name, "vm_name": domain.vm.name, "vm_uuid": domain.vm.uuid}
    if assignment is not None:
        metadata["assignment"] = assignment.name
    return HostdevError("ALREADY_ATTACHED", f"{target.name} is attached to {domain.vm.name} already", metadata=metadata)


# --- blockers ----------------------------------------------------------------------------------------


def other_holders(store: Store, domain: Domain, target: NodeDevice) -> tuple[Holder, ...]:
    """Who else holds the device, a member of its group, its PF, its VFs or its parent."""
    return tuple(holder for holder in store.blocking_holders(target) if holder.vm.uuid != domain.vm.uuid)


def _held_by_others(store: Store, domain: Domain, target: NodeDevice) -> Iterator[Reason]:
    for holder in other_holders(store, domain, target):
        where = "runs with it" if holder.live else "has it in its configuration"
        yield Reason(
            "HELD_BY_OTHER_VM",
            holder.vm.name,
            f"{holder.device} is held by the virtual machine {holder.vm.name}, which {where}",
            f"detach it from {holder.vm.name} first",
        )


def _other_endpoints(store: Store, target: NodeDevice, policy: GroupPolicy) -> Iterator[Reason]:
    others = [mate.name for mate in group_mates_of(store.graph, target) if mate.name != target.name]
    if policy is GroupPolicy.SINGLE_ONLY and others:
        yield Reason(
            "GROUP_HAS_OTHER_ENDPOINTS",
            target.name,
            f"the IOMMU group of {target.name} has other endpoints: {', '.join(others)}",
            "use the group policy WHOLE_GROUP or RESERVE_REST",
        )


def _guest_blockers(domain: Domain, devices: tuple[PlannedDevice, ...]) -> Iterator[Reason]:
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
        if device.role is HolderRole.VISIBLE and isinstance(device.node.facts, PciFacts)
    ]
    express = sum(facts.express for facts in shown) if hardware.pcie else 0
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


# --- what will be done, in words ---------------------------------------------------------------------


def _steps(store: Store, devices: tuple[PlannedDevice, ...]) -> Iterator[PlanStep]:
    for device in devices:
        if device.config:
            detail = "add to the VM's configuration"
            if device.config_by_service:
                detail = "kept by hostdevd and attached when the VM starts: another device has the same vendor:product"
            yield PlanStep(StepKind.ATTACH_CONFIG, device.node.name, detail)
    for device in devices:
        if device.live and isinstance(device.node.facts, PciFacts):
            driver = store.devices[device.node.name].driver
            if driver is None or "vfio" not in driver:
                yield PlanStep(
                    StepKind.HOST_DETACH, device.node.name, f"unbind from {driver or 'no driver'}, bind to vfio-pci"
                )
    for device in live_order(devices):
        shown = "show it to the guest" if device.role is HolderRole.VISIBLE else "reserve it, not shown to the guest"
        yield PlanStep(StepKind.ATTACH_LIVE, device.node.name, shown)
    for device in devices:
        if device.live or device.config:
            yield PlanStep(StepKind.VERIFY, device.node.name, "read back from the VM and the host")


def live_order(devices: tuple[PlannedDevice, ...]) -> tuple[PlannedDevice, ...]:
    """The order of live attaches: reserved members first, so that the group is viable for the shown ones."""
    live = [device for device in devices if device.live]
    return tuple(sorted(live, key=lambda device: device.role is not HolderRole.RESERVED))


def _side_effects(
    store: Store,
    domain: Domain,
    devices: tuple[PlannedDevice, ...],
    lost: tuple[Affected, ...],
) -> Iterator[SideEffect]:
    name = domain.vm.name
    live_vfio = any(device.live and device.node.type in {"pci", "mdev"} for device in devices)
    if live_vfio and not any(holder.live and holder.vm.uuid == domain.vm.uuid for holder in store.holders.values()):
        yield SideEffect(f"the memory of {name} is pinned while it has the device")
    if live_vfio or any(device.live and device.node.type == "scsi" for device in devices):
        yield SideEffect(f"save, snapshot and migration of {name} are blocked while it has the device")
    if any(device.live for device in devices):
        for item in lost:
            yield SideEffect(f"{_called(store, item.name)} disappears from the host", item.name)
    elif any(device.config for device in devices):
        yield SideEffect(f"the devices leave the host when {name} starts")


def _called(store: Store, name: str) -> str:
    """What the host's users call a device: its interface or disk, else libvirt's name."""
    facts = store.graph.nodes[name].facts
    return getattr(facts, "interface", None) or getattr(facts, "block", None) or name
