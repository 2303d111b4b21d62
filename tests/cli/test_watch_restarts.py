"""A holders watch of a real process that is ended, or killed, while the world goes on without it."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from api import Api, eventually
from google.protobuf.duration_pb2 import Duration
from streams import Stream

from hostdev.v1 import holder_pb2, service_pb2
from hostdevd.ops.clock import SystemClock
from hostdevd.sim.simulation import simulate

DUAL, NIC, STICK = "pci_0000_04_00_0", "pci_0000_01_00_0", "usb_2_2"
REMOVE = service_pb2.CHANGE_KIND_REMOVE

Holders = dict[str, holder_pb2.Holder]


@contextmanager
def running(directory: Path) -> Iterator[tuple[subprocess.Popen[str], Api]]:
    socket = f"unix:{directory}/h.sock"
    command = [sys.executable, "-m", "hostdevd", "serve", "--simulate", "--listen", socket]
    command += ["--state-dir", str(directory / "state")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("listening on")
            with grpc.insecure_channel(socket) as channel:
                api = Api(channel)
                eventually(lambda: _answers(api), bool)
                yield process, api
        finally:
            process.kill()


def _answers(api: Api) -> bool:
    try:
        api.holders()
    except grpc.RpcError:
        return False
    return True


def by_key(holders: Any) -> Holders:
    return {f"{holder.uid or holder.device} {holder.vm.uuid}": holder for holder in holders}


class Watcher:
    """A client: what it has by now, and where it would go on."""

    def __init__(self) -> None:
        self.holders: Holders = {}
        self.token = ""
        self.resets: list[int] = []
        self.sources: set[int] = set()

    def take(self, message: Any) -> None:
        kind = message.WhichOneof("event")
        if kind == "reset":
            self.resets.append(message.reset.reason)
            self.holders = {}
        elif kind == "snapshot":
            self.holders |= by_key(message.snapshot.holders)
        elif kind == "change_batch":
            for change in message.change_batch.changes:
                self.sources.add(change.source)
                ((key, holder),) = by_key([change.holder]).items()
                if change.kind == REMOVE:
                    self.holders.pop(key, None)  # a resumed watch tells also what came and went
                else:
                    self.holders[key] = holder
        self.token = message.resume_token or self.token

    def watch_to(self, api: Api, revision: int) -> int:
        """Watch until the first bookmark at or beyond a revision; its revision."""
        request = service_pb2.WatchHoldersRequest(resume_token=self.token, bookmark_interval=Duration(seconds=1))
        call = api.stub.WatchHolders(request, timeout=60)
        for message in call:
            self.take(message)
            if message.WhichOneof("event") == "bookmark" and message.revision >= revision:
                call.cancel()
                return int(message.revision)
        raise AssertionError("the stream has ended")

    def watch_till_now(self, api: Api) -> Holders:
        """Come up with the service; what it has at that very revision."""
        seen = 0
        while True:
            listed = api.stub.ListHolders(service_pb2.ListHoldersRequest())
            if listed.revision == seen:
                return by_key(listed.holders)
            seen = self.watch_to(api, listed.revision)


def change_the_world(directory: Path) -> None:
    """What happens to the simulated host while nobody serves it."""
    simulation = simulate(SystemClock(), None, directory / "state")
    (alpha,) = (domain for domain in simulation.world.domains.values() if domain.name == "alpha")
    change = simulation.controls.destroy_domain if alpha.live is not None else simulation.controls.start_domain
    change("alpha")


@pytest.mark.timeout(600)
def test_a_watch_goes_on_over_an_end_in_order_and_is_told_exactly_what_happened(tmp_path: Path) -> None:
    watcher, at_the_end = Watcher(), Watcher()
    with running(tmp_path) as (process, api):
        watcher.watch_till_now(api)
        api.attach("alpha", DUAL)
        since = {key: holder.since for key, holder in by_key(api.holders()).items()}
        stream = Stream(api.stub.WatchHolders(service_pb2.WatchHoldersRequest()))
        at_the_end.take(stream.next("snapshot"))
        at_the_end.take(stream.next("bookmark"))
        devices_token = api.stub.ListDevices(service_pb2.ListDevicesRequest()).resume_token
        process.send_signal(signal.SIGTERM)
        last = stream.last()  # what was told at the very end
        assert process.wait(20) == 0
        at_the_end.take(last)
        stream.end()
    change_the_world(tmp_path)
    with running(tmp_path) as (_, api):
        for one in (watcher, at_the_end):
            assert one.watch_till_now(api) == one.holders
            assert one.resets == []
        assert at_the_end.sources == {service_pb2.CHANGE_SOURCE_RECONCILE}
        held = [holder for holder in at_the_end.holders.values() if holder.device == DUAL]
        assert [(holder.live, holder.config) for holder in held] == [(False, True)]
        assert {key: holder.since for key, holder in at_the_end.holders.items()}.items() <= since.items()
        request = service_pb2.WatchDevicesRequest(resume_token=devices_token)
        watch = api.stub.WatchDevices(request, timeout=60)
        assert next(watch).reset.reason == service_pb2.RESET_REASON_TOKEN_TOO_OLD
        watch.cancel()


@pytest.mark.timeout(600)
def test_a_watch_over_kills_at_any_moment_is_told_the_difference_or_begins_anew(tmp_path: Path) -> None:
    watcher, chance = Watcher(), random.Random(5)
    early: tuple[Holders, str] | None = None
    for _ in range(5):
        with running(tmp_path) as (process, api):
            now = watcher.watch_till_now(api)
            assert now == watcher.holders
            assert set(watcher.resets) <= {service_pb2.RESET_REASON_HISTORY_LOST}
            if early is not None:  # it was written: that is gone on from after any number of kills
                other = Watcher()
                other.holders, other.token = dict(early[0]), early[1]
                assert other.watch_till_now(api) == other.holders
                assert other.resets == []
            else:
                early = now, watcher.token
                time.sleep(1.0)  # many times what a write behind the commits takes
            for device in (NIC, DUAL, STICK):
                held = [holder for holder in api.holders(devices=[device]) if holder.vm.name == "alpha"]
                if held:
                    api.detach("alpha", device)
                else:
                    api.attach("alpha", device)
                # Up to the last moment, so that the token may be of what nobody wrote.
                watcher.watch_till_now(api)
                if chance.random() < 0.4:
                    break
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        if chance.random() < 0.5:
            change_the_world(tmp_path)
