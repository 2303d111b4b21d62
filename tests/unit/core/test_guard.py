"""What the service tells the start guard: who is assigned, by keys that hold; who holds what, in this boot."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hostdevd.core.addresses import PciAddress, ScsiAddress
from hostdevd.core.assignments import AssignedDevice, Assignment, AssignmentState, Scope
from hostdevd.core.guard import guard_document
from hostdevd.core.history import ChangeSource
from hostdevd.core.model import Domain, HostUse, HostUseKind, HostUses, NodeDevice
from hostdevd.core.store import Store
from unit.core.made import domain, entry, lun, pci, store
from unit.core.rig import Shape, machine

EVENT = ChangeSource.EVENT
NIC = pci("01:00.0")


def told(of: Store) -> Any:
    """The document as its reader gets it."""
    return json.loads(json.dumps(guard_document(of, "boot")))


def fill(*devices: NodeDevice, domains: tuple[Domain, ...] = ()) -> Store:
    found = store()
    with found.change(EVENT):
        found.put_devices(devices)
        found.put_domains(domains)
    return found


def test_nothing_assigned_nothing_held() -> None:
    assert told(fill(NIC)) == {"version": 1, "boot_id": "boot", "assigned": {}, "held": {}, "consoles": []}


def test_only_running_vms_hold() -> None:
    at, unit = PciAddress.parse("0000:01:00.0"), ScsiAddress(2, 0, 0, 0)
    on, off = domain("on", (entry(unit),)), domain("off", None, (entry(at),))
    found = told(fill(NIC, lun("lun"), domains=(on, off)))
    assert found["held"] == {"scsi:2:0:0:0": [{"uuid": on.vm.uuid, "name": "on", "via": "HOSTDEV"}]}


def test_the_console_is_told_with_its_address() -> None:
    found = fill(NIC)
    with found.change(EVENT):
        found.put_uses(HostUses({NIC.path or "": (HostUse(HostUseKind.PRIMARY_CONSOLE),)}))
    assert told(found)["consoles"] == ["0000:01:00.0"]
    with found.change(EVENT):
        found.put_uses(HostUses({NIC.path or "": (HostUse(HostUseKind.MOUNT, "/"),)}))
    assert told(found)["consoles"] == []  # the hook sees mounts itself


async def test_an_assignment_is_told_by_alias_and_keys_as_long_as_it_is_open(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        assert told(on.core.store)["assigned"] == {}
        assignment = await on.attach(Shape("dual_0", "spare"))
        found = told(on.core.store)["assigned"][assignment.vm.uuid]
        assert set(found) == assignment.aliases
        first = next(device for device in assignment.devices if device.name == on.name("dual_0"))
        assert found[first.alias]["uid"] == first.uid
        assert found[first.alias]["keys"][0].startswith("pci|")
        assert all("at|" not in key for one in found.values() for key in one["keys"])
        await on.detach(assignment.name)
        assert told(on.core.store)["assigned"] == {}


async def test_a_device_that_is_gone_is_told_all_the_same(tmp_path: Path) -> None:
    async with machine(tmp_path) as on:
        assignment = await on.attach(Shape("lun_0", "spare", scope=Scope.CONFIG))
        before = told(on.core.store)["assigned"]
        with on.core.store.change(EVENT):
            on.core.store.remove_devices([on.name("lun_0")])
        assert told(on.core.store)["assigned"] == before
        assert list(before) == [assignment.vm.uuid]


def test_what_another_tool_attached_is_told_only_under_an_alias_that_libvirt_keeps() -> None:
    vm = domain("off", None)
    found = fill(NIC, domains=(vm,))
    uid = found.identities.uid(NIC.name)
    assert found.identities.keys("dev-unknown") == ()
    devices = (
        AssignedDevice(NIC.name, uid, "hostdev0"),
        AssignedDevice(NIC.name, uid, "ua-mine"),
        AssignedDevice("gone", "dev-unknown", "ua-gone"),
    )
    _put(found, vm, devices)
    assert list(told(found)["assigned"][vm.vm.uuid]) == ["ua-mine"]


def _put(into: Store, of: Domain, devices: tuple[AssignedDevice, ...]) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with into.change(EVENT):
        into.put_assignment(Assignment("a", of.vm, devices, AssignmentState.ATTACHED, now, now))
