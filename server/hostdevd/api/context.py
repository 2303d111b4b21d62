"""What every handler has at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc.aio

from hostdevd.api.access import Access
from hostdevd.api.callers import CALLER
from hostdevd.api.pages import Page, Pages
from hostdevd.api.render import Renderer
from hostdevd.api.requests import check_host
from hostdevd.api.watch import Hub
from hostdevd.core.administration import Administration
from hostdevd.core.audit_log import AuditLog
from hostdevd.core.caller import Caller
from hostdevd.core.engine import Engine
from hostdevd.core.model import Check
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Context:
    """The core's parts and the API's own, put together by `app.py`."""

    store: Store
    sync: Sync
    engine: Engine
    admin: Administration
    pages: Pages
    renderer: Renderer
    hub: Hub
    access: Access
    audit: AuditLog
    now: Callable[[], float]
    checks: Callable[[], Awaitable[Sequence[Check]]]

    def sight(self, rpc: grpc.aio.ServicerContext[Any, Any]) -> Sight:
        """What a caller may see and do."""
        return self.access.sight(rpc)

    async def page(
        self,
        rpc: grpc.aio.ServicerContext[Any, Any],
        request: Any,
        select: Callable[[], Iterable[T | None]],
        encode: Callable[[T], bytes],
    ) -> Page:
        """The page that a list request asks for, of what its caller may see: `Pages.page`."""
        # Every item has the host's name, which a new host may have from the network only after its start.
        host = self.sync.info.name if self.sync.info is not None else ""
        caller, view = self.access.caller(rpc).name, f"{self.sight(rpc).view} {host}"
        return await self.pages.page(request, lambda: self.store.revision, select, encode, view, caller)

    def begin_read(self, host: str) -> None:
        """The start of every read: the right host, and something to answer from."""
        check_host(host, self.sync.info)
        if not self.sync.first_sync:
            self.sync.require()


def caller_of(_: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Who calls; `UNKNOWN` when nothing proves who it is."""
    return CALLER.get()
