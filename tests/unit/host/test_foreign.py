"""A host that cannot be seen is refused as a whole."""

from __future__ import annotations

from hostdevd.core.addresses import PciAddress, UsbAddress
from hostdevd.core.eligibility import Surroundings, reasons
from hostdevd.core.graph import DeviceGraph
from hostdevd.core.model import CheckCode, CheckStatus, NodeDevice, PciFacts, UsbFacts
from hostdevd.host.foreign import ForeignHost


async def test_no_device_of_another_machine_is_eligible() -> None:
    nic = NodeDevice("nic", "pci", facts=PciFacts(PciAddress(0, 1, 0, 0), 0x020000, 0x8086, 0x10D3, iommu_group=1))
    stick = NodeDevice("stick", "usb_device", facts=UsbFacts(UsbAddress(1, 4), 0x46F4, 1))
    uses = await ForeignHost().uses()
    around = Surroundings(DeviceGraph([nic, stick]), unknown=uses.unknown)
    for device in (nic, stick):
        assert [reason.code for reason in reasons(around, device)] == ["HOST_USE_UNKNOWN"]


async def test_the_report_fails() -> None:
    checks = {check.code: check.status for check in await ForeignHost().checks()}
    assert checks[CheckCode.HOST_USES] is CheckStatus.FAIL
