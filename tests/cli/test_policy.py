"""The policy file of a running service: refused devices, SIGHUP with a good and a broken file, refusal to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostdev.v1 import device_pb2, error_pb2, service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceServiceStub

DUAL_0, DUAL_1 = "pci_0000_04_00_0", "pci_0000_04_00_1"
CONSOLE = "pci_0000_00_01_0"
DENY = """
[[deny]]
name = "storage network"
comment = "ask the storage team"
address = "0000:04:00.1"
"""
ALLOW = """
[[allow]]
name = "headless"
class = "03"
"""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service with its policy file and its log."""

    process: subprocess.Popen[bytes]
    address: str
    policy: Path
    log: Path
    stub: Any

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def codes(self, device: str) -> list[str]:
        view = self.stub.GetDevice(service_pb2.GetDeviceRequest(device=device), timeout=20).device
        return [error_pb2.ErrorReason.Name(reason.code) for reason in view.eligibility.reasons]

    def eligible(self) -> set[str]:
        answer = self.stub.ListEligible(service_pb2.ListEligibleRequest(), timeout=20)
        return {one.device.name for one in answer.eligible_devices}

    def why(self, device: str) -> str:
        argv = [sys.executable, "-m", "hostdev.cli", "--address", self.address, "why", device]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30).stdout

    def told(self, event: str) -> dict[str, Any]:
        """The last line of the log with this event, once there is one."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
            found = [line for line in lines if event in line["event"]]
            if found:
                return dict(found[-1])
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())


def arguments(directory: Path, *more: str) -> list[str]:
    where = ("--listen", f"unix:{directory}/h.sock", "--state-dir", str(directory / "state"))
    return [sys.executable, "-m", "hostdevd", "serve", "--simulate", *where, *more]


@contextmanager
def serving(directory: Path, policy: str | None) -> Iterator[Service]:
    """The service with this policy, or without one (None), until the block ends."""
    file, log = directory / "policy.toml", directory / "log"
    options = []
    if policy is not None:
        file.write_text(policy)
        options = ["--policy", file.name]  # relative to the working directory
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            arguments(directory, *options), cwd=directory, stdout=subprocess.PIPE, stderr=errors
        ) as process,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip().removeprefix("listening on ")
        try:
            with grpc.insecure_channel(address) as channel:
                service = Service(process, address, file, log, HostDeviceServiceStub(channel))
                service.told("in step with libvirt")
                yield service
        finally:
            process.terminate()


def changes(stream: Any) -> Iterator[tuple[str, bool]]:
    """Device and whether it is eligible, as a watch tells of changes."""
    for message in stream:
        for change in message.change_batch.changes:
            assert change.kind == service_pb2.CHANGE_KIND_UPSERT
            assert change.source == service_pb2.CHANGE_SOURCE_RECONCILE
            yield change.device.name, change.device.eligibility.eligible


def test_a_denied_device_says_which_rule_and_takes_its_group_with_it(tmp_path: Path) -> None:
    with serving(tmp_path, DENY) as service:
        assert service.codes(DUAL_1) == ["ERROR_REASON_POLICY_DENIED"]
        assert service.codes(DUAL_0) == ["ERROR_REASON_GROUP_MEMBER_INELIGIBLE"]
        eligible = service.eligible()
        assert eligible
        assert not {DUAL_0, DUAL_1} & eligible
        shown = service.why(DUAL_1)
        assert "POLICY_DENIED" in shown
        assert "storage network" in shown
        assert "ask the storage team" in shown


def test_a_hangup_applies_a_good_file_and_watchers_see_it(tmp_path: Path) -> None:
    with serving(tmp_path, DENY) as service:
        only = device_pb2.DeviceFilter(types=["pci"])
        request = service_pb2.WatchDevicesRequest(filter=only, changes_only=True)
        stream = service.stub.WatchDevices(request, timeout=40)
        assert next(stream).WhichOneof("event") == "bookmark"
        seen = changes(stream)
        assert service.codes(CONSOLE) == ["ERROR_REASON_HOST_IN_USE"]
        service.policy.write_text(ALLOW)
        service.reload()
        assert {next(seen) for _ in range(3)} == {(DUAL_0, True), (DUAL_1, True), (CONSOLE, True)}
        assert {DUAL_0, DUAL_1, CONSOLE} <= service.eligible()
        service.policy.write_text(ALLOW + DENY)
        service.reload()
        assert {next(seen) for _ in range(2)} == {(DUAL_0, False), (DUAL_1, False)}
        stream.cancel()


def test_a_hangup_with_a_broken_file_changes_nothing_and_the_log_tells(tmp_path: Path) -> None:
    with serving(tmp_path, DENY) as service:
        before = service.eligible()
        service.policy.write_text(DENY + '[[deny]]\nname = "typo"\nadress = "0000:05:00.0"\n')
        service.reload()
        told = service.told("refused, the old one stays")
        assert told["level"] == "error"
        assert 'deny rule "typo": unknown key' in told["reason"]
        assert service.eligible() == before
        assert service.codes(DUAL_1) == ["ERROR_REASON_POLICY_DENIED"]


def test_a_hangup_without_a_policy_is_harmless(tmp_path: Path) -> None:
    with serving(tmp_path, None) as service:
        before = service.eligible()
        service.reload()
        service.told("not configured")
        assert service.eligible() == before
        assert service.process.poll() is None


@pytest.mark.parametrize(
    ("content", "words"),
    [('[[deny]]\nname = "all"\n', 'deny rule "all"'), ("[[deny", "at end of document"), (None, "No such file")],
)
def test_a_broken_policy_at_the_start_is_one_line_and_status_1(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "policy.toml"
    if content is not None:
        file.write_text(content)
    environment = {**os.environ, "HOSTDEVD_ELIGIBILITY_POLICY": str(file)}
    done = subprocess.run(arguments(tmp_path), env=environment, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert str(file) in done.stderr
    assert words in done.stderr
