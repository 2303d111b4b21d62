"""`hostdevctl device` prints what tells one piece of hardware from another, for every type of device."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpus.rendering import rendered
from unit.client.fake_server import FakeHostdevd
from unit.client.outcome import Run

GOLDEN = Path(__file__).parents[2] / "xml" / "nodedev"


@pytest.mark.parametrize(
    ("document", "printed"),
    [
        pytest.param("pci_sriov_pf", ["NUMA node", "driver"], id="NUMA node and driver"),
        pytest.param(
            "pci_sriov_pf", ["pci.pci_express.link_capability.speed", "pci.pci_express.link_status.width"], id="link"
        ),
        pytest.param("pci_sriov_pf", ["pci.vpd.readonly.serial_number"], id="VPD serial"),
        pytest.param("net", ["net.address"], id="MAC"),
        pytest.param("storage", ["storage.serial", "storage.wwn"], id="disk's serial and WWN"),
        pytest.param("scsi_host_fc", ["scsi_host.fc_host.wwpn", "scsi_host.fc_host.wwnn"], id="adapter's WWNs"),
    ],
)
def test_what_is_known_is_printed(server: FakeHostdevd, hostdevctl: Run, document: str, printed: list[str]) -> None:
    device = rendered((GOLDEN / f"{document}.xml").read_text("utf-8"))
    server.devices = [device]
    lines = hostdevctl("device", device.name).out.splitlines()
    for field in printed:
        assert any(line.strip().startswith(field + " ") and line.split()[-1] != field for line in lines), field
