"""Taking devices from a VM: ask its guest and wait, and clean its configuration.

All of it looks at what is really there, so that it can be run again after any interruption.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

import structlog

from hostdevd.core.assignments import AssignedDevice, Assignment
from hostdevd.core.holders import entry_of
from hostdevd.core.looking import Looking
from hostdevd.core.model import DomainEntry, HolderRole
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import (
    Clock,
    Connected,
    DeviceRemovalFailed,
    DomainRebooted,
    Event,
    HypervisorBusy,
    HypervisorError,
    HypervisorGone,
    HypervisorPort,
    NoSuchObject,
    Target,
)
from hostdevd.core.steps import Delays, Steps

log = structlog.get_logger()

RESEND_AFTER_S = 30.0
"""An unplug request without an answer is sent again only after this long, and only when asked again."""

_CONFIG_TRIES = 3


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


@dataclass(slots=True)
class _Asked:
    """The unplug requests of one operation, by alias: when each was sent, by the clock that does not jump.

    `unsure`: whether it arrived, or was answered meanwhile, is not known (libvirt was away, or hostdevd
    was); such a one is sent again by itself when there was no answer for long enough. A second request too
    early would abort the first.
    """

    times: dict[str, float] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)

    def due(self, alias: str, now: float, *, again: bool) -> bool:
        """Whether to send one now."""
        sent = self.times.get(alias)
        return sent is None or ((again or alias in self.unsure) and now - sent >= RESEND_AFTER_S)

    def sent(self, alias: str, now: float) -> None:
        """A request goes out."""
        self.times[alias] = now
        self.unsure.discard(alias)

    def not_sent(self, alias: str) -> None:
        """It did not."""
        del self.times[alias]

    def forget(self) -> None:
        """The guest that was asked is gone."""
        self.times.clear()
        self.unsure.clear()


class Taking:
    """Asks guests to let go."""

    def __init__(
        self,
        hypervisor: HypervisorPort,
        looking: Looking,
        steps: Steps,
        clock: Clock,
        delays: Delays,
    ) -> None:
        self._hypervisor = hypervisor
        self._looking = looking
        self._steps = steps
        self._clock = clock
        self._delays = delays

    async def let_go(
        self, assignment: Assignment, nudge: Nudge, only: frozenset[str] | None = None, since: int | None = None
    ) -> Refusal | None:
        """Have the guest let go of everything of an assignment; returns when it has, or refused.

        With `only`, of the entries with these aliases. Shown devices first, all at once, then the reserved
        ones: the group must stay viable to the last. Waits for ever: for the guest's answer, its stop, or
        libvirt to come back. What was read `since` (`Sync.known_domain`) is new enough to begin with.
        """
        asked = _Asked()
        for device, sent in (await self._steps.unplugs(assignment)).items():
            # By the wall clock, for another life may have sent it; one from the future was just sent.
            ago = max(self._clock.now() - sent, 0.0)
            for alias in (one.alias for one in assignment.devices if one.name == device):
                asked.times[alias] = self._clock.monotonic() - ago
                asked.unsure.add(alias)
        for role in (HolderRole.VISIBLE, HolderRole.RESERVED):
            refusal = await self._let_go_of(assignment, role, nudge, asked, only, since)
            if refusal is not None:
                return refusal
        return None

    async def _let_go_of(  # noqa: PLR0913, PLR0917  each once
        self,
        assignment: Assignment,
        role: HolderRole,
        nudge: Nudge,
        asked: _Asked,
        only: frozenset[str] | None,
        since: int | None,
    ) -> Refusal | None:
        with self._looking.events(assignment.vm.uuid) as events, ExitStack() as waiting:
            is_waiting = False
            while True:
                domain, since = await self._looking.domain(assignment.vm.uuid, since), None
                left = {
                    entry.alias: entry
                    for entry in self._looking.entries(assignment, domain.live if domain else None, only)
                    if entry.role is role and entry.alias is not None and not entry.missing
                }
                if not left:
                    return None
                if not is_waiting:
                    is_waiting = True
                    waiting.enter_context(self._steps.waiting(assignment, "GUEST_RELEASE"))
                refusal = await self._ask(assignment, left, asked, nudge)
                if refusal is None:
                    refusal = await self._answer(assignment, left, asked, events, nudge)
                if refusal is not None:
                    return refusal

    async def _ask(
        self, assignment: Assignment, left: dict[str, DomainEntry], asked: _Asked, nudge: Nudge
    ) -> Refusal | None:
        """Send one unplug request per device that has none pending."""
        again, nudge.again = nudge.again, False
        for alias, entry in left.items():
            now = self._clock.monotonic()
            if not asked.due(alias, now, again=again):
                continue
            asked.sent(alias, now)
            device = self._looking.device_name(assignment, entry)
            try:
                await self._detach(assignment, entry, Target.LIVE, StepKind.DETACH_LIVE, device)
            except NoSuchObject:
                continue  # gone already: the next look tells
            except HypervisorGone:
                asked.unsure.add(alias)
            except HypervisorBusy:
                asked.not_sent(alias)
            except HypervisorError as error:
                if "unplug" in error.text and "process" in error.text:
                    continue  # QEMU has a request pending that another tool sent
                if await self._has_left(assignment, alias):
                    continue  # the guest ended before it was asked
                return Refusal(device, f"libvirt could not unplug {device}: {error.text} (libvirt {error.code})")
        return None

    async def _has_left(self, assignment: Assignment, alias: str) -> bool:
        domain = await self._looking.domain(assignment.vm.uuid)
        return domain is None or domain.live is None or all(one.alias != alias for one in domain.live.entries)

    async def _detach(
        self, assignment: Assignment, entry: DomainEntry, target: Target, kind: StepKind, device: str
    ) -> None:
        async with self._steps.vm_lock(assignment.vm.uuid), self._steps.taking(assignment, kind, device):
            await self._hypervisor.detach(assignment.vm.uuid, entry, target)

    async def _answer(
        self,
        assignment: Assignment,
        left: dict[str, DomainEntry],
        asked: _Asked,
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
            asked.forget()
        if isinstance(event, Connected):
            asked.unsure.update(asked.times)  # an answer may have come while nobody could hear it
        return None

    async def make_sure(self, assignment: Assignment, devices: tuple[AssignedDevice, ...], target: Target) -> None:
        """Have libvirt itself say that a definition has none of these devices, or ask it to take them away.

        After an attach of which the outcome is not known, not to find a device is no proof: it may be on
        its way. A detach waits in libvirt for the attach to end, so its answer is one.
        """
        kind = StepKind.DETACH_LIVE if target is Target.LIVE else StepKind.DETACH_CONFIG
        for device in devices:
            tries = 0
            while tries < _CONFIG_TRIES:
                domain = await self._looking.domain(assignment.vm.uuid)
                definition = (domain.live if target is Target.LIVE else domain.config) if domain else None
                if definition is None or self._looking.entries(assignment, definition, frozenset({device.alias})):
                    break  # no guest to get it, or it has come: it is taken as what was found always was
                try:
                    await self._detach(assignment, entry_of(device), target, kind, device.name)
                except NoSuchObject:
                    break
                except (HypervisorGone, HypervisorBusy):
                    await self._looking.back()
                except HypervisorError as error:
                    tries += 1
                    log.warning("libvirt does not say whether a device came", device=device.name, error=str(error))
                    await self._clock.sleep(0.1)
                else:
                    break

    async def drop_config(self, assignment: Assignment, only: frozenset[str] | None = None) -> Refusal | None:
        """Remove everything of an assignment, or the entries with these aliases, from the VM's configuration.

        Waits while libvirt is away or busy; an entry that it will not remove is told.
        """
        tries: Counter[DomainEntry] = Counter()
        while True:
            domain = await self._looking.domain(assignment.vm.uuid)
            left = self._looking.entries(assignment, domain.config if domain else None, only)
            if not left:
                return None
            for entry in left:
                device = self._looking.device_name(assignment, entry)
                try:
                    await self._detach(assignment, entry, Target.CONFIG, StepKind.DETACH_CONFIG, device)
                except (HypervisorGone, HypervisorBusy):
                    await self._looking.back()
                except HypervisorError as error:
                    tries[entry] += 1
                    if tries[entry] == _CONFIG_TRIES:
                        text = f"libvirt could not remove {device} from the configuration of {assignment.vm.name}"
                        return Refusal(device, f"{text}: {error.text} (libvirt {error.code})")
                    await self._clock.sleep(0.1)
