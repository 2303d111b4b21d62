"""The lab's topology, device by device: what may be assigned, why the rest may not, and what goes with what.

The tables are the whole expectation: a device that they do not name fails the test, and one that they name and
the host lacks does too. Labels are those of `labels.py`; `label*N` stands for N devices of one label.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from api import Api, codes, eventually
from hosts import LabHost
from labels import labels_of
from readiness import in_step

from hostdev.v1 import device_pb2, group_pb2, service_pb2

Reasons = tuple[tuple[str, str], ...]

QUIET_S = 2.0
ITSELF = "itself"
A_BRIDGE: Reasons = (("BRIDGE", ITSELF),)
NEVER: Reasons = (("TYPE_NOT_ASSIGNABLE", ITSELF),)
SHARES = ("lab_root", "lab_config", "lab_output", "lab_capabilities", "lab_guests")

# Devices, and every reason that they have, in order: the code and its subject.
ELIGIBILITY: tuple[tuple[str, Reasons], ...] = (
    # --- free: single, grouped behind a bridge, on a slot, behind ports without ACS, behind a switch
    ("nic_single bridge_e1000 bridge_rtl8139 bridge_ac97 dual_0 dual_1 twoport_0 twoport_1 switch_0 switch_1", ()),
    ("nvme_sriov", ()),  # no VFs are enabled
    ("usb_idle", ()),  # its root hubs are nothing to lose
    ("usb_keyboard usb_tablet usb_unique twin_a twin_b stick1", ()),
    ("scsi_disk scsi_debug_0 scsi_debug_1 scsi_debug_2 scsi_debug_3", ()),
    ("lab_rng", ()),
    # The lab's root and what it shares with the machine outside, functions of one slot.
    *(
        (one, (("HOST_IN_USE", ITSELF), *(("GROUP_MEMBER_INELIGIBLE", other) for other in SHARES if other != one)))
        for one in SHARES
    ),
    # --- in use by the host: the user is the subject, below its device
    ("nvme_mounted", (("HOST_IN_USE", "nvme_mounted/storage"),)),
    ("disk_swap", (("HOST_IN_USE", "disk_swap/storage"),)),
    ("disk_md", (("HOST_IN_USE", "disk_md/storage"),)),
    ("nic_bridged", (("HOST_IN_USE", "nic_bridged/net"),)),
    ("nic_address", (("HOST_IN_USE", "nic_address/net"),)),
    ("lab_nic", (("HOST_IN_USE", "lab_nic/net"), ("HOST_IN_USE", "lab_nic/net"))),  # an address, the default route
    ("lab_state", (("HOST_IN_USE", "lab_state/storage"),)),
    ("lun_swap", (("HOST_IN_USE", "lun_swap/storage"),)),
    ("lun_lvm", (("HOST_IN_USE", "lun_lvm/storage"),)),
    # --- controllers with something on them
    ("scsi", (("NOT_LEAF", ITSELF), ("HOST_IN_USE", "lun_swap/storage"), ("HOST_IN_USE", "lun_lvm/storage"))),
    ("usb", (("NOT_LEAF", ITSELF),)),
    # --- by class, alone or by a member of the group: the ISA bridge counts, unlike a PCI-to-PCI bridge
    ("lab_serial", (("PCI_CLASS", ITSELF),)),
    ("ich9_sata", (("GROUP_MEMBER_INELIGIBLE", "ich9_lpc"), ("GROUP_MEMBER_INELIGIBLE", "ich9_smbus"))),
    ("ich9_smbus", (("PCI_CLASS", ITSELF), ("GROUP_MEMBER_INELIGIBLE", "ich9_lpc"))),
    # --- what stands alone
    ("host_bridge ich9_lpc bridge switch_upstream switch_port_0 switch_port_1", A_BRIDGE),
    ("twoport_port_0 twoport_port_1 spare_port", A_BRIDGE),
    ("port_nic_single port_bridge port_dual_0 port_switch_upstream port_nvme_sriov", A_BRIDGE),
    ("port_nvme_mounted port_disk_swap port_disk_md port_nic_bridged port_nic_address", A_BRIDGE),
    ("port_usb port_usb_idle port_scsi", A_BRIDGE),
    ("usb_hub usb/usb_device*2 usb_idle/usb_device*2", (("USB_HUB", ITSELF),)),
    # --- LUNs of sticks
    ("twin_a/scsi", (("COVERED_BY_PARENT", "twin_a"),)),
    ("twin_b/scsi", (("COVERED_BY_PARENT", "twin_b"),)),
    ("stick1/scsi", (("COVERED_BY_PARENT", "stick1"),)),
    # --- types that cannot be passed through
    ("computer computer/net computer/storage computer/scsi_host", NEVER),
    ("nic_single/net bridge_e1000/net bridge_rtl8139/net dual_0/net dual_1/net", NEVER),
    ("twoport_0/net twoport_1/net switch_0/net switch_1/net", NEVER),
    ("nic_bridged/net nic_address/net lab_nic/net", NEVER),
    ("nvme_mounted/storage disk_swap/storage disk_md/storage lab_state/storage", NEVER),
    ("scsi/scsi_host scsi/scsi_target*3 ich9_sata/scsi_host*6", NEVER),
    ("scsi_disk/storage scsi_disk/scsi_generic", NEVER),
    ("lun_swap/storage lun_swap/scsi_generic", NEVER),
    ("lun_lvm/storage lun_lvm/scsi_generic", NEVER),
    ("computer/scsi_target", NEVER),  # scsi_debug's
    ("scsi_debug_0/storage scsi_debug_0/scsi_generic", NEVER),
    ("scsi_debug_1/storage scsi_debug_1/scsi_generic", NEVER),
    ("scsi_debug_2/storage scsi_debug_2/scsi_generic", NEVER),
    ("scsi_debug_3/storage scsi_debug_3/scsi_generic", NEVER),
    ("usb/usb_interface*2 usb_idle/usb_interface*2 usb_hub/usb_interface", NEVER),
    ("usb_keyboard/usb_interface usb_tablet/usb_interface", NEVER),
    ("usb_unique/usb_interface*2", NEVER),
    ("twin_a/usb_interface twin_a/scsi_host twin_a/scsi_target", NEVER),
    ("twin_a/storage twin_a/scsi_generic", NEVER),
    ("twin_b/usb_interface twin_b/scsi_host twin_b/scsi_target", NEVER),
    ("twin_b/storage twin_b/scsi_generic", NEVER),
    ("stick1/usb_interface stick1/scsi_host stick1/scsi_target", NEVER),
    ("stick1/storage stick1/scsi_generic", NEVER),
)

# What the host does with which device: kind and detail; `{block}` is its own node. Nothing else is in use.
HOST_USES: dict[str, tuple[tuple[str, str], ...]] = {
    **{share: (("MOUNT", f"(shared directory {share.removeprefix('lab_')})"),) for share in SHARES},
    "nvme_mounted/storage": (("MOUNT", "/mnt/lab"),),
    "lab_state/storage": (("MOUNT", "/lab/state"),),
    "disk_swap/storage": (("SWAP", "{block}"),),
    "lun_swap/storage": (("SWAP", "{block}"),),
    "lun_lvm/storage": (("LVM_PV", "labvg"),),
    "disk_md/storage": (("MD_MEMBER", "md127"),),
    "nic_bridged/net": (("BRIDGE_PORT", "br0"),),
    "nic_address/net": (("GLOBAL_ADDRESS", "192.0.2.1"),),
    "lab_nic/net": (("GLOBAL_ADDRESS", "10.0.2.15"), ("DEFAULT_ROUTE", "IPv4")),
}

# Groups of more than one: bridges that stay, endpoints that go together. Each other PCI function is alone.
GROUPS = (
    ("bridge", "bridge_e1000 bridge_rtl8139 bridge_ac97"),
    ("", "dual_0 dual_1"),
    ("twoport_port_0 twoport_port_1", "twoport_0 twoport_1"),
    ("switch_port_0", "switch_0"),
    ("switch_port_1", "switch_1"),
    ("", "ich9_lpc ich9_sata ich9_smbus"),
    ("", "lab_root lab_config lab_output lab_capabilities lab_guests"),
)

# What goes from the host with a device: endpoints of its group, and what stands on them and on itself.
AFFECTED = {
    "nic_single": ("", "nic_single/net"),
    "bridge_ac97": ("bridge_e1000 bridge_rtl8139", "bridge_e1000/net bridge_rtl8139/net"),
    "dual_0": ("dual_1", "dual_0/net dual_1/net"),
    "twoport_1": ("twoport_0", "twoport_0/net twoport_1/net"),
    "switch_0": ("", "switch_0/net"),
    "nvme_mounted": ("", "nvme_mounted/storage"),
    "nvme_sriov": ("", "computer/storage"),  # where libvirt hangs a namespace that may be shared
    "disk_md": ("", "disk_md/storage"),
    "usb_idle": ("", "usb_idle/usb_device*2"),
    "usb_keyboard": ("", ""),
    "usb_hub": ("", "usb_keyboard usb_tablet"),
    "stick1": ("", "stick1/scsi stick1/storage"),
    "usb": (
        "",
        """usb/usb_device*2 usb_hub usb_keyboard usb_tablet usb_unique twin_a twin_b stick1
        twin_a/scsi twin_a/storage twin_b/scsi twin_b/storage stick1/scsi stick1/storage""",
    ),
    "scsi_disk": ("", "scsi_disk/storage"),
    "scsi": ("", "scsi_disk lun_swap lun_lvm scsi_disk/storage lun_swap/storage lun_lvm/storage"),
    "ich9_sata": ("ich9_lpc ich9_smbus", ""),
    "port_switch_upstream": ("", "switch_0 switch_1 switch_0/net switch_1/net"),  # no bridge is lost
}


@dataclass(frozen=True)
class Inventory:
    """All devices of one listing, with their labels."""

    api: Api
    devices: list[device_pb2.Device]
    labels: dict[str, str]

    def named(self, label: str) -> str:
        """The libvirt name of a label that one device has."""
        (name,) = (name for name, its in self.labels.items() if its == label)
        return name


@pytest.fixture(scope="module")
def inventory(served: LabHost) -> Inventory:
    in_step(served.api)
    devices = eventually(lambda: _settled(served.api), lambda found: found is not None)
    assert devices is not None
    return Inventory(served.api, devices, labels_of(devices, served.roles))


def _settled(api: Api) -> list[device_pb2.Device] | None:
    """All devices, when nothing has changed for a while: after a boot udev may still be telling of some."""
    found = api.devices()
    time.sleep(QUIET_S)
    return found if api.devices() == found else None


def counted(text: str) -> Counter[str]:
    """`a b*2` as a count of labels."""
    found: Counter[str] = Counter()
    for word in text.split():
        label, _, number = word.partition("*")
        found[label] += int(number or 1)
    return found


def test_the_table_and_the_host_have_the_same_devices(inventory: Inventory) -> None:
    expected: Counter[str] = Counter()
    for labels, _ in ELIGIBILITY:
        expected += counted(labels)
    found = Counter(inventory.labels.values())
    assert {"not in the table": found - expected, "not on the host": expected - found} == {
        "not in the table": Counter(),
        "not on the host": Counter(),
    }


def test_every_device_has_the_reasons_of_the_table_and_no_other(inventory: Inventory) -> None:
    expected = {label: reasons for labels, reasons in ELIGIBILITY for label in counted(labels)}
    wrong = {}
    for device in inventory.devices:
        eligibility = device.eligibility
        subjects = (
            ITSELF if reason.subject == device.name else inventory.labels.get(reason.subject, reason.subject)
            for reason in eligibility.reasons
        )
        found = tuple(zip(codes(eligibility.reasons), subjects, strict=True))
        # Nothing is held by a guest, so what is eligible is available too.
        agree = eligibility.eligible == eligibility.available == (not found)
        if not agree or found != expected.get(inventory.labels[device.name]):
            wrong[device.name] = (inventory.labels[device.name], found, eligibility.eligible, eligibility.available)
    assert wrong == {}


def test_every_reason_says_what_it_is_and_what_to_do(inventory: Inventory) -> None:
    for device in inventory.devices:
        for reason in device.eligibility.reasons:
            assert reason.message, device.name
            assert reason.remedy, (device.name, reason.message)


def test_every_use_of_the_host_is_told_where_it_is(inventory: Inventory) -> None:
    found = {
        inventory.labels[device.name]: tuple(
            (device_pb2.HostUseKind.Name(use.kind).removeprefix("HOST_USE_KIND_"), use.detail)
            for use in device.host_uses
        )
        for device in inventory.devices
        if device.host_uses
    }
    blocks = {inventory.labels[device.name]: device.storage.block for device in inventory.devices}
    assert found == {
        label: tuple((kind, detail.format(block=blocks[label])) for kind, detail in uses)
        for label, uses in HOST_USES.items()
    }


def test_the_groups_are_those_of_the_table_and_every_other_function_is_alone(inventory: Inventory) -> None:
    listed = inventory.api.stub.ListGroups(service_pb2.ListGroupsRequest()).groups
    found = {
        frozenset((inventory.labels[member.name], member.role) for member in group.members): group for group in listed
    }
    assert len(found) == len(listed)
    several = {members for members in found if len(members) > 1}
    assert several == {
        _roles(bridges, group_pb2.GROUP_MEMBER_ROLE_BRIDGE) | _roles(endpoints, group_pb2.GROUP_MEMBER_ROLE_ENDPOINT)
        for bridges, endpoints in GROUPS
    }
    functions = {device.name: device for device in inventory.devices if device.type == "pci"}
    assert sum(map(len, found)) == len(functions)
    for group in found.values():
        for member in group.members:
            device = functions[member.name]
            assert (device.group, device.iommu_group) == (group.uid, group.iommu_group)
            assert (device.uid, device.driver) == (member.uid, member.driver)


def _roles(labels: str, role: group_pb2.GroupMemberRole.ValueType) -> frozenset[tuple[str, int]]:
    return frozenset((label, role) for label in labels.split())


@pytest.mark.parametrize("label", AFFECTED)
def test_the_affected_are_those_of_the_table(inventory: Inventory, label: str) -> None:
    name = inventory.named(label)
    affected = inventory.api.eligible(include_ineligible=True)[name].affected

    def with_role(role: device_pb2.AffectedDeviceRole.ValueType) -> Iterable[str]:
        return (inventory.labels[one.name] for one in affected if one.role == role)

    endpoints, children = AFFECTED[label]
    assert Counter(with_role(device_pb2.AFFECTED_DEVICE_ROLE_ENDPOINT)) == counted(endpoints)
    assert Counter(with_role(device_pb2.AFFECTED_DEVICE_ROLE_CHILD)) == counted(children)
    uids = {device.name: device.uid for device in inventory.devices}
    assert all(one.uid == uids[one.name] for one in affected)
    assert {device.name for device in inventory.api.devices(affected_by=name)} == {one.name for one in affected}
