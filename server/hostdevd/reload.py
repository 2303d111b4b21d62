"""SIGHUP: everything that can be read again while the service runs, in turn, with each result in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reloadable:
    """One such thing: `again` reads it and puts it in force, and returns what the log tells of it.

    It returns None where there is nothing to read, and raises `refusal`, with the reason as its text, when what is
    there makes no sense; then nothing may have changed.
    """

    name: str
    again: Callable[[], Awaitable[Mapping[str, object] | None]]
    refusal: type[Exception]


class Reload:
    """Reads again when it is asked to; a request that comes meanwhile is one more turn.

    `began` and `ended` are called around each turn.
    """

    def __init__(self, began: Callable[[], None] = lambda: None, ended: Callable[[], None] = lambda: None) -> None:
        self._due = asyncio.Event()
        self._began = began
        self._ended = ended

    def ask(self) -> None:
        """Have everything read again soon; what a signal handler calls, also before `follow` has begun."""
        self._due.set()

    async def follow(self, parts: Sequence[Reloadable]) -> None:
        """Read the parts again, in this order, whenever it was asked; what one does is no other's trouble."""
        while True:
            await self._due.wait()
            self._due.clear()
            self._began()
            for part in parts:
                await _read_again(part)
            self._ended()


async def _read_again(part: Reloadable) -> None:
    try:
        facts = await part.again()
    except part.refusal as error:
        log.error("refused, the old one stays", what=part.name, reason=str(error))  # noqa: TRY400  the reason says it all
    except Exception:
        log.exception("could not be applied", what=part.name)
    else:
        if facts is None:
            log.info("not configured, so not read again", what=part.name)
        else:
            log.info("read again", what=part.name, **facts)
