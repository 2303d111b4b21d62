"""From a request to a plan, or to every blocker at once: a pure function of the store (rules.md, "Attach").

A dry run and a real call go through here; only the real one goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hostdevd.core import preflight
from hostdevd.core.assignments import Assignment, GroupPolicy, Scope
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.errors import PRECONDITIONS, HostdevError
from hostdevd.core.graph import group_mates_of, names_twin
from hostdevd.core.groups import Affected, affected
from hostdevd.core.guest import guest_blockers
from hostdevd.core.guest_memory import memory_warnings
from hostdevd.core.model import Domain, HolderRole, NodeDevice, PciFacts, Reason, UsbFacts, Vm
from hostdevd.core.plan import (
    AttachPlan,
    AttachRequest,
    Plan,
    PlannedDevice,
    PlanStep,
    SideEffect,
    StepKind,
    live_order,
)
from hostdevd.core.store import Store


def find_vm(store: Store, vm: str) -> Domain:
    """The VM of this UUID or name; what looks like a UUID is one. `VM_NOT_FOUND` otherwise."""
    found = _domain(store, vm)
    if found is None:
        raise no_vm(vm)
    return found


def known_vm(store: Store, vm: str) -> Vm | None:
    """The VM of this UUID or name, None when none is known."""
    found = _domain(store, vm)
    return found.vm if found is not None else None


def _domain(store: Store, vm: str) -> Domain | None:
    wanted = vm.lower()
    if _looks_like_uuid(wanted):
        return store.domains.get(wanted)
    return next((domain for domain in store.domains.values() if domain.vm.name == vm), None)


def no_vm(vm: str) -> HostdevError:
    """There is no machine of this name, or none that its caller may see."""
    return HostdevError("VM_NOT_FOUND", f"there is no virtual machine {vm}", metadata={"vm": vm}, resource=("vm", vm))


def find_device(store: Store, device: str) -> NodeDevice:
    """The device of this libvirt name or uid; `DEVICE_NOT_FOUND`, or `AMBIGUOUS_DEVICE` where a uid fits several."""
    view = store.device(device)
    if view is not None:
        return view.node
    candidates = store.identities.candidates(device)
    if len(candidates) > 1:
        raise HostdevError(
            "AMBIGUOUS_DEVICE",
            f"{device} may be any of {', '.join(candidates)}",
            metadata={"device": device, "candidates": ",".join(candidates)},
            reasons=tuple(
                Reason("AMBIGUOUS_DEVICE", name, f"{device} may be {name}", "name the device that is meant")
                for name in candidates
            ),
        )
    raise no_device(device)


def no_device(device: str) -> HostdevError:
    """There is no device of this name, or none that its caller may see."""
    return HostdevError(
        "DEVICE_NOT_FOUND",
        f"there is no device {device}",
        metadata={"device": device},
        resource=("device", device),
    )


def find_target(store: Store, device: str) -> NodeDevice:
    """The same for what is to be given away: `DEVICE_CHANGED` where another device took its place."""
    successor = store.identities.successor(device)
    if successor is not None and len(store.identities.candidates(device)) <= 1:
        text = f"{device} is not on the host any more, {successor} is in its place"
        remedy = f"name {successor} if that is meant"
        raise HostdevError(
            "DEVICE_CHANGED",
            text,
            metadata={"device": device, "successor": successor},
            reasons=(Reason("DEVICE_CHANGED", successor, text, remedy),),
        )
    return find_device(store, device)


def plan_attach(store: Store, request: AttachRequest) -> AttachPlan:
    """The plan of an attach, blockers included; raises for what is an error on a dry run too."""
    domain = find_vm(store, request.vm)
    target = find_target(store, request.device)
    store.catch_up(target.name)
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
        # With its uid as it is now: when the plan is told, the device may be gone from the host.
        affected=tuple(replace(item, uid=store.identities.get(item.name) or "") for item in lost),
        side_effects=tuple(_side_effects(store, domain, devices, lost)),
        blockers=(
            *preflight.held_by_others(store, domain, target),
            *store.devices[target.name].eligibility.reasons,
            *preflight.other_endpoints(store, target, request.group_policy),
            *scope_blockers,
            *guest_blockers(store, domain, devices),
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
        held_by=next(preflight.other_vms(store, domain, target), None),
    )


def blocked(plan: AttachPlan) -> HostdevError:
    """The error of a real call that its blockers stop: the first in the order of api.md gives the reason."""
    first = plan.plan.blockers[0]
    reason = first.code if first.code in PRECONDITIONS else "DEVICE_NOT_ELIGIBLE"
    metadata = {"device": plan.target.name, "vm_name": plan.domain.vm.name, "vm_uuid": plan.domain.vm.uuid}
    if reason == "HELD_BY_OTHER_VM" and plan.held_by is not None:
        metadata |= {"vm_name": plan.held_by.name, "vm_uuid": plan.held_by.uuid}
    message = first.message
    if reason == "DEVICE_NOT_ELIGIBLE":
        message = f"{plan.target.name} cannot be assigned: {first.message}"
    more = len(plan.plan.blockers) - 1
    if more:
        message += f" (and {more} more reason{'s' if more > 1 else ''})"
    return HostdevError(reason, message, metadata=metadata, reasons=plan.plan.blockers)


def _looks_like_uuid(text: str) -> bool:
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(
        digit in "0123456789abcdef" for part in parts for digit in part
    )


def _check_expected(store: Store, request: AttachRequest, lost: tuple[Affected, ...]) -> None:
    if request.expected_affected is None:
        return
    uids = {item.name: store.devices[item.name].uid for item in lost}
    now = set(uids.values())
    # By name or uid; what is not lost stays as it was written: it may be a device that the caller does not see.
    expected = {uids.get(given, given) for given in request.expected_affected}
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
            uid=uid,
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
            if not is_vfio_driver(driver):
                yield PlanStep(
                    StepKind.HOST_DETACH, device.node.name, f"unbind from {driver or 'no driver'}, bind to vfio-pci"
                )
    for device in live_order(devices):
        shown = "show it to the guest" if device.role is HolderRole.VISIBLE else "reserve it, not shown to the guest"
        yield PlanStep(StepKind.ATTACH_LIVE, device.node.name, shown)
    for device in devices:
        if device.live or device.config:
            yield PlanStep(StepKind.VERIFY, device.node.name, "read back from the VM and the host")


def _side_effects(
    store: Store,
    domain: Domain,
    devices: tuple[PlannedDevice, ...],
    lost: tuple[Affected, ...],
) -> Iterator[SideEffect]:
    name = domain.vm.name
    live_vfio = any(device.live and device.node.type in {"pci", "mdev"} for device in devices)
    if live_vfio and not _holds_vfio(store, domain):
        yield SideEffect(f"the memory of {name} is pinned while it has the device")
    yield from memory_warnings(store, domain, devices)
    if live_vfio or any(device.live and device.node.type == "scsi" for device in devices):
        yield SideEffect(f"save, snapshot and migration of {name} are blocked while it has the device")
    if any(device.live for device in devices):
        # A LUN is passed by its generic device: the host keeps its disk, and must leave it alone.
        stays = all(device.node.type == "scsi" for device in devices)
        loss = "stays visible on the host, which must not use it" if stays else "disappears from the host"
        for item in lost:
            yield SideEffect(f"{_called(store, item.name)} {loss}", item.name)
    elif any(device.config for device in devices):
        yield SideEffect(f"the devices leave the host when {name} starts")


def _holds_vfio(store: Store, domain: Domain) -> bool:
    """Whether the guest's memory is pinned already."""
    mine = (holder for holder in store.holders.values() if holder.live and holder.vm.uuid == domain.vm.uuid)
    return any((node := store.graph.get(holder.device)) and node.type in {"pci", "mdev"} for holder in mine)


def _called(store: Store, name: str) -> str:
    """What the host's users call a device: its interface or disk, else libvirt's name."""
    facts = store.graph.nodes[name].facts
    return getattr(facts, "interface", None) or getattr(facts, "block", None) or name
