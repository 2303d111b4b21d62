"""The run of an attach: from the durable intent to ATTACHED, or back to where it began."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import structlog

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState
from hostdevd.core.audit import Ended, Entry
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.effects import Effects
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import attach_failed, to_failure
from hostdevd.core.journal import RequestRecord
from hostdevd.core.model import ConditionCode
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.plan import AttachPlan, AttachRequest, PlannedDevice, StepKind
from hostdevd.core.ports import Clock, HostPort, Target
from hostdevd.core.requests import Requests
from hostdevd.core.selectors import lasting_traits
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

    def intend(
        self, planned: AttachPlan, request: AttachRequest, name: str, caller: str, request_id: str
    ) -> Assignment:
        """The record of what a plan is about to do."""
        now = self._operations.now()
        if planned.extends is not None:
            return replace(
                planned.extends.to(AssignmentState.ATTACHING, now),
                vm=planned.domain.vm,
                devices=tuple(self._extended(planned.extends, planned)),
                pending_live=planned.live,
                pending_config=planned.config,
                pending_request=request_id,
            )
        return Assignment(
            name=name,
            vm=planned.domain.vm,
            devices=tuple(
                self._adding(device, self._assigned(name, index, device, planned.domain.vm.uuid))
                for index, device in enumerate(planned.devices)
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
            pending_request=request_id,
        )

    def _extended(self, before: Assignment, planned: AttachPlan) -> Iterator[AssignedDevice]:
        plans = {device.uid: device for device in planned.devices}
        for known in before.devices:
            plan = plans.pop(known.uid, None)
            if plan is None:
                yield known
                continue
            device = known
            if plan.live and (not before.live or known.awaited):
                # It was last looked at when it was configured: its operator may have given it away since.
                fresh = self._assigned(before.name, 0, plan, before.vm.uuid)
                device = replace(
                    known,
                    name=fresh.name,
                    original_driver=fresh.original_driver,
                    ours=fresh.ours,
                    driver_known=fresh.driver_known,
                    by_libvirt=fresh.by_libvirt,
                    traits=fresh.traits,
                )
            yield self._adding(plan, device)
        for index, plan in enumerate(plans.values(), len(before.devices)):
            yield self._adding(plan, self._assigned(before.name, index, plan, before.vm.uuid))

    @staticmethod
    def _adding(plan: PlannedDevice, device: AssignedDevice) -> AssignedDevice:
        return replace(
            device,
            adds_live=plan.live,
            adds_config=plan.config,
            by_service=device.by_service or plan.config_by_service,
        )

    def _assigned(self, name: str, index: int, plan: PlannedDevice, vm: str) -> AssignedDevice:
        view = self._store.devices[plan.node.name]
        short = hashlib.sha256(name.encode()).hexdigest()[:12]
        device = AssignedDevice(
            name=plan.node.name,
            uid=view.uid,
            alias=f"ua-hostdev-{short}-{index}",
            role=plan.role,
            original_driver=view.driver,
            ours=not is_vfio_driver(view.driver),
            type=plan.node.type,
            traits=lasting_traits(plan.node),
        )
        other = next((holder for holder in view.holders if holder.live and holder.vm.uuid == vm), None)
        if other is not None:
            # Another tool gave it to the guest: what was bound before is not known, libvirt gives back its own.
            device = replace(
                device, original_driver=None, driver_known=False, ours=other.managed, by_libvirt=other.managed
            )
        return device

    async def run(
        self,
        operation: Operation,
        planned: AttachPlan,
        assignment: Assignment,
        record: RequestRecord | None,
        entry: Entry | None = None,
    ) -> None:
        """Write the intent, carry the plan out, or undo it. No record and no entry: the service asked itself."""
        try:
            await self._make_room(assignment, planned, entry)
            await self._operations.intend(assignment, record, entry)
        except HostdevError as error:
            # Nothing was touched, and nothing is remembered.
            if entry is not None and entry.accepted and planned.extends is not None:
                await self._operations.save(planned.extends, ended=Ended.by(error, self._clock.now()))
            if record is not None:
                self._requests.drop(record.request_id)
            operation.error = error
            return
        self._operations.publish(assignment)
        operation.durable.set()
        failed = await self._take(assignment, planned)
        if failed is None:
            await self._attached(operation, planned, assignment)
        else:
            await self.undo(operation, assignment, planned.extends, record, failed)

    async def _make_room(self, assignment: Assignment, planned: AttachPlan, entry: Entry | None) -> None:
        """Remove what a device that was pulled out left behind in the guest, which has the alias."""
        awaited = [device for device in assignment.devices if device.awaited and device.adds_live]
        if planned.extends is None or not awaited:
            return
        await self._operations.intend(planned.extends, entry=entry)  # once the entry is gone nothing else tells of it
        try:
            await self._effects.clearing.clear(assignment, awaited)
        except StepFailedError as failed:
            raise attach_failed(assignment, failed, ()) from failed

    async def _take(self, assignment: Assignment, planned: AttachPlan) -> StepFailedError | None:
        try:
            await self._effects.giving.take(assignment, planned)
        except StepFailedError as failed:
            return failed
        except Exception:
            log.exception("an attach failed in an unexpected way", assignment=assignment.name)
            return StepFailedError(
                StepKind.VERIFY, planned.target.name, "a fault of hostdevd's, see its log", unsure=True
            )
        return None

    async def _attached(self, operation: Operation, planned: AttachPlan, assignment: Assignment) -> None:
        now = self._operations.now()
        done = assignment.to(AssignmentState.ATTACHED, now)
        names = {device.node.name for device in planned.devices if device.live}
        names |= {device.name for device in planned.extends.devices} if planned.extends else set()
        done = replace(
            done,
            devices=tuple(replace(one, awaited=one.awaited and not one.adds_live) for one in done.devices),
            conditions=tuple(
                one
                for one in done.conditions
                if not (planned.live and one.code is ConditionCode.DEVICE_MISSING and one.device in names)
            ),
            live=done.live or done.pending_live,
            config=done.config or done.pending_config,
        ).settled()
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
        if planned.extends is not None:  # in another port it has another name
            uids = {one.uid: one.name for one in done.devices}
            done = done.calling({one.name: uids[one.uid] for one in planned.extends.devices})
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
        # An undoing that goes on after a restart keeps its time: earlier unplug requests are told by it.
        if before is None and assignment.state is not AssignmentState.ROLLING_BACK:
            state = assignment.to(AssignmentState.ROLLING_BACK, self._operations.now())
            await self._operations.save(state)
            self._operations.publish(state)
        # What the guest has until it lets go is shown: that may take long.
        self._operations.show_holders(operation)
        conditions = await self._take_back(operation, state, unsure=failed.unsure)
        operation.error = attach_failed(state, failed, conditions)
        if before is not None:
            done = replace(before, update_time=self._operations.now())
        else:
            done = replace(
                state.to(AssignmentState.FAILED, self._operations.now()).settled(),
                failure=to_failure(operation.error),
            )
        for condition in conditions:
            done = done.with_condition(condition)
        if record is not None:
            record = replace(record, failure=to_failure(operation.error))
            self._requests.put(record)
        await self._operations.finish(operation, done, record)

    async def _take_back(
        self, operation: Operation, state: Assignment, *, unsure: bool
    ) -> tuple[AssignmentCondition, ...]:
        """Undo in reverse what this attach added, by alias: nothing that the VM had before is touched.

        Where it is `unsure` whether libvirt is done with attaching, looking proves nothing.
        """
        conditions: tuple[AssignmentCondition, ...] = ()
        if state.pending_live:
            if unsure:
                given = tuple(device for device in state.devices if device.adds_live)
                await self._effects.taking.make_sure(state, given, Target.LIVE)
            await self._let_go(
                operation, state, frozenset(device.alias for device in state.devices if device.adds_live)
            )
            conditions = await self._effects.restoring.give_back(state)
        if state.pending_config:
            if unsure:
                configured = tuple(device for device in state.devices if device.adds_config and not device.by_service)
                await self._effects.taking.make_sure(state, configured, Target.CONFIG)
            added = frozenset(device.alias for device in state.devices if device.adds_config)
            kept = await self._effects.taking.drop_config(state, added)
            if kept is not None:
                now = self._operations.now()
                remedy = f"remove it by hand (virsh edit {state.vm.name})"
                conditions += (
                    AssignmentCondition(ConditionCode.CONFIG_DIVERGED, kept.message, now, kept.device, remedy),
                )
        return conditions

    async def _let_go(self, operation: Operation, assignment: Assignment, added: frozenset[str]) -> None:
        """A guest that keeps what it should not have is asked again, for ever."""
        refusal = await self._effects.taking.let_go(assignment, operation.nudge, added)
        while refusal is not None:
            log.error("the guest keeps a device of a failed attach", device=refusal.device, why=refusal.message)
            await self._clock.sleep(ASK_AGAIN_S)
            refusal = await self._effects.taking.let_go(assignment, operation.nudge, added)
