"""What every call passes first: who it is from, and whether there is room for it.

Refused before anything is done for it, and without a trace in the audit log. Who may what is asked further inside, at
the gate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from hostdevd.api.callers import CALLER, Callers, connection_of
from hostdevd.api.interceptors import abort
from hostdevd.api.wrapping import Handler, Rpc, Wrapping, yields
from hostdevd.core.errors import HostdevError
from hostdevd.core.limits import Counts, Work

WORK: Mapping[str, Work | None] = {
    "/hostdev.v1.HostDeviceService/GetHost": Work.READS,
    "/hostdev.v1.HostDeviceService/ListDevices": Work.READS,
    "/hostdev.v1.HostDeviceService/GetDevice": Work.READS,
    "/hostdev.v1.HostDeviceService/ListEligible": Work.READS,
    "/hostdev.v1.HostDeviceService/ListGroups": Work.READS,
    "/hostdev.v1.HostDeviceService/GetGroup": Work.READS,
    "/hostdev.v1.HostDeviceService/ListHolders": Work.READS,
    "/hostdev.v1.HostDeviceService/ListAssignments": Work.READS,
    "/hostdev.v1.HostDeviceService/GetAssignment": Work.READS,
    "/hostdev.v1.HostDeviceService/WatchDevices": Work.WATCHERS,
    "/hostdev.v1.HostDeviceService/WatchHolders": Work.WATCHERS,
    "/hostdev.v1.HostDeviceService/Attach": Work.MUTATIONS,
    "/hostdev.v1.HostDeviceService/Detach": Work.MUTATIONS,
    "/hostdev.v1.HostDeviceService/ForgetAssignment": Work.MUTATIONS,
    "/hostdev.v1.HostDeviceAdminService/SetVirtualFunctions": Work.MUTATIONS,
    "/hostdev.v1.HostDeviceAdminService/CreateMediatedDevice": Work.MUTATIONS,
    "/hostdev.v1.HostDeviceAdminService/DeleteMediatedDevice": Work.MUTATIONS,
    # Whether the service is well must be told however busy it is, and costs nothing.
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/Watch": Work.WATCHERS,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Work.READS,
}
"""What each method is, one row for everything that is served; a test holds that none is forgotten."""


class Admission(Wrapping):
    """Outside of everything but the counting of calls: what is logged and judged inside knows the caller.

    `begun` hears of each call, by the name of its connection.
    """

    def __init__(self, callers: Callers, counts: Counts, begun: Callable[[str], None]) -> None:
        super().__init__()
        self._callers = callers
        self._counts = counts
        self._begun = begun

    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:  # noqa: ARG002
        """Let a call in, or refuse it."""
        return self._stream(behaviour, method) if yields(behaviour) else self._request(behaviour, method)

    def _request(self, behaviour: Any, method: str) -> Any:
        work = WORK.get(method, Work.READS)

        async def admitted(request: Any, rpc: Rpc) -> Any:
            is_dry_run = work is Work.MUTATIONS and getattr(request, "validate_only", False)
            with await self._enter(rpc, Work.READS if is_dry_run else work):
                return await behaviour(request, rpc)

        return admitted

    def _stream(self, behaviour: Any, method: str) -> Any:
        work = WORK.get(method, Work.READS)

        async def admitted(requests: Any, rpc: Rpc) -> AsyncIterator[Any]:
            with await self._enter(rpc, work):
                async for response in behaviour(requests, rpc):
                    yield response

        return admitted

    async def _enter(self, rpc: Rpc, work: Work | None) -> AbstractContextManager[None]:
        self._begun(connection_of(rpc))
        caller = self._callers.of(rpc)
        CALLER.set(caller)
        if work is None:
            return nullcontext()
        try:
            return self._counts.enter(work, caller.name)
        except HostdevError as error:
            await abort(rpc, error)
