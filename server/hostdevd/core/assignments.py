"""The record of a group given to a VM: what was intended, what is true, and which states may follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum, unique

from hostdevd.core.model import ConditionCode, HolderRole, OfVm, Reason, Vm


@unique
class AssignmentState(StrEnum):
    """Where an assignment is in its life."""

    ATTACHING = "ATTACHING"
    ATTACHED = "ATTACHED"
    ROLLING_BACK = "ROLLING_BACK"
    FAILED = "FAILED"
    DETACHING = "DETACHING"
    DETACHED = "DETACHED"

    @property
    def closed(self) -> bool:
        """Nothing follows: the record is kept for a while and holds nothing."""
        return self in {AssignmentState.FAILED, AssignmentState.DETACHED}

    @property
    def in_flight(self) -> bool:
        """The service works on it, or waits for the guest."""
        return self in {AssignmentState.ATTACHING, AssignmentState.ROLLING_BACK, AssignmentState.DETACHING}


_MAY_FOLLOW = {
    AssignmentState.ATTACHING: {AssignmentState.ATTACHED, AssignmentState.ROLLING_BACK},
    AssignmentState.ATTACHED: {AssignmentState.ATTACHING, AssignmentState.DETACHING, AssignmentState.DETACHED},
    AssignmentState.ROLLING_BACK: {AssignmentState.FAILED},
    AssignmentState.DETACHING: {AssignmentState.ATTACHED, AssignmentState.DETACHED},
    AssignmentState.FAILED: set[AssignmentState](),
    AssignmentState.DETACHED: set[AssignmentState](),
}


@unique
class GroupPolicy(StrEnum):
    """What happens to the rest of the device's group."""

    WHOLE_GROUP = "WHOLE_GROUP"
    RESERVE_REST = "RESERVE_REST"
    SINGLE_ONLY = "SINGLE_ONLY"


@unique
class Scope(StrEnum):
    """Which of the VM's definitions an operation is about."""

    AUTO = "AUTO"
    LIVE = "LIVE"
    CONFIG = "CONFIG"
    LIVE_AND_CONFIG = "LIVE_AND_CONFIG"


@dataclass(frozen=True, slots=True)
class AssignmentCondition:
    """Something about an assignment that its owner should know, with what to do about it.

    `of_vm` is what the text leaves out for those who may not see that other machine.
    """

    code: ConditionCode
    message: str
    time: datetime
    device: str = ""
    remedy: str = ""
    of_vm: OfVm | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attach failed: reason, text, metadata and reasons of the error that its caller got."""

    reason: str
    message: str
    metadata: tuple[tuple[str, str], ...] = ()
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class FormerPlace:
    """What a configuration's entry named before it was to name another address, and in which boot that was so."""

    boot_id: str
    source: str
    guest_address: str
    managed: bool


@dataclass(frozen=True, slots=True)
class AssignedDevice:
    """One device of an assignment.

    `alias` is the user alias of its entries. `original_driver` was bound before (None: no driver; not
    `driver_known`: another tool attached it). `ours` says that hostdevd gives it back: false for a device
    that was found on a VFIO driver, which its operator had bound. `adds_live` and `adds_config` tell what
    the attach in flight adds, so what its undoing may take. `by_service`: its place in the configuration
    is kept here and not in the XML (`CONFIG_BY_SERVICE`). `awaited`: the running guest is to have it, and has
    not: its plug was pulled, or it was not there as the VM started. `moving`: its configured entry is
    being written anew, so it may be absent; what it was. `by_libvirt`: libvirt bound it for a managed entry
    and gives it back itself, so what is on VFIO afterwards was there before. `traits` is what rules say of it besides
    uid and driver, kept for when it is gone from the host.
    """

    name: str
    uid: str
    alias: str
    role: HolderRole = HolderRole.VISIBLE
    original_driver: str | None = None
    ours: bool = True
    type: str = "pci"
    driver_known: bool = True
    adds_live: bool = False
    adds_config: bool = False
    by_service: bool = False
    awaited: bool = False
    moving: FormerPlace | None = None
    by_libvirt: bool = False
    traits: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """One assignment; frozen, every change makes another one.

    `live` and `config` tell where the VM is known to hold it; `pending_live` and `pending_config` what the
    operation in flight adds (ATTACHING), undoes (ROLLING_BACK) or takes away (DETACHING);
    `pending_request` is the id of the request behind an attach in flight.
    """

    name: str
    vm: Vm
    devices: tuple[AssignedDevice, ...]
    state: AssignmentState
    create_time: datetime
    update_time: datetime
    group: str | None = None
    group_policy: GroupPolicy = GroupPolicy.WHOLE_GROUP
    scope: Scope = Scope.AUTO
    live: bool = False
    config: bool = False
    conditions: tuple[AssignmentCondition, ...] = ()
    failure: Failure | None = None
    created_by: str = ""
    boot_id: str = ""
    pending_live: bool = False
    pending_config: bool = False
    pending_request: str = ""

    def to(self, state: AssignmentState, now: datetime) -> Assignment:
        """The same in another state; AssertionError for a step that the table does not have."""
        if state is not self.state and state not in _MAY_FOLLOW[self.state]:
            raise AssertionError(f"assignment {self.name}: {state} cannot follow {self.state}")
        return replace(self, state=state, update_time=now)

    def with_condition(self, condition: AssignmentCondition) -> Assignment:
        """The same with a condition, which replaces one of its code and device."""
        return replace(
            self,
            conditions=(*self._other_conditions(condition.code, condition.device), condition),
            update_time=condition.time,
        )

    def without_condition(self, code: ConditionCode) -> Assignment:
        """The same without any condition of this code."""
        return replace(self, conditions=tuple(known for known in self.conditions if known.code is not code))

    def calling(self, names: Mapping[str, str]) -> Assignment:
        """The same with conditions about devices that have other names now."""
        conditions = tuple(replace(one, device=names.get(one.device, one.device)) for one in self.conditions)
        return replace(self, conditions=conditions)

    def has_condition(self, code: ConditionCode, device: str | None = None) -> bool:
        """Whether there is a condition of this code, about this device or any."""
        return any(known.code is code and device in {None, known.device} for known in self.conditions)

    def _other_conditions(self, code: ConditionCode, device: str) -> tuple[AssignmentCondition, ...]:
        return tuple(known for known in self.conditions if (known.code, known.device) != (code, device))

    def settled(self) -> Assignment:
        """The same with no operation in flight."""
        return replace(
            self,
            devices=tuple(replace(device, adds_live=False, adds_config=False) for device in self.devices),
            pending_live=False,
            pending_config=False,
            pending_request="",
        )

    def before_extension(self) -> Assignment | None:
        """What an attach in flight set out to extend; None when it made the assignment."""
        if not (self.live or self.config or self.awaits):
            return None
        held = tuple(
            device
            for device in self.devices
            if (self.live and not device.adds_live) or (self.config and not device.adds_config)
        )
        return replace(self, state=AssignmentState.ATTACHED, devices=held or self.devices).settled()

    @property
    def awaits(self) -> bool:
        """Whether the guest is to get one of its devices as soon as that is there."""
        return any(device.awaited for device in self.devices)

    @property
    def aliases(self) -> frozenset[str]:
        """The aliases of all its devices."""
        return frozenset(device.alias for device in self.devices)
