"""Keeps the start guard's file equal to the store: `guard.json` in the state directory, for libvirt's hook.

The file is replaced whole and durably (written aside, fsync, rename), so the hook never reads half of one, and
after a power cut finds the last or the one before. It stays when the service ends: VMs start without it too.

Races. A start while an attach to the same VM is under way sees the entry or does not; the intent, and so this
write, began before libvirt's call that adds it. Where the start overtakes the write, the hook finds an alias that it
does not know, and still refuses what the host uses. An address that moves needs no write: the file names none.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from hostdevd.core.guard import guard_document
from hostdevd.core.store import Store
from hostdevd.core.sync import Sync
from hostdevd.core.upkeep import cancelled

log = structlog.get_logger()

NAME = "guard.json"
PAUSE_S = 0.2
"""Between two writes: the first change is written at once, those of a burst together."""
RETRY_S = 5.0


def replace_file(path: Path, text: str) -> None:
    """Put `text` in place of the file, all or nothing, readable by its owner and root; OSError when that fails."""
    aside = path.with_name(f"{path.name}.new")
    descriptor = os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class GuardFile:
    """Writes behind the store's commits, in a thread of its own; `start` once, `close` last.

    `is_ours` tells whether the state directory is this service's and was read: else nothing is written.
    """

    def __init__(
        self,
        directory: Path,
        store: Store,
        sync: Sync,
        boot_id: Callable[[], str],
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._path = directory / NAME
        self._store = store
        self._sync = sync
        self._boot_id = boot_id
        self._is_ours = is_ours
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard")
        self._due = asyncio.Event()
        self._written = ""
        self._task: asyncio.Task[None] | None = None
        self.fault: str | None = None
        """Why the last write failed; None after one that worked."""

    def start(self) -> None:
        """Begin to follow the store."""
        self._store.on_commit.append(self._changed)
        self._task = asyncio.create_task(self._run(), name="guard")

    async def close(self) -> None:
        """Write what is left to write, and let the file stand."""
        if self._task is not None:
            self._store.on_commit.remove(self._changed)
            await cancelled((self._task,))
            if self._sync.first_sync:
                await self._keep()
        self._thread.shutdown()

    def _changed(self, _: int) -> None:
        self._due.set()

    async def _run(self) -> None:
        # Before libvirt was read once, the last run's file knows better than an empty store.
        await self._sync.synced.wait()
        while True:
            self._due.clear()
            await self._keep()
            await asyncio.sleep(PAUSE_S)
            if self.fault is None:
                await self._due.wait()
            else:
                await asyncio.sleep(RETRY_S)

    async def _keep(self) -> None:
        try:
            boot_id = self._boot_id()
            if not boot_id:
                return  # libvirt is on another machine, whose hook could not read a file of this one
            if not self._is_ours():
                return  # what was assigned is not known yet, the last run's file knows it
            text = json.dumps(guard_document(self._store, boot_id), sort_keys=True, separators=(",", ":")) + "\n"
            if text != self._written:
                self._written = ""  # until it is known to be there
                await asyncio.get_running_loop().run_in_executor(self._thread, replace_file, self._path, text)
                self._written = text
            self.fault = None
        except Exception as error:  # noqa: BLE001  whatever it is, the service goes on and tells it
            why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            if why != self.fault:
                log.warning("the start guard's file could not be written; trying again", file=str(self._path), why=why)
            self.fault = why
