"""A simulated service that has had something of everything to do, and what it tells of itself then."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from hostdev.v1 import service_pb2, service_pb2_grpc

NIC, DUAL = "pci_0000_01_00_0", "pci_0000_04_00_0"
TOKEN = f"r1.{'0' * 32}.{'0' * 16}.7"
"""A position in a life that never was."""
_PORT = re.compile(r'"?port"?[=:] ?(\d+)')


@dataclass
class Scrape:
    """What `/metrics` said."""

    text: str
    families: Mapping[str, Metric] = field(init=False)

    def __post_init__(self) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels; AssertionError when there are none."""
        found = [
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and sample.labels.items() >= labels.items()
        ]
        assert found, (name, labels)
        return sum(found)


def scrape(port: int) -> Scrape:
    """As Prometheus asks: compressed."""
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"}), timeout=30) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        return Scrape(gzip.decompress(answer.read()).decode())


@contextmanager
def simulated() -> Iterator[tuple[str, int]]:
    """A service's address, and the port of its metrics."""
    with tempfile.TemporaryDirectory(prefix="hostdevd-") as directory:
        address, log = f"unix:{directory}/s", Path(directory) / "log"
        command = [sys.executable, "-m", "hostdevd", "serve", "--simulate", "--listen", address]
        command += ["--state-dir", f"{directory}/state", "--metrics", "127.0.0.1:0"]
        with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline().startswith(b"listening on"), log.read_text()
                port = _PORT.search(log.read_text())
                assert port is not None, log.read_text()
                yield address, int(port[1])
            finally:
                process.terminate()


def refused(call: Any) -> str:
    """The status code of a call that must fail."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    raise AssertionError("it was answered")


def _raw(channel: grpc.Channel, name: str) -> object:
    call: Any = channel.unary_unary(name)
    return call(b"")


def load(address: str, port: int) -> Scrape:
    """Have the service do something of everything, and ask it while two watches are open."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = service_pb2_grpc.HostDeviceServiceStub(channel)
        watches = [stub.WatchHolders(service_pb2.WatchHoldersRequest(resume_token=TOKEN))]
        assert next(watches[0]).WhichOneof("event") == "reset"
        watches.append(stub.WatchDevices(service_pb2.WatchDevicesRequest()))
        assert next(watches[1]).WhichOneof("event") == "snapshot"
        for _ in range(3):
            stub.ListDevices(service_pb2.ListDevicesRequest())
        for made_up in ("/made.Up/One", "/made.Up/Another"):
            assert refused(partial(_raw, channel, made_up)) == "UNIMPLEMENTED"
        get = service_pb2.GetDeviceRequest(device="nothing")
        assert refused(lambda: stub.GetDevice(get)) == "NOT_FOUND"
        stub.Attach(service_pb2.AttachRequest(vm="alpha", device=NIC, validate_only=True))
        attached = stub.Attach(service_pb2.AttachRequest(vm="alpha", device=NIC)).assignment.name
        again = service_pb2.AttachRequest(vm="legacy", device=NIC)
        assert refused(lambda: stub.Attach(again)) == "FAILED_PRECONDITION"
        stub.Detach(service_pb2.DetachRequest(assignment=attached))
        kept = stub.Attach(service_pb2.AttachRequest(vm="stubborn", device=NIC)).assignment.name
        assert refused(lambda: stub.Detach(service_pb2.DetachRequest(assignment=kept))) == "FAILED_PRECONDITION"
        stub.Attach(service_pb2.AttachRequest(vm="deaf", device=DUAL))
        waiting = service_pb2.DetachRequest(vm="deaf", device=DUAL, wait=Duration(seconds=0))
        stub.Detach(waiting)
        time.sleep(0.3)  # the loop's delay is looked at ten times a second
        found = scrape(port)
        for watch in watches:
            watch.cancel()
        return found
