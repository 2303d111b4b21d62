"""Inside the lab: starts hostdevd over the state that is kept and writes what it lists to $LAB_OUTPUT/record.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from api import codes
from hosts import LabHost, lab_host
from labels import labels_of
from readiness import in_step

from hostdev.v1 import device_pb2, host_pb2, service_pb2

KEPT = Path("/var/lib/hostdevd")  # on the state disk


def main() -> None:
    with lab_host(KEPT) as lab:
        in_step(lab.api)
        record = {"devices": _devices(lab), "checks": _checks(lab)}
    (Path(os.environ["LAB_OUTPUT"]) / "record.json").write_text(json.dumps(record, indent=1))


def _devices(lab: LabHost) -> list[dict[str, Any]]:
    devices = lab.api.devices()
    labels = labels_of(devices, lab.roles)
    return [
        {
            "label": labels[device.name],
            "name": device.name,
            "uid": device.uid,
            "type": device.type,
            "address": _address(device),
            "eligible": device.eligibility.eligible,
            "reasons": codes(device.eligibility.reasons),
            "remedies": [reason.remedy for reason in device.eligibility.reasons],
        }
        for device in devices
    ]


def _address(device: device_pb2.Device) -> str:
    match device.type:
        case "pci":
            return device.pci.address
        case "usb_device":
            return f"{device.usb_device.bus}:{device.usb_device.device}"
        case "scsi":
            where = device.scsi
            return f"{where.host}:{where.bus}:{where.target}:{where.lun}"
        case "net":
            return device.net.interface
        case "storage":
            return device.storage.block
        case _:
            return device.name


def _checks(lab: LabHost) -> dict[str, dict[str, str]]:
    checks = lab.api.stub.GetHost(service_pb2.GetHostRequest()).host.checks
    return {
        host_pb2.HostCheckCode.Name(check.code).removeprefix("HOST_CHECK_CODE_"): {
            "status": host_pb2.HostCheckStatus.Name(check.status).removeprefix("HOST_CHECK_STATUS_"),
            "message": check.message,
            "remedy": check.remedy,
        }
        for check in checks
    }


if __name__ == "__main__":
    main()
