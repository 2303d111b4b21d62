"""Attach and detach as operations that belong to the service: one per group and VM device, never half done.

A caller starts an operation, or joins one, and waits as long as it likes; the operation goes on without
it. Its intent is in the journal before the first effect. What a crash left open is finished or undone at
the next start by looking at what is really there.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from hostdevd.core.assignments import (
    AssignedDevice,
    Assignment,
    AssignmentCondition,
    AssignmentState,
    Failure,
    Scope,
)
from hostdevd.core.effects import Effects, Nudge, StepFailedError
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import group_mates_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.journal import Journal, Loaded, RequestRecord
from hostdevd.core.model import ConditionCode, DomainEntry, HolderRole, NodeDevice, VmState
from hostdevd.core.planner import (
    AttachPlan,
    AttachRequest,
    Plan,
    StepKind,
    blocked,
    find_device,
    find_vm,
    plan_attach,
)
from hostdevd.core.ports import Clock, HostPort
from hostdevd.core.release import DetachRequest, Holding, find_holding, plan_detach
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()

DEFAULT_WAIT_S = 60.0
KEEP_CLOSED_S = 30 * 86400.0
KEEP_REQUESTS_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation has come to when its caller stops waiting. No assignment: a dry run."""

    plan: Plan
    assignment: Assignment | None = None


@dataclass(slots=True)
class Operation:
    """Work in flight on one assignment."""

    assignment: str
    vm_name: str
    vm_uuid: str
    uids: frozenset[str]
    plan: Plan
    nudge: Nudge = field(default_factory=Nudge)
    durable: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    error: HostdevError | None = None


