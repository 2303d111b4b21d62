"""CreateMediatedDevice and DeleteMediatedDevice on the simulated host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from hostdevd.core.errors import HostdevError
from hostdevd.core.mediated import MdevRequest
from hostdevd.core.model import HostUseKind
from hostdevd.core.views import DeviceView
from unit.core.rig import Machine, Shape, machine

PARENT = "pci_0000_12_00_0"
THERE = "mdev_4b20d080_1b54_4048_85b3_a6a62d165c01_0000_12_00_0"
UUID = "00000000-0000-4000-8000-00000000cafe"
NAME = "mdev_00000000_0000_4000_8000_00000000cafe_0000_12_00_0"
REQUEST = MdevRequest(PARENT, "nvidia-222", UUID)


@pytest.fixture
async def m(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path) as running:
        yield running


async def create(m: Machine, request: MdevRequest = REQUEST) -> DeviceView:
    return await m.core.admin.create_mdev(request, asyncio.get_running_loop().time() + 30)


async def delete(m: Machine, device: str = NAME) -> None:
    await m.core.admin.delete_mdev(device, asyncio.get_running_loop().time() + 30)


async def refused(doing: Awaitable[object]) -> HostdevError:
    with pytest.raises(HostdevError) as caught:
        await doing
    return caught.value


def left(m: Machine, type_id: str) -> int:
    """What the parent is listed with."""
    types = m.core.store.devices[PARENT].node.detail["mdev_types"]
    assert isinstance(types, list)
    (found,) = (one["available_instances"] for one in types if one["id"] == type_id)
    assert isinstance(found, int)
    return found


async def test_one_is_made_listed_attached_and_removed(m: Machine) -> None:
    before = left(m, "nvidia-222")
    view = await create(m)
    assert (view.name, view.node.parent) == (NAME, PARENT)
    assert view.eligibility.available
    assert left(m, "nvidia-222") == before - 1
    await m.attach(Shape(NAME))
    error = await refused(delete(m))
    assert (error.reason, error.metadata["vm_name"]) == ("HELD_BY_OTHER_VM", "alpha")
    await m.detach(vm="alpha", device=NAME)
    await delete(m, view.uid)
    assert NAME not in m.core.store.devices
    assert left(m, "nvidia-222") == before
    assert (await refused(delete(m))).reason == "DEVICE_NOT_FOUND"


async def test_without_a_uuid_each_call_makes_one(m: Machine) -> None:
    request = replace(REQUEST, uuid=None)
    assert (await create(m, request)).uid != (await create(m, request)).uid


async def test_a_repeat_finds_what_is_there(m: Machine) -> None:
    request = replace(REQUEST, attributes=(("frl", "1"),))
    made = await create(m, request)
    calls = m.sim.hypervisor.call_counts()["create_mdev"]
    assert (await create(m, request)).uid == made.uid
    assert m.sim.hypervisor.call_counts()["create_mdev"] == calls


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (replace(REQUEST, type_id="nvidia-230"), "uuid"),
        (replace(REQUEST, attributes=(("frl", "2"),)), "attributes"),
        (replace(REQUEST, type_id="nvidia-1"), "type_id"),
        (replace(REQUEST, parent="pci_0000_01_00_0"), "parent"),
    ],
)
async def test_what_cannot_be_made_names_the_field(m: Machine, other: MdevRequest, field: str) -> None:
    await create(m, replace(REQUEST, attributes=(("frl", "1"),)))
    error = await refused(create(m, other))
    assert (error.reason, [one.field for one in error.fields]) == ("INVALID_FIELD", [field])


@pytest.mark.parametrize("name", ["../x", "driver/unbind", "/etc/passwd", "a/b/c", ".x", "", "a b", "nvidia/.."])
def test_an_attribute_that_would_leave_the_devices_directory_is_refused(name: str) -> None:
    with pytest.raises(HostdevError) as caught:
        MdevRequest(PARENT, "nvidia-222", attributes=((name, "1"),))
    assert caught.value.fields[0].field == "attributes"


@pytest.mark.parametrize("name", ["assign_adapter", "nvidia/vgpu_params", "frl-2.x"])
def test_an_attribute_as_vendors_have_them(name: str) -> None:
    MdevRequest(PARENT, "nvidia-222", attributes=((name, "1"),))


async def test_no_instance_left_names_who_has_them(m: Machine) -> None:
    for _ in range(left(m, "nvidia-230")):
        await create(m, MdevRequest(PARENT, "nvidia-230"))
    error = await refused(create(m, MdevRequest(PARENT, "nvidia-230")))
    assert (error.reason, error.metadata["type_id"]) == ("DEVICE_NOT_ELIGIBLE", "nvidia-230")
    assert {reason.code for reason in error.reasons} == {"HAS_CHILD_FUNCTIONS"}
    assert THERE in {reason.subject for reason in error.reasons}
    assert all(reason.remedy for reason in error.reasons)


async def test_a_parent_that_a_vm_has_makes_none(m: Machine) -> None:
    await delete(m, THERE)
    await m.attach(Shape(PARENT, vm="spare"))
    error = await refused(create(m))
    assert (error.reason, error.metadata["vm_name"]) == ("HELD_BY_OTHER_VM", "spare")


async def test_one_that_the_host_uses_stays(m: Machine) -> None:
    m.sim.controls.add_use(THERE, HostUseKind.VFIO_USER)
    error = await refused(delete(m, THERE))
    assert (error.reason, [one.code for one in error.reasons]) == ("DEVICE_NOT_ELIGIBLE", ["HOST_IN_USE"])


async def test_only_mediated_devices_are_removed(m: Machine) -> None:
    assert (await refused(delete(m, PARENT))).fields[0].field == "device"


@pytest.mark.parametrize(("code", "reason"), [(1, "HYPERVISOR_UNSUPPORTED"), (88, "BROKER_NOT_AUTHORIZED")])
@pytest.mark.parametrize("call", ["create_mdev", "delete_mdev"])
async def test_what_libvirt_refuses_is_told_with_its_code(m: Machine, call: str, code: int, reason: str) -> None:
    m.sim.controls.fail_next(call, code, "its own words")
    error = await refused(create(m) if call == "create_mdev" else delete(m, THERE))
    assert (error.reason, error.metadata["libvirt_code"]) == (reason, str(code))
    assert "its own words" in error.message


async def test_a_connection_that_breaks_is_told_and_a_repeat_goes_on(m: Machine) -> None:
    m.sim.controls.fail_next("create_mdev", after=True, gone=True)
    assert (await refused(create(m))).reason == "LIBVIRT_DISCONNECTED"
    m.sim.controls.reconnect()
    await m.core.sync.synced.wait()
    assert (await create(m)).name == NAME


async def test_after_a_reboot_the_persistent_one_is_there(tmp_path: Path) -> None:
    other = "00000000-0000-4000-8000-00000000beef"
    async with machine(tmp_path, kept=True) as m:
        await create(m)
        await create(m, replace(REQUEST, uuid=other, persistent=True))
        m.sim.controls.reboot_host()
    async with machine(tmp_path, kept=True) as m:
        assert NAME not in m.core.store.devices
        assert NAME.replace("cafe", "beef") in m.core.store.devices
        assert THERE in m.core.store.devices


async def test_asked_for_again_as_persistent_it_becomes_so(tmp_path: Path) -> None:
    async with machine(tmp_path, kept=True) as m:
        await create(m)
        await create(m, replace(REQUEST, persistent=True))
        m.sim.controls.reboot_host()
        await m.core.sync.synced.wait()
        assert m.sim.world.kernel.visible(NAME)


async def test_an_attach_while_it_is_being_removed_is_refused(tmp_path: Path) -> None:
    removing, may_go_on = asyncio.Event(), asyncio.Event()

    async def stop_in_delete(call: str, _: object) -> None:
        if call == "delete_mdev":
            removing.set()
            await may_go_on.wait()

    async with machine(tmp_path, before_call=stop_in_delete) as m:
        removal = asyncio.create_task(delete(m, THERE))
        await removing.wait()
        error = await refused(m.attach(Shape(THERE)))
        assert (error.reason, error.metadata["operation"]) == ("OPERATION_IN_PROGRESS", "DeleteMediatedDevice")
        may_go_on.set()
        await removal
