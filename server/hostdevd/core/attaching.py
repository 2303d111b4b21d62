"""The run of an attach: from the durable intent to ATTACHED, or back to where it began."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import structlog

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState
from hostdevd.core.effects import Effects
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import attach_failed, to_failure
from hostdevd.core.journal import RequestRecord
from hostdevd.core.model import ConditionCode, HolderRole, NodeDevice
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.plan import AttachPlan, AttachRequest
from hostdevd.core.ports import Clock, HostPort
from hostdevd.core.requests import Requests
from hostdevd.core.steps import StepFailedError
from hostdevd.core.store import Store

log = structlog.get_logger()

ASK_AGAIN_S = 10.0
"""Between two tries to take back what a guest should not have."""


class Attaching:
    """Runs attaches and undoes them."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        operations: Operations,
        effects: Effects,
        requests: Requests,
        host: HostPort,
        clock: Clock,
    ) -> None:
        self._store = store
        self._operations = operations
        self._effects = effects
        self._requests = requests
        self._host = host
        self._clock = clock

    def intend(self, planned: AttachPlan, request: AttachRequest, name: str, caller: str) -> Assignment:
        """The record of what a plan is about to do."""
        now = self._operations.now()
        if planned.extends is not None:
            known = {device.uid for device in planned.extends.devices}
            added = tuple(
                self._assigned(planned.extends.name, index, device.node, device.role)
                for index, device in enumerate(planned.devices, len(known))
                if self._store.identities.uid(device.node.name) not in known
            )
            extended = planned.extends.to(AssignmentState.ATTACHING, now)
            return replace(
                extended,
                vm=planned.domain.vm,
                devices=extended.devices + added,
                pending_live=planned.live,
                pending_config=planned.config,
            )
        return Assignment(
            name=name,
            vm=planned.domain.vm,
            devices=tuple(
                self._assigned(name, index, device.node, device.role) for index, device in enumerate(planned.devices)
            ),
            state=AssignmentState.ATTACHING,
            create_time=now,
            update_time=now,
            group=self._store.devices[planned.target.name].group,
            group_policy=request.group_policy,
            scope=request.scope,
            created_by=caller,
            boot_id=self._host.boot_id(),
            pending_live=planned.live,
            pending_config=planned.config,
        )

    def _assigned(self, name: str, index: int, node: NodeDevice, role: HolderRole) -> AssignedDevice:
        view = self._store.devices[node.name]
        short = hashlib.sha256(name.encode()).hexdigest()[:12]
        return AssignedDevice(
            name=node.name,
            uid=view.uid,
            alias=f"ua-hostdev-{short}-{index}",
            role=role,
            original_driver=view.driver,
            ours=view.driver is None or "vfio" not in view.driver,
            type=node.type,
        )

    async def run(
        self,
        operation: Operation,
        planned: AttachPlan,
        assignment: Assignment,
        record: RequestRecord,
    ) -> None:
        """Write the intent, carry the plan out, or undo it."""
        try:
            await self._operations.intend(assignment, record)
        except HostdevError as error:
            # Nothing was touched, and nothing is remembered.
            self._requests.drop(record.request_id)
            operation.error = error
            return
        self._operations.publish(assignment)
        operation.durable.set()
        try:
            await self._effects.giving.take(assignment, planned)
        except StepFailedError as failed:
            await self.undo(operation, assignment, planned.extends, record, failed)
        else:
            await self._attached(operation, planned, assignment)

    async def _attached(self, operation: Operation, planned: AttachPlan, assignment: Assignment) -> None:
        now = self._operations.now()
        done = assignment.to(AssignmentState.ATTACHED, now)
        done = replace(
            done,
            live=done.live or done.pending_live,
            config=done.config or done.pending_config,
            pending_live=False,
            pending_config=False,
        )
        for device in planned.devices:
            if device.config_by_service:
                done = done.with_condition(
                    AssignmentCondition(
                        ConditionCode.CONFIG_BY_SERVICE,
                        "another device has the same vendor:product, so hostdevd attaches this one when the VM starts",
                        now,
                        device.node.name,
                    )
                )
        await self._operations.finish(operation, done)

    async def undo(
        self,
        operation: Operation,
        assignment: Assignment,
        before: Assignment | None,
        record: RequestRecord | None,
        failed: StepFailedError,
    ) -> None:
        """Take back what an attach gave; `before` is what it was to extend."""
        log.warning("attach failed, undoing it", assignment=assignment.name, step=str(failed.kind), why=failed.why)
        state = assignment
        if before is None:
            state = assignment.to(AssignmentState.ROLLING_BACK, self._operations.now())
            await self._operations.save(state)
            self._operations.publish(state)
        if state.pending_config:
            await self._effects.taking.drop_config(state)
        conditions: tuple[AssignmentCondition, ...] = ()
        if state.pending_live:
            await self._let_go(operation, state)
            conditions = await self._effects.restoring.give_back(state)
        operation.error = attach_failed(state, failed, conditions)
        if before is not None:
            done = replace(before, update_time=self._operations.now())
        else:
            done = replace(
                state.to(AssignmentState.FAILED, self._operations.now()),
                failure=to_failure(operation.error),
                pending_live=False,
                pending_config=False,
            )
        for condition in conditions:
            done = done.with_condition(condition)
        if record is not None:
            record = replace(record, failure=to_failure(operation.error))
            self._requests.put(record)
        await self._operations.finish(operation, done, record)

    async def _let_go(self, operation: Operation, assignment: Assignment) -> None:
        """A guest that keeps what it should not have is asked again, for ever."""
        refusal = await self._effects.taking.let_go(assignment, operation.nudge)
        while refusal is not None:
            log.error("the guest keeps a device of a failed attach", device=refusal.device, why=refusal.message)
            await self._clock.sleep(ASK_AGAIN_S)
            refusal = await self._effects.taking.let_go(assignment, operation.nudge)
