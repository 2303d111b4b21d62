"""VFIO's and libvirt's rules for PCI functions (spec: libvirt.md, "Hostdev semantics")."""

from __future__ import annotations

import pytest

from hostdevd.core.addresses import PciAddress
from hostdevd.core.model import HolderRole
from hostdevd.core.ports import DeviceRemoved, HostChanged, HostdevSpec, HypervisorError, NoSuchObject, Target
from unit.sim.rig import ALPHA, BRIEF, DUAL_0, DUAL_1, E1000, KEEPER, LEGACY, NIC, SPARE, Rig


async def test_a_single_managed_function_goes_to_the_guest_and_comes_back(rig: Rig) -> None:
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    assert rig.driver(NIC) == "vfio-pci"
    entry = (await rig.live(ALPHA))["ua-nic"]
    assert entry.guest_address == "0000:04:00.0"
    await rig.detach(ALPHA, "nic")
    assert rig.driver(NIC) == "e1000e"
    assert await rig.live(ALPHA) == {}


async def test_one_member_of_a_group_is_refused_with_the_kernels_text_and_both_drivers_stay(rig: Rig) -> None:
    with pytest.raises(HypervisorError, match=r"vfio 0000:04:00\.0: group 9 is not viable") as caught:
        await rig.attach(ALPHA, "one", DUAL_0, managed=True)
    assert caught.value.code == 1
    assert (rig.driver(DUAL_0), rig.driver(DUAL_1)) == ("e1000e", "e1000e")
    assert await rig.live(ALPHA) == {}


async def test_with_the_other_member_detached_first_it_works(rig: Rig) -> None:
    await rig.sim.hypervisor.nodedev_detach("pci_0000_04_00_1")
    await rig.attach(ALPHA, "one", DUAL_0, managed=True)
    await rig.attach(ALPHA, "rest", DUAL_1, managed=True, unassigned=True)
    entry = (await rig.live(ALPHA))["ua-rest"]
    assert entry.role is HolderRole.RESERVED
    assert entry.guest_address is None
    await rig.detach(ALPHA, "rest")
    await rig.detach(ALPHA, "one")
    assert rig.answers() == [DeviceRemoved(ALPHA, "ua-rest"), DeviceRemoved(ALPHA, "ua-one")]
    # libvirt found 01:00.1 on vfio-pci and leaves it there.
    assert (rig.driver(DUAL_0), rig.driver(DUAL_1)) == ("e1000e", "vfio-pci")


async def test_what_leaves_while_its_sibling_is_in_the_guest_has_no_driver_until_reattached(rig: Rig) -> None:
    rig.sim.controls.set_driver("pci_0000_04_00_1", None)
    await rig.attach(ALPHA, "a", DUAL_0, managed=True)
    await rig.attach(ALPHA, "b", DUAL_1, managed=True)
    await rig.detach(ALPHA, "a")
    assert rig.driver(DUAL_0) is None
    await rig.detach(ALPHA, "b")
    assert (rig.driver(DUAL_0), rig.driver(DUAL_1)) == (None, "e1000e")
    await rig.sim.hypervisor.nodedev_reattach("pci_0000_04_00_0")
    assert rig.driver(DUAL_0) == "e1000e"


async def test_after_a_failed_attach_predetached_functions_stay_on_vfio(rig: Rig) -> None:
    await rig.sim.hypervisor.nodedev_detach("pci_0000_04_00_0")
    with pytest.raises(HypervisorError, match="not viable"):
        await rig.attach(ALPHA, "a", DUAL_0)
    assert rig.driver(DUAL_0) == "vfio-pci"


async def test_an_unmanaged_function_must_be_bound_by_hand(rig: Rig) -> None:
    with pytest.raises(HypervisorError, match="must be manually detached") as caught:
        await rig.attach(ALPHA, "nic", NIC)
    assert caught.value.code == 55


async def test_predetached_counts_as_unmanaged_until_libvirt_restarts(rig: Rig) -> None:
    await rig.sim.hypervisor.nodedev_detach("pci_0000_01_00_0")
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    await rig.detach(ALPHA, "nic")
    assert rig.driver(NIC) == "vfio-pci"
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    rig.sim.controls.disconnect()
    rig.sim.controls.reconnect()
    await rig.detach(ALPHA, "nic")
    assert rig.driver(NIC) == "e1000e"


async def test_conventional_functions_need_a_conventional_slot(rig: Rig) -> None:
    for name in ("pci_0000_03_01_0", "pci_0000_03_02_0", "pci_0000_03_03_0"):
        await rig.sim.hypervisor.nodedev_detach(name)
    rig.sim.controls.undefine_domain("legacy")
    await rig.attach(LEGACY, "conventional", E1000)
    assert (await rig.live(LEGACY))["ua-conventional"].guest_address == "0000:00:05.0"
    await rig.detach(LEGACY, "conventional")
    await rig.attach(ALPHA, "conventional", E1000)
    assert (await rig.live(ALPHA))["ua-conventional"].guest_address == "0000:09:01.0"


async def test_a_full_guest_has_no_more_slots_and_the_function_is_given_back(rig: Rig) -> None:
    for number, role in enumerate(("nic_bridged", "nvme_mounted", "nic_address", "switch_0", "switch_1")):
        name = rig.sim.roles[role]
        await rig.sim.hypervisor.nodedev_detach(name)
        await rig.attach(ALPHA, f"n{number}", rig.address(name))
    with pytest.raises(HypervisorError, match="internal error: No more available PCI slots") as caught:
        await rig.attach(ALPHA, "nic", NIC, managed=True)
    assert caught.value.code == 1
    assert rig.driver(NIC) == "e1000e"