class Engine:
    """All operations of one host."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self, store: Store, sync: Sync, effects: Effects, journal: Journal, host: HostPort, clock: Clock
    ) -> None:
        self._store = store
        self._sync = sync
        self._effects = effects
        self._journal = journal
        self._host = host
        self._clock = clock
        self._operations: dict[str, Operation] = {}
        self._busy: dict[str, Operation] = {}
        self._requests: dict[str, RequestRecord] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()
        self._closing = False
        store.on_commit.append(lambda _: self._look.set())

    # --- life ----------------------------------------------------------------------------------------

    def load(self, loaded: Loaded) -> None:
        """Take over what the journal held; before `start`."""
        with self._store.change(ChangeSource.RECONCILE):
            for assignment in loaded.assignments:
                self._store.put_assignment(assignment)
        self._requests = {request.request_id: request for request in loaded.requests}

    def start(self) -> None:
        """Start following: recover as soon as libvirt was read, then keep assignments true."""
        self._spawn(self._keep_true(), "engine-keep-true")

    async def close(self, grace_s: float = 10.0) -> None:
        """Let running operations end for a while, then leave the rest to the next start."""
        self._closing = True
        short = [op.task for op in self._operations.values() if op.task is not None and self._is_short(op)]
        if short:
            await asyncio.wait(short, timeout=grace_s)
        for task in (*self._background, *(op.task for op in self._operations.values() if op.task)):
            task.cancel()
        await asyncio.gather(
            *self._background, *(op.task for op in self._operations.values() if op.task), return_exceptions=True
        )

    def _is_short(self, operation: Operation) -> bool:
        assignment = self._store.assignments.get(operation.assignment)
        return assignment is None or assignment.state is AssignmentState.ATTACHING

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # --- attach --------------------------------------------------------------------------------------

    async def attach(
        self, request: AttachRequest, *, caller: str, request_id: str, validate_only: bool, wait_s: float
    ) -> Outcome:
        """Attach a device with its group, or say what that would do. Raises `HostdevError`."""
        fingerprint = _fingerprint(request)
        if not validate_only and request_id in self._requests:
            return await self._repeat(request_id, caller, fingerprint, wait_s)
        self._accepting()
        await self._fresh()
        find_vm(self._store, request.vm)
        target = find_device(self._store, request.device)
        if not validate_only and request_id in self._requests:  # it came twice at once
            return await self._repeat(request_id, caller, fingerprint, wait_s)
        self._check_free([target])
        planned = plan_attach(self._store, request)
        if validate_only:
            return Outcome(planned.plan)
        if planned.plan.blockers:
            raise blocked(planned)
        # From the plan to here nothing was awaited: what was planned is still true.
        before = planned.extends
        assignment = self._intend(planned, request, request_id or str(uuid.uuid4()), caller)
        record = RequestRecord(
            request_id or assignment.name, caller, fingerprint, assignment.name, assignment.update_time.timestamp()
        )
        self._requests[record.request_id] = record
        operation = self._begin(assignment, planned.plan)
        operation.task = asyncio.create_task(
            self._run_attach(operation, planned, assignment, before, record), name=f"attach-{assignment.name}"
        )
        return await self._await(operation, wait_s)

    def _intend(self, planned: AttachPlan, request: AttachRequest, name: str, caller: str) -> Assignment:
        now = self._now()
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

    async def _run_attach(
        self,
        operation: Operation,
        planned: AttachPlan,
        assignment: Assignment,
        before: Assignment | None,
        record: RequestRecord,
    ) -> None:
        try:
            try:
                await self._journal.save(assignment, request=record)
            except HostdevError as error:
                # Nothing was touched, and nothing is remembered.
                self._requests.pop(record.request_id, None)
                operation.error = error
                return
            self._publish(assignment)
            operation.durable.set()
            try:
                await self._effects.take(assignment, planned)
            except StepFailedError as failed:
                await self._undo(operation, assignment, before, record, failed)
            else:
                await self._attached(operation, planned, assignment)
        finally:
            self._end(operation)

    async def _attached(self, operation: Operation, planned: AttachPlan, assignment: Assignment) -> None:
        done = assignment.to(AssignmentState.ATTACHED, self._now())
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
                        self._now(),
                        device.node.name,
                    )
                )
        await self._finish(operation, done)

    async def _undo(
        self,
        operation: Operation,
        assignment: Assignment,
        before: Assignment | None,
        record: RequestRecord | None,
        failed: StepFailedError,
    ) -> None:
        log.warning("attach failed, undoing it", assignment=assignment.name, step=str(failed.kind), why=failed.why)
        state = assignment
        if before is None:
            state = assignment.to(AssignmentState.ROLLING_BACK, self._now())
            await self._save(state)
            self._publish(state)
        if state.pending_config:
            await self._effects.drop_config(state)
        conditions: tuple[AssignmentCondition, ...] = ()
        if state.pending_live:
            refusal = await self._effects.let_go(state, operation.nudge)
            while refusal is not None:  # a guest that keeps what it should not have: ask again, for ever
                log.error("the guest keeps a device of a failed attach", device=refusal.device, why=refusal.message)
                await self._clock.sleep(10.0)
                refusal = await self._effects.let_go(state, operation.nudge)
            conditions = await self._effects.give_back(state)
        operation.error = _attach_failed(state, failed, conditions)
        if before is not None:
            done = replace(before, update_time=self._now())
        else:
            done = replace(
                state.to(AssignmentState.FAILED, self._now()),
                failure=_failure(operation.error),
                pending_live=False,
                pending_config=False,
            )
        for condition in conditions:
            done = done.with_condition(condition)
        if record is not None:
            record = replace(record, failure=_failure(operation.error))
            self._requests[record.request_id] = record
        await self._finish(operation, done, record)

    async def _repeat(self, request_id: str, caller: str, fingerprint: str, wait_s: float) -> Outcome:
        record = self._requests[request_id]
        if record.caller != caller or record.fingerprint != fingerprint:
            raise HostdevError(
                "REQUEST_ID_REUSED",
                "the request_id was used before, by another caller or with other arguments",
                metadata={"request_id": request_id},
            )
        operation = self._operations.get(record.assignment)
        if operation is not None:
            operation.nudge.push()
            return await self._await(operation, wait_s)
        if record.failure is not None:
            raise _stored(record.failure)
        assignment = self._store.assignments.get(record.assignment)
        if assignment is None:
            raise _no_assignment(record.assignment)
        return Outcome(Plan(), assignment)

    # --- detach --------------------------------------------------------------------------------------

    async def detach(self, request: DetachRequest, *, caller: str, validate_only: bool, wait_s: float) -> Outcome:
        """Take a device with what came with it from a VM. Raises `HostdevError`."""
        joined = self._running_detach(request)
        if joined is not None and not validate_only:
            joined.nudge.push()
            return await self._await(joined, wait_s)
        if request.assignment and request.assignment not in self._store.assignments:
            raise _no_assignment(request.assignment)
        known = self._store.assignments.get(request.assignment) if request.assignment else None
        if known is not None and known.state.closed:
            return Outcome(Plan(), None if validate_only else known)
        self._accepting()
        await self._fresh()
        joined = self._running_detach(request)
        if joined is not None and not validate_only:
            joined.nudge.push()
            return await self._await(joined, wait_s)
        holding = find_holding(self._store, request)
        self._check_free(holding.nodes, holding.assignment)
        plan = plan_detach(self._store, holding)
        if validate_only:
            return Outcome(plan)
        if not (holding.live or holding.config) and request.scope in {Scope.LIVE, Scope.CONFIG}:
            return Outcome(plan, holding.assignment)  # by name, and not held there: as it was asked
        assignment = self._intend_detach(holding, caller)
        operation = self._begin(assignment, plan)
        operation.task = asyncio.create_task(self._run_detach(operation, assignment), name=f"detach-{assignment.name}")
        return await self._await(operation, wait_s)

    def _running_detach(self, request: DetachRequest) -> Operation | None:
        for operation in self._operations.values():
            assignment = self._store.assignments.get(operation.assignment)
            if assignment is None or assignment.state is not AssignmentState.DETACHING:
                continue
            if request.assignment == assignment.name:
                return operation
            if request.vm in {assignment.vm.name, assignment.vm.uuid} and any(
                request.device in {device.name, device.uid} for device in assignment.devices
            ):
                return operation
        return None

    def _intend_detach(self, holding: Holding, caller: str) -> Assignment:
        now = self._now()
        if holding.assignment is not None:
            known = holding.assignment.without_condition(ConditionCode.DETACH_REJECTED)
            return replace(
                known.to(AssignmentState.DETACHING, now), pending_live=holding.live, pending_config=holding.config
            )
        return holding.adopt(str(uuid.uuid4()), caller=caller, now=now, boot_id=self._host.boot_id(), store=self._store)

    async def _run_detach(self, operation: Operation, assignment: Assignment) -> None:
        try:
            try:
                await self._journal.save(assignment)
            except HostdevError as error:
                operation.error = error
                return
            self._publish(assignment)
            operation.durable.set()
            await self._take_away(operation, assignment)
        finally:
            self._end(operation)

    async def _take_away(self, operation: Operation, assignment: Assignment) -> None:
        if assignment.pending_live:
            refusal = await self._effects.let_go(assignment, operation.nudge)
            if refusal is not None:
                text = refusal.message
                operation.error = HostdevError(
                    "DETACH_REJECTED_BY_GUEST",
                    text,
                    metadata={
                        "device": refusal.device,
                        "vm_name": assignment.vm.name,
                        "vm_uuid": assignment.vm.uuid,
                        "assignment": assignment.name,
                    },
                )
                kept = replace(
                    assignment.to(AssignmentState.ATTACHED, self._now()), pending_live=False, pending_config=False
                ).with_condition(
                    AssignmentCondition(
                        ConditionCode.DETACH_REJECTED,
                        text,
                        self._now(),
                        refusal.device,
                        "stop using the device in the guest, then detach again",
                    )
                )
                await self._finish(operation, kept)
                return
        if assignment.pending_config:
            await self._effects.drop_config(assignment)
        live = assignment.live and not assignment.pending_live
        config = assignment.config and not assignment.pending_config
        done = replace(
            assignment.to(AssignmentState.ATTACHED if live or config else AssignmentState.DETACHED, self._now()),
            live=live,
            config=config,
            pending_live=False,
            pending_config=False,
        )
        if config is False:
            done = done.without_condition(ConditionCode.CONFIG_BY_SERVICE)
        if not live:
            for condition in await self._effects.give_back(assignment):
                done = done.with_condition(condition)
        await self._finish(operation, done)

    # --- assignments ---------------------------------------------------------------------------------

    async def forget(self, name: str) -> Assignment:
        """Remove the record of an assignment that holds nothing any more."""
        assignment = self._store.assignments.get(name)
        if assignment is None:
            raise _no_assignment(name)
        if not assignment.state.closed:
            raise HostdevError(
                "ASSIGNMENT_IN_USE",
                f"the assignment {name} is {assignment.state.lower()}; detach it first",
                metadata={"assignment": name, "state": str(assignment.state)},
            )
        await self._journal.forget(name)
        with self._store.change(ChangeSource.OPERATION):
            self._store.remove_assignment(name)
        return assignment

    # --- keeping assignments true --------------------------------------------------------------------

    async def _keep_true(self) -> None:
        """Recover what a crash left open, then follow what others do to assigned devices."""
        await self._sync.synced.wait()
        for assignment in tuple(self._store.assignments.values()):
            if assignment.state.in_flight:
                self._recover(assignment)
        while True:
            self._look.clear()
            if self._sync.connected:
                for assignment in tuple(self._store.assignments.values()):
                    if assignment.state is AssignmentState.ATTACHED and assignment.name not in self._operations:
                        await self._compare(assignment)
            await self._look.wait()

    def _recover(self, assignment: Assignment) -> None:
        log.warning("finishing what was interrupted", assignment=assignment.name, state=str(assignment.state))
        operation = self._begin(assignment, Plan())
        operation.durable.set()
        if assignment.state is AssignmentState.DETACHING:
            work = self._take_away(operation, assignment)
        else:
            why = StepFailedError(StepKind.VERIFY, assignment.devices[0].name, "hostdevd was stopped in the middle")
            record = next((one for one in self._requests.values() if one.assignment == assignment.name), None)
            before = None
            if assignment.live or assignment.config:
                before = replace(assignment, state=AssignmentState.ATTACHED, pending_live=False, pending_config=False)
            work = self._undo(operation, assignment, before, record if before is None else None, why)
        operation.task = asyncio.create_task(self._guarded(operation, work), name=f"recover-{assignment.name}")

    async def _guarded(self, operation: Operation, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._end(operation)

    async def _compare(self, assignment: Assignment) -> None:
        """Bring an assignment's record in line with what its VM has; give back what was taken from it."""
        domain = self._store.domains.get(assignment.vm.uuid)
        live_entries = self._effects.entries(assignment, domain.live if domain else None)
        config_entries = self._effects.entries(assignment, domain.config if domain else None)
        by_service = any(one.code is ConditionCode.CONFIG_BY_SERVICE for one in assignment.conditions)
        live, config = bool(live_entries), bool(config_entries) or (by_service and domain is not None)
        vm = domain.vm if domain is not None else replace(assignment.vm, state=VmState.SHUT_OFF)
        split = live and len(live_entries) < len(assignment.devices)
        known_split = any(one.code is ConditionCode.GROUP_SPLIT for one in assignment.conditions)
        if (live, config) == (assignment.live, assignment.config) and split == known_split:
            if vm != assignment.vm:
                self._publish(replace(assignment, vm=vm))
            return
        operation = self._begin(assignment, Plan())
        operation.durable.set()
        try:
            now = self._now()
            true = replace(assignment, live=live, config=config, vm=vm)
            if (live, config) != (assignment.live, assignment.config):
                true = replace(true, update_time=now)
            true = self._mark_split(true, live_entries) if split else true.without_condition(ConditionCode.GROUP_SPLIT)
            if assignment.live and not live:
                for condition in await self._effects.give_back(assignment):
                    true = true.with_condition(condition)
            if not live and not config:
                true = true.to(AssignmentState.DETACHED, now)
            await self._finish(operation, true, source=ChangeSource.RECONCILE)
        finally:
            self._end(operation)

    def _mark_split(self, assignment: Assignment, entries: Iterable[DomainEntry]) -> Assignment:
        there = {entry.alias for entry in entries}
        for device in assignment.devices:
            if device.alias not in there:
                assignment = assignment.with_condition(
                    AssignmentCondition(
                        ConditionCode.GROUP_SPLIT,
                        f"{device.name} was taken from {assignment.vm.name} by another tool, its group was not",
                        self._now(),
                        device.name,
                        "detach the assignment to give the whole group back",
                    )
                )
        return assignment

    # --- common --------------------------------------------------------------------------------------

    def _accepting(self) -> None:
        if self._closing:
            raise HostdevError("SHUTTING_DOWN", "the service is shutting down", retry_after_s=5.0)
        self._sync.require()

    async def _fresh(self) -> None:
        """Read all domains and uses now: other tools' changes of configurations are not announced."""
        await asyncio.gather(
            self._sync.read_domains(ChangeSource.RECONCILE), self._sync.read_uses(ChangeSource.RECONCILE)
        )

    def _check_free(self, nodes: Iterable[NodeDevice], own: Assignment | None = None) -> None:
        for node in nodes:
            for mate in group_mates_of(self._store.graph, node):
                operation = self._busy.get(self._store.identities.uid(mate.name))
                if operation is not None:
                    raise _in_progress(operation, mate.name)
        if own is not None and own.name in self._operations:
            raise _in_progress(self._operations[own.name], own.name)

    def _begin(self, assignment: Assignment, plan: Plan) -> Operation:
        uids = frozenset(device.uid for device in assignment.devices)
        operation = Operation(assignment.name, assignment.vm.name, assignment.vm.uuid, uids, plan)
        self._operations[assignment.name] = operation
        for uid in uids:
            self._busy[uid] = operation
        self._store.freeze(assignment.vm.uuid, uids)
        return operation

    def _end(self, operation: Operation) -> None:
        if self._operations.get(operation.assignment) is operation:
            del self._operations[operation.assignment]
            for uid in operation.uids:
                self._busy.pop(uid, None)
            with self._store.change(ChangeSource.OPERATION):
                self._store.thaw(operation.vm_uuid, operation.uids)
        operation.durable.set()
        self._look.set()

    async def _finish(
        self,
        operation: Operation,
        assignment: Assignment,
        record: RequestRecord | None = None,
        source: ChangeSource = ChangeSource.OPERATION,
    ) -> None:
        """Write the end state, then show it together with the holders: one batch per operation."""
        await self._save(assignment, record)
        await self._refresh_after(assignment)
        with self._store.change(source):
            self._store.put_assignment(assignment)
            self._store.thaw(operation.vm_uuid, operation.uids)

    async def _refresh_after(self, assignment: Assignment) -> None:
        try:
            await self._sync.read_domain(assignment.vm.uuid, ChangeSource.OPERATION)
            await self._sync.read_uses(ChangeSource.OPERATION)
        except Exception as error:  # noqa: BLE001  a full read follows the reconnect; the record is safe
            log.warning("the host could not be read after an operation", error=str(error))

    async def _save(self, assignment: Assignment, record: RequestRecord | None = None) -> None:
        """Write a state that is true already: when the disk refuses, the next start finds it out again."""
        try:
            await self._journal.save(assignment, request=record)
        except HostdevError as error:
            log.warning("a state could not be written", assignment=assignment.name, error=error.message)

    def _publish(self, assignment: Assignment) -> None:
        with self._store.change(ChangeSource.OPERATION):
            self._store.put_assignment(assignment)

    async def _await(self, operation: Operation, wait_s: float) -> Outcome:
        task = operation.task
        if task is None:
            raise AssertionError(operation.assignment)
        await asyncio.shield(operation.durable.wait())
        if not task.done():
            await asyncio.wait({task}, timeout=wait_s)
        if task.done():
            if operation.error is not None:
                raise operation.error
            task.result()  # a fault of ours is raised here, and hidden at the edge
        return Outcome(operation.plan, self._store.assignments.get(operation.assignment))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)


