"""Operations in flight: who works on which devices, and how the work's states are written and shown.

While an operation runs, its devices belong to it: nobody else begins on them or their groups, and their
holders are shown as before, so that watchers see one batch when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from hostdevd.core.assignments import Assignment
from hostdevd.core.audit import Ended, Entry
from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import device_in_work, in_progress
from hostdevd.core.graph import group_mates_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.journal import Journal, RequestRecord
from hostdevd.core.model import NodeDevice, PciFacts
from hostdevd.core.observing import NOBODY, Observer, Result
from hostdevd.core.plan import Plan
from hostdevd.core.ports import Clock
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.taking import Nudge

log = structlog.get_logger()


@dataclass(slots=True)
class Operation:
    """Work in flight on one assignment.

    `intent` is the record as the work began. `durable` is set when that is written, or never will be.
    `error` is for its callers, `fault` one of ours. What was read of its VM `since` that moment of the reads, with
    nothing told of it afterwards, is new enough; None: nothing is.
    """

    intent: Assignment
    plan: Plan
    since: int | None = None
    nudge: Nudge = field(default_factory=Nudge)
    durable: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    error: HostdevError | None = None
    fault: Exception | None = None

    @property
    def uids(self) -> frozenset[str]:
        """The devices that belong to it."""
        return frozenset(device.uid for device in self.intent.devices)

    @property
    def name(self) -> str:
        """Its assignment."""
        return self.intent.name


class Operations:
    """All operations of one host."""

    def __init__(self, store: Store, sync: Sync, journal: Journal, clock: Clock, observer: Observer = NOBODY) -> None:
        self._store = store
        self._sync = sync
        self._journal = journal
        self._clock = clock
        self._observer = observer
        self._running: dict[str, Operation] = {}
        self._busy: dict[str, Operation] = {}
        self._reserved: dict[str, str] = {}
        self._unwritten: dict[str, tuple[Assignment, RequestRecord | None, Ended | None]] = {}
        self.ended = asyncio.Event()
        """Set whenever an operation ends; whoever waits clears it."""

    def __contains__(self, assignment: object) -> bool:
        return assignment in self._running

    def __iter__(self) -> Iterator[Operation]:
        return iter(tuple(self._running.values()))

    def get(self, assignment: str) -> Operation | None:
        """The operation on an assignment."""
        return self._running.get(assignment)

    def check_free(self, nodes: Iterable[NodeDevice], own: Assignment | None = None) -> None:
        """`OPERATION_IN_PROGRESS` when one of these devices, a group mate or the assignment is worked on."""
        for node in nodes:
            for mate in group_mates_of(self._store.graph, node):
                operation = self._busy.get(self._store.identities.uid(mate.name))
                if operation is not None:
                    raise in_progress(operation.name, operation.intent.vm, mate.name)
                self._check_reserved(mate)
        operation = self._running.get(own.name) if own is not None else None
        if operation is not None:
            raise in_progress(operation.name, operation.intent.vm, operation.name)

    def _check_reserved(self, node: NodeDevice) -> None:
        # A virtual function goes with the work on its physical one.
        names = {node.name}
        if isinstance(node.facts, PciFacts) and node.facts.phys_function is not None:
            names.update(self._store.graph.at(node.facts.phys_function))
        for name in sorted(names):
            call = self._reserved.get(self._store.identities.uid(name))
            if call is not None:
                raise device_in_work(call, name)

    def reserve(self, device: str, call: str) -> Callable[[], None]:
        """Keep others from beginning on a device (uid) for a call that is no VM's; returns the way to give it free."""
        self._reserved[device] = call
        return lambda: self._reserved.__delitem__(device)

    def is_busy(self, assignment: Assignment) -> bool:
        """Whether an operation, this assignment's or another's, works on one of its devices."""
        return assignment.name in self._running or any(device.uid in self._busy for device in assignment.devices)

    def begin(self, assignment: Assignment, plan: Plan, since: int | None = None) -> Operation:
        """Take an assignment and its devices."""
        operation = Operation(assignment, plan, since)
        self._running[assignment.name] = operation
        for uid in operation.uids:
            self._busy[uid] = operation
        self._store.freeze(assignment.vm.uuid, operation.uids)
        return operation

    def start(self, operation: Operation, work: Coroutine[Any, Any, None], kind: str) -> None:
        """Run an operation's work (`attach`, ...) as a task of the service's, and end the operation with it."""
        operation.task = asyncio.create_task(self._until_end(operation, work, kind), name=f"{kind}-{operation.name}")

    async def _until_end(self, operation: Operation, work: Coroutine[Any, Any, None], kind: str) -> None:
        result = Result("INTERRUPTED")
        try:
            with self._observer.operation(kind, operation.intent, result):
                await self._carry_out(operation, work)
                result.outcome, result.reason = self._came_to(operation)
        finally:
            self.end(operation)

    @staticmethod
    async def _carry_out(operation: Operation, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as fault:
            # The record says what was under way; `Upkeep` takes it up again.
            log.exception("an operation failed in an unexpected way", assignment=operation.name)
            operation.fault = fault

    def _came_to(self, operation: Operation) -> tuple[str, str]:
        """The state in which an operation leaves its assignment, or why it never began, and its error's reason."""
        if operation.fault is not None:
            return "FAULT", "UNEXPECTED"
        reason = operation.error.reason if operation.error is not None else ""
        if operation.error is not None and not operation.durable.is_set():
            return "REFUSED", reason
        assignment = self._store.assignments.get(operation.name)
        return (str(assignment.state) if assignment is not None else "FORGOTTEN"), reason

    def show_holders(self, operation: Operation) -> None:
        """Show who holds its devices from now on; they stay its own."""
        with self._store.change(ChangeSource.OPERATION):
            self._store.thaw(operation.intent.vm.uuid, operation.uids)

    def end(self, operation: Operation) -> None:
        """Give the devices free."""
        if self._running.get(operation.name) is operation:
            del self._running[operation.name]
            for uid in operation.uids:
                if self._busy.get(uid) is operation:
                    del self._busy[uid]
            with self._store.change(ChangeSource.OPERATION):
                self._store.thaw(operation.intent.vm.uuid, operation.uids)
        operation.durable.set()
        operation.ended.set()
        self.ended.set()

    # --- the states of its assignment ----------------------------------------------------------------

    def now(self) -> datetime:
        """The time for records."""
        return datetime.fromtimestamp(self._clock.now(), UTC)

    async def intend(
        self, assignment: Assignment, record: RequestRecord | None = None, entry: Entry | None = None
    ) -> None:
        """Write what is about to be done, and who asked for it (no `entry`: the service itself).

        `STATE_STORE_UNAVAILABLE` when it cannot be written: then nothing is done.
        """
        asked = entry.asked if entry is not None and not entry.accepted else None
        await self._journal.save(assignment, request=record, accepted=asked)
        if entry is not None:
            entry.accepted = True

    def publish(self, assignment: Assignment) -> None:
        """Show a state."""
        with self._store.change(ChangeSource.OPERATION):
            self._store.put_assignment(assignment)

    async def save(
        self, assignment: Assignment, record: RequestRecord | None = None, ended: Ended | None = None
    ) -> None:
        """Write a state that is true already: when the disk refuses, `save_again` goes on trying."""
        if assignment.name in self._unwritten:
            _, unwritten, end = self._unwritten[assignment.name]
            record, ended = record or unwritten, ended or end
        try:
            await self._journal.save(assignment, request=record, ended=ended)
        except HostdevError as error:
            log.warning("a state could not be written", assignment=assignment.name, error=error.message)
            self._unwritten[assignment.name] = assignment, record, ended
        else:
            self._unwritten.pop(assignment.name, None)

    async def save_again(self) -> None:
        """Write what could not be written."""
        for name in tuple(self._unwritten):
            # While another one was written it may have got a newer state, or be forgotten.
            if name in self._unwritten and name not in self._running:
                await self.save(*self._unwritten[name])

    def forget(self, assignment: str) -> None:
        """Its record is gone: nothing is left to write."""
        self._unwritten.pop(assignment, None)

    async def finish(
        self,
        operation: Operation,
        assignment: Assignment,
        record: RequestRecord | None = None,
        source: ChangeSource = ChangeSource.OPERATION,
    ) -> None:
        """Write the end state, then show it together with the holders: one batch per operation."""
        await self.save(assignment, record, Ended.by(operation.error, self._clock.now()))
        # After a failure the last thing done may be one that nobody has looked at.
        await self._refresh_after(assignment, operation.since if operation.error is None else None)
        with self._store.change(source):
            self._store.put_assignment(assignment)
            self._store.thaw(operation.intent.vm.uuid, operation.uids)

    async def _refresh_after(self, assignment: Assignment, since: int | None) -> None:
        try:
            await self._sync.known_domain(assignment.vm.uuid, since, ChangeSource.OPERATION)
            if not assignment.live and any(self._store.is_on_vfio(device.uid) for device in assignment.devices):
                await self._sync.read_uses(ChangeSource.OPERATION)  # the guest had it open, who else has is to be seen
            else:
                self._sync.uses_changed()  # it takes until libvirt lists what came back: nobody has to wait for that
        except Exception as error:  # noqa: BLE001  a full read follows the reconnect; the record is safe
            log.warning("the host could not be read after an operation", error=str(error))
