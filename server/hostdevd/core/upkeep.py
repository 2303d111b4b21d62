"""Keeping assignments true: finishing what a crash left open, following what others do to assigned devices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace

import structlog

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState
from hostdevd.core.attaching import Attaching
from hostdevd.core.awaiting import Awaiting
from hostdevd.core.detaching import Detaching
from hostdevd.core.effects import Effects
from hostdevd.core.errors import HostdevError
from hostdevd.core.following import Following
from hostdevd.core.graph import group_mates_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.journal import Journal
from hostdevd.core.model import ConditionCode, Domain, DomainDef, NodeDevice, VmState
from hostdevd.core.moving import Moving
from hostdevd.core.operations import Operations
from hostdevd.core.plan import Plan, StepKind
from hostdevd.core.ports import Clock, HostPort
from hostdevd.core.requests import Requests
from hostdevd.core.steady import STEADY_S, Steadiness
from hostdevd.core.steps import StepFailedError
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()

TEND_S = 10.0
"""Between two tries of what failed in the background."""
FAULT_S = 5.0
"""Before the next comparison after one that failed in an unexpected way."""
PURGE_S = 86_400.0
KEEP_CLOSED_S = 30 * 86_400.0
KEEP_REQUESTS_S = 7 * 86_400.0

PATIENCE_S = 5.0
"""How long a call waits, at least, while the service itself gives back what the call is about."""

_KEPT_TRUE = (
    ConditionCode.GROUP_SPLIT,
    ConditionCode.CONFIG_DIVERGED,
    ConditionCode.DEVICE_MISSING,
    ConditionCode.DEVICE_CHANGED,
)
"""The conditions of an attached assignment that are found by looking, and go when they no longer hold."""


class Upkeep:
    """Looks after the assignments of one host."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        operations: Operations,
        attaching: Attaching,
        detaching: Detaching,
        effects: Effects,
        requests: Requests,
        journal: Journal,
        clock: Clock,
        host: HostPort,
    ) -> None:
        self._store = store
        self._sync = sync
        self._operations = operations
        self._attaching = attaching
        self._detaching = detaching
        self._effects = effects
        self._requests = requests
        self._journal = journal
        self._clock = clock
        self._purged = float("-inf")
        self._steadiness = Steadiness(clock)
        self._awaiting = Awaiting(store, sync, operations, effects.looking)
        self._following = Following(store, sync, operations, attaching)
        self._moving = Moving(store, sync, operations, effects.looking, effects.rewriting, host, clock)
        store.on_commit.append(lambda _: operations.ended.set())

    async def follow(self) -> None:
        """Recover as soon as libvirt was read, then compare whenever something changed."""
        await self._sync.synced.wait()
        self.recover_all()
        while True:
            self._operations.ended.clear()
            faults = 0
            for name in tuple(self._store.assignments):
                try:
                    await self._compare(name)
                    self._act(name)
                except Exception:
                    log.exception("an assignment could not be compared", assignment=name)
                    faults += 1
            if faults:  # what failed has ended, which alone would begin the next round at once
                await self._clock.sleep(FAULT_S)
            await self._operations.ended.wait()

    async def tend(self) -> None:
        """Now and then: try again what failed in the background, and forget what is old."""
        while True:
            try:
                await self._operations.save_again()
                await self._purge()
                if self._sync.connected:
                    self.recover_all()
                    self._moving.look_again()
            except HostdevError as error:
                log.warning("old records could not be removed; trying again", error=error.message)
            except Exception:
                log.exception("looking after the assignments failed once")
            await self._clock.sleep(TEND_S)

    async def compare_around(self, nodes: Iterable[NodeDevice], patience_s: float = PATIENCE_S) -> bool:
        """Compare the assignments of these devices and their groups now, before somebody plans with them.

        Whether that had to be waited for: what was read before is old then.
        """
        mates = {mate.name for node in nodes for mate in group_mates_of(self._store.graph, node)}
        uids = {self._store.identities.uid(name) for name in mates}
        waited = False
        for assignment in tuple(self._store.assignments.values()):
            if any(device.uid in uids for device in assignment.devices):
                waited |= await self.compare_named(assignment.name, patience_s)
        return waited

    async def compare_named(self, name: str, patience_s: float = PATIENCE_S) -> bool:
        """Compare one assignment now, or wait for a comparison that gives something back, for so long: did it?"""
        running = self._operations.get(name)
        waits = running is not None and running.intent.state is AssignmentState.ATTACHED
        if running is not None and waits:
            with suppress(TimeoutError):
                await asyncio.wait_for(running.ended.wait(), patience_s)
        await self._compare(name)
        return waits

    # --- after a crash -------------------------------------------------------------------------------

    def recover_all(self) -> None:
        """Take up every operation that the journal has as under way and nobody works on."""
        for assignment in tuple(self._store.assignments.values()):
            if assignment.state.in_flight and not self._operations.is_busy(assignment):
                try:
                    self._recover(assignment)
                except Exception:
                    log.exception("an assignment could not be taken up again", assignment=assignment.name)

    def _recover(self, assignment: Assignment) -> None:
        log.warning("finishing what was interrupted", assignment=assignment.name, state=str(assignment.state))
        operation = self._operations.begin(assignment, Plan())
        operation.durable.set()
        if assignment.state is AssignmentState.DETACHING:
            work = self._detaching.take_away(operation, assignment)
        else:
            device, text = assignment.devices[0].name, "hostdevd was stopped in the middle"
            why = StepFailedError(StepKind.VERIFY, device, text, unsure=True)
            record = self._requests.get(assignment.pending_request)
            work = self._attaching.undo(operation, assignment, assignment.before_extension(), record, why)
        self._operations.start(operation, work, "recover")

    # --- what others do ------------------------------------------------------------------------------

    async def _compare(self, name: str) -> None:
        """Bring an assignment's record in line with what its VM has; give back what was taken from it."""
        assignment = self._store.assignments.get(name)
        if (
            assignment is None
            or assignment.state is not AssignmentState.ATTACHED
            or not self._sync.connected
            or self._operations.is_busy(assignment)
        ):
            return
        domain = self._store.domains.get(assignment.vm.uuid)
        true = self._as_found(assignment, domain)
        if replace(true, vm=assignment.vm) != assignment:
            await self._correct(assignment, true)
        elif true != assignment:
            self._operations.publish(true)
            if true.vm.state.active != assignment.vm.state.active:
                # Whether it runs is how a restart knows that it was started meanwhile.
                await self._operations.save(true)

    def _act(self, name: str) -> None:
        """Begin what a comparison calls for. Not where a caller compares: what it is about to do goes first."""
        assignment = self._store.assignments.get(name)
        if assignment is not None and self._sync.connected:
            self._following.look(name)
            self._moving.look(assignment.vm.uuid)

    async def _correct(self, assignment: Assignment, true: Assignment) -> None:
        operation = self._operations.begin(assignment, Plan())
        operation.durable.set()
        try:
            if (true.live, true.config) != (assignment.live, assignment.config):
                true = replace(true, update_time=self._operations.now())
            if true.live and not assignment.live:
                true = replace(true, devices=tuple(self._started_with(assignment, device) for device in true.devices))
            if assignment.live and not true.live:
                true = true.without_condition(ConditionCode.DETACH_REJECTED)
                true = true.without_condition(ConditionCode.DRIVER_NOT_RESTORED)
                for condition in await self._effects.restoring.give_back(assignment):
                    true = true.with_condition(condition)
            if not (true.live or true.config or true.awaits):
                true = true.to(AssignmentState.DETACHED, self._operations.now())
            await self._operations.finish(operation, true, source=ChangeSource.RECONCILE)
        finally:
            self._operations.end(operation)

    def _started_with(self, assignment: Assignment, device: AssignedDevice) -> AssignedDevice:
        """A device that its VM was started with: libvirt took it from where it was, and gives it back there."""
        if assignment.has_condition(ConditionCode.DRIVER_NOT_RESTORED, device.name):
            return device  # where it was is where hostdevd had left it
        name = self._store.identities.name(device.uid)
        managed = any(
            holder.live and holder.managed and holder.vm.uuid == assignment.vm.uuid
            for holder in self._store.holders_of(name or device.name)
        )
        return replace(device, by_libvirt=managed)

    def _as_found(self, assignment: Assignment, domain: Domain | None) -> Assignment:
        vm = domain.vm if domain is not None else replace(assignment.vm, state=VmState.SHUT_OFF)
        without_live = self._without(assignment, domain.live if domain else None)
        without_config = self._without(assignment, domain.config if domain else None)
        devices = len(assignment.devices)
        # Kept by the service, or between two addresses: in no XML, and the VM's all the same.
        ours = {one.uid for one in assignment.devices if domain and (one.by_service or (one.moving and domain.config))}
        without_config = tuple(device for device in without_config if device.uid not in ours)
        live, config = len(without_live) < devices, len(without_config) < devices
        found_devices = self._awaiting.found(assignment, domain)
        if domain is None or domain.config is None:
            found_devices = tuple(replace(device, moving=None) for device in found_devices)
        here = replace(assignment, devices=found_devices, vm=vm)
        found = [
            *(self._split(assignment, device) for device in without_live if live),
            *(self._diverged(assignment, device) for device in without_config if config),
            *self._of_devices(here),
            *self._moving.conditions(here, domain),
        ]
        return replace(here, live=live, config=config, conditions=self._kept(assignment, found))

    def _of_devices(self, assignment: Assignment) -> Iterator[AssignmentCondition]:
        for device in assignment.devices:
            if self._store.identities.name(device.uid) is None:
                yield self._gone(device)
            elif device.awaited:
                condition = self._following.condition(assignment, device)
                if condition is not None:
                    yield condition

    def _kept(self, assignment: Assignment, found: Iterable[AssignmentCondition]) -> tuple[AssignmentCondition, ...]:
        """The conditions as they are now; one that was there before and says the same keeps its place and time."""
        now = {(one.code, one.device): one for one in found}
        kept = []
        for one in assignment.conditions:
            if one.code not in _KEPT_TRUE:
                kept.append(one)
            elif (one.code, one.device) in now:
                fresh = now[one.code, one.device]
                kept.append(one if (one.message, one.remedy) == (fresh.message, fresh.remedy) else fresh)
        known = {(one.code, one.device) for one in kept}
        return (*kept, *(one for key, one in now.items() if key not in known))

    def _without(self, assignment: Assignment, definition: DomainDef | None) -> tuple[AssignedDevice, ...]:
        """The devices that a definition does not have; a `missing` entry holds nothing."""
        entries = [entry for entry in self._effects.looking.entries(assignment, definition) if not entry.missing]
        if definition is None or not entries:
            return assignment.devices
        there = {entry.alias for entry in entries}
        named = {name for entry in entries for name in self._effects.looking.names(entry)}

        def is_there(device: AssignedDevice) -> bool:
            return device.alias in there or (self._store.identities.name(device.uid) or device.name) in named

        return tuple(device for device in assignment.devices if not is_there(device))

    def _split(self, assignment: Assignment, device: AssignedDevice) -> AssignmentCondition:
        return self._condition(
            ConditionCode.GROUP_SPLIT,
            device,
            f"{assignment.vm.name} does not have {device.name} any more, but others of its group",
            "detach the assignment to give the whole group back",
        )

    def _diverged(self, assignment: Assignment, device: AssignedDevice) -> AssignmentCondition:
        return self._condition(
            ConditionCode.CONFIG_DIVERGED,
            device,
            f"the configuration of {assignment.vm.name} does not have {device.name} any more, but others of its group",
            "detach the assignment, then attach the device again",
        )

    def _gone(self, device: AssignedDevice) -> AssignmentCondition:
        candidates = self._store.identities.candidates(device.uid)
        if candidates:
            text = f"{device.name} is AMBIGUOUS: it may be {' or '.join(candidates)}, or none of them"
            remedy = "detach the assignment, then attach the device that is meant by its name"
            return self._condition(ConditionCode.DEVICE_MISSING, device, text, remedy)
        other = self._store.devices.get(device.name)
        if other is not None:
            text = f"another device is at the place of {device.name} now"
            return self._condition(ConditionCode.DEVICE_CHANGED, device, text, "detach the assignment")
        text = f"{device.name} is not on the host any more"
        return self._condition(ConditionCode.DEVICE_MISSING, device, text, "plug it in again, or detach the assignment")

    def _condition(self, code: ConditionCode, device: AssignedDevice, text: str, remedy: str) -> AssignmentCondition:
        return AssignmentCondition(code, text, self._operations.now(), device.name, remedy)

    # --- what is old ---------------------------------------------------------------------------------

    async def _purge(self) -> None:
        now, monotonic, steady_s = self._clock.now(), self._clock.monotonic(), self._steadiness.for_s()
        if not self._journal.is_open or monotonic - self._purged < PURGE_S or steady_s < STEADY_S:
            return
        closed_before, used_before = now - KEEP_CLOSED_S, now - KEEP_REQUESTS_S
        names = await self._journal.purge(assignments_before=closed_before, requests_before=used_before)
        self._purged = monotonic
        with self._store.change(ChangeSource.RECONCILE):
            for name in names:
                self._store.remove_assignment(name)
        self._requests.purge(used_before, self._store.assignments)


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """End these tasks where they are."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
