"""What one caller may see and do on this host: his rights, judged on the devices and machines that are there.

What may not be seen is refused as if it were not there. What is seen of a device is all that it says of itself, the
names of its parent, its group mates and what goes with it included: only whoever holds it may be hidden.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from hostdevd.core import failures
from hostdevd.core.assignments import AssignedDevice, Assignment
from hostdevd.core.caller import UNKNOWN, Caller
from hostdevd.core.graph import group_mates_of
from hostdevd.core.model import Domain, Eligibility, Holder, NodeDevice, OfVm, Reason, Vm
from hostdevd.core.planner import find_device, find_vm, no_device, no_vm
from hostdevd.core.rights import Permission, Rights, not_allowed
from hostdevd.core.selectors import Traits, from_lasting
from hostdevd.core.views import DeviceView, GroupView

if TYPE_CHECKING:
    from hostdevd.core.release import Holding
    from hostdevd.core.store import Store


class Sight:
    """The rights of a caller over one store."""

    __slots__ = ("_caller", "_rights", "_store", "is_whole", "view")

    def __init__(self, store: Store, rights: Rights, caller: Caller = UNKNOWN) -> None:
        self._store = store
        self._rights = rights
        self._caller = caller
        self.is_whole = rights.sees_everything
        """Nothing is hidden: nothing needs to be looked at."""
        self.view = rights.view
        """The same for the same view, empty for the whole one: what was listed or told belongs to it."""

    @property
    def by_driver(self) -> bool:
        """Whether what holders may be seen changes with the drivers of their devices."""
        return self._rights.narrows_devices_by_driver and not self.is_whole

    # --- seeing --------------------------------------------------------------------------------------

    def vm(self, vm: Vm | OfVm) -> bool:
        """Whether a machine may be seen."""
        return self.is_whole or self._rights.sees_vm(vm)

    def knows_vm(self, name_or_uuid: str) -> bool:
        """Whether a text names a machine that may be seen; a machine that is gone may not."""
        domains = self._store.domains
        found = domains.get(name_or_uuid)
        named = (domain.vm for domain in domains.values() if domain.vm.name == name_or_uuid)
        return self.is_whole or any(map(self.vm, (found.vm,) if found is not None else named))

    def device(self, view: DeviceView) -> bool:
        """Whether a device may be seen; it depends on nothing but the view."""
        return self.is_whole or self._rights.sees_device(view.traits)

    def holder(self, holder: Holder) -> bool:
        """Whether it may be seen; it depends on nothing but the holder, but for `by_driver`."""
        return self.is_whole or self._rights.sees_together(holder.vm, self._traits_of_holder(holder))

    def holders(self, holders: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """Those that may be seen."""
        return holders if self.is_whole else tuple(filter(self.holder, holders))

    def group(self, group: GroupView) -> bool:
        """Whether a group may be seen: one of its members."""
        return self.is_whole or any(self.device(self._store.devices[member.name]) for member in group.members)

    def assignment(self, assignment: Assignment) -> bool:
        """Whether a record may be seen: one of its devices with its machine."""
        return self.is_whole or any(
            self._rights.sees_together(assignment.vm, self._traits_of_assigned(device)) for device in assignment.devices
        )

    def shown_device(self, view: DeviceView) -> DeviceView:
        """A device as it is shown: the same one unless it tells of a machine that may not be seen."""
        seen, eligibility = self.holders(view.holders), self._shown_eligibility(view.eligibility)
        if seen == view.holders and eligibility is view.eligibility:
            return view
        return replace(view, holders=seen, eligibility=eligibility)

    def shown_group(self, group: GroupView) -> GroupView:
        """A group as it is shown."""
        eligibility = self._shown_eligibility(group.eligibility)
        return replace(group, holders=self.holders(group.holders), eligibility=eligibility)

    def reasons(self, reasons: Iterable[Reason]) -> tuple[Reason, ...]:
        """Reasons without what they tell of machines that may not be seen; what is the same then once."""
        told = (one if one.of_vm is None or self.vm(one.of_vm) else replace(one, of_vm=None) for one in reasons)
        return tuple(dict.fromkeys(told))

    def _shown_eligibility(self, eligibility: Eligibility) -> Eligibility:
        if self.is_whole or all(one.of_vm is None for one in eligibility.reasons):
            return eligibility
        reasons = self.reasons(eligibility.reasons)
        return eligibility if reasons == eligibility.reasons else replace(eligibility, reasons=reasons)

    # --- finding -------------------------------------------------------------------------------------

    def find_device(self, device: str) -> NodeDevice:
        """The device of this libvirt name or uid, as `planner.find_device`; one that is hidden is not there."""
        self.check_device(device)
        return find_device(self._store, device)

    def visible(self, device: str) -> DeviceView | None:
        """The device of this libvirt name or uid, None where it is not there or hidden."""
        view = self._store.device(device)
        return view if view is not None and self.device(view) else None

    def check_device(self, device: str) -> None:
        """`DEVICE_NOT_FOUND` for a name or uid of what is hidden; what is not known passes."""
        if self.is_whole:
            return
        identities = self._store.identities
        names = {*identities.candidates(device), identities.successor(device)} - {None}
        view = self._store.device(device)
        if view is not None:
            names.add(view.name)
        there = [view for name in names if name is not None and (view := self._store.devices.get(name)) is not None]
        if not all(map(self.device, there)):
            raise no_device(device)

    def find_vm(self, vm: str) -> Domain:
        """The machine of this UUID or name; one that is hidden is not there."""
        domain = find_vm(self._store, vm)
        if not self.vm(domain.vm):
            raise no_vm(vm)
        return domain

    def find_assignment(self, name: str) -> Assignment:
        """The record of this name; one that is hidden is not there."""
        assignment = self._store.assignments.get(name)
        if assignment is None or not self.assignment(assignment):
            raise failures.no_assignment(name)
        return assignment

    # --- doing ---------------------------------------------------------------------------------------

    def may_attach(self, vm: Vm, target: NodeDevice) -> None:
        """`NOT_ALLOWED` unless a device with every endpoint of its group may be given to a machine.

        What is below an endpoint goes with it: whoever may give a disk controller away may give away its disks.
        """
        mates = group_mates_of(self._store.graph, target)
        devices = ((mate.name, self._store.devices[mate.name].traits) for mate in mates)
        self._require(Permission.ASSIGNMENTS_ATTACH, vm, devices)

    def may_detach(self, holding: Holding) -> None:
        """`NOT_ALLOWED` unless all that goes with a holding may be taken from its machine."""
        if holding.assignment is not None:
            self.may_change(Permission.ASSIGNMENTS_DETACH, holding.assignment)
            return
        held = ((holder.device, self._traits_of_holder(holder)) for holder in holding.holders)
        self._require(Permission.ASSIGNMENTS_DETACH, holding.holders[0].vm, held)

    def may_change(self, permission: Permission, assignment: Assignment) -> None:
        """`NOT_ALLOWED` unless a permission holds for the machine and every device of a record."""
        devices = ((device.name, self._traits_of_assigned(device)) for device in assignment.devices)
        self._require(permission, assignment.vm, devices)

    def may_configure(self, permission: Permission, device: NodeDevice) -> None:
        """`NOT_ALLOWED` unless a device of the host may be changed: by who is not narrowed to machines."""
        if not self._rights.covers_on_host(permission, self._store.devices[device.name].traits):
            raise not_allowed(permission, self._caller, device.name)

    def _require(self, permission: Permission, vm: Vm, devices: Iterable[tuple[str, Traits]]) -> None:
        if not self._rights.has(permission):
            raise not_allowed(permission, self._caller)
        for name, traits in devices:
            if not self._rights.covers(permission, vm, traits):
                raise not_allowed(permission, self._caller, f"{name} with {vm.name}")

    def _traits_of_holder(self, holder: Holder) -> Traits:
        view = self._store.devices.get(holder.device)
        driver = view.host_driver if view is not None and view.uid == holder.uid else None
        return from_lasting(holder.traits, holder.uid, driver)

    def _traits_of_assigned(self, device: AssignedDevice) -> Traits:
        """As it is now, or while it is not on the host, as it was when it was assigned."""
        view = self._store.device(device.uid)
        if view is not None:
            return view.traits
        return from_lasting(device.traits or (("type", device.type),), device.uid, device.original_driver)
