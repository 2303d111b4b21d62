"""What a detach is about: the holding that it ends, and its plan. Pure functions of the store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentState, Scope
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import group_mates_of
from hostdevd.core.model import Domain, Holder, HolderRole, HolderVia, NodeDevice
from hostdevd.core.plan import Plan, PlanStep, StepKind
from hostdevd.core.planner import find_device, find_vm
from hostdevd.core.store import Store


@dataclass(frozen=True, slots=True)
class DetachRequest:
    """By assignment, or by VM and device; the API sees to it that one of them is given."""

    assignment: str = ""
    vm: str = ""
    device: str = ""
    scope: Scope = Scope.AUTO


@dataclass(frozen=True, slots=True)
class Holding:
    """What a VM holds together, and in which definitions it is to be ended.

    `assignment` is the record of it, None where another tool attached it (`holders` then tells what).
    """

    domain: Domain | None
    nodes: tuple[NodeDevice, ...]
    live: bool
    config: bool
    assignment: Assignment | None = None
    holders: tuple[Holder, ...] = ()

    def adopt(self, name: str, *, caller: str, now: datetime, boot_id: str, store: Store) -> Assignment:
        """The record of a holding that another tool made, as it is being ended.

        A driver from before is not known. What libvirt does not manage stays where its owner bound it.
        """
        first = self.holders[0]
        return Assignment(
            name=name,
            vm=first.vm,
            devices=tuple(
                AssignedDevice(
                    name=holder.device,
                    uid=holder.uid,
                    alias=holder.alias or "",
                    role=holder.role,
                    ours=holder.managed and holder.via is HolderVia.HOSTDEV,
                    type=store.graph.nodes[holder.device].type if holder.device in store.graph else "other",
                    driver_known=False,
                    by_libvirt=holder.managed,
                    traits=holder.traits,
                )
                for holder in self.holders
            ),
            state=AssignmentState.DETACHING,
            create_time=now,
            update_time=now,
            group=first.group,
            live=any(holder.live for holder in self.holders),
            config=any(holder.config for holder in self.holders),
            created_by=caller,
            boot_id=boot_id,
            pending_live=self.live,
            pending_config=self.config,
        )


def find_holding(store: Store, request: DetachRequest) -> Holding:
    """What a request is about; `NOT_HELD_BY_VM` where there is nothing in its scope."""
    if request.assignment:
        return _of_assignment(store, store.assignments[request.assignment], request.scope)
    domain = find_vm(store, request.vm)
    assignment = _assignment_with(store, domain, request.device)
    if assignment is not None:
        holding = _of_assignment(store, assignment, request.scope)
    else:
        holding = _of_others(store, domain, request)
    if not (holding.live or holding.config):
        raise _not_held(domain, request)
    return holding


def plan_detach(store: Store, holding: Holding) -> Plan:
    """The steps of a detach, in order."""
    return Plan(steps=tuple(_steps(store, holding)))


def _of_assignment(store: Store, assignment: Assignment, scope: Scope) -> Holding:
    names = (store.identities.name(device.uid) for device in assignment.devices)
    wanted_live, wanted_config = _wanted(scope)
    return Holding(
        domain=store.domains.get(assignment.vm.uuid),
        nodes=tuple(store.graph.nodes[name] for name in names if name is not None and name in store.graph),
        live=(assignment.live or assignment.awaits) and wanted_live,
        config=assignment.config and wanted_config,
        assignment=assignment,
    )


def _of_others(store: Store, domain: Domain, request: DetachRequest) -> Holding:
    mine = [holder for holder in store.holders.values() if holder.vm.uuid == domain.vm.uuid]
    named = [holder for holder in mine if request.device in {holder.device, holder.uid}]
    if not named:
        find_device(store, request.device)
        raise _not_held(domain, request)
    node = store.graph.get(named[0].device)
    mates = {mate.name for mate in group_mates_of(store.graph, node)} if node is not None else {named[0].device}
    holders = tuple(holder for holder in mine if holder.device in mates)
    wanted_live, wanted_config = _wanted(request.scope)
    return Holding(
        domain=domain,
        nodes=tuple(store.graph.nodes[holder.device] for holder in holders if holder.device in store.graph),
        live=wanted_live and any(holder.live for holder in holders),
        config=wanted_config and any(holder.config for holder in holders),
        holders=holders,
    )


def _assignment_with(store: Store, domain: Domain, device: str) -> Assignment | None:
    view = store.device(device)
    names = {device, view.uid} if view is not None else {device}
    for assignment in store.assignments.values():
        if assignment.vm.uuid != domain.vm.uuid or assignment.state.closed:
            continue
        if any(one.uid in names or (view is None and one.name in names) for one in assignment.devices):
            return assignment
    return None


def _wanted(scope: Scope) -> tuple[bool, bool]:
    return scope is not Scope.CONFIG, scope is not Scope.LIVE


def _not_held(domain: Domain, request: DetachRequest) -> HostdevError:
    where = "" if request.scope is Scope.AUTO else f" in the scope {request.scope}"
    return HostdevError(
        "NOT_HELD_BY_VM",
        f"{domain.vm.name} does not hold {request.device}{where}",
        metadata={
            "vm_name": domain.vm.name,
            "vm_uuid": domain.vm.uuid,
            "device": request.device,
            "scope": str(request.scope),
        },
    )


def _steps(store: Store, holding: Holding) -> Iterator[PlanStep]:
    if holding.assignment is not None:
        devices = [(device.name, device.role, device.ours, device.type) for device in holding.assignment.devices]
    else:
        devices = [
            (
                holder.device,
                holder.role,
                holder.managed,
                store.graph.nodes[holder.device].type if holder.device in store.graph else "other",
            )
            for holder in holding.holders
        ]
    if holding.live:
        for name, _role, _, _ in sorted(devices, key=lambda device: device[1] is HolderRole.RESERVED):
            yield PlanStep(StepKind.DETACH_LIVE, name, "ask the guest to let go, wait until it has")
    if holding.config:
        for name, _, _, _ in devices:
            yield PlanStep(StepKind.DETACH_CONFIG, name, "remove from the VM's configuration")
    if holding.live:
        for name, _, ours, kind in devices:
            if ours and kind == "pci":
                yield PlanStep(StepKind.HOST_REATTACH, name, "give back to its driver")
