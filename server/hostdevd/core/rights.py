"""What a caller may do and see: roles with their permissions, narrowed to virtual machines and devices.

A right is a permission on a device for a virtual machine. A grant gives the permissions of its role on all pairs of
a machine and a device that its selectors fit; what somebody may is the union of the grants that are his.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum, unique
from functools import cached_property

from hostdevd.core.caller import Caller, Proof
from hostdevd.core.errors import HostdevError
from hostdevd.core.model import OfVm, Vm
from hostdevd.core.selectors import Matchers, Traits, fits


@unique
class Role(StrEnum):
    """Each may all that the one before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@unique
class Permission(StrEnum):
    """What a call needs, by the name that refusals and the manual use."""

    HOST_READ = "host.read"
    SCHEMA_READ = "schema.read"
    DEVICES_READ = "devices.read"
    GROUPS_READ = "groups.read"
    HOLDERS_READ = "holders.read"
    ASSIGNMENTS_READ = "assignments.read"
    ASSIGNMENTS_ATTACH = "assignments.attach"
    ASSIGNMENTS_DETACH = "assignments.detach"
    ASSIGNMENTS_FORGET = "assignments.forget"
    FUNCTIONS_SET = "functions.set"
    MDEVS_CREATE = "mdevs.create"
    MDEVS_DELETE = "mdevs.delete"


LEAST_ROLE = {
    Permission.HOST_READ: Role.VIEWER,
    Permission.SCHEMA_READ: Role.VIEWER,
    Permission.DEVICES_READ: Role.VIEWER,
    Permission.GROUPS_READ: Role.VIEWER,
    Permission.HOLDERS_READ: Role.VIEWER,
    Permission.ASSIGNMENTS_READ: Role.VIEWER,
    Permission.ASSIGNMENTS_ATTACH: Role.OPERATOR,
    Permission.ASSIGNMENTS_DETACH: Role.OPERATOR,
    Permission.ASSIGNMENTS_FORGET: Role.OPERATOR,
    Permission.FUNCTIONS_SET: Role.ADMIN,
    Permission.MDEVS_CREATE: Role.ADMIN,
    Permission.MDEVS_DELETE: Role.ADMIN,
}
"""The first role that has a permission. Every role may read, so what may be seen does not depend on the role."""

_RANK = {role: rank for rank, role in enumerate(Role)}


@dataclass(frozen=True, slots=True)
class VmSelector:
    """Virtual machines: by UUID (lower case), by name, or by a pattern of names.

    `fit_pattern` tells whether a name fits any of the patterns.
    """

    uuids: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()
    fit_pattern: Callable[[str], object] | None = field(default=None, compare=False)

    def fit(self, vm: Vm | OfVm) -> bool:
        """Whether it is one of them."""
        if vm.uuid in self.uuids or vm.name in self.names:
            return True
        return self.fit_pattern is not None and self.fit_pattern(vm.name) is not None


@dataclass(frozen=True, slots=True)
class Grant:
    """A role on the machines and devices of its selectors; None selects all. The device selectors are alternatives."""

    role: Role
    vms: VmSelector | None = None
    devices: tuple[Matchers, ...] | None = None

    def gives(self, permission: Permission) -> bool:
        """Whether its role has a permission."""
        return _RANK[self.role] >= _RANK[LEAST_ROLE[permission]]

    def fits_vm(self, vm: Vm | OfVm) -> bool:
        """Whether it is about a machine."""
        return self.vms is None or self.vms.fit(vm)

    def fits_device(self, device: Traits) -> bool:
        """Whether it is about a device."""
        return self.devices is None or any(fits(matchers, device) for matchers in self.devices)

    @property
    def is_whole(self) -> bool:
        """Whether nothing narrows it."""
        return self.vms is None and self.devices is None


