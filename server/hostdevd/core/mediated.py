"""Mediated devices made and removed through libvirt, which has mdevctl do it and keeps the definitions."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from hostdevd.core import preflight
from hostdevd.core.addresses import MdevUuid
from hostdevd.core.audit import Entry
from hostdevd.core.audit_log import AuditLog
from hostdevd.core.errors import HostdevError, invalid_field
from hostdevd.core.failures import device_in_work, libvirt_refused
from hostdevd.core.hostwork import HostWorks, Looks, before
from hostdevd.core.model import NodeDevice, Reason
from hostdevd.core.planner import find_device, find_target
from hostdevd.core.ports import Clock, HypervisorError, HypervisorPort, MdevSpec, NoSuchObject
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.views import DeviceView

log = structlog.get_logger()

CREATE = "CreateMediatedDevice"
DELETE = "DeleteMediatedDevice"

LOOK_AGAIN_S = 0.5

_COMPONENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}", re.ASCII)
_VENDOR_DIRECTORIES = frozenset({"nvidia"})
"""Where attributes may lie below the device. No others: its directory has links, and mdevctl writes as root."""


@dataclass(frozen=True, slots=True)
class MdevRequest:
    """What a caller asks to have made; no `uuid`: a new one."""

    parent: str
    type_id: str
    uuid: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()
    persistent: bool = False

    def __post_init__(self) -> None:
        """`INVALID_FIELD` for what no host could make."""
        for name, _ in self.attributes:
            directory, slash, last = name.rpartition("/")
            if _COMPONENT.fullmatch(last) is None or (slash and directory not in _VENDOR_DIRECTORIES):
                raise invalid_field("attributes", f"{name!r} is no name of a mediated device's attribute")


class MediatedDevices:
    """`CreateMediatedDevice` and `DeleteMediatedDevice` on one host."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        works: HostWorks[str],
        hypervisor: HypervisorPort,
        clock: Clock,
        looks: Looks,
        audit: AuditLog,
    ) -> None:
        self._audit = audit
        self._store = store
        self._sync = sync
        self._works = works
        self._hypervisor = hypervisor
        self._clock = clock
        self._looks = looks

    # --- create --------------------------------------------------------------------------------------

    async def create(self, request: MdevRequest, until: float | None, entry: Entry) -> DeviceView:
        """Make one, or find that it is there as it was asked for; `until` is the loop's time."""
        parent = find_target(self._store, request.parent)
        spec = MdevSpec(
            parent.name, request.type_id, request.uuid or str(uuid.uuid4()), request.attributes, request.persistent
        )
        work = self._works.running(spec)
        if work is None:
            self._works.check_free((parent,))
            work = self._works.begin(CREATE, spec, parent, self._make(spec, entry))
        name = await self._works.result(work, until)
        view = self._store.device(name)
        if view is None:  # removed again since
            raise HostdevError(
                "DEVICE_NOT_FOUND", f"{name} was made and is gone", metadata={"device": name}, resource=("device", name)
            )
        return view

    async def _make(self, spec: MdevSpec, entry: Entry) -> str:
        await self._looks.fresh()
        # Of what is left of a type libvirt tells no event.
        await self._sync.read_again((spec.parent,))
        parent = find_device(self._store, spec.parent)
        known = _type(parent, spec.type_id)
        existing = self._existing(spec)
        if existing is not None and not spec.persistent and existing.path:
            return existing.name
        async with self._audit.work(entry, spec.parent):
            if existing is None:
                self._check_parent(find_device(self._store, spec.parent), spec, known)
            try:
                name = await self._hypervisor.create_mdev(spec)
            except HypervisorError as error:
                raise libvirt_refused(f"making {spec.uuid} on {spec.parent}", spec.parent, error) from error
        await self._sync.read_again((name, spec.parent))
        log.info("a mediated device was made", device=name, type=spec.type_id, persistent=spec.persistent)
        return name

    def _existing(self, spec: MdevSpec) -> NodeDevice | None:
        """The device of this UUID, which is a repeat's; one that differs is `INVALID_FIELD`."""
        for name in self._store.graph.at(MdevUuid(spec.uuid)):
            node = self._store.graph.nodes[name]
            attributes = {one["name"]: one["value"] for one in _messages(node, "attributes")}
            if (node.parent, node.detail.get("type_id")) != (spec.parent, spec.type_id):
                raise invalid_field("uuid", f"belongs to {name}, a {node.detail.get('type_id')} of {node.parent}")
            if any(attributes.get(key) != value for key, value in spec.attributes):
                raise invalid_field("attributes", f"{name} is there with others")
            return node
        return None

    def _check_parent(self, parent: NodeDevice, spec: MdevSpec, known: Mapping[str, Any]) -> None:
        for reason, vm in preflight.holdings(self._store, parent.name):
            metadata = {"device": parent.name, "vm_name": vm.name, "vm_uuid": vm.uuid}
            raise HostdevError("HELD_BY_OTHER_VM", reason.message, metadata=metadata, reasons=(reason,))
        if known.get("available_instances", 0) > 0:
            return
        text = f"{parent.name} has no instance of {spec.type_id} left"
        raise HostdevError(
            "DEVICE_NOT_ELIGIBLE",
            text,
            metadata={"device": parent.name, "type_id": spec.type_id},
            reasons=tuple(_taking(self._store, parent, text)),
        )

    # --- delete --------------------------------------------------------------------------------------

    async def delete(self, device: str, until: float | None, entry: Entry) -> None:
        """Remove one, its definition included; `until` is the loop's time."""
        node = find_target(self._store, device)
        if node.type != "mdev":
            raise invalid_field("device", f"{node.name} is of type {node.type}, not a mediated device")
        work = self._works.running(node.name)
        if work is None:
            self._works.check_free((node,))
            work = self._works.begin(DELETE, node.name, node, self._remove(node.name, entry))
        await self._works.result(work, until)
        await before(until, self._gone(node.name), device_in_work(DELETE, node.name))

    async def _remove(self, name: str, entry: Entry) -> str:
        await self._looks.fresh()
        node = find_device(self._store, name)
        await self._looks.compare((node,))
        async with self._audit.work(entry, name):
            await self._remove_unused(name)
        return name

    async def _remove_unused(self, name: str) -> None:
        for reason, vm in preflight.holdings(self._store, name):
            metadata = {"device": name, "vm_name": vm.name, "vm_uuid": vm.uuid}
            raise HostdevError("HELD_BY_OTHER_VM", reason.message, metadata=metadata, reasons=(reason,))
        uses = tuple(one for one in self._store.devices[name].eligibility.reasons if one.code == "HOST_IN_USE")
        if uses:
            text = f"{name} cannot be removed: {uses[0].message}"
            raise HostdevError("DEVICE_NOT_ELIGIBLE", text, metadata={"device": name}, reasons=uses)
        try:
            await self._hypervisor.delete_mdev(name)
        except NoSuchObject:
            pass  # somebody else was faster
        except HypervisorError as error:
            raise libvirt_refused(f"removing {name}", name, error) from error
        else:
            log.info("a mediated device was removed", device=name)

    async def _gone(self, name: str) -> None:
        while True:
            parent = node.parent if (node := self._store.graph.get(name)) is not None else None
            await self._sync.read_again((name, *((parent,) if parent in self._store.graph else ())))
            if name not in self._store.graph:
                return
            await self._clock.sleep(LOOK_AGAIN_S)


def _type(parent: NodeDevice, type_id: str) -> Mapping[str, Any]:
    types = {one["id"]: one for one in _messages(parent, "mdev_types")}
    if not types:
        raise invalid_field("parent", f"{parent.name} makes no mediated devices")
    if type_id not in types:
        raise invalid_field("type_id", f"{parent.name} has no type {type_id}; it has {', '.join(sorted(types))}")
    return types[type_id]


def _messages(node: NodeDevice, name: str) -> tuple[Mapping[str, Any], ...]:
    """The repeated field of a device's detail."""
    found: Any = node.detail.get(name, ())
    return tuple(found)


def _taking(store: Store, parent: NodeDevice, text: str) -> Iterator[Reason]:
    """The mediated devices that have the instances; the parent itself where libvirt lists none."""
    taken = [name for name in store.graph.children(parent.name) if store.graph.nodes[name].type == "mdev"]
    for name in taken:
        remedy = f"remove one that is not needed: hostdevctl mdev delete {name}"
        yield Reason("HAS_CHILD_FUNCTIONS", name, f"{name} is one of those that {parent.name} has made", remedy)
    if not taken:
        yield Reason("DEVICE_NOT_ELIGIBLE", parent.name, text, "choose another type, or another parent")
