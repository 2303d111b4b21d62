"""The log of a running service: all lines of one operation by its id, and none that a client has written."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hostdev.v1 import service_pb2
from hostdev.v1.service_pb2_grpc import HostDeviceServiceStub

ROOT = Path(__file__).parents[2]
DUAL = "pci_0000_04_00_0"
Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Service:
    """A running service and its log."""

    stub: Any
    log: Path

    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def lines_of(self, operation: str) -> list[Line]:
        """All lines of an operation, found as an operator finds them: by its id."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            found = [json.loads(line) for line in self.log.read_text().splitlines() if operation in line]
            if any(line["event"] == "operation ends" for line in found):
                return found
            time.sleep(0.02)
        raise AssertionError(self.log.read_text())


@contextmanager
def serving(directory: Path, *simulate: str) -> Iterator[Service]:
    log = directory / "log"
    where = ("--listen", f"unix:{directory}/h.sock", "--state-dir", str(directory / "state"))
    argv = [sys.executable, "-m", "hostdevd", "serve", "--simulate", *simulate, *where]
    with (
        log.open("w") as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("listening on ")
        try:
            with grpc.insecure_channel(address) as channel:
                yield Service(HostDeviceServiceStub(channel), log)
        finally:
            process.terminate()


def attach(service: Service, **fields: Any) -> Any:
    return service.stub.Attach(service_pb2.AttachRequest(**fields), timeout=30, wait_for_ready=True)


def test_all_lines_of_an_attach_and_its_detach_are_found_by_its_id(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        asked = str(uuid.uuid4())
        name = attach(service, vm="alpha", device=DUAL, request_id=asked).assignment.name
        assert name == asked
        lines = service.lines_of(asked)
        assert [line["event"] for line in lines if line["event"].startswith("operation")] == [
            "operation begins",
            "operation ends",
        ]
        steps = [(line["step"], line["device"]) for line in lines if line["event"] == "step ends"]
        assert ("ATTACH_LIVE", DUAL) in steps
        assert ("ATTACH_CONFIG", DUAL) in steps
        for line in lines:
            assert (line["assignment"], line["request_id"], line["vm"]) == (asked, asked, "alpha")
            assert line["method"] == "Attach"
            assert line["caller"]
        assert next(line for line in lines if line["event"] == "operation ends")["state"] == "ATTACHED"
        # Its steps, and nothing of its own without the id.
        others = [line for line in service.lines() if line not in lines]
        assert not [line for line in others if "step" in line or "operation" in line]

        before = len(service.lines())
        service.stub.Detach(service_pb2.DetachRequest(assignment=name), timeout=30)
        detach = [line for line in service.lines()[before:] if "step" in line or "operation" in line]
        assert {(line["assignment"], line["vm"], line["method"]) for line in detach} == {(name, "alpha", "Detach")}
        assert "DETACH_LIVE" in {line.get("step") for line in detach}


def test_an_attach_that_fails_says_where_and_why_under_its_id(tmp_path: Path) -> None:
    nodes = (ROOT / "server/hostdevd/sim/builtin/host.xml").read_text()
    file = tmp_path / "host.xml"
    file.write_text(nodes)
    extras = (ROOT / "server/hostdevd/sim/builtin/host.xml.toml").read_text()
    (tmp_path / "host.xml.toml").write_text(extras + '\n[[faults]]\ncall = "attach"\n')
    with serving(tmp_path, str(file)) as service:
        asked = str(uuid.uuid4())
        with pytest.raises(grpc.RpcError):
            attach(service, vm="alpha", device=DUAL, request_id=asked)
        lines = service.lines_of(asked)
        failed = next(line for line in lines if line["event"] == "step fails")
        assert (failed["level"], failed["step"]) == ("warning", "ATTACH_CONFIG")
        assert failed["why"]
        assert any(line["event"] == "attach failed, undoing it" for line in lines)
        (end,) = (line for line in lines if line["event"] == "operation ends")
        assert (end["state"], end["reason"]) == ("FAILED", "ATTACH_FAILED")
        refused = next(line for line in service.lines() if line["event"] == "refused")
        assert (refused["request_id"], refused["reason"]) == (asked, "ATTACH_FAILED")


HOSTILE = 'x\n{"level": "critical", "event": "forged"}\r\x1b[2J\x9b\x07\u202e'


def test_a_client_writes_no_line_and_no_terminal_sequence(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        for request in (
            service_pb2.AttachRequest(vm=HOSTILE, device=DUAL),
            service_pb2.AttachRequest(vm="alpha", device=HOSTILE),
            service_pb2.AttachRequest(vm="alpha", device=DUAL, request_id=HOSTILE),
            service_pb2.AttachRequest(vm="alpha" * 100_000, device=DUAL),
        ):
            with pytest.raises(grpc.RpcError):
                service.stub.Attach(request, timeout=30, wait_for_ready=True)
        for detach in (
            service_pb2.DetachRequest(assignment=HOSTILE),
            service_pb2.DetachRequest(vm=HOSTILE, device=HOSTILE),
        ):
            with pytest.raises(grpc.RpcError):
                service.stub.Detach(detach, timeout=30)
        lines = service.lines()
        assert all(text.isprintable() for text in service.log.read_text().splitlines())
        assert len([line for line in lines if line["event"] == "refused"]) == 6
        assert not [line for line in lines if line["event"] == "forged" or line["level"] == "critical"]
        assert max(map(len, service.log.read_text().splitlines())) < 10_000
