"""Taking devices from a VM: ask its guest and wait, and clean its configuration.

All of it looks at what is really there, so that it can be run again after any interruption.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hostdevd.core.assignments import Assignment
from hostdevd.core.looking import Looking
from hostdevd.core.model import DomainEntry, HolderRole
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import (
    Clock,
    DeviceRemovalFailed,
    DomainRebooted,
    Event,
    HypervisorError,
    HypervisorGone,
    HypervisorPort,
    NoSuchObject,
    Target,
)
from hostdevd.core.steps import Delays, Steps

RESEND_AFTER_S = 30.0
"""An unplug request without an answer is sent again only after this long, and only when asked again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device did not leave a guest."""

    device: str
    message: str


@dataclass(slots=True)
class Nudge:
    """Tells a running detach that its caller asked again."""

    again: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self) -> None:
        """Ask again."""
        self.again = True
        self.wake.set()


class Taking:
    """Asks guests to let go."""

    def __init__(
        self, hypervisor: HypervisorPort, looking: Looking, steps: Steps, clock: Clock, delays: Delays
    ) -> None:
        self._hypervisor = hypervisor
        self._looking = looking
        self._steps = steps
        self._clock = clock
        self._delays = delays

    async def let_go(self, assignment: Assignment, nudge: Nudge) -> Refusal | None:
        """Have the guest let go of everything of an assignment; returns when it has, or refused.

        Shown devices first, all at once, then the reserved ones: the group must stay viable to the last.
        Waits for ever: for the guest's answer, its stop, or libvirt to come back.
        """
        for role in (HolderRole.VISIBLE, HolderRole.RESERVED):
            refusal = await self._let_go_of(assignment, role, nudge)
            if refusal is not None:
                return refusal
        return None

    async def _let_go_of(self, assignment: Assignment, role: HolderRole, nudge: Nudge) -> Refusal | None:
        asked: dict[str, float] = {}
        uuid = assignment.vm.uuid
        with self._looking.events(uuid) as events:
            while True:
                domain = await self._looking.domain(uuid)
                left = {
                    entry.alias: entry
                    for entry in self._looking.entries(assignment, domain.live if domain else None)
                    if entry.role is role and entry.alias is not None
                }
                if not left:
                    return None
                refusal = await self._ask(assignment, left, asked, nudge)
                if refusal is None:
                    refusal = await self._answer(assignment, left, asked, events, nudge)
                if refusal is not None:
                    return refusal

    async def _ask(
        self, assignment: Assignment, left: dict[str, DomainEntry], asked: dict[str, float], nudge: Nudge
    ) -> Refusal | None:
        """Send one unplug request per device that has none pending."""
        now = self._clock.now()
        again, nudge.again = nudge.again, False
        for alias, entry in left.items():
            pending_since = asked.get(alias)
            if pending_since is not None and not (again and now - pending_since >= RESEND_AFTER_S):
                continue
            asked[alias] = now
            device = self._looking.device_name(assignment, entry)
            async with (
                self._steps.vm_lock(assignment.vm.uuid),
                self._steps.taking(assignment, StepKind.DETACH_LIVE, device),
            ):
                try:
                    await self._hypervisor.detach(assignment.vm.uuid, entry, Target.LIVE)
                except (NoSuchObject, HypervisorGone):
                    continue  # gone already, or not known: the next look tells
                except HypervisorError as error:
                    if "unplug" in error.text and "process" in error.text:
                        continue  # QEMU has a request pending that another tool sent
                    return Refusal(device, f"libvirt could not unplug {device}: {error.text} (libvirt {error.code})")
        return None

    async def _answer(
        self,
        assignment: Assignment,
        left: dict[str, DomainEntry],
        asked: dict[str, float],
        events: asyncio.Queue[Event],
        nudge: Nudge,
    ) -> Refusal | None:
        """Wait until something happened that makes it worth looking at the domain again."""
        got = asyncio.create_task(events.get())
        woken = asyncio.create_task(nudge.wake.wait())
        try:
            await asyncio.wait({got, woken}, timeout=self._delays.poll_s, return_when=asyncio.FIRST_COMPLETED)
            nudge.wake.clear()
            if not got.done():
                return None
            event = got.result()
        finally:
            got.cancel()
            woken.cancel()
        if isinstance(event, DeviceRemovalFailed) and event.alias in left:
            device = self._looking.device_name(assignment, left[event.alias])
            return Refusal(device, f"the guest refused to let go of {device}")
        if isinstance(event, DomainRebooted):
            asked.clear()  # the guest that was asked is gone
        return None

    async def drop_config(self, assignment: Assignment) -> None:
        """Remove everything of an assignment from the VM's configuration."""
        while True:
            domain = await self._looking.domain(assignment.vm.uuid)
            left = self._looking.entries(assignment, domain.config if domain else None)
            if not left:
                return
            for entry in left:
                device = self._looking.device_name(assignment, entry)
                async with (
                    self._steps.vm_lock(assignment.vm.uuid),
                    self._steps.taking(assignment, StepKind.DETACH_CONFIG, device),
                ):
                    try:
                        await self._hypervisor.detach(assignment.vm.uuid, entry, Target.CONFIG)
                    except (NoSuchObject, HypervisorGone):
                        continue
