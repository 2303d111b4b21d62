"""Writes behind the commits what need not be there before them: identities, the revision's mark, the holders.

What was given out and not written when the service is killed is lost: a watcher with such a position begins
anew. After an end in order everything is there.
"""

from __future__ import annotations

import asyncio

import structlog

from hostdevd.core.errors import HostdevError
from hostdevd.core.journal import Journal
from hostdevd.core.past import Past, Written
from hostdevd.core.store import Store
from hostdevd.core.upkeep import cancelled

log = structlog.get_logger()

PAUSE_S = 0.1
"""Between two writes: the first change is written at once, those of a burst together."""
RETRY_S = 5.0


class Saver:
    """Follows one store; `start` once, `close` last, before the journal's."""

    def __init__(self, store: Store, journal: Journal, past: Past | None) -> None:
        self._store = store
        self._journal = journal
        self._lives = store.lives
        self._written = past.revision if past else None
        """The revision that the holders on disk are of; None: what is there is of no use."""
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        store.on_commit.append(lambda _: self._due.set())

    def start(self) -> None:
        """Begin to follow."""
        self._task = asyncio.create_task(self._run(), name="saver")

    async def close(self) -> None:
        """Write what is left to write."""
        if self._task is not None:
            await cancelled((self._task,))
        try:
            if self._journal.is_open:
                await self._save()
        except HostdevError as error:
            log.warning("identities and holders could not be saved", error=error.message)

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if not self._journal.is_open:
                continue  # what it holds comes first, by a commit
            try:
                await self._save()
            except HostdevError as error:
                log.warning("identities and holders could not be saved; trying again", error=error.message)
                await asyncio.sleep(RETRY_S)
                self._due.set()
            except Exception:  # whatever it was, what comes later is worth writing too
                log.exception("identities and holders could not be saved; trying again")
                await asyncio.sleep(RETRY_S)
                self._due.set()
            else:
                await asyncio.sleep(PAUSE_S)

    async def _save(self) -> None:
        await self._journal.reserve_revisions(self._store.revision)
        unsaved = list(self._store.identities.unsaved)
        if unsaved:
            await self._journal.save_identities(unsaved)
            del self._store.identities.unsaved[: len(unsaved)]
        written = self._unwritten()
        if written is not None:
            await self._journal.save_holders(written)
            self._written = written.revision

    def _unwritten(self) -> Written | None:
        store, history = self._store, self._store.holder_history
        if not store.is_whole:
            return None  # the holders are still those of the last life, and nobody was told a position
        if self._lives is not store.lives:
            self._lives, self._written = store.lives, None
        if self._written == store.revision:
            return None
        begun = self._written is not None and history.can_continue(self._written)
        since = self._written if self._written is not None and begun else history.oldest
        return Written(
            life=store.lives.now,
            revision=store.revision,
            oldest=history.oldest,
            batches=tuple(history.since(since)),
            holders=None if begun else tuple(store.holders.values()),
        )
