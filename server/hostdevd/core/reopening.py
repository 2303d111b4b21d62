"""Serving reads without the state store, and taking it over when it can be used again.

While the store was never read, neither the epoch nor the revisions of earlier lives are known, so positions
are given out under an epoch of their own. When the real one is there every watcher begins anew (`NEW_EPOCH`),
at a revision beyond both.
"""

from __future__ import annotations

import structlog

from hostdevd.core.engine import Engine
from hostdevd.core.errors import HostdevError
from hostdevd.core.history import ChangeSource
from hostdevd.core.journal import Journal, Loaded
from hostdevd.core.ports import Clock
from hostdevd.core.store import Store

log = structlog.get_logger()

RETRY_S = 5.0
"""Between two looks at a state store that could not be used."""


async def open_or_do_without(journal: Journal) -> Loaded:
    """What the journal holds; nothing, under a new epoch, where it cannot be opened now."""
    try:
        return await journal.open()
    except HostdevError as error:
        told = log.error if journal.fault is not None and journal.fault.lasts else log.warning
        told("the state store cannot be used: nothing can be changed", why=error.message)
        return Loaded.nothing()


class Reopening:
    """Tries the state store again, for as long as the service lives."""

    def __init__(self, store: Store, engine: Engine, journal: Journal, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._journal = journal
        self._clock = clock

    async def run(self) -> None:
        """Open what is not open; see whether what could not be written can be now."""
        while True:
            await self._clock.sleep(RETRY_S)
            await self._journal.look()
            if self._journal.fault is None:
                continue
            try:
                if self._journal.is_open:
                    await self._journal.probe()
                else:
                    self._take_over(await self._journal.open())
            except HostdevError:
                continue  # `GetHost` tells
            except Exception:
                log.exception("looking at the state store failed once")

    def _take_over(self, loaded: Loaded) -> None:
        with self._store.change(ChangeSource.RECONCILE):
            self._store.adopt(loaded.lives, loaded.revision, loaded.identities, loaded.past)
            self._engine.load(loaded)
        self._engine.recover()
        log.info("the state store can be used again", assignments=len(loaded.assignments))
