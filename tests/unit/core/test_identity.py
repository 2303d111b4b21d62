"""A device keeps its uid across reboot, renumbering and re-plug; two that look alike are not mixed up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hostdevd.core.graph import DeviceGraph
from hostdevd.core.identity import FactsOf, Identities
from hostdevd.core.model import NetFacts, NodeDevice, PciFacts, StorageFacts
from hostdevd.core.ports import IdentityFacts
from unit.core.made import pci, usb


def told(facts: Mapping[str, IdentityFacts]) -> FactsOf:
    return lambda device: facts.get(device.name, IdentityFacts())


def resolve(identities: Identities, facts: Mapping[str, IdentityFacts], *devices: NodeDevice) -> list[str]:
    identities.forget([name for name in identities.names.values() if name not in {one.name for one in devices}])
    identities.resolve(DeviceGraph(devices), [one.name for one in devices], told(facts))
    return [identities.uid(device.name) for device in devices]


def at(port: str, serial: str = "", interfaces: str = "08") -> IdentityFacts:
    return IdentityFacts(root="pci/0e", path=port, serial=serial, interfaces=interfaces)


def test_a_pci_function_that_moved_to_another_bus_number_is_the_same() -> None:
    identities = Identities()
    place = IdentityFacts(root="\\_SB.PCI0", path="1c.0/00.0", subsystem="1af4:1100")
    first = resolve(identities, {"pci_0000_05_00_0": place}, pci("05:00.0"))
    assert resolve(identities, {"pci_0000_06_00_0": place}, pci("06:00.0")) == first


def test_another_card_in_the_same_slot_is_another_device() -> None:
    identities = Identities()
    one = IdentityFacts(root="r", path="1c.0/00.0", subsystem="1af4:1100")
    other = IdentityFacts(root="r", path="1c.0/00.0", subsystem="1af4:9999")
    name = "pci_0000_05_00_0"
    assert resolve(identities, {name: one}, pci("05:00.0")) != resolve(identities, {name: other}, pci("05:00.0"))


def with_serial(device: NodeDevice, serial: str | None) -> NodeDevice:
    assert isinstance(device.facts, PciFacts)
    return replace(device, facts=replace(device.facts, vpd_serial=serial))


HERE = {
    "pci_0000_0b_00_0": IdentityFacts(root="r", path="1c.0/0.0"),
    "pci_0000_0b_00_1": IdentityFacts(root="r", path="1c.0/0.1"),
}


def test_a_function_whose_vpd_cannot_be_read_for_a_while_keeps_its_uid_and_so_do_its_vfs() -> None:
    identities = Identities()
    pf, vf = pci("0b:00.0", vfs=("0b:00.1",)), pci("0b:00.1", pf="0b:00.0")
    first = resolve(identities, HERE, with_serial(pf, "S1"), vf)
    assert resolve(identities, HERE, pf, vf) == first
    assert resolve(identities, HERE, with_serial(pf, "S1"), vf) == first
    kept = Identities(identities._by_uid.values())
    assert resolve(kept, HERE, pf, vf) == first, "it sleeps while the service starts"
    assert not set(resolve(kept, HERE, with_serial(pf, "S2"), vf)) & set(first), "another serial is another card"


def test_a_function_that_tells_its_serial_only_later_keeps_its_uid() -> None:
    identities = Identities()
    first = resolve(identities, HERE, pci("0b:00.0"))
    assert resolve(identities, HERE, with_serial(pci("0b:00.0"), "S1")) == first
    kept = Identities(identities._by_uid.values())
    assert resolve(kept, HERE, with_serial(pci("0b:00.0"), "S1")) == first
    assert resolve(kept, HERE, with_serial(pci("0b:00.0"), "S2")) != first


def test_a_vf_is_its_pfs_index() -> None:
    identities = Identities()
    place = IdentityFacts(root="r", path="0b")
    devices = (pci("0b:00.0", vfs=("0b:00.1", "0b:00.2")), pci("0b:00.1", pf="0b:00.0"), pci("0b:00.2", pf="0b:00.0"))
    before = resolve(identities, {"pci_0000_0b_00_0": place}, *devices)
    moved = (pci("1b:00.0", vfs=("1b:00.1", "1b:00.2")), pci("1b:00.1", pf="1b:00.0"), pci("1b:00.2", pf="1b:00.0"))
    assert resolve(identities, {"pci_0000_1b_00_0": place}, *moved) == before
    assert len(set(before)) == 3


def test_a_stick_with_a_serial_is_followed_to_another_port_and_known_there() -> None:
    identities = Identities()
    first = resolve(identities, {"a": at("2.1", "S1")}, usb("a", 5))
    assert resolve(identities, {"b": at("2.4", "S1")}, usb("b", 6)) == first
    kept = Identities(identities._by_uid.values())
    assert resolve(kept, {"b": at("2.4", "S1")}, usb("b", 7)) == first


def test_twins_with_one_serial_that_swap_ports_are_told_apart_by_the_port_alone() -> None:
    identities = Identities()
    ports = {"a": at("2.1", "TWIN"), "b": at("2.2", "TWIN")}
    before = resolve(identities, ports, usb("a", 5), usb("b", 6))
    assert before[0] != before[1]
    resolve(identities, {})
    assert resolve(identities, ports, usb("a", 8), usb("b", 7)) == before


def test_two_newcomers_with_a_known_serial_are_not_guessed() -> None:
    identities = Identities()
    known = resolve(identities, {"a": at("2.1", "TWIN")}, usb("a", 5))
    resolve(identities, {})
    found = resolve(identities, {"b": at("2.2", "TWIN"), "c": at("2.3", "TWIN")}, usb("b", 6), usb("c", 7))
    assert known[0] not in found


def test_a_stick_without_a_serial_is_found_by_its_port_when_it_shows_other_interfaces() -> None:
    identities = Identities()
    first = resolve(identities, {"a": at("2.1", interfaces="08")}, usb("a", 5))
    assert resolve(identities, {"a": at("2.1", interfaces="08,03")}, usb("a", 5)) == first


def test_another_product_in_the_port_is_another_device() -> None:
    identities = Identities()
    first = resolve(identities, {"a": at("2.1")}, usb("a", 5))
    assert resolve(identities, {"a": at("2.1")}, usb("a", 6, product=2)) != first


def test_what_is_in_its_place_is_told_but_never_taken_for_it() -> None:
    identities = Identities()
    (stick,) = resolve(identities, {"a": at("2.1", "S1")}, usb("a", 5))
    assert identities.successor(stick) is None
    resolve(identities, {"b": at("2.1", "S2")}, usb("b", 6, product=2))
    assert identities.successor(stick) == "b"
    assert identities.candidates(stick) == ()
    resolve(identities, {"a": at("2.3", "S1"), "b": at("2.1", "S2")}, usb("a", 7), usb("b", 6, product=2))
    assert identities.successor(stick) is None


def test_a_uid_is_never_given_to_two_present_devices() -> None:
    identities = Identities()
    same = IdentityFacts(root="r", path="p")
    found = resolve(identities, {"pci_0000_05_00_0": same, "pci_0000_06_00_0": same}, pci("05:00.0"), pci("06:00.0"))
    assert len(set(found)) == 2


def test_a_parent_that_is_not_listed_and_a_loop_are_tolerated() -> None:
    graph = DeviceGraph([NodeDevice("a", "net", "b"), NodeDevice("b", "net", "a"), NodeDevice("c", "net", "gone")])
    assert [device.name for device in graph.ancestors("a")] == ["b"]
    assert [device.name for device in graph.descendants("a")] == ["b"]
    assert list(graph.ancestors("c")) == []


def virtual(interface: str) -> NodeDevice:
    facts = NetFacts(interface, "aa:bb:cc:00:00:01")
    return NodeDevice(f"net_{interface}", "net", "computer", f"/sys/devices/virtual/net/{interface}", facts=facts)


def test_a_bond_and_its_bridge_with_one_address_keep_their_uids() -> None:
    devices = virtual("bond0"), virtual("br0")
    identities = Identities()
    before = resolve(identities, {}, *devices)
    assert before[0] != before[1]
    again = Identities(identities._by_uid.values())
    assert resolve(again, {}, *reversed(devices)) == before[::-1]
    assert again.unsaved == []


def test_as_many_equal_devices_as_are_known_keep_their_uids() -> None:
    # Two interfaces below one card that show one address.
    card = pci("01:00.0")
    facts = NetFacts("x", "aa:bb:cc:00:00:01")
    devices = [NodeDevice(name, "net", card.name, f"{card.path}/net/{name}", facts=facts) for name in ("a", "b", "c")]
    identities = Identities()
    before = resolve(identities, {}, card, *devices)
    assert len(set(before)) == len(before)
    again = Identities(identities._by_uid.values())
    assert resolve(again, {}, card, *devices) == before
    assert again.unsaved == []


def test_what_hangs_on_a_device_keeps_its_uid_when_hosts_and_buses_are_numbered_anew() -> None:
    identities = Identities()
    card = IdentityFacts(root="r", path="1c.0/0.0", subsystem="1af4:1100")
    below = IdentityFacts(path="r/1c.0/0.0/2:1.0")

    def controller(bus: str, number: int) -> list[str]:
        above, host = pci(f"{bus}:00.0"), f"scsi_host{number}"
        child = NodeDevice(host, "scsi_host", above.name, f"{above.path}/usb{number}/{number}-2/{number}-2:1.0/{host}")
        return resolve(identities, {above.name: card, host: below}, above, child)

    assert controller("01", 3) == controller("05", 11)


def test_a_disk_without_a_serial_is_its_place_and_not_its_letter() -> None:
    identities = Identities()
    card, below = IdentityFacts(root="r", path="5.0"), IdentityFacts(path="r/5.0/block")

    def disk(letter: str) -> list[str]:
        above, name = pci("00:05.0"), f"block_vd{letter}"
        child = NodeDevice(name, "storage", above.name, f"{above.path}/virtio1/block/vd{letter}",
                           facts=StorageFacts(f"/dev/vd{letter}"))  # fmt: skip
        return resolve(identities, {above.name: card, name: below}, above, child)

    assert disk("a") == disk("b")


def test_a_device_that_is_being_pulled_out_keeps_its_uid_to_the_end() -> None:
    card = pci("05:00.0")
    net = NodeDevice("net_eth1", "net", card.name, f"{card.path}/net/eth1", facts=NetFacts("eth1", "52:54:00:00:00:01"))
    place = IdentityFacts(root="r", path="1c.0/0.0", subsystem="8086:0001")
    identities = Identities()
    before = resolve(identities, {card.name: place}, card, net)
    saved = len(identities.unsaved)
    assert resolve(identities, {}, card, net) == before  # sysfs has nothing of it any more
    assert len(identities.unsaved) == saved


def test_a_vf_that_its_pf_does_not_list_for_a_moment_keeps_its_uid() -> None:
    vf = pci("0b:00.1", pf="0b:00.0")
    identities = Identities()
    before = resolve(identities, HERE, pci("0b:00.0", vfs=("0b:00.1",)), vf)
    assert resolve(identities, HERE, pci("0b:00.0"), vf) == before
