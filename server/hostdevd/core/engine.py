"""Attach and detach as operations that belong to the service: one per group and VM device, never half done.

A caller starts an operation, or joins one, and waits as long as it likes; the operation goes on without
it. Its intent is in the journal before the first effect. What a crash left open is finished or undone at
the next start by looking at what is really there.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from hostdevd.core import failures
from hostdevd.core.assignments import Assignment, AssignmentState, Scope
from hostdevd.core.attaching import Attaching
from hostdevd.core.audit import Asked, Entry
from hostdevd.core.detaching import Detaching
from hostdevd.core.effects import Effects
from hostdevd.core.errors import PRECONDITIONS, HostdevError, disconnected
from hostdevd.core.graph import group_mates_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.journal import Journal, Loaded, RequestRecord
from hostdevd.core.letting_go import blocked_detach, detach_blockers
from hostdevd.core.model import NodeDevice
from hostdevd.core.observing import NOBODY, Observer
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.plan import AttachRequest, Plan, SideEffect
from hostdevd.core.planner import blocked, find_target, known_vm, plan_attach
from hostdevd.core.ports import Clock, HostPort, HypervisorError
from hostdevd.core.release import DetachRequest, find_holding, plan_detach
from hostdevd.core.requests import Requests, fingerprint
from hostdevd.core.rights import ALL, Permission
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.upkeep import PATIENCE_S, Upkeep, cancelled

DEFAULT_WAIT_S = 60.0
WRITE_S = 0.25
"""A call that does not wait still waits so long for its intent to be written; less than `BEFORE_DEADLINE_S`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation has come to when its caller stops waiting. No assignment: a dry run."""

    plan: Plan
    assignment: Assignment | None = None


class Engine:
    """The entry points of one host."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        effects: Effects,
        journal: Journal,
        host: HostPort,
        clock: Clock,
        observer: Observer = NOBODY,
    ) -> None:
        self._store = store
        self._sync = sync
        self._journal = journal
        self._clock = clock
        self._requests = Requests()
        self._operations = Operations(store, sync, journal, clock, observer)
        self._attaching = Attaching(store, self._operations, effects, self._requests, host, clock)
        self._detaching = Detaching(store, self._operations, effects, host)
        self._upkeep = Upkeep(
            store,
            sync,
            self._operations,
            self._attaching,
            self._detaching,
            effects,
            self._requests,
            journal,
            clock,
            host,
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    # --- life ----------------------------------------------------------------------------------------

    def load(self, loaded: Loaded) -> None:
        """Take over what the journal holds: before `start`, or when it can be read at last."""
        with self._store.change(ChangeSource.RECONCILE):
            for assignment in loaded.assignments:
                self._store.put_assignment(assignment)
        for request in loaded.requests:
            self._requests.put(request)

    def recover(self) -> None:
        """Finish what was loaded in the middle, as far as libvirt answers; else it is done when it does."""
        if self._tasks and self._sync.connected:
            self._upkeep.recover_all()

    def require_records(self) -> None:
        """`STATE_STORE_UNAVAILABLE` while what is assigned is not known."""
        self._journal.require()

    def start(self) -> None:
        """Start following: recover as soon as libvirt was read, then keep assignments true."""
        self._tasks = [
            asyncio.create_task(self._upkeep.follow(), name="upkeep-follow"),
            asyncio.create_task(self._upkeep.tend(), name="upkeep-tend"),
        ]

    @property
    def is_following(self) -> bool:
        """Whether all that `start` began still runs: none of it ends by itself."""
        return all(not task.done() for task in self._tasks)

    async def close(self, grace_s: float = 10.0) -> None:
        """Let running operations end for a while, then leave the rest to the next start."""
        self._closing = True
        short = [op.task for op in self._operations if op.task is not None and self._is_short(op)]
        if short:
            await asyncio.wait(short, timeout=grace_s)
        await cancelled((*self._tasks, *(op.task for op in self._operations if op.task is not None)))

    def _is_short(self, operation: Operation) -> bool:
        assignment = self._store.assignments.get(operation.name)
        # A configuration that is being written anew is ATTACHED all the while.
        return assignment is None or assignment.state in {AssignmentState.ATTACHING, AssignmentState.ATTACHED}

    # --- attach --------------------------------------------------------------------------------------

    async def attach(  # noqa: PLR0913  what the API tells, each once
        self,
        request: AttachRequest,
        *,
        caller: str,
        request_id: str,
        validate_only: bool,
        wait_s: float,
        sight: Sight | None = None,
        entry: Entry | None = None,
    ) -> Outcome:
        """Attach a device with its group, or say what that would do. Raises `HostdevError`.

        Without a `sight` the caller may everything; `entry` is what the audit log is to have of who asked.
        """
        until, sight = _until(wait_s), sight or Sight(self._store, ALL)
        entry = entry or self._entry("Attach", caller, request.vm, request.device)
        if not validate_only and request_id in self._requests:
            return await self._repeat(request, request_id, caller, until, sight)
        self.accepting(dry_run=validate_only)
        since = self._sync.moment()
        await self.fresh(request.device)
        domain = sight.find_vm(request.vm)
        sight.check_device(request.device)
        try:
            if await self.compare_around([find_target(self._store, request.device)], until):
                await self.fresh(request.device)
            if not validate_only and request_id in self._requests:  # it came twice at once
                return await self._repeat(request, request_id, caller, until, sight)
            target = find_target(self._store, request.device)
            sight.may_attach(domain.vm, target)
            self._operations.check_free([target])
            planned = plan_attach(self._store, request)
        except HostdevError as error:
            if validate_only and error.reason in PRECONDITIONS:  # which device is meant is not even known
                return Outcome(Plan(blockers=error.reasons))
            raise
        if validate_only:
            return Outcome(self._told(planned.plan))
        if planned.plan.blockers:
            raise blocked(planned)
        # From the plan to here nothing was awaited: what was planned is still true.
        request_id = request_id or str(uuid.uuid4())
        assignment = self._attaching.intend(planned, request, request_id, caller, request_id)
        time = assignment.update_time.timestamp()
        record = RequestRecord(request_id, caller, fingerprint(request), assignment.name, time)
        self._requests.put(record)
        operation = self._operations.begin(assignment, planned.plan, since)
        work = self._attaching.run(operation, planned, assignment, record, entry)
        self._operations.start(operation, work, "attach")
        return await self._await(operation, until)

    async def _repeat(
        self, request: AttachRequest, request_id: str, caller: str, until: float, sight: Sight
    ) -> Outcome:
        record = self._requests.repeated(request_id, caller, fingerprint(request))
        known = self._store.assignments.get(record.assignment)
        if known is not None:  # what was allowed then may not be now
            sight.find_assignment(known.name)
            sight.may_change(Permission.ASSIGNMENTS_ATTACH, known)
        operation = self._operations.get(record.assignment)
        # What else is done with the assignment by now, its detach say, is none of this request's.
        if operation is not None and operation.intent.pending_request == request_id:
            operation.nudge.push()
            return await self._await(operation, until)
        if record.failure is not None:
            raise failures.from_failure(record.failure)
        assignment = self._store.assignments.get(record.assignment)
        if assignment is None:
            raise failures.no_assignment(record.assignment)
        return Outcome(Plan(), assignment)

    # --- detach --------------------------------------------------------------------------------------

    async def detach(  # noqa: PLR0913  what the API tells, each once
        self,
        request: DetachRequest,
        *,
        caller: str,
        validate_only: bool,
        wait_s: float,
        sight: Sight | None = None,
        entry: Entry | None = None,
    ) -> Outcome:
        """Take a device with what came with it from a VM. Raises `HostdevError`; `sight`, `entry` as for `attach`."""
        until, sight = _until(wait_s), sight or Sight(self._store, ALL)
        entry = entry or self._entry("Detach", caller, request.vm, request.device, request.assignment)
        if request.assignment:
            self.require_records()
            sight.may_change(Permission.ASSIGNMENTS_DETACH, sight.find_assignment(request.assignment))
        outcome = await self._detached_already(request, validate_only, until, sight)
        if outcome is not None:
            return outcome
        self.accepting(dry_run=validate_only)
        since = self._sync.moment()
        await self._fresh_vm(request)
        await self._compare_before(request, until)
        # Somebody else may have begun, or ended it, while the host was read.
        outcome = await self._detached_already(request, validate_only, until, sight)
        if outcome is not None:
            return outcome
        if not request.assignment:
            sight.find_vm(request.vm)
            sight.check_device(request.device)
        try:
            holding = find_holding(self._store, request)
            sight.may_detach(holding)
        except HostdevError as error:
            if validate_only and error.reason in PRECONDITIONS:
                return Outcome(Plan(blockers=error.reasons))
            raise
        self._operations.check_free(holding.nodes, holding.assignment)
        plan = plan_detach(self._store, holding)
        plan = replace(plan, blockers=tuple(detach_blockers(self._store, holding)))
        if validate_only:
            return Outcome(self._told(plan))
        if plan.blockers:
            raise blocked_detach(holding, plan, self._store.kernel_release())
        if not (holding.live or holding.config) and request.scope in {Scope.LIVE, Scope.CONFIG}:
            return Outcome(plan, holding.assignment)  # by name, and not held there: as it was asked
        assignment = self._detaching.intend(holding, caller)
        operation = self._operations.begin(assignment, plan, since)
        work = self._detaching.run(operation, assignment, entry)
        self._operations.start(operation, work, "detach")
        return await self._await(operation, until)

    async def _detached_already(
        self,
        request: DetachRequest,
        validate_only: bool,  # noqa: FBT001
        until: float,
        sight: Sight,
    ) -> Outcome | None:
        """The outcome of a detach that is under way or done; None when there is something to do."""
        joined = self._running_detach(request, sight)
        if joined is not None and not validate_only:
            joined.nudge.push()
            return await self._await(joined, until)
        if not request.assignment:
            return None
        known = sight.find_assignment(request.assignment)
        if known.state.closed:
            return Outcome(Plan(), None if validate_only else known)
        return None

    def _running_detach(self, request: DetachRequest, sight: Sight) -> Operation | None:
        for operation in self._operations:
            intent = operation.intent
            if intent.state is not AssignmentState.DETACHING:
                continue
            named = request.assignment == intent.name
            if not named and not (
                (request.vm == intent.vm.name or request.vm.lower() == intent.vm.uuid)
                and any(request.device in {device.name, device.uid} for device in intent.devices)
            ):
                continue
            if not sight.assignment(intent):
                continue  # looked for like any other, and not found
            sight.may_change(Permission.ASSIGNMENTS_DETACH, intent)
            live = intent.live and request.scope is not Scope.CONFIG
            config = intent.config and request.scope is not Scope.LIVE
            if (live and not intent.pending_live) or (config and not intent.pending_config):
                # It does less than this asks for.
                raise failures.in_progress(intent.name, intent.vm, intent.devices[0].name)
            return operation
        return None

    async def _compare_before(self, request: DetachRequest, until: float) -> None:
        if request.assignment:
            waited = await self._upkeep.compare_named(request.assignment, _patience_s(until))
        else:
            view = self._store.device(request.device)
            waited = await self.compare_around([view.node] if view is not None else [], until)
        if waited:
            await self._fresh_vm(request)

    # --- assignments ---------------------------------------------------------------------------------

    async def forget(self, name: str, sight: Sight | None = None, entry: Entry | None = None) -> Assignment:
        """Remove the record of an assignment that holds nothing any more; `sight`, `entry` as for `attach`."""
        self.require_records()
        sight = sight or Sight(self._store, ALL)
        assignment = sight.find_assignment(name)
        sight.may_change(Permission.ASSIGNMENTS_FORGET, assignment)
        if not assignment.state.closed:
            raise failures.in_use(assignment)
        entry = entry or self._entry("ForgetAssignment", "", assignment=name)
        await self._journal.forget(assignment, entry.asked)
        entry.accepted = True
        self._operations.forget(name)
        with self._store.change(ChangeSource.OPERATION):
            self._store.remove_assignment(name)
        return assignment

    # --- common --------------------------------------------------------------------------------------

    def _entry(self, method: str, caller: str, vm: str = "", device: str = "", assignment: str = "") -> Entry:
        """What the audit log has of a caller that is known by nothing but a name."""
        return Entry(Asked(self._clock.now(), method, caller, vm=vm, device=device, assignment=assignment))

    def accepting(self, *, dry_run: bool) -> None:
        """`SHUTTING_DOWN`, `STATE_STORE_UNAVAILABLE` or `LIBVIRT_DISCONNECTED` when nothing can be begun."""
        if self._closing:
            raise failures.shutting_down()
        if not dry_run:
            self._journal.require()
        self._sync.require()

    def _told(self, plan: Plan) -> Plan:
        """A dry run writes nothing, so it answers without the state store too, and says what it does not know."""
        if self._journal.is_open or self._journal.fault is None:
            return plan
        text = "hostdevd's own records cannot be read, so this is planned without them, and a real call is refused"
        return replace(plan, side_effects=(*plan.side_effects, SideEffect(f"{text}: {self._journal.fault.why}")))

    async def fresh(self, device: str = "") -> None:
        """Read all domains, networks and uses now: other tools' changes of configurations are not announced.

        For one device the uses of before do where the host says that nothing has happened since.
        """
        view = self._store.device(device)
        around = [mate.name for mate in group_mates_of(self._store.graph, view.node)] if view is not None else []
        source = ChangeSource.RECONCILE
        uses = self._sync.check_uses(source, around) if around else self._sync.read_uses(source)
        await _read(self._sync.read_domains(source), self._sync.read_networks(source), uses)

    async def _fresh_vm(self, request: DetachRequest) -> None:
        """Read the VM of a detach now, or all where it is not known: what it has is all that a detach depends on."""
        known = self._store.assignments.get(request.assignment)
        vm = known.vm if known is not None else known_vm(self._store, request.vm)
        source = ChangeSource.RECONCILE
        if vm is not None:
            await _read(self._sync.read_domain(vm.uuid, source))
        if vm is None or vm.uuid not in self._store.domains:  # a new one may have its name
            await _read(self._sync.read_domains(source))

    async def compare_around(self, nodes: Iterable[NodeDevice], until: float = 0.0) -> bool:
        """Compare the assignments of these devices and their groups with what was read.

        What the service itself is giving back is waited for, until this time of the loop or a little longer; True
        when it was: what was read before is old then.
        """
        return await self._upkeep.compare_around(nodes, _patience_s(until))

    @property
    def operations(self) -> Operations:
        """Who works on which devices: what else changes them asks there."""
        return self._operations

    async def _await(self, operation: Operation, until: float) -> Outcome:
        task = operation.task
        if task is None:
            raise AssertionError(operation.name)
        loop = asyncio.get_running_loop()
        if not operation.durable.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(operation.durable.wait(), max(until - loop.time(), WRITE_S))
        if not task.done():
            await asyncio.wait({task}, timeout=max(until - loop.time(), 0.0))
        if task.done():
            if operation.error is not None:
                raise operation.error
            if operation.fault is not None:
                raise operation.fault  # hidden at the edge
        elif not operation.durable.is_set():
            # Its intent is not written yet: there is nothing of it to show, and it may still be refused.
            raise failures.in_progress(operation.name, operation.intent.vm, operation.intent.devices[0].name)
        return Outcome(operation.plan, self._store.assignments.get(operation.name))

    def stop_accepting(self) -> None:
        """Refuse what would begin from now on; what runs goes on."""
        self._closing = True


def _until(wait_s: float) -> float:
    return asyncio.get_running_loop().time() + wait_s


def _patience_s(until: float) -> float:
    return max(until - asyncio.get_running_loop().time(), PATIENCE_S)


async def _read(*reads: Awaitable[object]) -> None:
    try:
        await asyncio.gather(*reads)
    except HypervisorError as error:
        raise disconnected(error.text) from error
