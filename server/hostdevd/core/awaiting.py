"""Which devices a running guest is to have and has not: what `following` gives it.

A USB device that is pulled out leaves an entry in the live XML that names nothing, for libvirt looks for
it at its old address only. One that was not there as the VM started stands there as `missing`. And one
whose place in the configuration is kept here (`CONFIG_BY_SERVICE`: libvirt finds a configured USB device by
vendor:product, and starts the VM with neither of two equal ones) stands in no XML when the VM starts.
"""

from __future__ import annotations

from dataclasses import replace

from hostdevd.core.addresses import UsbAddress, UsbProduct
from hostdevd.core.assignments import AssignedDevice, Assignment
from hostdevd.core.looking import Looking
from hostdevd.core.model import Domain, DomainDef
from hostdevd.core.operations import Operations
from hostdevd.core.ports import DomainStarted, DomainStopped, Event
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync


class Awaiting:
    """Tells for each assignment which of its devices are awaited; hears every event itself."""

    def __init__(self, store: Store, sync: Sync, operations: Operations, looking: Looking) -> None:
        self._store = store
        self._sync = sync
        self._operations = operations
        self._looking = looking
        self._started: dict[str, int] = {}
        sync.listen(self._hear)
        sync.on_read.append(self._read)

    def _hear(self, event: Event) -> None:
        """Remember whose VM has a new guest: a stop and a start may pass between two looks."""
        if isinstance(event, DomainStarted | DomainStopped):
            for assignment in self._store.assignments.values():
                if assignment.vm.uuid == event.uuid:
                    self._started.pop(assignment.name, None)
                    if isinstance(event, DomainStarted):
                        self._started[assignment.name] = self._sync.moment()

    def _read(self, uuid: str) -> None:
        # Where nothing else changed, nobody would look.
        if any(one.vm.uuid == uuid and one.name in self._started for one in self._store.assignments.values()):
            self._operations.ended.set()

    def found(self, assignment: Assignment, domain: Domain | None) -> tuple[AssignedDevice, ...]:
        """The devices of an assignment, each with `awaited` as it is now."""
        definition = domain.live if domain is not None else None
        if domain is None or definition is None or not domain.vm.state.active:
            return tuple(replace(device, awaited=False) for device in assignment.devices)
        new_guest = not assignment.vm.state.active
        heard = self._started.get(assignment.name)
        if heard is not None and self._sync.was_read_since(assignment.vm.uuid, heard):
            del self._started[assignment.name]
            new_guest = True
        return tuple(
            replace(device, awaited=self._is_awaited(device, definition, new_guest=new_guest))
            for device in assignment.devices
        )

    def _is_awaited(self, device: AssignedDevice, definition: DomainDef, *, new_guest: bool) -> bool:
        name = self._store.identities.name(device.uid)
        usb = [entry for entry in definition.entries if isinstance(entry.source, UsbAddress | UsbProduct)]
        if name is not None and any(not one.missing and name in self._looking.names(one) for one in usb):
            return False  # under whatever alias
        if any(entry.alias == device.alias for entry in usb):
            return True
        if new_guest:
            return device.by_service
        # It ran without it before, so somebody wants it so; or its stale entry was removed already.
        return device.awaited
