"""A second terminal: buf curl, which knows only what reflection tells, while virsh changes a VM."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hosts import LabHost, managed_pci

from hostdevd.core.ports import Target

BUF = str(Path(sys.executable).with_name("buf"))
SERVICE = "hostdev.v1.HostDeviceService"


def buf_curl(lab: LabHost, *arguments: str) -> list[str]:
    socket = lab.address.removeprefix("unix:")
    return [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket", socket, *arguments]


@contextmanager
def streaming(lab: LabHost) -> Iterator[Iterator[Any]]:
    """The messages of WatchHolders as they come."""
    command = buf_curl(lab, "-d", '{"changesOnly": true}', f"http://localhost/{SERVICE}/WatchHolders")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield _messages(process.stdout)
        finally:
            process.kill()


def _messages(lines: Any) -> Iterator[Any]:
    text = ""
    for line in lines:
        text += line
        try:
            message = json.loads(text)
        except ValueError:
            continue
        text = ""
        yield message


def test_buf_curl_lists_calls_and_streams(lab: LabHost) -> None:
    listed = subprocess.run(
        buf_curl(lab, "--list-services", "http://localhost"), check=True, capture_output=True, text=True
    ).stdout.split()
    assert SERVICE in listed
    answered = subprocess.run(
        buf_curl(lab, "-d", "{}", f"http://localhost/{SERVICE}/ListEligible"),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    name = lab.roles["nic_single"]
    assert name in {one["device"]["name"] for one in json.loads(answered)["eligibleDevices"]}
    with streaming(lab) as messages:
        assert "bookmark" in next(messages)
        lab.virsh_attach("alpha", managed_pci(lab.api, name, "ua-by-hand"), Target.LIVE)
        change = next(message for message in messages if "changeBatch" in message)["changeBatch"]["changes"][0]
        assert (change["kind"], change["holder"]["device"]) == ("CHANGE_KIND_UPSERT", name)
        lab.virsh_detach("alpha", "ua-by-hand", Target.LIVE)
        change = next(message for message in messages if "changeBatch" in message)["changeBatch"]["changes"][0]
        assert (change["kind"], change["holder"]["device"]) == ("CHANGE_KIND_REMOVE", name)
