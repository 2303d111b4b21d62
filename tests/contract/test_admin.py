"""HostDeviceAdminService on every host; the helper that the lab's kernel needs is in tests/lab/test_sriov.py."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from api import LONG_S, Api, refused
from conftest import IN_LAB

from hostdev.v1 import service_pb2


def set_to(api: Api, device: str, count: int | None) -> int:
    """How many the answer has."""
    request = service_pb2.SetVirtualFunctionsRequest(device=device, count=count)
    return len(api.admin.SetVirtualFunctions(request, timeout=LONG_S).device.pci.virt_functions.addresses)


def test_a_number_that_a_device_cannot_have_names_the_field(api: Api, roles: dict[str, str]) -> None:
    for device, count, field in (
        (roles["nvme_sriov"], 5, "count"),
        (roles["nvme_sriov"], None, "count"),
        (roles["nvme_sriov"], 70_000, "count"),
        (roles["nic_single"], 1, "device"),
        (roles["usb_hub"], 1, "device"),
        ("", 1, "device"),
    ):
        with refused("INVALID_FIELD") as caught:
            set_to(api, device, count)
        assert caught[0].fields == [field], (device, count)


def test_an_unknown_device(api: Api) -> None:
    with refused("DEVICE_NOT_FOUND"):
        set_to(api, "pci_0000_ff_1f_7", 1)
    with refused("DEVICE_NOT_FOUND"):
        api.admin.DeleteMediatedDevice(service_pb2.DeleteMediatedDeviceRequest(device="mdev_nothing"))
    with refused("DEVICE_NOT_FOUND"):
        request = service_pb2.CreateMediatedDeviceRequest(parent="pci_0000_ff_1f_7", type_id="t")
        api.admin.CreateMediatedDevice(request)
    with refused("HOST_NOT_FOUND"):
        api.admin.SetVirtualFunctions(service_pb2.SetVirtualFunctionsRequest(host="another", device="x", count=1))


def test_the_number_that_there_is_needs_nobody(api: Api, roles: dict[str, str]) -> None:
    now = len(api.device(roles["nvme_sriov"]).pci.virt_functions.addresses)
    assert set_to(api, roles["nvme_sriov"], now) == now


def test_another_number_needs_the_helper(api: Api, roles: dict[str, str]) -> None:
    before = len(api.device(roles["nvme_sriov"]).pci.virt_functions.addresses)
    if IN_LAB:
        with refused("FEATURE_DISABLED") as caught:
            set_to(api, roles["nvme_sriov"], 3)
        assert "hostdevd-sriov.socket" in str(caught[0])
        return
    assert set_to(api, roles["nvme_sriov"], 3) == 3
    assert set_to(api, roles["nvme_sriov"], before) == before


def test_a_device_that_makes_no_mediated_devices(api: Api, roles: dict[str, str]) -> None:
    request = service_pb2.CreateMediatedDeviceRequest(parent=roles["nic_single"], type_id="t", uuid=str(uuid.uuid4()))
    with refused("INVALID_FIELD") as caught:
        api.admin.CreateMediatedDevice(request, timeout=LONG_S)
    assert caught[0].fields == ["parent"]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"uuid": "not-one"}, "uuid"), ({"uuid": ""}, "uuid"), ({"type_id": ""}, "type_id"), ({"parent": ""}, "parent")],
)
def test_a_malformed_request(api: Api, roles: dict[str, str], change: dict[str, str], field: str) -> None:
    fields: dict[str, Any] = {"parent": roles["nic_single"], "type_id": "t", **change}
    with refused("INVALID_FIELD") as caught:
        api.admin.CreateMediatedDevice(service_pb2.CreateMediatedDeviceRequest(**fields))
    assert caught[0].fields == [field]


def test_what_is_no_mediated_device_is_not_removed(api: Api, roles: dict[str, str]) -> None:
    with refused("INVALID_FIELD") as caught:
        api.admin.DeleteMediatedDevice(service_pb2.DeleteMediatedDeviceRequest(device=roles["nic_single"]))
    assert caught[0].fields == ["device"]


def test_one_is_made_and_removed(api: Api) -> None:
    parents = [device for device in api.devices(types=["pci"]) if device.pci.mdev_types]
    if not parents:
        pytest.skip("no kernel of a distribution makes mediated devices without hardware")
    wanted = service_pb2.CreateMediatedDeviceRequest(
        parent=parents[0].uid, type_id=parents[0].pci.mdev_types[0].id, uuid=str(uuid.uuid4()), attributes={"frl": "1"}
    )
    made = api.admin.CreateMediatedDevice(wanted, timeout=LONG_S).device
    try:
        assert made.mdev.uuid == wanted.uuid
        assert {one.name: one.value for one in made.mdev.attributes} == {"frl": "1"}
        assert api.admin.CreateMediatedDevice(wanted, timeout=LONG_S).device.uid == made.uid
        assert api.device(made.name).eligibility.available
    finally:
        api.admin.DeleteMediatedDevice(service_pb2.DeleteMediatedDeviceRequest(device=made.uid), timeout=LONG_S)
    with refused("DEVICE_NOT_FOUND"):
        api.device(made.name)
