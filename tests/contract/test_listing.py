"""What a host has, what may be assigned, and why not."""

from __future__ import annotations

import pytest
from api import Api, codes, refused

from hostdev.v1 import device_pb2, group_pb2, service_pb2

FREE = ("nic_single", "bridge_e1000", "dual_0", "twoport_0", "switch_0", "usb_keyboard", "usb_tablet", "usb_stick")
REFUSED = {
    "ich9_lpc": "BRIDGE",
    "ich9_sata": "GROUP_MEMBER_INELIGIBLE",
    "ich9_smbus": "PCI_CLASS",
    "usb_hub": "USB_HUB",
    "nvme_mounted": "HOST_IN_USE",
    "nic_address": "HOST_IN_USE",
    "nic_bridged": "HOST_IN_USE",
}


def test_every_device_has_a_name_a_uid_and_a_type_and_is_found_by_both(api: Api, roles: dict[str, str]) -> None:
    devices = api.devices()
    assert len({device.uid for device in devices}) == len(devices)
    for role in FREE:
        device = api.device(roles[role])
        assert device.uid.startswith("dev-")
        assert api.device(device.uid) == device
    assert {"system", "pci", "usb_device", "scsi", "net", "storage"} <= {device.type for device in devices}
    assert all(device.WhichOneof("detail") == device.type for device in devices)


def test_the_tree_is_whole(api: Api) -> None:
    devices = {device.name: device for device in api.devices()}
    for device in devices.values():
        for child in device.children:
            assert devices[child].parent == device.name


@pytest.mark.parametrize("role", FREE)
def test_a_free_leaf_is_eligible_and_available(api: Api, roles: dict[str, str], role: str) -> None:
    device = api.device(roles[role])
    assert codes(device.eligibility.reasons) == []
    assert device.eligibility.eligible
    assert device.eligibility.available
    assert roles[role] in api.eligible()


@pytest.mark.parametrize(("role", "reason"), REFUSED.items())
def test_what_may_not_be_assigned_says_why(api: Api, roles: dict[str, str], role: str, reason: str) -> None:
    device = api.device(roles[role])
    assert reason in codes(device.eligibility.reasons), device.eligibility
    assert not device.eligibility.eligible
    assert all(one.message and one.subject for one in device.eligibility.reasons)
    assert roles[role] not in api.eligible()
    assert roles[role] in api.eligible(include_ineligible=True)


def test_only_assignable_types_can_be_eligible(api: Api) -> None:
    for name, one in api.eligible().items():
        assert one.device.type in {"pci", "usb_device", "scsi", "mdev"}, name


def test_a_conventional_bridge_and_what_is_behind_it_are_one_group(api: Api, roles: dict[str, str]) -> None:
    group = api.group_of(roles["bridge_e1000"])
    members = {member.name: member.role for member in group.members}
    endpoints = {roles["bridge_e1000"], roles["bridge_rtl8139"], roles["bridge_ac97"]}
    assert {name for name, role in members.items() if role == group_pb2.GROUP_MEMBER_ROLE_ENDPOINT} == endpoints
    assert set(members.values()) == {group_pb2.GROUP_MEMBER_ROLE_ENDPOINT, group_pb2.GROUP_MEMBER_ROLE_BRIDGE}
    assert group.eligibility.eligible
    assert not group.viable  # their drivers are the host's


def test_the_affected_are_the_rest_of_the_group_and_what_is_below(api: Api, roles: dict[str, str]) -> None:
    one = api.eligible()[roles["dual_0"]]
    found = {item.name: item.role for item in one.affected}
    assert found[roles["dual_1"]] == device_pb2.AFFECTED_DEVICE_ROLE_ENDPOINT
    kinds = {item.type for item in one.affected if item.role == device_pb2.AFFECTED_DEVICE_ROLE_CHILD}
    assert kinds == {"net"}
    affected_by = {device.name for device in api.devices(affected_by=roles["dual_0"])}
    assert affected_by == set(found)


def test_the_chipset_group_is_refused_as_a_whole(api: Api, roles: dict[str, str]) -> None:
    group = api.group_of(roles["ich9_lpc"])
    assert not group.eligibility.eligible
    assert "GROUP_MEMBER_INELIGIBLE" not in codes(group.eligibility.reasons)


def test_a_usb_device_has_no_group(api: Api, roles: dict[str, str]) -> None:
    with refused("GROUP_NOT_FOUND"):
        api.group_of(roles["usb_stick"])


def test_filters_and_their_fields(api: Api, roles: dict[str, str]) -> None:
    nic = api.device(roles["nic_single"])
    by_id = {device.name for device in api.devices(ids=[nic.pci.id])}
    assert roles["nic_single"] in by_id
    assert all(device.type == "pci" for device in api.devices(pci_classes=["02"]))
    assert {device.driver for device in api.devices(drivers=["e1000e"])} == {"e1000e"}
    assert {device.name for device in api.devices(iommu_groups=[nic.iommu_group])} >= {nic.name}
    assert {device.name for device in api.devices(parent=nic.name)} == set(nic.children)
    assert api.devices(types=["pci"], drivers=["no-such-driver"]) == []


def test_pages_are_of_one_revision_and_end(api: Api) -> None:
    whole = [device.name for device in api.devices()]
    found: list[str] = []
    token, revisions = "", set()
    while True:
        page = api.stub.ListDevices(service_pb2.ListDevicesRequest(page_size=7, page_token=token))
        found += [device.name for device in page.devices]
        revisions.add(page.revision)
        token = page.next_page_token
        if not token:
            break
    assert found == whole
    assert len(revisions) == 1


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (service_pb2.ListDevicesRequest(page_size=-1), "page_size"),
        (service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(ids=["nonsense"])), "filter.ids[0]"),
        (service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(pci_classes=["zz"])), "filter.pci_classes[0]"),
        (service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(types=["toaster"])), "filter.types[0]"),
        (service_pb2.ListDevicesRequest(filter=device_pb2.DeviceFilter(parent="a\0b")), "filter.parent"),
    ],
)
def test_a_bad_field_is_named(api: Api, request_: service_pb2.ListDevicesRequest, field: str) -> None:
    with refused("INVALID_FIELD") as caught:
        api.stub.ListDevices(request_)
    assert caught[0].fields == [field]


def test_what_is_not_there_is_not_found(api: Api) -> None:
    with refused("DEVICE_NOT_FOUND"):
        api.device("pci_0000_ff_1f_7")
    with refused("HOST_NOT_FOUND"):
        api.stub.ListDevices(service_pb2.ListDevicesRequest(host="another-host"))
    with refused("INVALID_PAGE_TOKEN"):
        api.stub.ListDevices(service_pb2.ListDevicesRequest(page_token="nonsense"))  # noqa: S106  no secret
    with refused("DEVICE_NOT_FOUND"):
        api.devices(affected_by="pci_0000_ff_1f_7")


def test_the_host_says_who_it_is_and_that_it_is_ready(api: Api) -> None:
    host = api.stub.GetHost(service_pb2.GetHostRequest()).host
    assert host.name
    assert host.uuid
    assert host.HasField("synced_time")
    assert len({check.code for check in host.checks}) == len(host.checks) == 8
    api.stub.GetHost(service_pb2.GetHostRequest(host=host.uuid))
