"""How long an event takes to its watchers: from when it was heard, and nothing that the client itself held up."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd.api.watch import Hub
from hostdevd.core.history import ChangeSource
from hostdevd.core.ports import DomainChanged, NodeDeviceChanged
from unit.api.test_served_streams import served
from unit.core.rig import Machine, machine, until


class Told:
    """A watch observer that remembers."""

    def __init__(self) -> None:
        self.delays: list[tuple[str, float]] = []
        self.resets: list[tuple[str, str]] = []

    def delivered(self, watch: str, delay_s: float) -> None:
        self.delays.append((watch, delay_s))

    def reset(self, watch: str, reason: str) -> None:
        self.resets.append((watch, reason))


async def unplug(m: Machine) -> None:
    name = m.name("usb_stick")
    m.sim.controls.unplug_device(name)
    await until(m, lambda: name not in m.core.store.devices)


async def test_an_event_is_timed_from_when_it_was_heard(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        told = Told()
        hub = Hub(m.core.store, m.core.sync, observer=told)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            watch: Any = stub.WatchDevices(service_pb2.WatchDevicesRequest(changes_only=True))
            await watch.read()
            m.core.sync._on_event(NodeDeviceChanged(m.name("usb_stick"), heard_s=time.monotonic() - 60.0))
            m.sim.controls.unplug_device(m.name("usb_stick"))  # before it is read
            assert (await watch.read()).WhichOneof("event") == "change_batch"
            watch.cancel()
        ((kind, delay_s),) = told.delays
        assert kind == "devices"
        assert delay_s > 50  # but for the time that the bookmark's write took


async def test_what_no_event_told_of_is_not_timed_nor_what_a_client_catches_up_with(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        told = Told()
        hub = Hub(m.core.store, m.core.sync, observer=told)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            first: Any = stub.WatchDevices(service_pb2.WatchDevicesRequest(changes_only=True))
            token = (await first.read()).resume_token
            first.cancel()
            async with asyncio.timeout(20):
                while hub.watchers:  # noqa: ASYNC110  gRPC sets no event
                    await asyncio.sleep(0.01)
            await unplug(m)
            again: Any = stub.WatchDevices(service_pb2.WatchDevicesRequest(resume_token=token))
            assert (await again.read()).WhichOneof("event") == "change_batch"
            m.sim.hypervisor._sink = lambda _: None  # nothing tells of it
            m.sim.controls.undefine_domain("keeper")
            await m.core.sync.read_domains(ChangeSource.RECONCILE)
            assert (await again.read()).WhichOneof("event") == "change_batch"
            again.cancel()
        assert told.delays == []


async def test_a_watch_that_begins_anew_is_told(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        told = Told()
        hub = Hub(m.core.store, m.core.sync, observer=told)
        async with served(m, tmp_path, hub) as address, grpc.aio.insecure_channel(address) as channel:
            stub = service_pb2_grpc.HostDeviceServiceStub(channel)
            token = f"r1.{'0' * 32}.{'0' * 16}.7"
            watch: Any = stub.WatchHolders(service_pb2.WatchHoldersRequest(resume_token=token))
            assert (await watch.read()).WhichOneof("event") == "reset"
            watch.cancel()
        assert told.resets == [("holders", "NEW_EPOCH")]


async def test_the_first_of_several_events_counts_and_only_within_the_span(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        hub = Hub(m.core.store, m.core.sync)
        before = m.core.store.revision
        await unplug(m)
        at = m.core.store.revision
        heard_s = hub.heard_s(before, at)
        assert heard_s is not None
        assert heard_s <= time.monotonic()
        assert hub.heard_s(at, at + 1) is None
        assert hub.heard_s(before - 1, before) is None


def test_when_an_event_was_heard_is_no_part_of_what_it_is() -> None:
    assert DomainChanged("u", heard_s=1.0) == DomainChanged("u", heard_s=2.0)
    assert DomainChanged("u").heard_s == pytest.approx(time.monotonic(), abs=10)
