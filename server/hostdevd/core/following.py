"""Assignments follow their devices: what a running guest lost by a pulled plug, it gets when that is back.

Only the uid counts: where it is not certain which device came back, nothing is attached. A try is an attach
like any other, in the journal and undone when it fails. It is repeated when what stood in its way has gone,
when the device was plugged in again, when libvirt was away meanwhile; never just because time has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import structlog

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState, Scope
from hostdevd.core.attaching import Attaching
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import source_of
from hostdevd.core.model import ConditionCode
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.plan import AttachPlan, AttachRequest
from hostdevd.core.planner import blocked, plan_attach
from hostdevd.core.ports import Connected, DomainStarted, Event
from hostdevd.core.redaction import kept
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()

_AGAIN = "hostdevd tries again when it is plugged in again; or detach the assignment"


@dataclass(frozen=True, slots=True)
class _Tried:
    """A try that failed: where the device was, in which times, and why."""

    address: str
    times: int
    why: str


class Following:
    """Attaches what is awaited; hears every event itself."""

    def __init__(self, store: Store, sync: Sync, operations: Operations, attaching: Attaching) -> None:
        self._store = store
        self._operations = operations
        self._attaching = attaching
        self._tried: dict[tuple[str, str], _Tried] = {}
        self._times = 0
        sync.listen(self._hear)

    def _hear(self, event: Event) -> None:
        # What failed before may work with another libvirt, or another guest.
        if isinstance(event, Connected):
            self._times += 1
        elif isinstance(event, DomainStarted):
            for one in self._store.assignments.values():
                if one.vm.uuid == event.uuid:
                    for device in one.devices:
                        self._tried.pop((one.name, device.uid), None)

    def condition(self, assignment: Assignment, device: AssignedDevice) -> AssignmentCondition | None:
        """Why an awaited device that is on the host is not with its guest; None when nothing is to be said."""
        code = ConditionCode.CONFIG_DIVERGED if device.by_service else ConditionCode.DEVICE_MISSING
        before = next((one for one in assignment.conditions if (one.code, one.device) == (code, device.name)), None)
        try:
            self._plan(assignment, device)
        except HostdevError as error:
            why, of_vm = kept(error)
            remedy = next((reason.remedy for reason in error.reasons if reason.remedy), _AGAIN)
            if of_vm is not None:
                remedy = "detach it from that machine first"
            return replace(self._said(assignment, device, code, why, remedy), of_vm=of_vm)
        tried = self._tried.get((assignment.name, device.uid))
        if tried is None:
            return before  # until it is there
        return self._said(assignment, device, code, tried.why, _AGAIN)

    def look(self, name: str) -> None:
        """Begin to attach where something is awaited and can be had."""
        now = self._store.assignments.get(name)
        if now is None or now.state is not AssignmentState.ATTACHED or self._operations.is_busy(now):
            return
        for device in now.devices:
            key = (name, device.uid)
            if not device.awaited or self._store.identities.name(device.uid) is None:
                self._tried.pop(key, None)
                continue
            try:
                planned = self._plan(now, device)
            except HostdevError:
                # When what is in the way has gone, it is tried again.
                self._tried.pop(key, None)
                continue
            tried = self._tried.get(key)
            if tried is None or (tried.address, tried.times) != (_address(planned), self._times):
                self._begin(now, device, planned)
                return

    def _plan(self, assignment: Assignment, device: AssignedDevice) -> AttachPlan:
        planned = plan_attach(self._store, _request(assignment, device))
        if planned.plan.blockers:
            raise blocked(planned)
        return planned

    def _begin(self, assignment: Assignment, device: AssignedDevice, planned: AttachPlan) -> None:
        log.info("a device is back, attaching", assignment=assignment.name, device=planned.target.name)
        request = _request(assignment, device)
        intent = self._attaching.intend(planned, request, assignment.name, assignment.created_by, "")
        operation = self._operations.begin(intent, planned.plan)
        work = self._attach(operation, planned, intent, device.uid)
        self._operations.start(operation, work, "follow")

    async def _attach(self, operation: Operation, planned: AttachPlan, intent: Assignment, uid: str) -> None:
        key, times = (intent.name, uid), self._times
        # Until it is known how it ends: a fault of ours is not met without end.
        self._tried[key] = _Tried(_address(planned), times, "a fault of hostdevd's, see its log")
        await self._attaching.run(operation, planned, intent, None)
        self._tried.pop(key, None)
        if operation.error is not None:
            why = operation.error.metadata.get("why", kept(operation.error)[0])
            log.warning("a guest does not get its device", assignment=intent.name, why=operation.error.message)
            self._tried[key] = _Tried(_address(planned), times, why)

    def _said(
        self, assignment: Assignment, device: AssignedDevice, code: ConditionCode, why: str, remedy: str
    ) -> AssignmentCondition:
        text = f"{assignment.vm.name} runs without {device.name}, which is on the host: {why}"
        return AssignmentCondition(code, text, self._operations.now(), device.name, remedy)


def _request(assignment: Assignment, device: AssignedDevice) -> AttachRequest:
    return AttachRequest(assignment.vm.uuid, device.uid, assignment.group_policy, Scope.LIVE)


def _address(planned: AttachPlan) -> str:
    return str(source_of(planned.target))
