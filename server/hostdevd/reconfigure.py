"""The configuration while the service runs: what a SIGHUP finds changed in it, and what becomes of that."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from hostdevd.config import OPTIONS, Config, ConfigError
from hostdevd.reload import Reloadable

log = structlog.get_logger()

Apply = Mapping[str, Callable[[Any], object]]
"""How a new value is put in force, by the name of the option; what must not fail."""


class Reconfigure:
    """The options in force, and the way to read them again."""

    def __init__(self, config: Config, read: Callable[[], Config], apply: Apply) -> None:
        missing = {row.name for row in OPTIONS if row.reloads} ^ apply.keys()
        if missing:
            raise ValueError(f"options are marked as reloaded and are not, or the other way round: {missing}")
        self._config = config
        self._read = read
        self._apply = apply

    @property
    def part(self) -> Reloadable:
        """As a part of `Reload`."""
        return Reloadable("configuration", self.again, ConfigError)

    async def again(self) -> Mapping[str, object]:
        """Apply what has changed and can be, warn of what cannot; `ConfigError`, when it is wrong, changes nothing."""
        new = await asyncio.to_thread(self._read)
        changed = [row for row in OPTIONS if getattr(new, row.name) != getattr(self._config, row.name)]
        waiting = [row.key for row in changed if not row.reloads]
        applied = [row for row in changed if row.reloads]
        for row in applied:
            self._apply[row.name](getattr(new, row.name))
        self._config = dataclasses.replace(self._config, **{row.name: getattr(new, row.name) for row in applied})
        if waiting:
            log.warning("a changed option needs a restart", options=waiting)
        return {"changed": [row.key for row in applied]}
