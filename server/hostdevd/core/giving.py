"""Giving devices to a VM: configuration, drivers, guest, and a look whether it is all true.

Stops at the first failure and leaves the undoing to `taking` and `restoring`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from hostdevd.core.addresses import UsbProduct
from hostdevd.core.assignments import AssignedDevice, Assignment
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.drives import free_drive, same_drive
from hostdevd.core.graph import source_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.looking import Looking
from hostdevd.core.model import Domain, DomainDef, HolderRole, PciFacts, ScsiFacts, UsbFacts
from hostdevd.core.plan import AttachPlan, PlannedDevice, StepKind, live_order
from hostdevd.core.ports import (
    DeviceRemoved,
    DomainStopped,
    Event,
    HostdevSpec,
    HostPort,
    HypervisorError,
    HypervisorPort,
    Target,
)
from hostdevd.core.steps import Delays, StepFailedError, Steps
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

Given = Mapping[str, AssignedDevice]
"""The devices of the assignment's record by uid."""


class Giving:
    """Carries out plans."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        hypervisor: HypervisorPort,
        host: HostPort,
        looking: Looking,
        steps: Steps,
        delays: Delays,
    ) -> None:
        self._store = store
        self._sync = sync
        self._hypervisor = hypervisor
        self._host = host
        self._looking = looking
        self._steps = steps
        self._delays = delays

    async def take(self, assignment: Assignment, plan: AttachPlan) -> None:
        """Carry out a plan; `StepFailedError` at the first step that fails, with nothing undone."""
        given = {device.uid: device for device in assignment.devices}
        async with self._steps.vm_lock(assignment.vm.uuid):
            for device in plan.devices:
                if device.config and not device.config_by_service:
                    await self._attach(assignment, given[device.uid], device, Target.CONFIG)
            if plan.live:
                with self._looking.events(assignment.vm.uuid) as events:
                    await self._take_live(assignment, plan, given)
                    with self._steps.waiting(assignment, "SETTLE"):
                        await self._settle(assignment, events)
            with self._steps.waiting(assignment, StepKind.VERIFY):
                if plan.live:
                    await self._verify_live(assignment, plan, given)
                await self._verify_config(assignment, plan, given)

    async def _take_live(self, assignment: Assignment, plan: AttachPlan, given: Given) -> None:
        for device in plan.devices:
            if device.live and isinstance(device.node.facts, PciFacts) and given[device.uid].ours:
                await self._unbind(assignment, device)
        for device in live_order(plan.devices):
            await self._attach(assignment, given[device.uid], device, Target.LIVE)

    async def _unbind(self, assignment: Assignment, device: PlannedDevice) -> None:
        name = device.node.name
        async with self._steps.giving(assignment, StepKind.HOST_DETACH, name):
            await self._last_look(device, StepKind.HOST_DETACH)
            await self._hypervisor.nodedev_detach(name)

    async def _last_look(self, device: PlannedDevice, kind: StepKind) -> None:
        """The last look before the host loses the device: somebody may have mounted it since the plan."""
        name = device.node.name
        await self._sync.read_networks(ChangeSource.OPERATION)
        await self._sync.check_uses(ChangeSource.OPERATION, [name])
        self._store.catch_up(name)
        view = self._store.devices.get(name)
        if view is None:
            raise StepFailedError(kind, name, "it is gone from the host")
        if view.uid != device.uid:
            raise StepFailedError(kind, name, "another device is at its place now")
        if source_of(view.node) != source_of(device.node):
            raise StepFailedError(kind, name, "it was plugged in again meanwhile")
        against = [reason for reason in view.eligibility.reasons if reason.code.startswith("HOST_")]
        if against:
            raise StepFailedError(kind, name, against[0].message)

    async def _attach(
        self, assignment: Assignment, assigned: AssignedDevice, device: PlannedDevice, target: Target
    ) -> None:
        kind = StepKind.ATTACH_LIVE if target is Target.LIVE else StepKind.ATTACH_CONFIG
        async with self._steps.giving(assignment, kind, device.node.name):
            spec = await self._spec(assignment, assigned, device, target)
            unbound = isinstance(device.node.facts, PciFacts) and assigned.ours
            if target is Target.LIVE and not unbound:
                await self._last_look(device, kind)
            await self._hypervisor.attach(assignment.vm.uuid, spec, target)

    async def _spec(
        self, assignment: Assignment, assigned: AssignedDevice, device: PlannedDevice, target: Target
    ) -> HostdevSpec:
        facts = device.node.facts
        source = source_of(device.node)
        if source is None:
            raise HypervisorError(0, f"{device.node.name} has no address")
        config = target is Target.CONFIG
        if isinstance(facts, PciFacts):
            # Libvirt gives a managed device back by itself, also when hostdevd is away; it must not where
            # the group has others, for it never looks at the group (rules.md, Attach 4).
            alone = sum(one.type == "pci" for one in assignment.devices) == 1
            reserved = device.role is HolderRole.RESERVED
            return HostdevSpec(assigned.alias, source, managed=config or alone, unassigned=reserved)
        if isinstance(facts, UsbFacts) and config:
            return HostdevSpec(assigned.alias, UsbProduct(facts.vendor_id, facts.product_id), optional=True)
        if isinstance(facts, ScsiFacts):
            domain = await self._sync.read_domain(assignment.vm.uuid, ChangeSource.EVENT)
            drive = same_drive(domain, assigned.alias) or free_drive(domain)
            if drive is None:  # without one libvirt would add a controller in silence
                raise HypervisorError(0, "no virtio-scsi controller of the VM has a free unit")
            return HostdevSpec(assigned.alias, source, drive=drive)
        return HostdevSpec(assigned.alias, source)

    async def _verify_live(self, assignment: Assignment, plan: AttachPlan, given: Given) -> None:
        wanted = [device for device in plan.devices if device.live]
        domain = await self._read_back(assignment, wanted[0])
        there = _aliases(domain.live if domain else None)
        for device in wanted:
            if given[device.uid].alias not in there:
                raise StepFailedError(StepKind.VERIFY, device.node.name, "the VM does not have it")
            if isinstance(device.node.facts, PciFacts):
                driver = self._host.driver(device.node.facts.address).driver
                if not is_vfio_driver(driver):
                    why = f"it is bound to {driver or 'no driver'}, not to vfio-pci"
                    raise StepFailedError(StepKind.VERIFY, device.node.name, why)

    async def _settle(self, assignment: Assignment, events: asyncio.Queue[Event]) -> None:
        """Wait out the second in which a guest that cannot use a device throws it out."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._delays.settle_s
        while (left := until - loop.time()) > 0:
            try:
                event = await asyncio.wait_for(events.get(), left)
            except TimeoutError:
                return
            if isinstance(event, DomainStopped) or (
                isinstance(event, DeviceRemoved) and event.alias in assignment.aliases
            ):
                return

    async def _verify_config(self, assignment: Assignment, plan: AttachPlan, given: Given) -> None:
        wanted = [device for device in plan.devices if device.config and not device.config_by_service]
        if not wanted:
            return
        domain = await self._read_back(assignment, wanted[0])
        there = _aliases(domain.config if domain else None)
        for device in wanted:
            if given[device.uid].alias not in there:
                raise StepFailedError(StepKind.VERIFY, device.node.name, "the VM's configuration does not have it")

    async def _read_back(self, assignment: Assignment, device: PlannedDevice) -> Domain | None:
        try:
            return await self._sync.read_domain(assignment.vm.uuid, ChangeSource.EVENT)
        except HypervisorError as error:
            raise StepFailedError(StepKind.VERIFY, device.node.name, error.text, error.code) from error


def _aliases(definition: DomainDef | None) -> set[str | None]:
    return {entry.alias for entry in definition.entries if not entry.missing} if definition else set()
