"""A TOML file of the operator's that is read at the start, and again on SIGHUP: a broken one changes nothing."""

from __future__ import annotations

import asyncio
import os
import stat
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from hostdevd.options.writable import refuse_writable
from hostdevd.reload import Reloadable

log = structlog.get_logger()

T = TypeVar("T")

MOST_BYTES = 64 * 1024
"""Far more than rules need; what is larger is something else."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a file is: its name in messages, how its document is understood, what it means that there is none.

    `parse` raises `error` and nothing else; `counts` is what the log tells of a file that was read.
    """

    name: str
    parse: Callable[[Mapping[str, object]], T]
    error: type[Exception]
    default: T
    counts: Callable[[T], Mapping[str, int]]


class RulesFile(Generic[T]):
    """One such file, or none (`path` None): then `default` is what is read, and nothing is read again."""

    def __init__(self, kind: Kind[T], path: Path | None) -> None:
        self._kind = kind
        self.path = path

    async def read(self) -> T:
        """The rules as the file has them now; the kind's error when it cannot be read or is broken."""
        if self.path is None:
            return self._kind.default
        # In a thread: the file may lie on a disk that is slow now.
        rules = await asyncio.to_thread(read_rules, self._kind, self.path)
        log.info("rules read", what=self._kind.name, file=str(self.path), **self._kind.counts(rules))
        return rules

    def move(self, path: Path | None) -> None:
        """Read another file from now on, or none."""
        self.path = path

    def part(self, apply: Callable[[T], Awaitable[None] | None]) -> Reloadable:
        """As a part of `Reload`: hand over what the file has now; a broken one changes nothing."""

        async def again() -> Mapping[str, object] | None:
            applied = apply(await self.read())
            if applied is not None:
                await applied
            return None if self.path is None else {"file": str(self.path)}

        return Reloadable(self._kind.name, again, self._kind.error)


def read_rules(kind: Kind[T], path: Path) -> T:
    """Read and parse a file of at most `MOST_BYTES`; the kind's error, in one line, names file and fault."""
    where = f"{kind.name} file {path}"
    try:
        return kind.parse(tomllib.loads(_content(path).decode()))
    except OSError as error:
        raise kind.error(f"{where}: {error.strerror}") from error
    except kind.error as error:
        raise kind.error(f"{where}: {error}") from None
    except RecursionError:
        raise kind.error(f"{where}: is nested too deeply") from None
    except ValueError as error:  # no UTF-8, no TOML, a number with thousands of digits, no regular file
        raise kind.error(f"{where}: {error}") from error


def _content(path: Path) -> bytes:
    with open(path, "rb", opener=_open) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("is no regular file")
        refuse_writable(path, mode)
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES} bytes")
    return content


def _open(path: str, flags: int) -> int:
    """Without waiting for who writes to a pipe, and without taking a terminal for the process's own."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
