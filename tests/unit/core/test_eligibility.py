"""Every code of the eligibility table, its order, and what it does not hold for."""

from __future__ import annotations

import pytest

from hostdevd.core.eligibility import Surroundings, reasons
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.groups import AffectedRole, MemberRole, affected, group_uid, member_role
from hostdevd.core.model import HostUse, HostUseKind, NodeDevice
from hostdevd.core.profiles import DEFAULT, KIMCHI_V7
from unit.core.made import codes, disk, lun, mdev, pci, usb, usb_interface


def test_a_free_function_is_eligible() -> None:
    assert codes(pci("01:00.0")) == []


@pytest.mark.parametrize("kind", ["net", "storage", "drm", "usb_interface", "system", "other"])
def test_types_that_cannot_be_passed_stand_alone(kind: str) -> None:
    assert codes(NodeDevice("one", kind)) == ["TYPE_NOT_ASSIGNABLE"]


@pytest.mark.parametrize(
    ("class_code", "header"), [(0x060400, "pci-bridge"), (0x060100, "endpoint"), (0x020000, "cardbus-bridge")]
)
def test_a_bridge_stands_alone(class_code: int, header: str) -> None:
    assert codes(pci("00:1f.0", class_code=class_code, header=header, group=None)) == ["BRIDGE"]


def test_a_hub_stands_alone_empty_or_not() -> None:
    hub, interface = usb("hub", 4), usb_interface("hub_if", "hub", 9)
    assert codes(hub, interface) == ["USB_HUB"]
    assert codes(hub, interface, usb("stick", 5, parent="hub")) == ["USB_HUB"]
    assert codes(usb("root", 1)) == ["USB_HUB"]


def test_a_leaf_has_nothing_below_but_hubs_and_luns_of_sticks() -> None:
    controller = pci("0e:00.0", class_code=0x0C0330)
    root, stick = usb("root", 1, parent=controller.name), usb("stick", 3, parent="root")
    assert codes(controller, root) == []
    assert codes(controller, root, stick) == ["NOT_LEAF"]
    assert codes(stick, lun("lun", parent="stick")) == []
    sata = pci("00:1f.2", class_code=0x010601)
    assert codes(sata) == []
    assert codes(sata, lun("lun", parent=sata.name)) == ["NOT_LEAF"]


def test_a_lun_of_a_stick_is_covered_by_it() -> None:
    assert codes(lun("lun", parent="stick"), usb("stick", 3)) == ["COVERED_BY_PARENT"]
    assert codes(lun("lun")) == []


GENERAL = "stop the host's use of it first"


def test_a_class_that_the_profile_refuses() -> None:
    assert codes(pci("01:00.0", class_code=0x070002)) == ["PCI_CLASS"]
    assert codes(pci("01:00.0", class_code=None)) == ["PCI_CLASS"]


def test_without_an_iommu_group() -> None:
    assert codes(pci("01:00.0", group=None)) == ["NO_IOMMU"]
    assert codes(usb("stick", 3)) == []


def test_the_remedy_for_no_group_is_the_firmware_only_where_no_device_has_one() -> None:
    alone = pci("01:00.0", group=None)
    (reason,) = reasons(Surroundings(DeviceGraph([alone])), alone)
    assert "firmware" in reason.remedy
    (reason,) = reasons(Surroundings(DeviceGraph([alone, pci("02:00.0")])), alone)
    assert "assign another device" in reason.remedy


def test_a_pf_with_vfs_and_the_parent_of_mdevs() -> None:
    pf, vf = pci("0b:00.0", vfs=("0b:00.1",), group=14), pci("0b:00.1", pf="0b:00.0", group=15)
    assert codes(pf, vf) == ["HAS_CHILD_FUNCTIONS"]
    assert codes(vf, pf) == []
    parent = pci("12:00.0", class_code=0x030200)
    assert codes(parent, mdev("mdev", parent.name)) == ["HAS_CHILD_FUNCTIONS"]
    assert codes(mdev("mdev", parent.name), parent) == []


def test_a_pf_has_the_vfs_that_call_it_theirs_though_it_does_not_list_them() -> None:
    pf, vf = pci("0b:00.0", group=2), pci("0b:00.1", pf="0b:00.0", group=3)
    assert codes(pf, vf) == ["HAS_CHILD_FUNCTIONS"]
    graph = DeviceGraph([pf, vf])
    assert [one.name for one in affected(graph, pf)] == [vf.name]
    assert graph.related(pf.name) == {pf.name, vf.name}
    graph.remove(vf.name)
    assert graph.related(pf.name) == {pf.name}


