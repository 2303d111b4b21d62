"""Views of the core as messages of the API: names map to names, nothing is decided here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import structlog
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2

from hostdev.v1 import assignment_pb2, device_pb2, group_pb2, holder_pb2, host_pb2, service_pb2
from hostdevd.api.errors import DOMAIN, reason_message, with_vms
from hostdevd.api.wire import entry
from hostdevd.core.assignments import Assignment, Failure
from hostdevd.core.graph import iommu_group_of
from hostdevd.core.groups import Affected, affected
from hostdevd.core.history import Change
from hostdevd.core.model import Check, Eligibility, Holder, HypervisorInfo, Vm
from hostdevd.core.plan import Plan
from hostdevd.core.store import Store
from hostdevd.core.turns import Turn
from hostdevd.core.views import DeviceView, GroupView

log = structlog.get_logger()


def timestamp(time: datetime) -> Timestamp:
    """A time as the well-known type."""
    message = Timestamp()
    message.FromDatetime(time)
    return message


class Renderer:
    """Renders for one host; a device's bytes are made when it changes and kept as long as its view lives."""

    def __init__(self, store: Store, host_name: Callable[[], str]) -> None:
        self._store = store
        self._host_name = host_name
        self._devices: dict[str, tuple[DeviceView, bytes]] = {}
        self._host = ""
        """The host's name in them."""
        self._affected: dict[str, bytes] = {}
        self._shown = store.revision
        self._changed = asyncio.Event()
        store.on_commit.append(self._on_commit)

    def device_entry(self, view: DeviceView) -> bytes:
        """One device as field 1 of a response."""
        if self._host != self._host_name():  # as when a new host has its name from the network at last
            self._host = self._host_name()
            self._devices.clear()
        known = self._devices.get(view.name)
        if known is not None and known[0] is view:
            return known[1]
        made = entry(self._device(view).SerializeToString())
        if self._store.devices.get(view.name) is view:
            self._devices[view.name] = (view, made)
        return made

    def device(self, view: DeviceView) -> device_pb2.Device:
        """One device as a message."""
        return service_pb2.GetDeviceResponse.FromString(self.device_entry(view)).device

    def affected_entries(self, view: DeviceView) -> bytes:
        """What goes with a device now, as field 2 of an `EligibleDevice`."""
        known = self._affected.get(view.name)
        if known is None:
            with_it = self.affected(affected(self._store.graph, view.node))
            known = service_pb2.EligibleDevice(affected=with_it).SerializeToString()
            self._affected[view.name] = known
        return known

    async def keep_up(self) -> None:
        """Make the bytes of what changed, in turns, before somebody asks for them."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._render_changes()
            except Exception:  # whoever asks for that device is told; the others are rendered all the same
                log.exception("what changed could not be rendered ahead")

    async def _render_changes(self) -> None:
        turn = Turn()
        shown, self._shown = self._shown, self._store.revision
        if shown < self._store.device_history.oldest:
            names = list(self._store.devices)
        else:
            batches = self._store.device_history.since(shown)
            names = [change.key for batch in batches for change in batch.changes]
        for name in names:
            view = self._store.devices.get(name)
            if view is not None:
                self.device_entry(view)
            if turn.is_over():
                await turn.next()

    def _on_commit(self, revision: int) -> None:
        latest = self._store.device_history.since(revision - 1)
        if any(_has_moved(change) for batch in latest for change in batch.changes):
            # A device far away may have come or gone below any other.
            self._affected.clear()
        self._changed.set()
        # No more are kept than there are devices.
        if len(self._devices) > len(self._store.devices):
            self._devices = {name: kept for name, kept in self._devices.items() if name in self._store.devices}

    def _device(self, view: DeviceView) -> device_pb2.Device:
        node = view.node
        return device_pb2.Device(
            name=node.name,
            uid=view.uid,
            host=self._host_name(),
            type=node.type,
            parent=node.parent or "",
            children=view.children,
            path=node.path or "",
            devnodes=node.devnodes,
            main_devnode=node.main_devnode,
            driver=view.driver,
            description=node.description,
            numa_node=node.numa_node,
            iommu_group=iommu_group_of(node),
            group=view.group,
            eligibility=self.eligibility(view.eligibility),
            host_uses=[
                device_pb2.HostUse(kind=device_pb2.HostUseKind.Value(f"HOST_USE_KIND_{use.kind}"), detail=use.detail)
                for use in view.host_uses
            ],
            holders=[self.holder(holder) for holder in view.holders],
            revision=view.revision,
            conditions=[
                device_pb2.DeviceCondition(
                    code=device_pb2.ConditionCode.Value(f"CONDITION_CODE_{condition.code}"), message=condition.message
                )
                for condition in node.conditions
            ],
            other_capabilities=[device_pb2.OtherDetail(type=kind, xml=xml) for kind, xml in node.other_capabilities],
            **{node.type: node.detail},  # type: ignore[arg-type]  # the detail has the shape of its message
        )

    def eligibility(self, eligibility: Eligibility) -> device_pb2.Eligibility:
        """Eligibility with all reasons."""
        return device_pb2.Eligibility(
            eligible=eligibility.eligible,
            available=eligibility.available,
            reasons=[reason_message(reason) for reason in eligibility.reasons],
        )

    def holder(self, holder: Holder) -> holder_pb2.Holder:
        """One holder."""
        return holder_pb2.Holder(
            name=holder.key,
            host=self._host_name(),
            device=holder.device,
            uid=holder.uid,
            group=holder.group,
            vm=vm_ref(holder.vm),
            live=holder.live,
            config=holder.config,
            via=holder_pb2.HolderVia.Value(f"HOLDER_VIA_{holder.via}"),
            role=holder_pb2.HolderRole.Value(f"HOLDER_ROLE_{holder.role}"),
            guest_address=holder.guest_address,
            alias=holder.alias,
            assignment=holder.assignment,
            since=timestamp(holder.since),
        )

    def group(self, view: GroupView) -> group_pb2.Group:
        """One IOMMU group."""
        return group_pb2.Group(
            uid=view.uid,
            host=self._host_name(),
            iommu_group=view.iommu_group,
            members=[
                group_pb2.GroupMember(
                    name=member.name,
                    uid=member.uid,
                    role=group_pb2.GroupMemberRole.Value(f"GROUP_MEMBER_ROLE_{member.role}"),
                    driver=member.driver,
                )
                for member in view.members
            ],
            eligibility=self.eligibility(view.eligibility),
            viable=view.viable,
            holders=[self.holder(holder) for holder in view.holders],
        )

    def affected(self, items: Iterable[Affected]) -> list[device_pb2.AffectedDevice]:
        """What goes with a device."""
        return [
            device_pb2.AffectedDevice(
                name=item.name,
                uid=item.uid or self._store.identities.get(item.name) or "",
                type=item.type,
                role=device_pb2.AffectedDeviceRole.Value(f"AFFECTED_DEVICE_ROLE_{item.role}"),
            )
            for item in items
        ]

    def plan(self, plan: Plan) -> assignment_pb2.Plan:
        """A plan with its steps, side effects and blockers."""
        return assignment_pb2.Plan(
            steps=[
                assignment_pb2.PlanStep(
                    kind=assignment_pb2.PlanStepKind.Value(f"PLAN_STEP_KIND_{step.kind}"),
                    device=step.device,
                    detail=step.detail,
                )
                for step in plan.steps
            ],
            affected=self.affected(plan.affected),
            side_effects=[
                assignment_pb2.PlanSideEffect(device=effect.device, message=effect.message)
                for effect in plan.side_effects
            ],
            blockers=[reason_message(reason) for reason in plan.blockers],
        )

    def assignment(self, assignment: Assignment) -> assignment_pb2.Assignment:
        """One assignment, with the drivers and guest addresses of now."""
        guest = {
            holder.uid: holder.guest_address
            for holder in self._store.holders_in(assignment.vm.uuid)
            if holder.assignment == assignment.name
        }
        return assignment_pb2.Assignment(
            name=assignment.name,
            host=self._host_name(),
            vm=vm_ref(assignment.vm),
            group=assignment.group,
            devices=[
                assignment_pb2.AssignmentDevice(
                    name=device.name,
                    uid=device.uid,
                    role=holder_pb2.HolderRole.Value(f"HOLDER_ROLE_{device.role}"),
                    original_driver=device.original_driver,
                    current_driver=self._driver(device.uid),
                    guest_address=guest.get(device.uid),
                )
                for device in assignment.devices
            ],
            group_policy=assignment_pb2.GroupPolicy.Value(f"GROUP_POLICY_{assignment.group_policy}"),
            scope=assignment_pb2.Scope.Value(f"SCOPE_{assignment.scope}"),
            live=assignment.live,
            config=assignment.config,
            state=assignment_pb2.AssignmentState.Value(f"ASSIGNMENT_STATE_{assignment.state}"),
            conditions=[
                assignment_pb2.AssignmentCondition(
                    code=device_pb2.ConditionCode.Value(f"CONDITION_CODE_{condition.code}"),
                    device=condition.device or None,
                    message=with_vms(condition.message, condition.of_vm),
                    remedy=condition.remedy,
                    time=timestamp(condition.time),
                )
                for condition in assignment.conditions
            ],
            failure=_failure(assignment.failure) if assignment.failure else None,
            created_by=assignment.created_by,
            create_time=timestamp(assignment.create_time),
            update_time=timestamp(assignment.update_time),
        )

    def _driver(self, uid: str) -> str | None:
        view = self._store.device(uid)
        return view.driver if view is not None else None


def _has_moved(change: Change[DeviceView]) -> bool:
    """Whether a device came, went, is described anew or reaches other disks: what others say of it may change then."""
    before, after = change.before, change.after
    if before is None or after is None:
        return True
    return before.node is not after.node or before.uid != after.uid or before.reaches != after.reaches


def vm_ref(vm: Vm) -> holder_pb2.VmRef:
    """A VM by name, UUID and state."""
    return holder_pb2.VmRef(name=vm.name, uuid=vm.uuid, state=holder_pb2.VmState.Value(f"VM_STATE_{vm.state}"))


def host(
    info: HypervisorInfo, service_version: str, synced_time: datetime | None, checks: Iterable[Check]
) -> host_pb2.Host:
    """The host with its report."""
    fields: dict[str, Any] = {"synced_time": timestamp(synced_time)} if synced_time is not None else {}
    return host_pb2.Host(
        name=info.name,
        uuid=info.uuid,
        connection_uri=info.connection_uri,
        libvirt_version=info.libvirt_version,
        hypervisor=info.hypervisor,
        hypervisor_version=info.hypervisor_version,
        service_version=service_version,
        checks=[
            host_pb2.HostCheck(
                code=host_pb2.HostCheckCode.Value(f"HOST_CHECK_CODE_{check.code}"),
                status=host_pb2.HostCheckStatus.Value(f"HOST_CHECK_STATUS_{check.status}"),
                message=with_vms(check.message, *check.of_vms),
                remedy=check.remedy,
            )
            for check in checks
        ],
        **fields,
    )


def _failure(failure: Failure) -> assignment_pb2.AssignmentFailure:
    return assignment_pb2.AssignmentFailure(
        info=error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN, metadata=dict(failure.metadata)),
        message=failure.message,
        reasons=[reason_message(reason) for reason in failure.reasons],
    )
