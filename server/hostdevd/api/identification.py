"""What every call passes first: who it is from, and that its request comes.

The library waits for a request before anything of ours hears of the call, and for as long as it takes: one who begins
calls and never sends a request would cost memory for each, unseen by all limits. So to the library every method is one
of many requests, and the one that there is is read here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc.aio

from hostdevd.api.callers import CALLER, Callers, connection_of
from hostdevd.api.interceptors import abort
from hostdevd.api.methods import METHODS
from hostdevd.api.wrapping import Handler, Rpc, Wrapping, yields
from hostdevd.core.errors import HostdevError, invalid_field
from hostdevd.core.limits import Counts, Work

ARRIVAL_S = 20.0
"""For the request of a call, which may have a megabyte."""
END_S = 0.05


class Identification(Wrapping):
    """Outside of everything but the counting of calls: what is logged and judged inside knows the caller.

    `begun` hears of each call, by the name of its connection. Without `counts` any number may be on its way.
    """

    def __init__(self, callers: Callers, begun: Callable[[str], None], counts: Counts | None = None) -> None:
        super().__init__()
        self._callers = callers
        self._begun = begun
        self._counts = counts

    def kind(self, kind: str) -> str:
        """One of many requests, as many answers as there were."""
        return f"stream_{kind.partition('_')[2]}"

    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:
        """Find out who calls, and get the request where there is one."""
        streaming = handler.request_streaming
        row = METHODS.get(method)
        is_free = row is not None and row.work is None

        async def awaited(requests: Any, rpc: Rpc) -> Any:
            self._identify(rpc)
            return await behaviour(requests if streaming else await self._request(rpc, is_free=is_free), rpc)

        async def generated(requests: Any, rpc: Rpc) -> AsyncIterator[Any]:
            self._identify(rpc)
            request = requests if streaming else await self._request(rpc, is_free=is_free)
            async for response in behaviour(request, rpc):
                yield response

        return generated if yields(behaviour) else awaited

    def _identify(self, rpc: Rpc) -> None:
        self._begun(connection_of(rpc))
        CALLER.set(self._callers.of(rpc))

    async def _request(self, rpc: Rpc, *, is_free: bool) -> Any:
        try:
            # What costs nothing is for whoever connects, and those without an identity are not all the same one.
            with self._arriving(f"connection {connection_of(rpc)}" if is_free else CALLER.get().name):
                async with asyncio.timeout(ARRIVAL_S):
                    request = await rpc.read()
        except HostdevError as error:
            await abort(rpc, error)
        except TimeoutError:
            await abort(rpc, invalid_field("request", f"must come within {ARRIVAL_S:g} s of the call"))
        if request is grpc.aio.EOF:
            # Or the call has ended, which the library tells this task next, by ending it.
            await asyncio.sleep(END_S)
            await abort(rpc, invalid_field("request", "is missing"))
        return request

    def _arriving(self, who: str) -> AbstractContextManager[None]:
        return nullcontext() if self._counts is None else self._counts.enter(Work.ARRIVALS, who)