def _fingerprint(request: AttachRequest) -> str:
    expected = sorted(request.expected_affected) if request.expected_affected is not None else None
    parts = (request.vm, request.device, request.group_policy, request.scope, expected)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _no_assignment(name: str) -> HostdevError:
    return HostdevError(
        "ASSIGNMENT_NOT_FOUND",
        f"there is no assignment {name}",
        metadata={"assignment": name},
        resource=("assignment", name),
    )


def _in_progress(operation: Operation, device: str) -> HostdevError:
    return HostdevError(
        "OPERATION_IN_PROGRESS",
        f"{device} is being worked on for the virtual machine {operation.vm_name}",
        metadata={
            "assignment": operation.assignment,
            "vm_name": operation.vm_name,
            "vm_uuid": operation.vm_uuid,
            "device": device,
        },
        retry_after_s=1.0,
    )


def _attach_failed(
    assignment: Assignment, failed: StepFailedError, conditions: tuple[AssignmentCondition, ...]
) -> HostdevError:
    metadata = {
        "step": str(failed.kind),
        "device": failed.device,
        "why": failed.why,
        "assignment": assignment.name,
        "vm_name": assignment.vm.name,
        "vm_uuid": assignment.vm.uuid,
        "rolled_back": "false" if conditions else "true",
    }
    if failed.code is not None:
        metadata["libvirt_code"] = str(failed.code)
    text = f"{failed.kind} of {failed.device} failed: {failed.why}; "
    text += "; ".join(condition.message for condition in conditions) if conditions else "everything was rolled back"
    return HostdevError("ATTACH_FAILED", text, metadata=metadata)


def _failure(error: HostdevError) -> Failure:
    return Failure(error.reason, error.message, tuple(sorted(error.metadata.items())), error.reasons)


def _stored(failure: Failure) -> HostdevError:
    return HostdevError(failure.reason, failure.message, metadata=dict(failure.metadata), reasons=failure.reasons)
