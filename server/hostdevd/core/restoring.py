"""Giving devices back to the host's drivers, and telling where that did not work."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import structlog

from hostdevd.core.addresses import PciAddress
from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition
from hostdevd.core.drivers import is_vfio_driver
from hostdevd.core.looking import Looking
from hostdevd.core.model import ConditionCode, OfVm, PciFacts, Vm
from hostdevd.core.plan import StepKind
from hostdevd.core.ports import Clock, HostPort, HypervisorError, HypervisorGone, HypervisorPort
from hostdevd.core.steps import Delays, Steps
from hostdevd.core.store import Store

log = structlog.get_logger()

_TRIES = 3


class Restoring:
    """Rebinds PCI functions."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        hypervisor: HypervisorPort,
        host: HostPort,
        looking: Looking,
        steps: Steps,
        clock: Clock,
        delays: Delays,
    ) -> None:
        self._store = store
        self._hypervisor = hypervisor
        self._host = host
        self._looking = looking
        self._steps = steps
        self._clock = clock
        self._delays = delays

    async def give_back(self, assignment: Assignment, since: int | None = None) -> tuple[AssignmentCondition, ...]:
        """Give every PCI function that hostdevd or libvirt took back to its driver, when no guest has its group.

        The conditions tell of what was not restored. `since`: as for `Looking.domain`.
        """
        ours = [device for device in assignment.devices if device.type == "pci" and device.ours]
        if not ours:
            return ()
        domain = await self._looking.domain(assignment.vm.uuid, since)
        names = {device.uid: self._store.identities.name(device.uid) for device in ours}
        keeper = self._looking.keeper(name for name in names.values() if name is not None)
        if keeper is not None:
            vm, held = keeper
            if vm.uuid == assignment.vm.uuid and self._looking.entries(assignment, domain.live if domain else None):
                return ()  # the rest of this assignment: given back when that leaves
            return tuple(self._kept_away(device, vm, held) for device in ours if self._is_away(names[device.uid]))
        faults = [await self._reattach(assignment, device, names[device.uid]) for device in ours]
        return tuple(fault for fault in faults if fault is not None)

    def _is_away(self, name: str | None) -> bool:
        node = self._store.graph.get(name) if name is not None else None
        if node is None or not isinstance(node.facts, PciFacts):
            return False
        driver = self._host.driver(node.facts.address).driver
        return driver is None or is_vfio_driver(driver)

    def _kept_away(self, device: AssignedDevice, vm: Vm, held: str) -> AssignmentCondition:
        text = f"{device.name} was not given back to the host: a virtual machine has {held} of its group"
        remedy = f"detach {held} from it, then bind {device.name} by hand (virsh nodedev-reattach)"
        log.warning("a device was not given back to the host", device=device.name, held=held, by=vm.name)
        condition = self._condition(ConditionCode.DRIVER_NOT_RESTORED, device, text, remedy)
        return replace(condition, of_vm=OfVm(vm.name, vm.uuid))

    async def _reattach(
        self, assignment: Assignment, device: AssignedDevice, name: str | None
    ) -> AssignmentCondition | None:
        node = self._store.graph.get(name) if name is not None else None
        if name is None or node is None or not isinstance(node.facts, PciFacts):
            text = f"{device.name} is not on the host any more"
            return self._condition(ConditionCode.DEVICE_MISSING, device, text, "plug it in again")
        address = node.facts.address
        error = ""
        tries = 0
        while tries < _TRIES and not self._is_restored(device, address, final=False):
            if tries:
                await self._clock.sleep(0.3 * tries)
            try:
                async with self._steps.taking(assignment, StepKind.HOST_REATTACH, name):
                    await self._hypervisor.nodedev_reattach(name)
                error = ""
            except HypervisorGone:
                await self._looking.back()
                continue
            except HypervisorError as fault:
                error = f"; libvirt said: {fault.text}"
            tries += 1
            if not error:
                await self._until_restored(device, address)
        if self._is_restored(device, address, final=True):
            return None
        driver = self._host.driver(address).driver
        text = f"{name} is bound to {driver or 'no driver'}, it was on {device.original_driver or 'no driver'}{error}"
        remedy = f"bind it by hand: echo {address} > /sys/bus/pci/drivers_probe"
        return self._condition(ConditionCode.DRIVER_NOT_RESTORED, device, text, remedy)

    def _is_restored(self, device: AssignedDevice, address: PciAddress, *, final: bool) -> bool:
        """Whether nothing is left to do; `final`: whether it is as it was.

        The kernel chooses the driver, so there is nothing to try where it has chosen another one. Without
        a driver before, or not knowing it, any of the host's will do; where it is not known, it is tried.
        """
        driver = self._host.driver(address).driver
        if driver is None:
            return device.original_driver is None and (final or device.driver_known)
        if is_vfio_driver(driver):
            return device.by_libvirt
        return not final or device.original_driver in {None, driver}

    async def _until_restored(self, device: AssignedDevice, address: PciAddress) -> None:
        waited = 0.0
        while waited < self._delays.driver_s and not self._is_restored(device, address, final=False):
            await self._clock.sleep(0.05)
            waited += 0.05

    def _condition(self, code: ConditionCode, device: AssignedDevice, text: str, remedy: str) -> AssignmentCondition:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        return AssignmentCondition(code, text, now, device.name, remedy)
