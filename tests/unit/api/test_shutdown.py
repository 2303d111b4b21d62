"""The end of the service: what still waits is told so, what would begin is refused, and a start can be ended too."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from hostdev.v1 import service_pb2, service_pb2_grpc
from hostdevd import app
from hostdevd.api.errors import DETAILS_TRAILER
from hostdevd.config import Config
from hostdevd.core.errors import HostdevError
from hostdevd.core.ports import Clock
from hostdevd.doors import doors_of
from hostdevd.ops.clock import SystemClock
from hostdevd.sim.simulation import simulate
from unit.core.rig import Shape, machine


async def test_a_detach_that_waits_for_the_guest_is_told_of_the_shutdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "DRAIN_S", 0.3)
    clock = SystemClock()
    sim = simulate(clock, None, None)
    config = Config(listen=(f"unix:{tmp_path}/h.sock",), state_dir=tmp_path)
    ready, stop = asyncio.Event(), asyncio.Event()
    doors = doors_of(config)
    ports = app.Ports(sim.hypervisor, sim.host)
    serving = asyncio.create_task(app.serve_ports(ports, clock, config, doors, lambda _: ready.set(), stop.wait))
    await ready.wait()
    async with grpc.aio.insecure_channel(config.listen[0]) as channel:
        stub = service_pb2_grpc.HostDeviceServiceStub(channel)
        attach = service_pb2.AttachRequest(vm="alpha", device=sim.roles["nic_single"])
        attached = (await stub.Attach(attach, wait_for_ready=True)).assignment
        sim.controls.set_guest_behaviour("alpha", "never")
        detach = service_pb2.DetachRequest(assignment=attached.name, wait=Duration(seconds=60))
        waiting = asyncio.ensure_future(stub.Detach(detach))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        stop.set()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(serving, 20)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    details = dict(failure.value.trailing_metadata())[DETAILS_TRAILER]
    assert isinstance(details, bytes)
    status, info = status_pb2.Status.FromString(details), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "SHUTTING_DOWN"
    assert any(detail.type_url.endswith("RetryInfo") for detail in status.details)


async def test_nothing_begins_while_the_rest_ends(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        m.core.engine.stop_accepting()
        with pytest.raises(HostdevError) as refusal:
            await m.attach(Shape("nic_single"))
        assert refusal.value.reason == "SHUTTING_DOWN"


async def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_ports(config: Config, clock: Clock) -> app.Ports:  # noqa: ARG001
        os.kill(os.getpid(), signal.SIGTERM)
        sim = simulate(clock, None, None)
        return app.Ports(sim.hypervisor, sim.host)

    monkeypatch.setattr(app, "open_ports", open_ports)
    config = Config(listen=(f"unix:{tmp_path}/h.sock",), state_dir=tmp_path / "state")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)  # else a failure would end all tests
    try:
        await asyncio.wait_for(app.serve(config, lambda _: None), 30)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    assert not (tmp_path / "h.sock").exists()
