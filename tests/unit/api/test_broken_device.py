"""A device whose XML cannot be read is listed with the condition XML_INVALID, and hides no other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hostdev.v1 import device_pb2, service_pb2
from hostdevd.core.ports import NodeDeviceChanged
from hostdevd.virt.xml.nodedev import node_device
from unit.api.test_lists import devices, eligible, service_of
from unit.core.rig import Machine, machine, until


def break_xml(m: Machine, name: str, xml: str) -> None:
    kernel = m.sim.world.kernel
    kernel.devices[name] = dataclasses.replace(kernel.devices[name], xml=xml, node=node_device(xml, name))
    kernel._emit(NodeDeviceChanged(name))


@pytest.mark.parametrize(
    "broken", ["", "<device>", "\ud800", "<device><name>computer</name><", "<device/>" + "x" * 3_000_000]
)
async def test_a_broken_device_is_listed_among_the_others(tmp_path: Path, broken: str) -> None:
    async with machine(tmp_path) as m:
        names = set(m.core.store.devices)
        name = m.name("nic_single")
        break_xml(m, name, broken)
        await until(m, lambda: m.core.store.devices[name].node.type == "other")
        service = service_of(m)
        listed = await devices(service, service_pb2.ListDevicesRequest())
        assert {device.name for device in listed.devices} == names
        (found,) = (device for device in listed.devices if device.name == name)
        assert [condition.code for condition in found.conditions] == [device_pb2.CONDITION_CODE_XML_INVALID]
        assert found.uid
        assert not found.eligibility.eligible
        explained = await eligible(service, service_pb2.ListEligibleRequest(include_ineligible=True))
        assert len(explained.eligible_devices) > 1
        # What else has a fault now is so because of this one alone.
        assert not [device.name for device in listed.devices if device.conditions and device.name != name]
