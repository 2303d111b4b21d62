"""How guests answer, and which events libvirt makes of it."""

from __future__ import annotations

import pytest

from hostdevd.core.addresses import MdevUuid, ScsiAddress, UsbAddress, UsbProduct
from hostdevd.core.model import VmState
from hostdevd.core.ports import (
    DeviceRemovalFailed,
    DeviceRemoved,
    DomainChanged,
    DomainRebooted,
    DomainStarted,
    DomainStopped,
    HostdevSpec,
    HypervisorError,
    NoSuchObject,
    Target,
)
from unit.sim.rig import ALPHA, DEAF, NIC, STUBBORN, Rig, by_alias, settle


async def test_detach_returns_before_the_device_has_left(rig: Rig) -> None:
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    rig.take_events()
    await rig.sim.hypervisor.detach(ALPHA, by_alias("ua-nic"), Target.LIVE)
    assert "ua-nic" in await rig.live(ALPHA)
    await settle()
    told = [event for event in rig.events if isinstance(event, DeviceRemoved | DomainChanged)]
    assert told == [DeviceRemoved(ALPHA, "ua-nic"), DomainChanged(ALPHA)]


async def test_a_delayed_guest_answers_when_it_is_due(rig: Rig) -> None:
    rig.sim.controls.set_guest_behaviour("alpha", "delayed", delay_s=2.0)
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    await rig.detach(ALPHA, "nic")
    assert rig.answers() == []
    rig.clock.step(2.0)
    await settle()
    assert rig.answers() == [DeviceRemoved(ALPHA, "ua-nic")]


async def test_a_stubborn_guest_keeps_the_device(rig: Rig) -> None:
    await rig.attach(STUBBORN, "nic", NIC, managed=True)
    await rig.detach(STUBBORN, "nic")
    assert rig.answers() == [DeviceRemovalFailed(STUBBORN, "ua-nic")]
    assert rig.driver(NIC) == "vfio-pci"


async def test_a_deaf_guest_never_answers(rig: Rig) -> None:
    await rig.attach(DEAF, "nic", NIC, managed=True)
    await rig.detach(DEAF, "nic")
    rig.clock.step(3600)
    await settle()
    assert rig.answers() == []
    assert "ua-nic" in await rig.live(DEAF)


async def test_a_second_unplug_request_aborts_the_first(rig: Rig) -> None:
    rig.sim.controls.set_guest_behaviour("alpha", "delayed", delay_s=2.0)
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    await rig.detach(ALPHA, "nic")
    await rig.detach(ALPHA, "nic")
    rig.clock.step(60)
    await settle()
    assert rig.answers() == []
    assert "ua-nic" in await rig.live(ALPHA)
    await rig.detach(ALPHA, "nic")
    rig.clock.step(2.0)
    await settle()
    assert rig.answers() == [DeviceRemoved(ALPHA, "ua-nic")]


async def test_a_reboot_of_the_guest_forgets_the_request(rig: Rig) -> None:
    await rig.attach(DEAF, "nic", NIC, managed=True)
    await rig.detach(DEAF, "nic")
    rig.sim.controls.reboot_domain("deaf")
    rig.sim.controls.set_guest_behaviour("deaf", "immediate")
    await rig.detach(DEAF, "nic")
    assert DomainRebooted(DEAF) in rig.events
    assert rig.answers() == [DeviceRemoved(DEAF, "ua-nic")]


async def test_a_paused_guest_answers_nothing(rig: Rig) -> None:
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    rig.sim.controls.set_domain_state("alpha", VmState.PAUSED)
    await rig.detach(ALPHA, "nic")
    assert rig.answers() == []


async def test_usb_and_scsi_leave_without_asking_even_a_deaf_guest(rig: Rig) -> None:
    usb = HostdevSpec("ua-usb", UsbAddress(2, 4))
    lun = HostdevSpec("ua-lun", ScsiAddress(3, 0, 0, 0), drive=(0, 0, 0, 0))
    for spec in (usb, lun):
        await rig.sim.hypervisor.attach(DEAF, spec, Target.LIVE)
        await rig.sim.hypervisor.detach(DEAF, by_alias(spec.alias), Target.LIVE)
        await settle()
    assert rig.answers() == [DeviceRemoved(DEAF, "ua-usb"), DeviceRemoved(DEAF, "ua-lun")]


async def test_a_guest_may_eject_what_it_just_got(rig: Rig) -> None:
    rig.sim.controls.set_guest_behaviour("alpha", eject_after_s=0.2)
    await rig.attach(ALPHA, "nic", NIC, managed=True)
    rig.clock.step(0.2)
    await settle()
    assert rig.answers() == [DeviceRemoved(ALPHA, "ua-nic")]


