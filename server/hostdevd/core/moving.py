"""Configuration that names an address where the assigned device is no longer: found, and written anew.

PCI buses and SCSI hosts may be counted anew at a boot or a re-scan. libvirt starts a VM from the addresses in
its XML, whatever is there now; so the entries that carry our aliases are made to name the assigned uid again.
An entry of another tool's is never touched, nor one whose device is absent: which address should it get?
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentCondition, AssignmentState, FormerPlace
from hostdevd.core.errors import HostdevError
from hostdevd.core.graph import source_of
from hostdevd.core.looking import Looking
from hostdevd.core.model import ConditionCode, Domain, DomainDef, DomainEntry
from hostdevd.core.operations import Operation, Operations
from hostdevd.core.plan import Plan
from hostdevd.core.ports import Clock, Connected, Event, HostPort
from hostdevd.core.rewriting import Rewrite, Rewriting
from hostdevd.core.steps import StepFailedError
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

log = structlog.get_logger()

AGAIN_S = 600.0
"""Before what failed is tried again though nothing changed: libvirt may have been busy."""

_Moved = dict[str, tuple[Assignment, tuple[Rewrite, ...]]]
"""What is to be written anew in one VM's configuration, by the assignments' names."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """A rewrite that failed: of what, when, in which times, and why."""

    what: frozenset[tuple[str, str]]
    time: float
    times: int
    why: str


class Moving:
    """Keeps configurations at the devices; hears every event itself."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        operations: Operations,
        looking: Looking,
        rewriting: Rewriting,
        host: HostPort,
        clock: Clock,
    ) -> None:
        self._store = store
        self._operations = operations
        self._looking = looking
        self._rewriting = rewriting
        self._host = host
        self._clock = clock
        self._tried: dict[str, _Tried] = {}
        self._times = 0
        sync.listen(self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, Connected):
            self._times += 1

    # --- what is found -------------------------------------------------------------------------------

    def conditions(self, assignment: Assignment, domain: Domain | None) -> Iterator[AssignmentCondition]:
        """`DEVICE_CHANGED` for each device in whose place the VM's XML names something else."""
        if domain is None:
            return
        tried = self._tried.get(assignment.vm.uuid)
        for rewrite in self._rewrites(assignment, domain):
            if rewrite.former.source == str(rewrite.source):
                continue
            what = "names" if rewrite.device.moving is None else "does not name it any more; it named"
            why = f"; it could not be changed: {tried.why}" if tried else ""
            yield self._condition(
                rewrite.device,
                f"the configuration of {assignment.vm.name} {what} {rewrite.former.source},"
                f" where {rewrite.device.name} was; it is at {rewrite.source} now{why}",
                f"do not start {assignment.vm.name} before hostdevd has written it anew; or detach the assignment",
            )
        for device, entry in self._entries(assignment, domain.live):
            name = self._store.identities.name(device.uid)
            there = self._looking.names(entry)
            if name not in there and (there or name is not None):
                what = ", ".join(there) or "nothing"
                text = f"{assignment.vm.name} runs with {entry.source}, where {device.name} was; {what} is there now"
                yield self._condition(device, text, f"stop {assignment.vm.name}, or detach the assignment")

    def _entries(
        self, assignment: Assignment, definition: DomainDef | None
    ) -> Iterator[tuple[AssignedDevice, DomainEntry]]:
        """What a definition has of an assignment under our aliases and by an address that may move."""
        devices = {device.alias: device for device in assignment.devices if device.alias.startswith("ua-hostdev-")}
        for entry in definition.entries if definition is not None else ():
            if entry.alias in devices and isinstance(entry.source, PciAddress | ScsiAddress):
                yield devices[entry.alias], entry

    def _rewrites(self, assignment: Assignment, domain: Domain) -> Iterator[Rewrite]:
        """What of the configuration is to be written anew, or was begun and not ended."""
        entries = {device.uid: entry for device, entry in self._entries(assignment, domain.config)}
        for device in assignment.devices:
            name = self._store.identities.name(device.uid)
            source = source_of(self._store.graph.nodes[name]) if name is not None else None
            if domain.config is None or name is None or not isinstance(source, PciAddress | ScsiAddress):
                continue
            entry = entries.get(device.uid)
            if device.moving is not None:
                yield Rewrite(device, device.moving, source, name)
            elif entry is not None and entry.source != source:
                former = FormerPlace(self._host.boot_id(), str(entry.source), entry.guest_address or "", entry.managed)
                yield Rewrite(device, former, source, name)

    # --- what is done about it -----------------------------------------------------------------------

    def look(self, vm: str) -> None:
        """Begin to write a VM's configuration anew where it names old places.

        All of a VM at once: where two of its devices changed places, no address is free for the first.
        """
        domain = self._store.domains.get(vm)
        if domain is None:
            return
        mine = [one for one in self._store.assignments.values() if one.vm.uuid == vm and not one.state.closed]
        moved: _Moved = {
            one.name: (one, found) for one in mine if one.config and (found := tuple(self._rewrites(one, domain)))
        }
        if not moved:
            self._tried.pop(vm, None)
            return
        if any(one.state is not AssignmentState.ATTACHED or self._operations.is_busy(one) for one, _ in moved.values()):
            return  # it ends, and then everything is looked at again
        tried = self._tried.get(vm)
        rewrites = tuple(rewrite for _, found in moved.values() for rewrite in found)
        same = tried is not None and (tried.what, tried.times) == (_what(rewrites), self._times)
        if tried is None or not same or self._clock.monotonic() - tried.time >= AGAIN_S:
            self._begin(vm, moved, rewrites)

    def look_again(self) -> None:
        """Try again what failed long enough ago."""
        for vm in tuple(self._tried):
            self.look(vm)

    def _begin(self, vm: str, moved: _Moved, rewrites: tuple[Rewrite, ...]) -> None:
        log.warning("assigned devices are elsewhere now", vm=vm, devices=[one.name for one in rewrites])
        operations = [self._operations.begin(assignment, Plan()) for assignment, _ in moved.values()]
        for operation in operations:
            operation.durable.set()
        self._operations.start(operations[0], self._run(vm, operations, moved, rewrites), "move")

    async def _run(self, vm: str, operations: list[Operation], moved: _Moved, rewrites: tuple[Rewrite, ...]) -> None:
        times = self._times
        try:
            marked = {name: _marked(assignment, found) for name, (assignment, found) in moved.items()}
            for assignment in marked.values():
                await self._operations.intend(assignment)
            for assignment in marked.values():
                self._operations.publish(assignment)
            failed, whole = await self._write(vm, operations[0].intent, rewrites)
            if failed is not None:
                log.error("a configuration names old places", vm=vm, why=str(failed))
                self._tried[vm] = _Tried(_what(rewrites), self._clock.monotonic(), times, failed.why)
            else:
                self._tried.pop(vm, None)
            for operation in operations:
                done = marked[operation.name]
                if failed is None:
                    done = _arrived(done, moved[operation.name][1])
                elif whole:
                    done = moved[operation.name][0]
                await self._operations.finish(operation, replace(done, update_time=self._operations.now()))
        except HostdevError as error:  # the intent cannot be written: nothing was touched
            self._tried[vm] = _Tried(_what(rewrites), self._clock.monotonic(), times, error.message)
        except Exception:
            self._tried[vm] = _Tried(
                _what(rewrites), self._clock.monotonic(), times, "a fault of hostdevd's, see its log"
            )
            raise
        finally:
            for operation in operations:
                self._operations.end(operation)

    async def _write(
        self, vm: str, journal: Assignment, rewrites: tuple[Rewrite, ...]
    ) -> tuple[StepFailedError | None, bool]:
        """Write all of it, or put all back: why not, and whether the configuration is whole."""
        try:
            await self._rewriting.bring(vm, journal, [(one, one.spec()) for one in rewrites])
        except StepFailedError as failed:
            if any(one.former.boot_id != self._host.boot_id() for one in rewrites):
                return failed, False  # an address of another boot says nothing
            try:
                await self._rewriting.bring(vm, journal, [(one, one.former_spec()) for one in rewrites])
            except StepFailedError as again:
                log.warning("a configuration could not be put back", vm=vm, why=str(again))
                return again, False
            return failed, True
        return None, True

    def _condition(self, device: AssignedDevice, text: str, remedy: str) -> AssignmentCondition:
        code = ConditionCode.DEVICE_CHANGED
        return AssignmentCondition(code, text, self._operations.now(), device.name, remedy)


def _what(rewrites: tuple[Rewrite, ...]) -> frozenset[tuple[str, str]]:
    return frozenset((one.device.alias, str(one.source)) for one in rewrites)


def _marked(assignment: Assignment, rewrites: tuple[Rewrite, ...]) -> Assignment:
    former = {one.device.uid: one.former for one in rewrites}
    devices = tuple(replace(one, moving=former.get(one.uid, one.moving)) for one in assignment.devices)
    return replace(assignment, devices=devices)


def _arrived(assignment: Assignment, rewrites: tuple[Rewrite, ...]) -> Assignment:
    names = {one.device.uid: one.name for one in rewrites}
    devices = tuple(
        replace(one, moving=None if one.uid in names else one.moving, name=names.get(one.uid, one.name))
        for one in assignment.devices
    )
    called = {one.device.name: one.name for one in rewrites}
    return replace(assignment.calling(called), devices=devices).without_condition(ConditionCode.DEVICE_CHANGED)
