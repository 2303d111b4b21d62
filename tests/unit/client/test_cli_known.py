"""`hostdevctl device` prints what tells one piece of hardware from another, for every type of device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from corpus.rendering import rendered
from hostdev.cli.devices import _flat
from hostdev.v1 import device_pb2
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


class Descriptor:
    """A field's descriptor with what those of protobuf 6.30 and 7 have in common: neither `is_repeated` nor `label`."""

    def __init__(self, field: Any) -> None:
        self.name: str = field.name
        self.message_type = field.message_type


class Old:
    """A message whose fields have such descriptors."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def ListFields(self) -> list[tuple[Descriptor, Any]]:  # noqa: N802 (protobuf's)
        return [(Descriptor(field), value) for field, value in self._message.ListFields()]


def test_fields_are_told_apart_by_what_every_protobuf_has() -> None:
    link = device_pb2.NetDetail(interface="eth1", features=["rx", "tx"], ieee80203=True)
    assert dict(_flat(Old(link))) == {  # type: ignore[arg-type]
        "interface": "eth1",
        "features": "rx tx",
        "ieee80203": "True",
    }
    types = device_pb2.ApMatrixDetail(mdev_types=[device_pb2.MdevType(id="a"), device_pb2.MdevType(id="b")])
    assert dict(_flat(types)) == {"mdev_types[0].id": "a", "mdev_types[1].id": "b"}