@dataclass(frozen=True)
class Rights:
    """All grants of one caller."""

    grants: tuple[Grant, ...] = ()

    def has(self, permission: Permission) -> bool:
        """Whether there is anything that it holds for."""
        return any(grant.gives(permission) for grant in self.grants)

    def covers(self, permission: Permission, vm: Vm, device: Traits) -> bool:
        """Whether it holds for a machine and a device together."""
        return any(grant.gives(permission) and grant.fits_vm(vm) and grant.fits_device(device) for grant in self.grants)

    def covers_on_host(self, permission: Permission, device: Traits) -> bool:
        """Whether it holds for a device whatever machine may come to have it: what changes the host needs that."""
        return any(grant.gives(permission) and grant.vms is None and grant.fits_device(device) for grant in self.grants)

    def sees_vm(self, vm: Vm | OfVm) -> bool:
        """Whether a machine may be seen."""
        return any(grant.fits_vm(vm) for grant in self.grants)

    def sees_device(self, device: Traits) -> bool:
        """Whether a device may be seen."""
        return any(grant.fits_device(device) for grant in self.grants)

    def sees_together(self, vm: Vm, device: Traits) -> bool:
        """Whether it may be seen that a machine has a device."""
        return any(grant.fits_vm(vm) and grant.fits_device(device) for grant in self.grants)

    @cached_property
    def sees_everything(self) -> bool:
        """Whether nothing at all is hidden."""
        return any(grant.is_whole for grant in self.grants)

    @cached_property
    def narrows_devices_by_driver(self) -> bool:
        """Whether it depends on a device's driver what may be seen."""
        return any(key == "driver" for grant in self.grants for one in grant.devices or () for key, _ in one)

    @cached_property
    def view(self) -> str:
        """What may be seen, as a short text that is the same for the same: empty where nothing is hidden."""
        if self.sees_everything:
            return ""
        shown = sorted({f"{_vms_text(grant.vms)} {_devices_text(grant.devices)}" for grant in self.grants})
        return hashlib.sha256("\n".join(shown).encode()).hexdigest()[:16]


def _vms_text(vms: VmSelector | None) -> str:
    return "all" if vms is None else repr((sorted(vms.uuids), sorted(vms.names), vms.patterns))


def _devices_text(devices: tuple[Matchers, ...] | None) -> str:
    if devices is None:
        return "all"
    return repr(sorted([(key, sorted(one.exact), sorted(one.beginnings)) for key, one in each] for each in devices))


ALL = Rights((Grant(Role.ADMIN),))
"""Whoever reaches the service may everything: without a roles file."""
LOOKING = Rights((Grant(Role.VIEWER),))


def capped(rights: Rights, role: Role) -> Rights:
    """The same grants, none of them with more than a role."""
    return Rights(
        tuple(Grant(min(grant.role, role, key=_RANK.__getitem__), grant.vms, grant.devices) for grant in rights.grants)
    )


def without_roles(caller: Caller) -> Rights:
    """What a caller may while no roles file is configured: all of it, whoever he is known to be."""
    if caller.proof is Proof.NONE:
        return Rights()
    return LOOKING if caller.read_only else ALL


def not_allowed(permission: Permission, caller: Caller, on: str = "") -> HostdevError:
    """The refusal that names who was refused, what he lacks, on what, and how he would come by it."""
    role = LEAST_ROLE[permission]
    if caller.read_only and role is not Role.VIEWER:
        why = ": nothing can be changed at the read-only socket"
    else:
        why = f", which the role {role} has; see the roles file"
    text = f"{caller.name} lacks the permission {permission}" + (f" for {on}" if on else "") + why
    metadata = {"permission": str(permission)} | ({"on": on} if on else {})
    return HostdevError("NOT_ALLOWED", f"not allowed: {text}", metadata=metadata)


def no_identity() -> HostdevError:
    """Nothing tells who calls."""
    return HostdevError(
        "NO_IDENTITY",
        "nothing tells who calls: use the unix socket, or a client certificate with a subject alternative name, of the"
        " trust domain if hostdevd has one",
    )
