"""A burst of devices reaches a watcher at once, then in few batches, and in the end exactly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from hostdev.v1 import service_pb2
from hostdevd.api.watch import BATCH_INTERVAL_S
from unit.api.test_lists import service_of
from unit.core.rig import machine
from unit.core.test_kin import numbered


class Client:
    """The other end of a stream: what was written, and when."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, Any]] = []
        self.written = asyncio.Event()

    async def write(self, message: bytes) -> None:
        told = service_pb2.WatchDevicesResponse.FromString(message)
        self.messages.append((asyncio.get_running_loop().time(), told))
        self.written.set()

    def batches(self) -> list[tuple[float, Any]]:
        return [(time, one.change_batch) for time, one in self.messages if one.WhichOneof("event") == "change_batch"]

    def named(self) -> set[str]:
        return {one.device.name for _, batch in self.batches() for one in batch.changes}

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self.written.clear()
                await self.written.wait()


async def test_256_devices_in_a_burst(tmp_path: Path) -> None:
    async with machine(tmp_path) as m:
        service, client = service_of(m), Client()
        request = service_pb2.WatchDevicesRequest(changes_only=True)
        watching = asyncio.create_task(service.WatchDevices(request, client))  # type: ignore[arg-type]
        await client.until(lambda: client.messages)
        documents = numbered(m, 256)
        names = set[str]()
        for document in documents:
            names.add(m.sim.controls.plug_device(document))
            await asyncio.sleep(0.001)
        await client.until(lambda: client.named() >= names)
        times = [time for time, _ in client.batches()]
        # The loop's clock and its timers differ by a little.
        assert all(later - earlier >= BATCH_INTERVAL_S - 0.005 for earlier, later in pairwise(times))
        assert len(client.batches()[0][1].changes) < len(names)  # the first did not wait for the rest
        last = {one.device.name: one.device for _, batch in client.batches() for one in batch.changes}
        assert all(last[name].eligibility.available for name in names)
        assert all(last[name].revision == m.core.store.devices[name].revision for name in names)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
