"""The service in this process, over a simulated host, with what it is asked to tell of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio

from hostdev.v1 import service_pb2_grpc
from hostdevd import app
from hostdevd.config import Config
from hostdevd.core.steps import Delays
from hostdevd.doors import doors_of
from hostdevd.ops.clock import SystemClock
from hostdevd.sim.simulation import Simulation, simulate


@dataclass
class Served:
    """A running service and a client of it."""

    sim: Simulation
    stub: Any
    channel: grpc.aio.Channel


@asynccontextmanager
async def served(directory: Path, config: Config | None = None) -> AsyncIterator[Served]:
    clock = SystemClock()
    sim = simulate(clock, None, None)
    listen = f"unix:{directory}/h.sock"
    config = replace(config or Config(), listen=(listen,), state_dir=directory / "state")
    ready, stop = asyncio.Event(), asyncio.Event()
    work = app.serve_ports(
        app.Ports(sim.hypervisor, sim.host),
        clock,
        config,
        doors_of(config),
        lambda _: ready.set(),
        stop.wait,
        Delays(settle_s=0.0, poll_s=0.05),
    )
    serving = asyncio.create_task(work)
    config.state_dir.mkdir(exist_ok=True)
    done, _ = await asyncio.wait({serving, asyncio.ensure_future(ready.wait())}, return_when="FIRST_COMPLETED")
    if serving in done:
        serving.result()
    try:
        async with grpc.aio.insecure_channel(listen) as channel:
            yield Served(sim, service_pb2_grpc.HostDeviceServiceStub(channel), channel)
    finally:
        stop.set()
        await serving
