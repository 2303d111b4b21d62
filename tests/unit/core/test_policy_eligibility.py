"""What an allow rule accepts, what nothing accepts, and what a deny rule does to a device and its group."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hostdevd.core.eligibility import Surroundings, reasons
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import HostUse, HostUseKind, NodeDevice
from hostdevd.core.policy import Policy, parse_policy
from unit.core.made import codes, disk, lun, mdev, pci, usb, usb_interface

NIC = pci("05:00.0")
MATE = pci("05:00.1")
EVERYTHING = ["pci", "usb_device", "scsi", "mdev"]
ALLOW_ALL = parse_policy({"allow": [{"name": "all", "type": EVERYTHING}]})


def allow(**matchers: object) -> Policy:
    return parse_policy({"allow": [{"name": "yes", **matchers}]})


def deny(**matchers: object) -> Policy:
    return parse_policy({"deny": [{"name": "no", **matchers}]})


def around(*devices: NodeDevice, policy: Policy = ALLOW_ALL) -> Surroundings:
    return Surroundings(DeviceGraph(devices), policy=policy)


# --- allow ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_code", [0x070002, 0x0B4000, None])
def test_allow_accepts_a_class_that_the_profile_refuses(class_code: int | None) -> None:
    modem = pci("05:00.0", class_code=class_code)
    assert codes(modem, around=around(modem, policy=Policy())) == ["PCI_CLASS"]
    assert codes(modem, around=around(modem, policy=allow(address="0000:05:00.0"))) == []
    assert codes(modem, around=around(modem, policy=allow(address="0000:06:00.0"))) == ["PCI_CLASS"]


def test_allow_accepts_that_the_hosts_use_is_unknown() -> None:
    unknown = replace(around(NIC), unknown=(("net", "no permission"), ("pci", "no permission")))
    assert codes(NIC, around=replace(unknown, policy=Policy())) == ["HOST_USE_UNKNOWN", "HOST_USE_UNKNOWN"]
    assert codes(NIC, around=unknown) == []


def test_allow_accepts_a_driver_override() -> None:
    overridden = replace(around(NIC), overrides={NIC.name: "vendor_dpdk"})
    assert codes(NIC, around=replace(overridden, policy=Policy())) == ["DRIVER_OVERRIDE"]
    assert codes(NIC, around=overridden) == []


def test_allow_accepts_the_boot_console_on_the_device_or_below_it() -> None:
    gpu = pci("05:00.0", class_code=0x030000)
    screen = NodeDevice("drm_card0", "drm", gpu.name)
    for user in (gpu, screen):
        console = replace(around(gpu, screen), uses={user.name: (HostUse(HostUseKind.PRIMARY_CONSOLE, "tty0"),)})
        assert codes(gpu, around=replace(console, policy=Policy())) == ["HOST_IN_USE"]
        assert codes(gpu, around=console) == []
        assert codes(gpu, around=replace(console, policy=allow(driver="nouveau"))) == ["HOST_IN_USE"]


@pytest.mark.parametrize("kind", [kind for kind in HostUseKind if kind is not HostUseKind.PRIMARY_CONSOLE])
def test_allow_accepts_no_other_use_of_the_hosts(kind: HostUseKind) -> None:
    used = replace(around(NIC), uses={NIC.name: (HostUse(HostUseKind.PRIMARY_CONSOLE), HostUse(kind, "x"))})
    assert codes(NIC, around=used) == ["HOST_IN_USE"]


def test_allow_accepts_nothing_else() -> None:
    bridge = pci("00:1f.0", class_code=0x060100)
    hub, interface = usb("hub", 4), usb_interface("hub_if", "hub", 9)
    stick = usb("stick", 5)
    sata = pci("02:00.0", class_code=0x010601, group=2)
    target = lun("lun", parent=sata.name)
    pf, vf = pci("0b:00.0", vfs=("0b:00.1",), group=14), pci("0b:00.1", pf="0b:00.0", group=15)
    parent = pci("12:00.0", class_code=0x030200, group=16)
    child = mdev("mdev", parent.name)
    broken = NodeDevice("broken", "usb_device")

    def held(device: NodeDevice, *others: NodeDevice) -> list[str]:
        return codes(device, around=around(device, *others))

    assert held(NodeDevice("eth", "net")) == ["TYPE_NOT_ASSIGNABLE"]
    assert held(bridge) == ["BRIDGE"]
    assert held(hub, interface) == ["USB_HUB"]
    assert held(sata, target) == ["NOT_LEAF"]
    assert held(lun("part", parent="stick"), stick) == ["COVERED_BY_PARENT"]
    assert held(pci("05:00.0", group=None)) == ["NO_IOMMU"]
    assert held(pf, vf) == ["HAS_CHILD_FUNCTIONS"]
    assert held(parent, child) == ["HAS_CHILD_FUNCTIONS"]
    assert held(pci("05:00.0", listed=("05:00.0", "05:00.7"))) == ["GROUP_MEMBER_INELIGIBLE"]
    # Without an address nothing of it was judged, so there is nothing to accept.
    assert held(broken) == ["HOST_USE_UNKNOWN"]


def test_what_may_be_accepted_says_so() -> None:
    gpu = pci("05:00.0", class_code=0x0B4000)
    worst = Surroundings(
        DeviceGraph([gpu]),
        {gpu.name: (HostUse(HostUseKind.PRIMARY_CONSOLE), HostUse(HostUseKind.DEFAULT_ROUTE))},
        (("pci", "no permission"),),
        {gpu.name: "other"},
    )
    told = [(reason.code, "allow rule of the policy file" in reason.remedy) for reason in reasons(worst, gpu)]
    assert told == [
        ("PCI_CLASS", True),
        ("HOST_IN_USE", True),
        ("HOST_IN_USE", False),
        ("HOST_USE_UNKNOWN", True),
        ("DRIVER_OVERRIDE", True),
    ]


# --- deny ----------------------------------------------------------------------------------------------


def test_a_denied_device_names_every_rule_that_denies_it_with_its_comment() -> None:
    policy = parse_policy(
        {
            "deny": [
                {"name": "lan", "comment": "the host's own", "driver": "e1000e"},
                {"name": "bus 5", "address": "0000:05:*"},
                {"name": "gpu", "class": "03"},
            ]
        }
    )
    found = reasons(Surroundings(DeviceGraph([NIC]), policy=policy, drivers={NIC.name: "e1000e"}), NIC)
    assert [(reason.code, reason.subject) for reason in found] == [("POLICY_DENIED", NIC.name)] * 2
    assert '"lan"' in found[0].message
    assert "the host's own" in found[0].message
    assert '"bus 5"' in found[1].message
    assert all("policy file" in reason.remedy for reason in found)


def test_deny_wins() -> None:
    both = Policy(allow=allow(type="pci").allow, deny=deny(id="8086:*").deny)
    assert codes(NIC, around=around(NIC, policy=both)) == ["POLICY_DENIED"]


def test_uid_and_driver_are_those_of_the_surroundings() -> None:
    for policy in (deny(uid="u-1"), deny(driver="e1000e")):
        known = replace(around(NIC, policy=policy), uids={NIC.name: "u-1"}, drivers={NIC.name: "e1000e"})
        assert codes(NIC, around=known) == ["POLICY_DENIED"]
        assert codes(NIC, around=replace(known, uids={NIC.name: "u-2"}, drivers={NIC.name: None})) == []


def test_denied_is_told_last() -> None:
    worst = pci("05:00.0", class_code=0x070002, group=3, vfs=("05:00.1",))
    mate = pci("05:00.2", class_code=0x0B4000, group=3)
    policy = deny(id="8086:*")
    surroundings = replace(around(worst, mate, policy=policy), overrides={worst.name: "other"})
    assert codes(worst, around=surroundings) == [
        "PCI_CLASS",
        "HAS_CHILD_FUNCTIONS",
        "GROUP_MEMBER_INELIGIBLE",
        "DRIVER_OVERRIDE",
        "POLICY_DENIED",
    ]


def test_what_stands_alone_stands_alone_when_denied() -> None:
    port = pci("00:01.0", class_code=0x060400, header="pci-bridge")
    hub = usb("hub", 1)
    assert codes(port, around=around(port, policy=deny(type=EVERYTHING))) == ["BRIDGE"]
    assert codes(hub, around=around(hub, policy=deny(type=EVERYTHING))) == ["USB_HUB"]
    eth = NodeDevice("eth", "net")
    assert codes(eth, around=around(eth, policy=deny(driver="e1000e"))) == ["TYPE_NOT_ASSIGNABLE"]


# --- groups --------------------------------------------------------------------------------------------


def test_a_denied_endpoint_takes_its_mates_with_it() -> None:
    policy = deny(address="0000:05:00.1")
    assert codes(NIC, around=around(NIC, MATE, policy=policy)) == ["GROUP_MEMBER_INELIGIBLE"]
    assert codes(MATE, around=around(NIC, MATE, policy=policy)) == ["POLICY_DENIED"]


def test_a_denied_bridge_of_the_group_does_not_count() -> None:
    port = pci("00:01.0", class_code=0x060400, header="pci-bridge")
    assert codes(NIC, around=around(NIC, port, policy=deny(**{"class": "06"}))) == []


def test_a_mate_must_be_allowed_itself() -> None:
    modem = pci("05:00.1", class_code=0x070002)
    both = around(NIC, modem, policy=Policy())
    assert codes(NIC, around=both) == ["GROUP_MEMBER_INELIGIBLE"]
    assert codes(NIC, around=replace(both, policy=allow(address="0000:05:00.0"))) == ["GROUP_MEMBER_INELIGIBLE"]
    assert codes(NIC, around=replace(both, policy=allow(address="0000:05:00.1"))) == []
    assert codes(modem, around=replace(both, policy=allow(address="0000:05:00.1"))) == []


def test_a_rule_is_about_the_very_device_and_not_what_is_below_it() -> None:
    nvme = pci("0c:00.0", class_code=0x010802)
    block = disk("block", nvme.name, "/dev/nvme0n1")
    assert codes(nvme, around=around(nvme, block, policy=deny(type="scsi"))) == []