async def test_a_running_domains_function_is_in_use_and_a_shut_off_ones_is_not(rig: Rig) -> None:
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    with pytest.raises(HypervisorError, match="in use by driver QEMU, domain alpha") as caught:
        await rig.attach(BRIEF, "nic", NIC, managed=True)
    assert caught.value.code == 55
    with pytest.raises(HypervisorError, match="in use by driver QEMU, domain alpha"):
        await rig.sim.hypervisor.nodedev_reattach("pci_0000_01_00_0")
    (kept,) = (await rig.config(KEEPER)).values()
    address = rig.address("pci_0000_16_00_0")
    assert kept.source == address
    await rig.attach(BRIEF, "kept", address, managed=True)


async def test_libvirt_does_not_look_at_what_the_host_uses(rig: Rig) -> None:
    await rig.sim.hypervisor.nodedev_detach(rig.sim.roles["nvme_mounted"])


async def test_what_the_host_built_on_a_function_goes_and_comes_with_its_driver(rig: Rig) -> None:
    net = "net_eth1_52_54_00_1a_b0_01"
    rig.take_events()
    await rig.sim.hypervisor.nodedev_detach("pci_0000_01_00_0")
    assert net not in await rig.sim.hypervisor.node_device_names()
    with pytest.raises(NoSuchObject):
        await rig.sim.hypervisor.node_device(net)
    # The child's node device event; of the binding itself only the kernel tells.
    assert rig.changed_devices() == {net}
    assert any(isinstance(event, HostChanged) for event in rig.events)
    await rig.sim.hypervisor.nodedev_reattach("pci_0000_01_00_0")
    assert net in await rig.sim.hypervisor.node_device_names()


async def test_the_node_device_shows_the_driver_of_now(rig: Rig) -> None:
    await rig.sim.hypervisor.nodedev_detach("pci_0000_01_00_0")
    assert (await rig.sim.hypervisor.node_device("pci_0000_01_00_0")).driver == "vfio-pci"


async def test_vfio_takes_no_bridge_and_no_function_without_group(rig: Rig) -> None:
    for name in ("pci_0000_00_02_0", "pci_0000_00_12_0"):
        with pytest.raises(HypervisorError, match="Failed to bind"):
            await rig.sim.hypervisor.nodedev_detach(name)


@pytest.mark.parametrize("name", ["usb_2_4", "scsi_3_0_0_0"])
async def test_nodedev_detach_is_for_pci_only(rig: Rig, name: str) -> None:
    with pytest.raises(HypervisorError, match="is not a PCI device"):
        await rig.sim.hypervisor.nodedev_detach(name)


async def test_rebinding_reads_driver_override_away(rig: Rig) -> None:
    address = rig.address("pci_0000_14_00_0")
    assert rig.sim.host.driver(address).override == "vendor_dpdk"
    await rig.sim.hypervisor.nodedev_detach("pci_0000_14_00_0")
    await rig.sim.hypervisor.nodedev_reattach("pci_0000_14_00_0")
    state = rig.sim.host.driver(address)
    assert (state.driver, state.override) == ("e1000e", None)


async def test_a_destroyed_domain_gives_back_what_libvirt_bound(rig: Rig) -> None:
    await rig.attach(BRIEF, "nic", NIC, managed=True)
    rig.sim.controls.destroy_domain("brief")
    assert rig.driver(NIC) == "e1000e"
    with pytest.raises(NoSuchObject):
        await rig.sim.hypervisor.domain(BRIEF)


async def test_started_from_config_all_members_are_bound_and_given_back_at_the_end(rig: Rig) -> None:
    for alias, function in (("a", "0"), ("b", "1")):
        xml = f"""<hostdev mode='subsystem' type='pci' managed='yes'><source>
            <address domain='0' bus='4' slot='0' function='{function}'/></source><alias name='ua-{alias}'/></hostdev>"""
        rig.sim.controls.virsh_attach("spare", xml, Target.CONFIG)
    rig.sim.controls.start_domain("spare")
    assert (rig.driver(DUAL_0), rig.driver(DUAL_1)) == ("vfio-pci", "vfio-pci")
    rig.sim.controls.destroy_domain("spare")
    assert (rig.driver(DUAL_0), rig.driver(DUAL_1)) == ("e1000e", "e1000e")


async def test_without_a_bridge_a_q35_guest_takes_no_conventional_function(rig: Rig) -> None:
    for name in ("pci_0000_03_01_0", "pci_0000_03_02_0", "pci_0000_03_03_0"):
        await rig.sim.hypervisor.nodedev_detach(name)
    with pytest.raises(HypervisorError, match="No more available PCI slots"):
        await rig.attach(BRIEF, "conventional", E1000)


async def test_a_configuration_grows_ports_as_libvirt_does(rig: Rig) -> None:
    for number in range(7):
        source = PciAddress(1, 0, number, 0)
        await rig.sim.hypervisor.attach(SPARE, HostdevSpec(f"ua-{number}", source, managed=True), Target.CONFIG)
    places = [entry.guest_address for entry in (await rig.config(SPARE)).values()]
    assert len(set(places)) == 7
    assert None not in places
