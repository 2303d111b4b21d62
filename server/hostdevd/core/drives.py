"""Places for LUNs on a guest's virtio-scsi controllers."""

from __future__ import annotations

from collections.abc import Iterable

from hostdevd.core.model import Domain, DomainDef

UNITS = 256
"""hostdevd uses target 0 of a controller, whose units libvirt numbers 0 to 255 for a SCSI hostdev."""

Drive = tuple[int, int, int, int]
"""Controller, bus, target, unit."""


def has_controller(definition: DomainDef) -> bool:
    """Whether a definition has a virtio-scsi controller: QEMU passes a LUN on no other kind."""
    return any(controller.model.startswith("virtio") for controller in definition.hardware.scsi_controllers)


def same_drive(domain: Domain | None, alias: str) -> Drive | None:
    """Where the other definition has it already: the guest finds it there again after a restart."""
    for definition in (domain.live, domain.config) if domain else ():
        for entry in definition.entries if definition else ():
            if entry.alias == alias and entry.guest_address is not None:
                controller, bus, target, unit = map(int, entry.guest_address.split(":"))
                return (controller, bus, target, unit)
    return None


def free_drive(domain: Domain | None) -> Drive | None:
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
            common = {index: used | found[index] for index, used in common.items() if index in found}
    for index, used in sorted((common or {}).items()):
        for unit in range(UNITS):
            if (0, 0, unit) not in used:
                return (index, 0, 0, unit)
    return None
