"""Who holds what: the entries of every domain's XML, joined with the devices of the host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from hostdevd.core.addresses import BlockPath, DeviceSource, NetworkName, UsbAddress, UsbProduct
from hostdevd.core.assignments import AssignedDevice
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import Domain, DomainEntry, Holder, HolderRole, HolderVia, OfVm, Vm

BlockPaths = Callable[[str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Held:
    """One device that one domain holds, live and config entries together.

    `device` is a libvirt name, or the address in the domain's XML for a device that the host lacks.
    """

    device: str
    live: DomainEntry | None = None
    config: DomainEntry | None = None

    @property
    def entry(self) -> DomainEntry:
        """The entry that says most: the live one where there is one."""
        entry = self.live or self.config
        if entry is None:  # never built so
            raise AssertionError(self.device)
        return entry


UNREAD = "what a virtual machine holds is not known"
"""Which one, and why, is an `OfVm`."""


def gap_of(domain: Domain) -> OfVm | None:
    """Why a domain may hold more than its entries say; None where they are all."""
    gap = next((read.gap for read in (domain.live, domain.config) if read is not None and read.gap), "")
    return OfVm(domain.vm.name, domain.vm.uuid, gap) if gap else None


def devices_of(graph: DeviceGraph, source: DeviceSource, block_paths: BlockPaths) -> tuple[str, ...]:
    """The libvirt names of the devices that an entry's source names now; empty when none is there.

    vendor:product that several devices match names none of them for certain: all are given, so that
    none is handed to another VM.
    """
    if isinstance(source, NetworkName):
        return ()
    if isinstance(source, BlockPath):
        names = (graph.by_path(path) for path in block_paths(source.path))
        return tuple(_lun_or_self(graph, name) for name in names if name is not None)
    return graph.at(source)


def held_by(domain: Domain, graph: DeviceGraph, block_paths: BlockPaths) -> tuple[Held, ...]:
    """What a domain holds, by device, in the order of its XML."""
    found: dict[str, Held] = {}
    for entry in domain.live.entries if domain.live else ():
        if entry.missing:
            continue
        for name in devices_of(graph, entry.source, block_paths) or (str(entry.source),):
            found.setdefault(name, Held(name, live=entry))
    # A running guest shows which of two equal devices its vendor:product entry took; by alias it is the same one.
    # After a re-plug the live entry names nothing, or what took its number since: that says nothing.
    by_alias = {
        held.live.alias: name for name, held in found.items() if held.live and held.live.alias and name in graph
    }
    for entry in domain.config.entries if domain.config else ():
        names = devices_of(graph, entry.source, block_paths) or (str(entry.source),)
        taken = by_alias.get(entry.alias or "")
        if taken is not None and (
            isinstance(entry.source, UsbAddress) or (isinstance(entry.source, UsbProduct) and taken in names)
        ):
            names = (taken,)
        for name in names:
            before = found.get(name)
            found[name] = replace(before, config=entry) if before else Held(name, config=entry)
    return tuple(found.values())


def entry_of(device: AssignedDevice) -> DomainEntry:
    """The entry that a device kept by the service would have in the configuration."""
    return DomainEntry(HolderVia.HOSTDEV, BlockPath(device.name), alias=device.alias, role=device.role)


def with_config(held: tuple[Held, ...], kept: Mapping[str, DomainEntry]) -> tuple[Held, ...]:
    """The same with these configuration entries by device, where there is none."""
    found = {one.device: one for one in held}
    for name, entry in kept.items():
        before = found.get(name, Held(name))
        found[name] = replace(before, config=before.config or entry)
    return tuple(found.values())


def holder_key(device: str, vm_uuid: str) -> str:
    """The key of a holder: one per device (its uid, or its name while it has none) and VM."""
    return "hld-" + hashlib.sha256(f"{device}\0{vm_uuid}".encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Labels:
    """What the store knows of a held device besides the XML."""

    uid: str
    group: str | None
    assignment: str | None
    traits: tuple[tuple[str, str], ...] = ()


def holders_of(
    domain: Domain,
    held: Iterable[Held],
    label: Callable[[str, Held], Labels],
    before: Mapping[str, Holder],
    now: datetime,
) -> Iterator[Holder]:
    """The holders of one domain; one that was there before keeps its `since`."""
    for one in held:
        labels = label(domain.vm.uuid, one)
        key = holder_key(labels.uid or one.device, domain.vm.uuid)
        entry = one.entry
        known = before.get(key)
        yield Holder(
            key=key,
            device=one.device,
            uid=labels.uid,
            group=labels.group,
            vm=as_told(domain.vm),
            live=one.live is not None,
            config=one.config is not None,
            via=entry.via,
            role=entry.role,
            guest_address=entry.guest_address if entry.role is HolderRole.VISIBLE else None,
            alias=entry.alias,
            managed=entry.managed,
            assignment=labels.assignment,
            since=known.since if known else now,
            traits=labels.traits,
        )


def as_told(vm: Vm) -> Vm:
    """A VM as its holders show it: whether it has a saved image or is persistent changes nothing of who holds what."""
    return replace(vm, persistent=True, managed_save=False)


def _lun_or_self(graph: DeviceGraph, name: str) -> str:
    """A disk is held as the SCSI LUN or USB device that carries it where there is one: that is assignable."""
    device = graph.nodes[name]
    if device.type != "storage":
        return name
    for above in graph.ancestors(name):
        if above.type in {"scsi", "pci"}:
            return above.name
    return name
