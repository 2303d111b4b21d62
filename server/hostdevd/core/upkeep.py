"""Keeping assignments true: finishing what a crash left open, following what others do to assigned devices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import structlog

from hostdevd.core.assignments import Assignment, AssignmentCondition, AssignmentState
from hostdevd.core.attaching import Attaching
from hostdevd.core.detaching import Detaching
from hostdevd.core.effects import Effects
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import ConditionCode, DomainEntry, VmState
from hostdevd.core.operations import Operations
from hostdevd.core.plan import Plan, StepKind
from hostdevd.core.requests import Requests
from hostdevd.core.steps import StepFailedError
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()


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
    ) -> None:
        self._store = store
        self._sync = sync
        self._operations = operations
        self._attaching = attaching
        self._detaching = detaching
        self._effects = effects
        self._requests = requests
        store.on_commit.append(lambda _: operations.ended.set())

    async def run(self) -> None:
        """Recover as soon as libvirt was read, then compare whenever something changed."""
        await self._sync.synced.wait()
        for assignment in tuple(self._store.assignments.values()):
            if assignment.state.in_flight:
                self._recover(assignment)
        while True:
            self._operations.ended.clear()
            if self._sync.connected:
                for assignment in tuple(self._store.assignments.values()):
                    if assignment.state is AssignmentState.ATTACHED and assignment.name not in self._operations:
                        await self._compare(assignment)
            await self._operations.ended.wait()

    def _recover(self, assignment: Assignment) -> None:
        log.warning("finishing what was interrupted", assignment=assignment.name, state=str(assignment.state))
        operation = self._operations.begin(assignment, Plan())
        operation.durable.set()
        if assignment.state is AssignmentState.DETACHING:
            work = self._detaching.take_away(operation, assignment)
        else:
            why = StepFailedError(StepKind.VERIFY, assignment.devices[0].name, "hostdevd was stopped in the middle")
            record = self._requests.of_assignment(assignment.name)
            before = None
            if assignment.live or assignment.config:
                before = replace(assignment, state=AssignmentState.ATTACHED, pending_live=False, pending_config=False)
            work = self._attaching.undo(operation, assignment, before, record if before is None else None, why)
        self._operations.start(operation, work, f"recover-{assignment.name}")

    async def _compare(self, assignment: Assignment) -> None:
        """Bring an assignment's record in line with what its VM has; give back what was taken from it."""
        domain = self._store.domains.get(assignment.vm.uuid)
        live_entries = self._effects.looking.entries(assignment, domain.live if domain else None)
        config_entries = self._effects.looking.entries(assignment, domain.config if domain else None)
        by_service = any(one.code is ConditionCode.CONFIG_BY_SERVICE for one in assignment.conditions)
        live, config = bool(live_entries), bool(config_entries) or (by_service and domain is not None)
        vm = domain.vm if domain is not None else replace(assignment.vm, state=VmState.SHUT_OFF)
        split = live and len(live_entries) < len(assignment.devices)
        known_split = any(one.code is ConditionCode.GROUP_SPLIT for one in assignment.conditions)
        if (live, config) == (assignment.live, assignment.config) and split == known_split:
            if vm != assignment.vm:
                self._operations.publish(replace(assignment, vm=vm))
            return
        operation = self._operations.begin(assignment, Plan())
        operation.durable.set()
        try:
            now = self._operations.now()
            true = replace(assignment, live=live, config=config, vm=vm)
            if (live, config) != (assignment.live, assignment.config):
                true = replace(true, update_time=now)
            true = self._mark_split(true, live_entries) if split else true.without_condition(ConditionCode.GROUP_SPLIT)
            if assignment.live and not live:
                for condition in await self._effects.restoring.give_back(assignment):
                    true = true.with_condition(condition)
            if not live and not config:
                true = true.to(AssignmentState.DETACHED, now)
            await self._operations.finish(operation, true, source=ChangeSource.RECONCILE)
        finally:
            self._operations.end(operation)

    def _mark_split(self, assignment: Assignment, entries: Iterable[DomainEntry]) -> Assignment:
        there = {entry.alias for entry in entries}
        for device in assignment.devices:
            if device.alias not in there:
                assignment = assignment.with_condition(
                    AssignmentCondition(
                        ConditionCode.GROUP_SPLIT,
                        f"{device.name} was taken from {assignment.vm.name} by another tool, its group was not",
                        self._operations.now(),
                        device.name,
                        "detach the assignment to give the whole group back",
                    )
                )
        return assignment


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """End these tasks where they are."""
    tasks = tuple(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
