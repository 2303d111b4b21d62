"""Steps of operations: what they may wait for, how they fail, and their lines in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import structlog

from hostdevd.core.assignments import Assignment
from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal
from hostdevd.core.observing import NOBODY, Observer
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import Clock, HypervisorError, HypervisorGone

log = structlog.get_logger()


class StepFailedError(Exception):
    """A step of an attach failed: which one, on what, and why (libvirt's number where it is libvirt's).

    `unsure`: libvirt may still be at it, what it does may come true after the failure was seen.
    """

    def __init__(self, kind: StepKind, device: str, why: str, code: int | None = None, *, unsure: bool = False) -> None:
        super().__init__(f"{kind} of {device}: {why}")
        self.kind = kind
        self.device = device
        self.why = why
        self.code = code
        self.unsure = unsure


@dataclass(frozen=True, slots=True)
class Delays:
    """How long the steps wait, in seconds.

    `settle_s`: after a live attach, for a guest that throws the device out again. `poll_s`: between looks
    at a domain while its guest is asked to let go. `driver_s`: for the kernel to bind a driver again.
    """

    settle_s: float = 1.0
    poll_s: float = 5.0
    driver_s: float = 5.0


class Steps:
    """Writes steps to the journal around what they do; one step at a time per VM."""

    def __init__(self, journal: Journal, clock: Clock, observer: Observer = NOBODY) -> None:
        self._journal = journal
        self._clock = clock
        self._observer = observer
        self._vm_locks: dict[str, asyncio.Lock] = {}

    def vm_lock(self, uuid: str) -> asyncio.Lock:
        """Held while a VM is changed."""
        return self._vm_locks.setdefault(uuid, asyncio.Lock())

    @asynccontextmanager
    async def giving(self, assignment: Assignment, kind: StepKind, device: str) -> AsyncIterator[None]:
        """A step that must be in the journal before it touches anything; its failure is told as such."""
        try:
            step = await self._journal.begin_step(assignment.name, kind, device, self._clock.now())
        except HostdevError as error:
            raise StepFailedError(kind, device, error.message) from error
        try:
            with self._observer.phase(kind, assignment, device):
                yield
        except HypervisorError as error:
            await self._end(step, f"failed: {error.text}")
            unsure = isinstance(error, HypervisorGone)
            raise StepFailedError(kind, device, error.text, error.code, unsure=unsure) from error
        except StepFailedError as error:
            await self._end(step, f"failed: {error.why}")
            raise
        await self._end(step, "done")

    @asynccontextmanager
    async def taking(self, assignment: Assignment, kind: StepKind, device: str) -> AsyncIterator[None]:
        """A step that is done even when it cannot be written: it only takes away what must go anyway."""
        step = 0
        try:
            step = await self._journal.begin_step(assignment.name, kind, device, self._clock.now())
        except HostdevError as error:
            log.warning("a step is not in the journal", step=kind, device=device, error=error.message)
        outcome = "done"
        try:
            with self._observer.phase(kind, assignment, device):
                yield
        except HypervisorError as error:
            outcome = f"failed: {error.text}"
            raise
        except HostdevError as error:
            outcome = f"failed: {error.message}"
            raise
        finally:
            # Who is cancelled here ends as a crash would: with the step open.
            task = asyncio.current_task()
            if step and not (task is not None and task.cancelling()):
                await self._end(step, outcome)

    def waiting(self, assignment: Assignment, phase: str) -> AbstractContextManager[object]:
        """A phase that touches nothing: it is observed, and in no journal."""
        return self._observer.phase(phase, assignment, "")

    async def unplugs(self, assignment: Assignment) -> Mapping[str, float]:
        """When an earlier life of the service sent the unplug requests of the operation in flight, by device."""
        # A record's time tells here when it got its state, but not to the last digit.
        since = assignment.update_time.timestamp() - 0.001
        try:
            return await self._journal.unplugs(assignment.name, since)
        except HostdevError as error:
            log.warning("earlier steps cannot be read", assignment=assignment.name, error=error.message)
            return {}

    async def _end(self, step: int, outcome: str) -> None:
        try:
            await self._journal.end_step(step, self._clock.now(), outcome)
        except HostdevError as error:
            log.warning("a step's end is not in the journal", error=error.message)
