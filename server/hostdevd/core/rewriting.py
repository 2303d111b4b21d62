"""Bringing entries of a VM's configuration to other addresses, under the same aliases and guest addresses.

Looks at what is there before each round, so that it can be run again after any interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.assignments import AssignedDevice, Assignment, FormerPlace
from hostdevd.core.looking import Looking
from hostdevd.core.model import DomainEntry, HolderRole
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import (
    HostdevSpec,
    HypervisorBusy,
    HypervisorGone,
    HypervisorPort,
    NoSuchObject,
    Target,
)
from hostdevd.core.steps import StepFailedError, Steps

_ROUNDS = 5
"""One does it, unless libvirt went away in the middle or another tool changes the same VM."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One entry: of which device, what it was, and where and how the device is called now."""

    device: AssignedDevice
    former: FormerPlace
    source: PciAddress | ScsiAddress
    name: str

    def spec(self) -> HostdevSpec:
        """The entry at the new place."""
        return self._at(self.source)

    def former_spec(self) -> HostdevSpec:
        """The entry as it was."""
        parse = PciAddress.parse if isinstance(self.source, PciAddress) else ScsiAddress.parse
        return self._at(parse(self.former.source))

    def _at(self, source: PciAddress | ScsiAddress) -> HostdevSpec:
        guest = self.former.guest_address
        if isinstance(source, ScsiAddress):
            controller, bus, target, unit = map(int, guest.split(":"))
            return HostdevSpec(self.device.alias, source, drive=(controller, bus, target, unit))
        return HostdevSpec(
            self.device.alias,
            source,
            managed=self.former.managed,
            unassigned=self.device.role is HolderRole.RESERVED,
            guest=PciAddress.parse(guest) if guest and self.device.role is HolderRole.VISIBLE else None,
        )


Wanted = Sequence[tuple[Rewrite, HostdevSpec]]


class Rewriting:
    """Changes configurations of one host's VMs."""

    def __init__(self, hypervisor: HypervisorPort, looking: Looking, steps: Steps) -> None:
        self._hypervisor = hypervisor
        self._looking = looking
        self._steps = steps

    async def bring(self, vm: str, assignment: Assignment, wanted: Wanted) -> None:
        """Make the configuration have these entries; waits while libvirt is away or busy.

        `StepFailedError` when libvirt refuses, with the rest left as it is. Steps are written under `assignment`.
        """
        for _ in range(_ROUNDS):
            try:
                async with self._steps.vm_lock(vm):
                    if await self._round(vm, assignment, wanted):
                        return
            except StepFailedError as failed:
                if not isinstance(failed.__cause__, HypervisorGone | HypervisorBusy):
                    raise
                await self._looking.back()
        device = wanted[0][0].device.name
        raise StepFailedError(StepKind.ATTACH_CONFIG, device, "the configuration does not come out as it should")

    async def _round(self, vm: str, assignment: Assignment, wanted: Wanted) -> bool:
        entries = await self._entries(vm)
        if entries is None or _is_so(entries, wanted):
            return True
        # First all away: two devices may have changed places.
        for rewrite, spec in wanted:
            entry = entries.get(spec.alias)
            if entry is not None and entry.source != spec.source:
                async with self._steps.giving(assignment, StepKind.DETACH_CONFIG, rewrite.device.name):
                    try:
                        await self._hypervisor.detach(vm, entry, Target.CONFIG)
                    except NoSuchObject:
                        continue
        for rewrite, spec in wanted:
            entry = entries.get(spec.alias)
            if entry is None or entry.source != spec.source:
                async with self._steps.giving(assignment, StepKind.ATTACH_CONFIG, rewrite.name):
                    await self._hypervisor.attach(vm, spec, Target.CONFIG)
        entries = await self._entries(vm)
        return entries is None or _is_so(entries, wanted)

    async def _entries(self, vm: str) -> dict[str | None, DomainEntry] | None:
        """The configuration's entries by alias; None when the VM has no configuration any more."""
        domain = await self._looking.domain(vm)
        if domain is None or domain.config is None:
            return None
        return {entry.alias: entry for entry in domain.config.entries}


def _is_so(entries: dict[str | None, DomainEntry], wanted: Wanted) -> bool:
    found = (entries.get(spec.alias) for _, spec in wanted)
    return all(
        entry is not None and entry.source == spec.source for entry, (_, spec) in zip(found, wanted, strict=True)
    )
