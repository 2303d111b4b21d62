"""Work on the host's devices that is no VM's: it belongs to the service, and callers join it and wait.

As with attach and detach, a caller that goes or whose deadline passes stops nothing. Nothing of it is journaled: what
it comes to is there to be seen in the kernel and in libvirt, and a repeat goes on from there.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from structlog.contextvars import bind_contextvars

from hostdevd.core.errors import HostdevError
from hostdevd.core.failures import device_in_work, shutting_down
from hostdevd.core.model import NodeDevice
from hostdevd.core.operations import Operations
from hostdevd.core.store import Store

log = structlog.get_logger()

T = TypeVar("T")

CLOSE_S = 10.0
"""How long what runs may take when the service stops. What another process has in hand it finishes without us."""


@dataclass(frozen=True, slots=True, eq=False)
class HostWork(Generic[T]):
    """One call's work on a device (libvirt's name)."""

    call: str
    device: str
    task: asyncio.Task[T]


@dataclass(frozen=True, slots=True)
class Looks:
    """How the engine looks before it plans: everything anew, then the records of what these devices are assigned to."""

    fresh: Callable[[], Awaitable[None]]
    compare: Callable[[Iterable[NodeDevice]], Awaitable[bool]]


class HostWorks(Generic[T]):
    """All of one kind on one host: what it makes is a `T`."""

    def __init__(self, store: Store, operations: Operations) -> None:
        self._store = store
        self._operations = operations
        self._running: dict[Hashable, HostWork[T]] = {}

    def running(self, request: Hashable) -> HostWork[T] | None:
        """The work that does what such a request asks for: it is joined."""
        return self._running.get(request)

    def check_free(self, nodes: Iterable[NodeDevice]) -> None:
        """`OPERATION_IN_PROGRESS` when somebody works on one of these."""
        self._operations.check_free(nodes)

    def begin(self, call: str, request: Hashable, device: NodeDevice, doing: Coroutine[None, None, T]) -> HostWork[T]:
        """Take a device that is free, and run; nothing may be awaited between `check_free` and this.

        Every line in the log of what runs carries the call as `operation` and an id as `work`; and from the moment that
        its row is in the audit log, the number of that (`core/audit_log.py`).
        """
        release = self._operations.reserve(self._store.identities.uid(device.name), call)
        context = copy_context()
        context.run(bind_contextvars, operation=call, work=str(uuid.uuid4()))
        task = asyncio.create_task(doing, name=f"{call} {device.name}", context=context)
        work = HostWork(call, device.name, task)
        self._running[request] = work

        def ended(task: asyncio.Task[T]) -> None:
            release()
            del self._running[request]
            fault = None if task.cancelled() else task.exception()
            if fault is not None and not isinstance(fault, HostdevError):
                # Its callers may have gone.
                log.error("work on the host's devices failed", work=task.get_name(), exc_info=fault)

        task.add_done_callback(ended, context=context)
        return work

    @staticmethod
    async def result(work: HostWork[T], until: float | None) -> T:
        """What it came to; `OPERATION_IN_PROGRESS` when that is not known by then (the loop's time)."""
        left = None if until is None else max(0.0, until - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait({work.task}, timeout=left)
        if not done:
            raise device_in_work(work.call, work.device)
        if work.task.cancelled():
            raise shutting_down()
        return work.task.result()

    async def close(self, grace_s: float = CLOSE_S) -> None:
        """Let what runs end for a while; what lives elsewhere goes on without a listener."""
        tasks = {work.task for work in self._running.values()}
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=grace_s)
            for task in left:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def before(until: float | None, waiting: Coroutine[None, None, T], otherwise: HostdevError) -> T:
    """What such a wait brings, or this error when it has not by then (the loop's time). It is not the work: it ends."""
    limit = asyncio.timeout_at(until)
    try:
        async with limit:
            return await waiting
    except TimeoutError:
        if limit.expired():
            raise otherwise from None
        raise
