"""The hands of the service: what attach, detach and their undoing do to VMs and to the host, step by step.

Everything that takes away looks at what is really there, so that it can be run again after any
interruption; everything that gives something to a VM stops at the first failure and leaves the undoing
to that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from hostdevd.core.addresses import UsbProduct
from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import source_of
from hostdevd.core.history import ChangeSource
from hostdevd.core.holders import devices_of
from hostdevd.core.journal import Journal
from hostdevd.core.model import ConditionCode, Domain, DomainDef, DomainEntry, HolderRole, PciFacts, ScsiFacts, UsbFacts
from hostdevd.core.planner import AttachPlan, PlannedDevice, StepKind, live_order
from hostdevd.core.ports import (
    Clock,
    Connected,
    DeviceRemovalFailed,
    DeviceRemoved,
    DomainRebooted,
    DomainStopped,
    Event,
    HostdevSpec,
    HostPort,
    HypervisorError,
    HypervisorGone,
    HypervisorPort,
    NoSuchObject,
    Target,
)
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()

RESEND_AFTER_S = 30.0
"""An unplug request without an answer is sent again only after this long, and only when asked again."""


class StepFailedError(Exception):
    """A step of an attach failed: which one, on what, and why (libvirt's number where it is libvirt's)."""

    def __init__(self, kind: StepKind, device: str, why: str, code: int | None = None) -> None:
        super().__init__(f"{kind} of {device}: {why}")
        self.kind = kind
        self.device = device
        self.why = why
        self.code = code


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a device did not leave a guest."""

    device: str
    message: str


@dataclass(frozen=True, slots=True)
class Delays:
    """How long the steps wait, in seconds.

    `settle_s`: after a live attach, for a guest that throws the device out again. `poll_s`: between looks
    at a domain while its guest is asked to let go. `driver_s`: for the kernel to bind a driver again.
    """

    settle_s: float = 1.0
    poll_s: float = 5.0
    driver_s: float = 5.0


@dataclass(slots=True)
class Nudge:
    """Tells a running detach that its caller asked again."""

    again: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self) -> None:
        """Ask again."""
        self.again = True
        self.wake.set()


