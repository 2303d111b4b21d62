"""The lines of the service in a real journal: whole JSON objects, filed by level, an operation's found by its id."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from api import eventually
from hosts import UNIT, LabHost, virsh
from readiness import in_step

from production.systemctl import systemctl

PRIORITIES = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}


def since_its_start() -> list[dict[str, Any]]:
    """The journal's entries of this life that the service wrote itself; systemd's own of the unit are left out."""
    command = ["journalctl", f"_SYSTEMD_INVOCATION_ID={_invocation()}", "--output=json", "--all", "--no-pager"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    entries = map(json.loads, shown.splitlines())
    # The addresses are the one text that is for people.
    return [one for one in entries if one["_TRANSPORT"] == "stdout" and not one["MESSAGE"].startswith("listening on ")]


def _invocation() -> str:
    return systemctl("show", "--value", "--property=InvocationID", UNIT)


def test_an_operation_is_found_by_its_id_and_every_line_by_its_level(lab: LabHost) -> None:
    device = lab.roles["usb_stick"]
    made = lab.api.attach("alpha", device)
    lab.api.detach(assignment=made.name)

    def told() -> list[dict[str, Any]]:
        lines = [json.loads(entry["MESSAGE"]) for entry in since_its_start()]
        return [line for line in lines if line.get("assignment") == made.name]

    lines = eventually(told, lambda found: {line.get("operation") for line in found} >= {"attach", "detach"})
    assert {line["vm"] for line in lines} == {"alpha"}
    for entry in since_its_start():
        line = json.loads(entry["MESSAGE"])
        assert line["event"]
        assert entry["PRIORITY"] == PRIORITIES[line["level"]], entry


def test_a_libvirt_that_goes_is_a_warning_there(lab: LabHost) -> None:
    in_step(lab.api)
    systemctl("restart", "libvirtd.service")
    virsh("list")  # whoever connects starts it

    def warned() -> list[str]:
        return [json.loads(entry["MESSAGE"])["event"] for entry in since_its_start() if entry["PRIORITY"] == "4"]

    eventually(warned, lambda events: "libvirt is away" in events)
    in_step(lab.api)
