"""Removing live entries that name nothing any more: the aliases are needed again.

The plug was pulled, so the guest has nothing to say; but libvirt and QEMU must forget the old place first.
Whoever calls has it in writing that the device is awaited: a crash in between loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from hostdevd.core.assignments import AssignedDevice, Assignment
from hostdevd.core.looking import Looking
from hostdevd.core.model import Domain, DomainEntry
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import HypervisorPort, NoSuchObject, Target
from hostdevd.core.steps import Delays, StepFailedError, Steps

_LOOKS = 4
"""So many times `poll_s` without an event, and it is not going to leave."""


class Clearing:
    """Clears one host's guests."""

    def __init__(self, hypervisor: HypervisorPort, looking: Looking, steps: Steps, delays: Delays) -> None:
        self._hypervisor = hypervisor
        self._looking = looking
        self._steps = steps
        self._delays = delays

    async def clear(self, assignment: Assignment, devices: Iterable[AssignedDevice]) -> None:
        """Remove the live entries of these devices, by alias; `StepFailedError` when one stays."""
        for device in devices:
            async with self._steps.vm_lock(assignment.vm.uuid):
                await self._clear(assignment, device)

    async def _clear(self, assignment: Assignment, device: AssignedDevice) -> None:
        with self._looking.events(assignment.vm.uuid) as events:
            entry = self._entry(await self._looking.domain(assignment.vm.uuid), device)
            if entry is None:
                return
            async with self._steps.giving(assignment, StepKind.DROP_STALE, device.name):
                with suppress(NoSuchObject):  # QEMU dropped it by itself; libvirt may still be at it
                    await self._hypervisor.detach(assignment.vm.uuid, entry, Target.LIVE)
                looks = 0
                while looks < _LOOKS:
                    if self._entry(await self._looking.domain(assignment.vm.uuid), device) is None:
                        return
                    try:
                        await asyncio.wait_for(events.get(), self._delays.poll_s)
                    except TimeoutError:
                        looks += 1
                why = f"the entry of where it was before ({entry.source}) does not leave the guest"
                raise StepFailedError(StepKind.DROP_STALE, device.name, why)

    @staticmethod
    def _entry(domain: Domain | None, device: AssignedDevice) -> DomainEntry | None:
        entries = domain.live.entries if domain is not None and domain.live is not None else ()
        return next((entry for entry in entries if entry.alias == device.alias), None)
