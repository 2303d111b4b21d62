"""Requests and plans of attach as plain values, with what the engine needs to carry a plan out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum, unique

from hostdevd.core.assignments import Assignment, GroupPolicy, Scope
from hostdevd.core.groups import Affected
from hostdevd.core.model import Domain, HolderRole, NodeDevice, Reason, Vm


@unique
class StepKind(StrEnum):
    """What a step does."""

    HOST_DETACH = "HOST_DETACH"
    ATTACH_LIVE = "ATTACH_LIVE"
    ATTACH_CONFIG = "ATTACH_CONFIG"
    VERIFY = "VERIFY"
    DETACH_LIVE = "DETACH_LIVE"
    DETACH_CONFIG = "DETACH_CONFIG"
    HOST_REATTACH = "HOST_REATTACH"
    DROP_STALE = "DROP_STALE"
    """Never in a plan: before an attach, the entry of a device that was pulled out is removed."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One step: what, to which device (libvirt name), and how in words."""

    kind: StepKind
    device: str
    detail: str


@dataclass(frozen=True, slots=True)
class SideEffect:
    """Something that a caller may not expect, about a device or the VM as a whole."""

    message: str
    device: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What an operation does, in order, what it takes with it, and what stands in its way."""

    steps: tuple[PlanStep, ...] = ()
    affected: tuple[Affected, ...] = ()
    side_effects: tuple[SideEffect, ...] = ()
    blockers: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """What a caller asks for; `expected_affected` None is not checked."""

    vm: str
    device: str
    group_policy: GroupPolicy = GroupPolicy.WHOLE_GROUP
    scope: Scope = Scope.AUTO
    expected_affected: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class PlannedDevice:
    """One device of the plan, and what has to be done for it."""

    node: NodeDevice
    uid: str
    role: HolderRole
    live: bool
    config: bool
    config_by_service: bool = False


@dataclass(frozen=True, slots=True)
class AttachPlan:
    """The plan with what the engine needs to carry it out.

    `extends` is the assignment that the work adds a scope to. `live` and `config` tell which definitions
    of the VM get something. `held_by` is the first VM that stands in the way.
    """

    domain: Domain
    target: NodeDevice
    devices: tuple[PlannedDevice, ...]
    live: bool
    config: bool
    plan: Plan
    extends: Assignment | None = None
    held_by: Vm | None = None


def live_order(devices: tuple[PlannedDevice, ...]) -> tuple[PlannedDevice, ...]:
    """The order of live attaches: reserved members first, so that the group is viable for the shown ones."""
    live = [device for device in devices if device.live]
    return tuple(sorted(live, key=lambda device: device.role is not HolderRole.RESERVED))
