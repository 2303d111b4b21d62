"""What `HostDeviceAdminService` does, put together: virtual functions and mediated devices of one host."""

from __future__ import annotations

import asyncio

from hostdevd.core.engine import Engine
from hostdevd.core.functions import VirtualFunctions
from hostdevd.core.hostwork import CLOSE_S, HostWorks, Looks
from hostdevd.core.mediated import MdevRequest, MediatedDevices
from hostdevd.core.ports import Clock, HostPort, HypervisorPort
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.views import DeviceView


class Administration:
    """The entry points; each raises `HostdevError`, and waits until the loop's time `until` (None: for ever)."""

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self, store: Store, sync: Sync, engine: Engine, hypervisor: HypervisorPort, host: HostPort, clock: Clock
    ) -> None:
        looks = Looks(engine.fresh, engine.compare_around)
        self._engine = engine
        self._functions_works: HostWorks[None] = HostWorks(store, engine.operations)
        self._mdev_works: HostWorks[str] = HostWorks(store, engine.operations)
        self._functions = VirtualFunctions(store, sync, self._functions_works, host, looks)
        self._mediated = MediatedDevices(store, sync, self._mdev_works, hypervisor, clock, looks)

    async def close(self, grace_s: float = CLOSE_S) -> None:
        """Let what runs end for a while."""
        await asyncio.gather(self._functions_works.close(grace_s), self._mdev_works.close(grace_s))

    async def set_functions(self, device: str, count: int, until: float | None) -> DeviceView:
        """Have a physical function have so many virtual ones."""
        self._engine.accepting(dry_run=False)
        return await self._functions.set(device, count, until)

    async def create_mdev(self, request: MdevRequest, until: float | None) -> DeviceView:
        """Make a mediated device."""
        self._engine.accepting(dry_run=False)
        return await self._mediated.create(request, until)

    async def delete_mdev(self, device: str, until: float | None) -> None:
        """Remove a mediated device."""
        self._engine.accepting(dry_run=False)
        await self._mediated.delete(device, until)