async def test_the_end_of_a_guest_answers_no_request(rig: Rig) -> None:
    await rig.attach(DEAF, "nic", NIC, managed=True)
    await rig.detach(DEAF, "nic")
    rig.take_events()
    rig.sim.controls.destroy_domain("deaf")
    await settle()
    assert rig.answers() == []
    assert DomainStopped(DEAF) in rig.events
    assert rig.driver(NIC) == "e1000e"


async def test_an_unknown_alias_is_no_device(rig: Rig) -> None:
    for target in Target:
        with pytest.raises(NoSuchObject) as caught:
            await rig.sim.hypervisor.detach(ALPHA, by_alias("ua-none"), target)
        assert caught.value.code == 99


async def test_config_changes_tell_nobody(rig: Rig) -> None:
    rig.take_events()
    await rig.sim.hypervisor.attach(ALPHA, HostdevSpec("ua-nic", NIC, managed=True), Target.CONFIG)
    assert "ua-nic" in await rig.config(ALPHA)
    assert await rig.live(ALPHA) == {}
    await rig.sim.hypervisor.detach(ALPHA, by_alias("ua-nic"), Target.CONFIG)
    await settle()
    assert await rig.config(ALPHA) == {}
    assert rig.events == []


async def test_lifecycle_events(rig: Rig) -> None:
    rig.take_events()
    rig.sim.controls.start_domain("spare")
    uuid = rig.sim.world.named("spare").uuid
    rig.sim.controls.destroy_domain("spare")
    await settle()
    assert rig.events == [DomainStarted(uuid), DomainChanged(uuid), DomainStopped(uuid), DomainChanged(uuid)]


async def test_the_scope_must_be_there(rig: Rig) -> None:
    spec = HostdevSpec("ua-nic", NIC, managed=True)
    with pytest.raises(HypervisorError, match="domain is not running"):
        await rig.sim.hypervisor.attach(rig.sim.world.named("spare").uuid, spec, Target.LIVE)
    with pytest.raises(HypervisorError, match="transient domains do not have any persistent config"):
        await rig.sim.hypervisor.attach(rig.sim.world.named("brief").uuid, spec, Target.CONFIG)


async def test_a_mediated_device_goes_by_uuid(rig: Rig) -> None:
    mdev = MdevUuid("4b20d080-1b54-4048-85b3-a6a62d165c01")
    await rig.sim.hypervisor.attach(ALPHA, HostdevSpec("ua-mdev", mdev), Target.LIVE)
    with pytest.raises(HypervisorError, match="in use by driver QEMU, domain alpha"):
        await rig.sim.hypervisor.attach(DEAF, HostdevSpec("ua-mdev", mdev), Target.LIVE)


async def test_a_lun_needs_a_free_drive_and_libvirt_silently_adds_a_controller(rig: Rig) -> None:
    lun = ScsiAddress(3, 0, 0, 0)
    await rig.sim.hypervisor.attach(ALPHA, HostdevSpec("ua-l0", lun, drive=(0, 0, 0, 0)), Target.LIVE)
    other = HostdevSpec("ua-l1", ScsiAddress(3, 0, 0, 1), drive=(0, 0, 0, 0))
    with pytest.raises(HypervisorError, match="already contains a disk with that address"):
        await rig.sim.hypervisor.attach(ALPHA, other, Target.LIVE)
    await rig.sim.hypervisor.attach(
        ALPHA, HostdevSpec("ua-l1", ScsiAddress(3, 0, 0, 1), drive=(1, 0, 0, 0)), Target.LIVE
    )
    await rig.detach(ALPHA, "l1")
    domain = await rig.sim.hypervisor.domain(ALPHA)
    assert domain.live is not None
    assert [controller.index for controller in domain.live.hardware.scsi_controllers] == [0, 1]


async def test_twins_by_product_are_refused_and_one_alone_is_found(rig: Rig) -> None:
    with pytest.raises(HypervisorError, match="Multiple USB devices for 46f4:0001") as caught:
        await rig.sim.hypervisor.attach(ALPHA, HostdevSpec("ua-t", UsbProduct(0x46F4, 1)), Target.LIVE)
    assert caught.value.code == 9
    await rig.sim.hypervisor.attach(ALPHA, HostdevSpec("ua-s", UsbProduct(0x781, 0x5567)), Target.LIVE)
    assert (await rig.live(ALPHA))["ua-s"].source == UsbAddress(2, 4)
    names = await rig.sim.hypervisor.node_device_names()
    assert "usb_2_4" in names
    assert "scsi_6_0_0_0" not in names
