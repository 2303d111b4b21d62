"""hostdevd as a process on the private libvirtd, its client, and watchers that apply what they are told."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from api import LONG_S, Api, eventually, refused
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hostdev.v1 import host_pb2, service_pb2

SERVICE = "hostdev.v1.HostDeviceService"
INTERVAL = Duration(seconds=1)
SOURCES: dict[int, str] = {number: name for name, number in service_pb2.ChangeSource.items()}


class Follower:
    """A client that applies a watch, on a thread of its own: what it then has is `items`."""

    def __init__(self, call: Any, kind: str, items: dict[str, Any]) -> None:
        self.items = dict(items)
        self.changes: list[tuple[int, Any]] = []
        """Source and item of every change so far."""
        self.kinds: list[str] = []
        """Of every message so far."""
        self.synced: list[Timestamp] = []
        self.token = ""
        self.error: grpc.RpcError | None = None
        self._kind = kind
        self._call = call
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._apply(message)
        except grpc.RpcError as error:
            self.error = error

    def _apply(self, message: Any) -> None:
        event = message.WhichOneof("event")
        if event == "reset":
            self.items.clear()
        elif event == "snapshot":
            for item in getattr(message.snapshot, self._kind + "s"):
                self.items[item.name] = item
        elif event == "change_batch":
            for change in message.change_batch.changes:
                item = getattr(change, self._kind)
                self.changes.append((change.source, item))
                if change.kind == service_pb2.CHANGE_KIND_UPSERT:
                    self.items[item.name] = item
                else:
                    self.items.pop(item.name, None)
        else:
            self.synced.append(message.bookmark.synced_time)
        self.token = message.resume_token or self.token
        self.kinds.append(event)

    def sources(self) -> set[str]:
        """Who noticed the changes so far."""
        return {SOURCES[source].removeprefix("CHANGE_SOURCE_") for source, _ in self.changes}

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(10)


class Service:
    """A running hostdevd."""

    def __init__(self, process: subprocess.Popen[str], channel: grpc.Channel) -> None:
        self.process = process
        self.api = Api(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self._followers: list[Follower] = []

    def serving(self) -> bool:
        answer = self._health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=LONG_S)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def wait(self, *, serving: bool) -> None:
        eventually(self.serving, lambda now: now is serving)

    def host(self) -> host_pb2.Host:
        host: host_pb2.Host = self.api.stub.GetHost(service_pb2.GetHostRequest(), timeout=LONG_S).host
        return host

    def libvirt_check(self) -> str:
        check = next(one for one in self.host().checks if one.code == host_pb2.HOST_CHECK_CODE_LIBVIRT)
        return host_pb2.HostCheckStatus.Name(check.status).rpartition("_")[2]

    def follow_holders(self, token: str = "", items: dict[str, Any] | None = None) -> Follower:
        """`items` is what the client had at the token: before the first message, which may change it."""
        request = service_pb2.WatchHoldersRequest(resume_token=token, bookmark_interval=INTERVAL)
        return self._follow(self.api.stub.WatchHolders(request), "holder", items)

    def follow_devices(self, token: str = "") -> Follower:
        request = service_pb2.WatchDevicesRequest(resume_token=token, bookmark_interval=INTERVAL)
        return self._follow(self.api.stub.WatchDevices(request), "device")

    def _follow(self, call: Any, kind: str, items: dict[str, Any] | None = None) -> Follower:
        follower = Follower(call, kind, items or {})
        self._followers.append(follower)
        return follower

    def holders(self) -> dict[str, Any]:
        return {holder.name: holder for holder in self.api.holders()}

    def devices(self) -> dict[str, Any]:
        return {device.name: device for device in self.api.devices()}

    def end(self) -> None:
        for follower in self._followers:
            follower.end()
        self.process.terminate()
        assert self.process.wait(30) == 0
        if self.process.stdout is not None:
            self.process.stdout.close()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()
        for follower in self._followers:
            follower.end()


def refusals(api: Api, vm: str, device: str) -> None:
    """Every call that would change something, dry or not, is refused while libvirt is away."""
    attach, detach = service_pb2.AttachRequest, service_pb2.DetachRequest
    calls: tuple[Callable[[], object], ...] = (
        lambda: api.stub.Attach(attach(vm=vm, device=device), timeout=LONG_S),
        lambda: api.stub.Attach(attach(vm=vm, device=device, validate_only=True), timeout=LONG_S),
        lambda: api.stub.Detach(detach(vm=vm, device=device), timeout=LONG_S),
        lambda: api.stub.Detach(detach(vm=vm, device=device, validate_only=True), timeout=LONG_S),
    )
    for call in calls:
        with refused("LIBVIRT_DISCONNECTED") as caught:
            call()
        assert caught[0].code is grpc.StatusCode.UNAVAILABLE
        assert caught[0].retry_after_s > 0


@contextmanager
def serving(uri: str, directory: Path) -> Iterator[Service]:
    """hostdevd on that libvirt; its state stays in the directory."""
    address = f"unix:{directory}/h.sock"
    command = [sys.executable, "-m", "hostdevd", "serve", "--connect", uri, "--listen", address]
    command += ["--state-dir", str(directory / "state")]
    with (directory / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("listening on"), (directory / "log").read_text()
    with grpc.insecure_channel(address) as channel:
        service = Service(process, channel)
        try:
            yield service
        finally:
            if process.poll() is None:
                service.end()
            else:
                process.stdout.close()
