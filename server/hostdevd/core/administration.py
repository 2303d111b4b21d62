"""What `HostDeviceAdminService` does, put together: virtual functions and mediated devices of one host."""

from __future__ import annotations

import asyncio

from hostdevd.core.audit import Asked, Entry
from hostdevd.core.audit_log import AuditLog
from hostdevd.core.engine import Engine
from hostdevd.core.functions import VirtualFunctions
from hostdevd.core.hostwork import CLOSE_S, HostWorks, Looks
from hostdevd.core.mediated import MdevRequest, MediatedDevices
from hostdevd.core.planner import find_target
from hostdevd.core.ports import Clock, HostPort, HypervisorPort
from hostdevd.core.rights import ALL, Permission
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.views import DeviceView


class Administration:
    """The entry points; each raises `HostdevError`, and waits until the loop's time `until` (None: for ever).

    Without a `sight` the caller may everything; `entry` is what the audit log is to have of who asked.
    """

    def __init__(  # noqa: PLR0913, PLR0917  the parts, each once
        self,
        store: Store,
        sync: Sync,
        engine: Engine,
        hypervisor: HypervisorPort,
        host: HostPort,
        clock: Clock,
        audit: AuditLog,
    ) -> None:
        self._store = store
        self._clock = clock
        looks = Looks(engine.fresh, engine.compare_around)
        self._engine = engine
        self._functions_works: HostWorks[None] = HostWorks(store, engine.operations)
        self._mdev_works: HostWorks[str] = HostWorks(store, engine.operations)
        self._functions = VirtualFunctions(store, sync, self._functions_works, host, looks, audit)
        self._mediated = MediatedDevices(store, sync, self._mdev_works, hypervisor, clock, looks, audit)

    async def close(self, grace_s: float = CLOSE_S) -> None:
        """Let what runs end for a while."""
        await asyncio.gather(self._functions_works.close(grace_s), self._mdev_works.close(grace_s))

    async def set_functions(
        self, device: str, count: int, until: float | None, sight: Sight | None = None, entry: Entry | None = None
    ) -> DeviceView:
        """Have a physical function have so many virtual ones."""
        self._begin(device, sight, Permission.FUNCTIONS_SET)
        return await self._functions.set(device, count, until, entry or self._entry("SetVirtualFunctions", device))

    async def create_mdev(
        self, request: MdevRequest, until: float | None, sight: Sight | None = None, entry: Entry | None = None
    ) -> DeviceView:
        """Make a mediated device."""
        self._begin(request.parent, sight, Permission.MDEVS_CREATE)
        return await self._mediated.create(request, until, entry or self._entry("CreateMediatedDevice", request.parent))

    async def delete_mdev(
        self, device: str, until: float | None, sight: Sight | None = None, entry: Entry | None = None
    ) -> None:
        """Remove a mediated device."""
        self._begin(device, sight, Permission.MDEVS_DELETE)
        await self._mediated.delete(device, until, entry or self._entry("DeleteMediatedDevice", device))

    def _begin(self, device: str, sight: Sight | None, permission: Permission) -> None:
        sight = sight or Sight(self._store, ALL)
        self._engine.accepting(dry_run=False)
        sight.check_device(device)
        sight.may_configure(permission, find_target(self._store, device))

    def _entry(self, method: str, device: str) -> Entry:
        return Entry(Asked(self._clock.now(), method, "", device=device))
