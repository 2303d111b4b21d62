"""The run of a detach: from the durable intent to DETACHED, or to ATTACHED where something still holds."""

from __future__ import annotations

import uuid
from dataclasses import replace

from hostdevd.core.assignments import Assignment, AssignmentCondition, AssignmentState
from hostdevd.core.audit import Entry
from hostdevd.core.effects import Effects
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import detach_rejected
from hostdevd.core.model import ConditionCode
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.ports import HostPort
from hostdevd.core.release import Holding
from hostdevd.core.store import Store
from hostdevd.core.taking import Refusal


class Detaching:
    """Runs detaches."""

    def __init__(self, store: Store, operations: Operations, effects: Effects, host: HostPort) -> None:
        self._store = store
        self._operations = operations
        self._effects = effects
        self._host = host

    def intend(self, holding: Holding, caller: str) -> Assignment:
        """The record of a holding as it is being ended."""
        now = self._operations.now()
        if holding.assignment is not None:
            known = holding.assignment.without_condition(ConditionCode.DETACH_REJECTED)
            return replace(
                known.to(AssignmentState.DETACHING, now), pending_live=holding.live, pending_config=holding.config
            )
        return holding.adopt(str(uuid.uuid4()), caller=caller, now=now, boot_id=self._host.boot_id(), store=self._store)

    async def run(self, operation: Operation, assignment: Assignment, entry: Entry) -> None:
        """Write the intent, then do it."""
        try:
            await self._operations.intend(assignment, entry=entry)
        except HostdevError as error:
            operation.error = error
            return
        self._operations.publish(assignment)
        operation.durable.set()
        await self.take_away(operation, assignment)

    async def take_away(self, operation: Operation, assignment: Assignment) -> None:
        """End what is pending; waits for the guest for as long as that takes."""
        if assignment.pending_live and not await self._let_go(operation, assignment):
            return
        kept = await self._effects.taking.drop_config(assignment) if assignment.pending_config else None
        live = assignment.live and not assignment.pending_live
        if assignment.pending_config:
            # The VM may have been started meanwhile, from the configuration as it was before.
            if assignment.pending_live and not await self._let_go(operation, assignment):
                return
            live = live or await self._effects.looking.has_live(assignment)
        config = assignment.config and (kept is not None or not assignment.pending_config)
        state = AssignmentState.ATTACHED if live or config else AssignmentState.DETACHED
        done = replace(assignment.to(state, self._operations.now()), live=live, config=config).settled()
        if not config:
            devices = tuple(replace(device, by_service=False, moving=None) for device in done.devices)
            done = replace(done, devices=devices)
            done = done.without_condition(ConditionCode.CONFIG_BY_SERVICE)
            done = done.without_condition(ConditionCode.CONFIG_DIVERGED)
        if not live:
            done = replace(done, devices=tuple(replace(device, awaited=False) for device in done.devices))
            done = done.without_condition(ConditionCode.GROUP_SPLIT)
            # What was only configured was never bound for it: whatever has its functions now is somebody else's.
            if assignment.live or assignment.has_condition(ConditionCode.DRIVER_NOT_RESTORED):
                done = done.without_condition(ConditionCode.DRIVER_NOT_RESTORED)
                for condition in await self._effects.restoring.give_back(assignment, operation.since):
                    done = done.with_condition(condition)
        if kept is not None:
            operation.error = detach_rejected(assignment, kept.device, kept.message)
            done = done.with_condition(self._rejection(kept, "see libvirt's log, then detach again"))
        await self._operations.finish(operation, done)

    async def _let_go(self, operation: Operation, assignment: Assignment) -> bool:
        refusal = await self._effects.taking.let_go(assignment, operation.nudge, since=operation.since)
        if refusal is not None:
            await self._rejected(operation, assignment, refusal)
        return refusal is None

    async def _rejected(self, operation: Operation, assignment: Assignment, refusal: Refusal) -> None:
        operation.error = detach_rejected(assignment, refusal.device, refusal.message)
        done = assignment.to(AssignmentState.ATTACHED, self._operations.now()).settled()
        done = done.with_condition(self._rejection(refusal, "stop using the device in the guest, then detach again"))
        await self._operations.finish(operation, done)

    def _rejection(self, refusal: Refusal, remedy: str) -> AssignmentCondition:
        now = self._operations.now()
        return AssignmentCondition(ConditionCode.DETACH_REJECTED, refusal.message, now, refusal.device, remedy)