def test_what_the_host_uses_goes_to_the_user_its_ancestors_and_their_mates() -> None:
    nvme = pci("0c:00.0", class_code=0x010802, group=7)
    mate = pci("0c:00.1", group=7)
    block = disk("block", nvme.name, "/dev/nvme0n1")
    around = Surroundings(DeviceGraph([nvme, mate, block]), {"block": (HostUse(HostUseKind.MOUNT, "/"),)})
    assert codes(nvme, around=around) == ["HOST_IN_USE"]
    assert codes(mate, around=around) == ["GROUP_MEMBER_INELIGIBLE"]


def test_a_use_of_a_shared_namespace_is_told_once_and_of_the_disk() -> None:
    nvme, namespace = pci("0c:00.0", class_code=0x010802, group=7), disk("block", "computer", "/dev/nvme0n1")
    graph = DeviceGraph([nvme, namespace])
    graph.put_shared({str(namespace.path): (str(nvme.path),)})
    uses = (HostUse(HostUseKind.MOUNT, "/"),)
    told = [reason.subject for reason in reasons(Surroundings(graph, {"block": uses, nvme.name: uses}), nvme)]
    assert told == ["block"]
    # libvirt may not have listed the disk yet.
    told = [reason.subject for reason in reasons(Surroundings(graph, {nvme.name: uses}), nvme)]
    assert told == [nvme.name]


@pytest.mark.parametrize(
    ("use", "message", "remedy"),
    [
        (HostUse(HostUseKind.MOUNT, "/srv"), "is mounted at /srv", "unmount /srv if the host can do without it"),
        (HostUse(HostUseKind.MOUNT, "(shared directory)"), "is in use by the host (shared directory)", GENERAL),
        (HostUse(HostUseKind.GLOBAL_ADDRESS, "(a VLAN)"), "is in use by the host (a VLAN)", GENERAL),
        (HostUse(HostUseKind.DM_HOLDER, "LIO disk1"), "is claimed by LIO disk1", GENERAL),
    ],
)
def test_a_use_without_a_name_is_described(use: HostUse, message: str, remedy: str) -> None:
    nic = pci("01:00.0")
    (reason,) = reasons(Surroundings(DeviceGraph([nic]), {nic.name: (use,)}), nic)
    assert (reason.message, reason.remedy) == (f"{nic.name} {message}", remedy)


def test_unknown_uses_refuse_what_they_may_be_about() -> None:
    nic, nvme, stick = pci("01:00.0"), pci("02:00.0", class_code=0x010802, group=2), usb("stick", 3)
    graph = DeviceGraph([nic, nvme, stick])

    def refused(kind: str) -> list[str]:
        around = Surroundings(graph, unknown=((kind, "no permission"),))
        return [one.name for one in (nic, nvme, stick) if codes(one, around=around) == ["HOST_USE_UNKNOWN"]]

    assert refused("net") == [nic.name]
    assert refused("storage") == [nvme.name]
    assert refused("pci") == [nic.name, nvme.name, stick.name]


def test_a_description_without_an_address_is_of_unknown_use() -> None:
    assert codes(NodeDevice("broken", "usb_device")) == ["HOST_USE_UNKNOWN"]


def test_each_ineligible_mate_is_named_once_and_transparent_bridges_do_not_count() -> None:
    nic, port = pci("01:00.0"), pci("00:01.0", class_code=0x060400, header="pci-bridge")
    assert codes(nic, port) == []
    isa, modem = pci("00:1f.0", class_code=0x060100), pci("00:1f.1", class_code=0x070300)
    assert codes(nic, port, isa, modem) == ["GROUP_MEMBER_INELIGIBLE", "GROUP_MEMBER_INELIGIBLE"]


def test_a_mate_that_libvirt_does_not_list_is_ineligible() -> None:
    assert codes(pci("01:00.0", listed=("01:00.0", "01:00.1"))) == ["GROUP_MEMBER_INELIGIBLE"]


def test_a_driver_override_other_than_vfio() -> None:
    nic = pci("14:00.0")
    graph = DeviceGraph([nic])
    assert codes(nic, around=Surroundings(graph, overrides={nic.name: "vendor_dpdk"})) == ["DRIVER_OVERRIDE"]
    assert codes(nic, around=Surroundings(graph, overrides={nic.name: "vfio-pci"})) == []


def test_all_reasons_are_told_in_the_order_of_the_table() -> None:
    worst = pci("05:00.0", class_code=0x070002, group=3, vfs=("05:00.1",))
    mate = pci("05:00.2", class_code=0x0B4000, group=3)
    child = pci("06:00.0", parent=worst.name, group=9)
    around = Surroundings(
        DeviceGraph([worst, mate, child]),
        {worst.name: (HostUse(HostUseKind.PRIMARY_CONSOLE),)},
        (("pci", "no permission"),),
        {worst.name: "other"},
    )
    assert codes(worst, around=around) == [
        "NOT_LEAF",
        "PCI_CLASS",
        "HAS_CHILD_FUNCTIONS",
        "HOST_IN_USE",
        "HOST_USE_UNKNOWN",
        "GROUP_MEMBER_INELIGIBLE",
        "DRIVER_OVERRIDE",
    ]


