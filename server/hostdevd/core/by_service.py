"""Configuration that hostdevd keeps itself: what no XML can say is attached when the VM starts.

libvirt finds a configured USB device by vendor:product; where two have the same, it starts the VM with
neither. Such a device stands in its assignment alone (`CONFIG_BY_SERVICE`).
"""

from __future__ import annotations

import structlog

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState, Scope
from hostdevd.core.attaching import Attaching
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import ConditionCode
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.plan import AttachPlan, AttachRequest
from hostdevd.core.planner import blocked, plan_attach
from hostdevd.core.ports import DomainStarted, DomainStopped, Event
from hostdevd.core.store import Store

log = structlog.get_logger()


class ByService:
    """Attaches to guests that start; `hear` must get every event."""

    def __init__(self, store: Store, operations: Operations, attaching: Attaching) -> None:
        self._store = store
        self._operations = operations
        self._attaching = attaching
        self._started: set[str] = set()

    def hear(self, event: Event) -> None:
        """Remember whose VM has a new guest: a stop and a start may pass between two looks."""
        if isinstance(event, DomainStarted | DomainStopped):
            names = {one.name for one in self._store.assignments.values() if one.vm.uuid == event.uuid}
            if isinstance(event, DomainStarted):
                self._started |= names
                # Where nothing else changed, nobody would look.
                self._operations.ended.set()
            else:
                self._started -= names

    def look(self, before: Assignment) -> None:
        """Begin to attach when the VM of an assignment was started; `before` is the record before this look."""
        now = self._store.assignments.get(before.name)
        if now is None or now.state is not AssignmentState.ATTACHED or self._operations.is_busy(now):
            return
        if now.live or not now.vm.state.active:
            return
        if before.vm.state.active and now.name not in self._started:
            return  # it ran without the device before, so somebody wants it so
        self._started.discard(now.name)
        device = next((device for device in now.devices if device.by_service), None)
        if device is not None:
            self._begin(now, device)

    def _begin(self, assignment: Assignment, device: AssignedDevice) -> None:
        request = AttachRequest(assignment.vm.uuid, device.uid, assignment.group_policy, Scope.LIVE)
        try:
            planned = plan_attach(self._store, request)
            if planned.plan.blockers:
                raise blocked(planned)
        except HostdevError as error:
            self._operations.publish(self._diverged(assignment, device, error))
            return
        log.info("a virtual machine started, attaching", assignment=assignment.name, device=device.name)
        intent = self._attaching.intend(planned, request, assignment.name, assignment.created_by, "")
        operation = self._operations.begin(intent, planned.plan)
        self._operations.start(operation, self._attach(operation, planned, intent), f"by-service-{assignment.name}")

    async def _attach(self, operation: Operation, planned: AttachPlan, intent: Assignment) -> None:
        await self._attaching.run(operation, planned, intent, None)
        now = self._store.assignments.get(intent.name)
        if operation.error is not None and now is not None:
            device = next(device for device in intent.devices if device.by_service)
            self._operations.publish(self._diverged(now, device, operation.error))

    def _diverged(self, assignment: Assignment, device: AssignedDevice, error: HostdevError) -> Assignment:
        log.warning("a virtual machine started without its device", assignment=assignment.name, why=error.message)
        return assignment.with_condition(
            AssignmentCondition(
                ConditionCode.CONFIG_DIVERGED,
                f"{assignment.vm.name} started without {device.name}: {error.message}",
                self._operations.now(),
                device.name,
                "attach it again with the scope LIVE",
            )
        )