class Effects:
    """Steps on one host; one at a time per VM."""

    def __init__(  # noqa: PLR0913, PLR0917  the ports, each once
        self,
        store: Store,
        sync: Sync,
        hypervisor: HypervisorPort,
        host: HostPort,
        journal: Journal,
        clock: Clock,
        delays: Delays | None = None,
    ) -> None:
        self._store = store
        self._sync = sync
        self._hypervisor = hypervisor
        self._host = host
        self._journal = journal
        self._clock = clock
        self._delays = delays or Delays()
        self._vm_locks: dict[str, asyncio.Lock] = {}

    # --- giving --------------------------------------------------------------------------------------

    async def take(self, assignment: Assignment, plan: AttachPlan) -> None:
        """Carry out a plan; `StepFailedError` at the first step that fails, with nothing undone."""
        aliases = {device.uid: device for device in assignment.devices}

        def assigned(device: PlannedDevice) -> AssignedDevice:
            return aliases[self._store.identities.uid(device.node.name)]

        async with self._vm_lock(assignment.vm.uuid):
            for device in plan.devices:
                if device.config and not device.config_by_service:
                    await self._attach(assignment, assigned(device), device, Target.CONFIG)
            if plan.live:
                with self._events(assignment.vm.uuid) as events:
                    await self._take_live(assignment, plan, assigned)
                    await self._verify_live(assignment, plan, assigned, events)
            await self._verify_config(assignment, plan, assigned)

    async def _take_live(
        self, assignment: Assignment, plan: AttachPlan, assigned: Callable[[PlannedDevice], AssignedDevice]
    ) -> None:
        await self._sync.read_uses(ChangeSource.OPERATION)
        for device in plan.devices:
            if device.live and isinstance(device.node.facts, PciFacts) and assigned(device).ours:
                await self._unbind(assignment, device)
        for device in live_order(plan.devices):
            await self._attach(assignment, assigned(device), device, Target.LIVE)

    async def _unbind(self, assignment: Assignment, device: PlannedDevice) -> None:
        name = device.node.name
        async with self._step(assignment, StepKind.HOST_DETACH, name):
            # The last look before the host loses the device: somebody may have mounted it since the plan.
            view = self._store.devices.get(name)
            if view is None:
                raise StepFailedError(StepKind.HOST_DETACH, name, "it is gone from the host")
            against = [reason for reason in view.eligibility.reasons if reason.code.startswith("HOST_")]
            if against:
                raise StepFailedError(StepKind.HOST_DETACH, name, against[0].message)
            await self._hypervisor.nodedev_detach(name)

    async def _attach(
        self, assignment: Assignment, assigned: AssignedDevice, device: PlannedDevice, target: Target
    ) -> None:
        kind = StepKind.ATTACH_LIVE if target is Target.LIVE else StepKind.ATTACH_CONFIG
        async with self._step(assignment, kind, device.node.name):
            spec = await self._spec(assignment, assigned, device, target)
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
            return HostdevSpec(assigned.alias, source, drive=_free_drive(domain))
        return HostdevSpec(assigned.alias, source)

    async def _verify_live(
        self,
        assignment: Assignment,
        plan: AttachPlan,
        assigned: Callable[[PlannedDevice], AssignedDevice],
        events: asyncio.Queue[Event],
    ) -> None:
        await self._settle(assignment, events)
        domain = await self._sync.read_domain(assignment.vm.uuid, ChangeSource.EVENT)
        there = _aliases(domain.live if domain else None)
        for device in plan.devices:
            if not device.live:
                continue
            async with self._step(assignment, StepKind.VERIFY, device.node.name):
                if assigned(device).alias not in there:
                    raise StepFailedError(StepKind.VERIFY, device.node.name, "the VM does not have it")
                if isinstance(device.node.facts, PciFacts):
                    driver = self._host.driver(device.node.facts.address).driver
                    if driver is None or "vfio" not in driver:
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

    async def _verify_config(
        self, assignment: Assignment, plan: AttachPlan, assigned: Callable[[PlannedDevice], AssignedDevice]
    ) -> None:
        wanted = [device for device in plan.devices if device.config and not device.config_by_service]
        if not wanted:
            return
        domain = await self._sync.read_domain(assignment.vm.uuid, ChangeSource.EVENT)
        there = _aliases(domain.config if domain else None)
        for device in wanted:
            if assigned(device).alias not in there:
                raise StepFailedError(StepKind.VERIFY, device.node.name, "the VM's configuration does not have it")

    # --- taking away ---------------------------------------------------------------------------------

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
        with self._events(uuid) as events:
            while True:
                domain = await self._domain(uuid)
                left = {
                    entry.alias: entry
                    for entry in self.entries(assignment, domain.live if domain else None)
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
            device = self._device_name(assignment, entry)
            async with self._vm_lock(assignment.vm.uuid), self._log_step(assignment, StepKind.DETACH_LIVE, device):
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
            device = self._device_name(assignment, left[event.alias])
            return Refusal(device, f"the guest refused to let go of {device}")
        if isinstance(event, DomainRebooted):
            asked.clear()  # the guest that was asked is gone
        return None

    async def drop_config(self, assignment: Assignment) -> None:
        """Remove everything of an assignment from the VM's configuration."""
        while True:
            domain = await self._domain(assignment.vm.uuid)
            left = self.entries(assignment, domain.config if domain else None)
            if not left:
                return
            for entry in left:
                device = self._device_name(assignment, entry)
                async with (
                    self._vm_lock(assignment.vm.uuid),
                    self._log_step(assignment, StepKind.DETACH_CONFIG, device),
                ):
                    try:
                        await self._hypervisor.detach(assignment.vm.uuid, entry, Target.CONFIG)
                    except (NoSuchObject, HypervisorGone):
                        continue

    async def give_back(self, assignment: Assignment) -> tuple[AssignmentCondition, ...]:
        """Give every PCI function that hostdevd or libvirt took back to its driver, when no guest has any of them."""
        ours = [device for device in assignment.devices if device.type == "pci" and device.ours]
        names = {device.uid: self._store.identities.name(device.uid) for device in ours}
        held = [name for name in names.values() if name and any(h.live for h in self._store.holders_of(name))]
        domain = await self._domain(assignment.vm.uuid)
        if held and self.entries(assignment, domain.live if domain else None):
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
            async with self._log_step(assignment, StepKind.HOST_REATTACH, name):
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

    # --- looking -------------------------------------------------------------------------------------

    def entries(self, assignment: Assignment, definition: DomainDef | None) -> tuple[DomainEntry, ...]:
        """The entries of a definition that belong to an assignment: by alias, or, without one, by device."""
        if definition is None:
            return ()
        names = {self._store.identities.name(device.uid) or device.name for device in assignment.devices}
        aliases = assignment.aliases - {""}

        def belongs(entry: DomainEntry) -> bool:
            if entry.alias in aliases:
                return True
            if entry.alias is not None and entry.alias.startswith("ua-hostdev-"):
                return False
            if entry.alias is not None and any(one.alias in aliases for one in definition.entries):
                return False
            return bool(names & set(devices_of(self._store.graph, entry.source, self._host.block_paths)))

        return tuple(entry for entry in definition.entries if belongs(entry))

    def _device_name(self, assignment: Assignment, entry: DomainEntry) -> str:
        for device in assignment.devices:
            if device.alias and device.alias == entry.alias:
                return device.name
        names = devices_of(self._store.graph, entry.source, self._host.block_paths)
        return names[0] if names else str(entry.source)

    async def _domain(self, uuid: str) -> Domain | None:
        """The domain as it is now; waits while libvirt is away."""
        while True:
            try:
                return await self._sync.read_domain(uuid, ChangeSource.EVENT)
            except HypervisorGone:
                await self._clock.sleep(0.05)
                await self._sync.synced.wait()
            except HypervisorError as error:
                log.warning("a domain cannot be read; trying again", uuid=uuid, error=str(error))
                await self._clock.sleep(1.0)

    def _condition(self, code: ConditionCode, device: AssignedDevice, text: str, remedy: str) -> AssignmentCondition:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        return AssignmentCondition(code, text, now, device.name, remedy)

    def _vm_lock(self, uuid: str) -> asyncio.Lock:
        return self._vm_locks.setdefault(uuid, asyncio.Lock())

    def _events(self, uuid: str) -> _Subscription:
        return _Subscription(self._sync, uuid)

    @asynccontextmanager
    async def _step(self, assignment: Assignment, kind: StepKind, device: str) -> AsyncIterator[None]:
        """A step that must be in the journal before it touches anything; its failure is told as such."""
        try:
            step = await self._journal.begin_step(assignment.name, kind, device, self._clock.now())
        except HostdevError as error:
            raise StepFailedError(kind, device, error.message) from error
        try:
            yield
        except HypervisorError as error:
            await self._end(step, f"failed: {error.text}")
            raise StepFailedError(kind, device, error.text, error.code) from error
        except StepFailedError as error:
            await self._end(step, f"failed: {error.why}")
            raise
        await self._end(step, "done")

    @asynccontextmanager
    async def _log_step(self, assignment: Assignment, kind: StepKind, device: str) -> AsyncIterator[None]:
        """A step that is done even when it cannot be written: it only takes away what must go anyway."""
        step = 0
        try:
            step = await self._journal.begin_step(assignment.name, kind, device, self._clock.now())
        except HostdevError as error:
            log.warning("a step is not in the journal", step=kind, device=device, error=error.message)
        try:
            yield
        finally:
            if step:
                await self._end(step, "done")

    async def _end(self, step: int, outcome: str) -> None:
        try:
            await self._journal.end_step(step, self._clock.now(), outcome)
        except HostdevError as error:
            log.warning("a step's end is not in the journal", error=error.message)


class _Subscription:
    """The events of one VM (and of the connection) from now on, as a queue."""

    def __init__(self, sync: Sync, uuid: str) -> None:
        self._sync = sync
        self._uuid = uuid
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._stop: Callable[[], None] | None = None

    def __enter__(self) -> asyncio.Queue[Event]:
        self._stop = self._sync.listen(self._hear)
        return self._queue

    def __exit__(self, *_: object) -> None:
        if self._stop is not None:
            self._stop()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Connected) or getattr(event, "uuid", None) == self._uuid:
            self._queue.put_nowait(event)


def _aliases(definition: DomainDef | None) -> set[str | None]:
    return {entry.alias for entry in definition.entries if not entry.missing} if definition else set()


def _free_drive(domain: Domain | None) -> tuple[int, int, int, int] | None:
    """A drive address that is free in both definitions, on a virtio-scsi controller that both have."""
    definitions: Iterable[DomainDef] = [one for one in (domain.live, domain.config) if one] if domain else []
    common: dict[int, set[tuple[int, int, int]]] | None = None
    for definition in definitions:
        found = {
            controller.index: set(controller.used)
            for controller in definition.hardware.scsi_controllers
            if controller.model.startswith("virtio")
        }
        if common is None:
            common = found
        else:
            common = {index: used | found[index] for index, used in common.items() if index in found} or common
    for index, used in sorted((common or {}).items()):
        for unit in range(256):
            if (0, 0, unit) not in used:
                return (index, 0, 0, unit)
    return None
