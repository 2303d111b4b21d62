"""USB entries at the start of a domain (rules.md, Attach 4; libvirt.md)."""

from __future__ import annotations

import pytest

from hostdevd.core.addresses import UsbAddress, UsbProduct
from hostdevd.core.ports import HostdevSpec, HypervisorError, NodeDeviceChanged, Target
from unit.sim.rig import SPARE, Rig, by_alias, settle

STICK = UsbProduct(0x781, 0x5567)


def _by_address(bus: int, device: int) -> str:
    return f"""<hostdev mode='subsystem' type='usb'><source startupPolicy='optional'>
        <vendor id='0x0781'/><product id='0x5567'/><address bus='{bus}' device='{device}'/></source>
        <alias name='ua-stick'/></hostdev>"""


async def test_by_product_the_device_is_found_after_a_replug(rig: Rig) -> None:
    await rig.sim.hypervisor.attach(SPARE, HostdevSpec("ua-stick", STICK, optional=True), Target.CONFIG)
    rig.sim.controls.unplug_device("usb_2_4")
    rig.sim.controls.replug("usb_2_4")
    rig.sim.controls.start_domain("spare")
    assert (await rig.live(SPARE))["ua-stick"].source == UsbAddress(2, 5)


async def test_with_an_address_it_is_missing_after_a_replug(rig: Rig) -> None:
    rig.sim.controls.virsh_attach("spare", _by_address(2, 4), Target.CONFIG)
    rig.sim.controls.unplug_device("usb_2_4")
    rig.sim.controls.replug("usb_2_4")
    rig.sim.controls.start_domain("spare")
    assert (await rig.live(SPARE))["ua-stick"].missing
    assert rig.sim.world.in_use_by(UsbAddress(2, 4)) is None


async def test_an_optional_one_may_be_absent_and_a_mandatory_one_may_not(rig: Rig) -> None:
    rig.sim.controls.unplug_device("usb_2_4")
    await rig.sim.hypervisor.attach(SPARE, HostdevSpec("ua-stick", STICK, optional=True), Target.CONFIG)
    rig.sim.controls.start_domain("spare")
    assert (await rig.live(SPARE))["ua-stick"].missing
    rig.sim.controls.destroy_domain("spare")
    await rig.sim.hypervisor.detach(SPARE, by_alias("ua-stick"), Target.CONFIG)
    await rig.sim.hypervisor.attach(SPARE, HostdevSpec("ua-stick", STICK), Target.CONFIG)
    with pytest.raises(HypervisorError, match="Did not find USB device 0781:5567"):
        rig.sim.controls.start_domain("spare")


async def test_two_matches_abort_the_start_even_with_optional(rig: Rig) -> None:
    await rig.sim.hypervisor.attach(SPARE, HostdevSpec("ua-t", UsbProduct(0x46F4, 1), optional=True), Target.CONFIG)
    with pytest.raises(HypervisorError, match="Multiple USB devices"):
        rig.sim.controls.start_domain("spare")
    assert rig.sim.world.named("spare").live is None


async def test_unplugging_takes_everything_below_and_tells_each(rig: Rig) -> None:
    rig.take_events()
    gone = rig.sim.controls.unplug_device("usb_1_1")
    await settle()
    assert {"usb_1_1", "usb_1_1_1", "usb_1_1_2"} < set(gone)
    assert set(gone) == {event.name for event in rig.events if isinstance(event, NodeDeviceChanged)}
    assert not set(gone) & await rig.sim.hypervisor.node_device_names()
    assert set(rig.sim.controls.replug("usb_1_1")) == set(gone)
    assert set(gone) <= await rig.sim.hypervisor.node_device_names()