ALLOWED = {
    "kimchi-v7": "000100 020000 028000 030000 040300 088000 090000 0d0000 0f0000 100000 110000",
    "default": "000100 010601 010802 020000 030000 040300 080500 088000 090000 0c0330 0c0400 0d0000 0e0000 0f0000"
    " 100000 110000 120000 400000 ff0000",
}
REFUSED = {
    "kimchi-v7": "000000 010802 050000 060000 070000 070002 080000 080500 0a0000 0b0000 0c0330 0e0000 120000 130000",
    "default": "050000 060000 060400 070000 070300 080000 080100 080300 0a0000 0b4000 0c0500 0c0701 130000",
}


@pytest.mark.parametrize("profile", [KIMCHI_V7, DEFAULT], ids=lambda profile: profile.name)
def test_a_profile_is_its_table(profile: object) -> None:
    assert profile in {KIMCHI_V7, DEFAULT}
    chosen = KIMCHI_V7 if profile is KIMCHI_V7 else DEFAULT
    assert [code for code in ALLOWED[chosen.name].split() if not chosen.allows(int(code, 16))] == []
    assert [code for code in REFUSED[chosen.name].split() if chosen.allows(int(code, 16))] == []


# --- groups ------------------------------------------------------------------------------------------


def test_affected_are_the_other_endpoints_and_all_below_but_no_bridge() -> None:
    nic, mate = pci("04:00.0", group=9), pci("04:00.1", group=9)
    port = pci("00:04.0", class_code=0x060400, header="pci-bridge", group=9)
    eth = NodeDevice("net_eth1", "net", mate.name)
    found = affected(DeviceGraph([nic, mate, port, eth]), nic)
    assert {one.name: one.role for one in found} == {
        mate.name: AffectedRole.ENDPOINT,
        "net_eth1": AffectedRole.CHILD,
    }


def test_what_is_below_a_port_is_affected_by_it_but_not_the_bridges_in_between() -> None:
    port = pci("00:05.0", class_code=0x060400, group=1)
    switch = pci("05:00.0", class_code=0x060400, group=2, parent=port.name)
    nic = pci("06:00.0", group=3, parent=switch.name)
    assert [one.name for one in affected(DeviceGraph([port, switch, nic]), port)] == [nic.name]


def test_a_disk_that_lies_below_none_of_its_controllers_is_affected_by_each() -> None:
    one, other = pci("04:00.0", group=9), pci("05:00.0", group=10)
    namespace, own = disk("block_nvme0n1", "computer", "/dev/nvme0n1"), disk("block_sda", "computer", "/dev/sda")
    graph = DeviceGraph([one, other, namespace, own])

    def lost(device: NodeDevice) -> list[tuple[str, AffectedRole]]:
        return [(found.name, found.role) for found in affected(graph, device)]

    assert (one.path, other.path, namespace.path) != (None, None, None)
    changed = graph.put_shared({str(namespace.path): (str(one.path), str(other.path))})
    assert changed == {namespace.path, one.path, other.path}
    assert lost(one) == lost(other) == [(namespace.name, AffectedRole.CHILD)]
    assert graph.related(namespace.name) >= {one.name, other.name}
    assert namespace.name in graph.related(one.name)
    assert graph.put_shared({str(namespace.path): (str(one.path), str(other.path))}) == set()
    assert graph.put_shared({str(namespace.path): (str(other.path),)}) == {namespace.path, one.path}
    assert (lost(one), lost(other)) == ([], [(namespace.name, AffectedRole.CHILD)])


def test_vfs_are_affected_by_their_pf() -> None:
    pf, vf = pci("0b:00.0", vfs=("0b:00.1",), group=14), pci("0b:00.1", pf="0b:00.0", group=15)
    assert [one.name for one in affected(DeviceGraph([pf, vf]), pf)] == [vf.name]


def test_a_groups_name_outlives_its_number_and_only_0604_is_a_bridge_in_it() -> None:
    members = [
        pci("00:04.0", class_code=0x060400, group=9),
        pci("04:00.0", group=9),
        pci("00:1f.0", class_code=0x060100),
    ]
    assert [member_role(member) for member in members] == [MemberRole.BRIDGE, MemberRole.ENDPOINT, MemberRole.ENDPOINT]
    assert group_uid(members[:2], lambda name: name) == group_uid([pci("04:00.0", group=3)], lambda name: name)
