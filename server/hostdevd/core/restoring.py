"""Giving devices back to the host's drivers, and telling where that did not work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition
from hostdevd.core.looking import Looking
from hostdevd.core.model import ConditionCode, PciFacts
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import Clock, HostPort, HypervisorError, HypervisorGone, HypervisorPort
from hostdevd.core.steps import Delays, Steps
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync


class Restoring:
    """Rebinds PCI functions."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        hypervisor: HypervisorPort,
        host: HostPort,
        looking: Looking,
        steps: Steps,
        clock: Clock,
        delays: Delays,
    ) -> None:
        self._store = store
        self._sync = sync
        self._hypervisor = hypervisor
        self._host = host
        self._looking = looking
        self._steps = steps
        self._clock = clock
        self._delays = delays

    async def give_back(self, assignment: Assignment) -> tuple[AssignmentCondition, ...]:
        """Give every PCI function that hostdevd or libvirt took back to its driver, when no guest has any of them."""
        ours = [device for device in assignment.devices if device.type == "pci" and device.ours]
        names = {device.uid: self._store.identities.name(device.uid) for device in ours}
        held = [name for name in names.values() if name and any(h.live for h in self._store.holders_of(name))]
        domain = await self._looking.domain(assignment.vm.uuid)
        if held and self._looking.entries(assignment, domain.live if domain else None):
            return ()
        faults = [await self._reattach(assignment, device, names[device.uid]) for device in ours]
        return tuple(fault for fault in faults if fault is not None)

    async def _reattach(
        self, assignment: Assignment, device: AssignedDevice, name: str | None
    ) -> AssignmentCondition | None:
        node = self._store.graph.get(name) if name is not None else None
        if name is None or node is None or not isinstance(node.facts, PciFacts):
            text = f"{device.name} is not on the host any more"
            return self._condition(ConditionCode.DEVICE_MISSING, device, text, "plug it in again")
        address = node.facts.address
        error = ""
        for attempt in range(3):
            driver = self._host.driver(address).driver
            if driver is not None and "vfio" not in driver:
                break
            if driver is None and device.original_driver is None and device.driver_known:
                break
            if attempt:
                await self._clock.sleep(0.3 * attempt)
            async with self._steps.taking(assignment, StepKind.HOST_REATTACH, name):
                try:
                    await self._hypervisor.nodedev_reattach(name)
                    error = ""
                except HypervisorGone:
                    await self._sync.synced.wait()
                except HypervisorError as fault:
                    error = f"; libvirt said: {fault.text}"
            if await self._comes_back(device, address_driver=lambda: self._host.driver(address).driver):
                break
        driver = self._host.driver(address).driver
        # Without a driver before, or not knowing it, anything but VFIO is as good.
        restored = driver == device.original_driver or (
            device.original_driver is None and (driver is None or "vfio" not in driver)
        )
        if restored:
            return None
        text = f"{name} is bound to {driver or 'no driver'}, it was on {device.original_driver or 'no driver'}{error}"
        remedy = f"bind it by hand: echo {address} > /sys/bus/pci/drivers_probe"
        return self._condition(ConditionCode.DRIVER_NOT_RESTORED, device, text, remedy)

    async def _comes_back(self, device: AssignedDevice, address_driver: Callable[[], str | None]) -> bool:
        waited = 0.0
        while waited < self._delays.driver_s:
            driver = address_driver()
            if driver == device.original_driver or (driver is not None and "vfio" not in driver):
                return True
            await self._clock.sleep(0.05)
            waited += 0.05
        return False

    def _condition(self, code: ConditionCode, device: AssignedDevice, text: str, remedy: str) -> AssignmentCondition:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        return AssignmentCondition(code, text, now, device.name, remedy)
