"""What every call passes first: who it is from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from hostdevd.api.callers import CALLER, Callers, connection_of
from hostdevd.api.wrapping import Handler, Rpc, Wrapping, yields


class Identification(Wrapping):
    """Outside of everything but the counting of calls: what is logged and judged inside knows the caller.

    `begun` hears of each call, by the name of its connection.
    """

    def __init__(self, callers: Callers, begun: Callable[[str], None]) -> None:
        super().__init__()
        self._callers = callers
        self._begun = begun

    def around(self, behaviour: Any, method: str, handler: Handler) -> Any:  # noqa: ARG002
        """Find out who calls."""

        async def awaited(request: Any, rpc: Rpc) -> Any:
            self._identify(rpc)
            return await behaviour(request, rpc)

        async def generated(requests: Any, rpc: Rpc) -> AsyncIterator[Any]:
            self._identify(rpc)
            async for response in behaviour(requests, rpc):
                yield response

        return generated if yields(behaviour) else awaited

    def _identify(self, rpc: Rpc) -> None:
        self._begun(connection_of(rpc))
        CALLER.set(self._callers.of(rpc))
