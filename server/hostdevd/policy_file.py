"""The policy file: read at the start, and again on SIGHUP."""

from __future__ import annotations

import asyncio
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

import structlog

from hostdevd.core.history import ChangeSource
from hostdevd.core.policy import NO_POLICY, Policy, PolicyError, parse_policy
from hostdevd.core.store import Store
from hostdevd.reload import Reloadable

log = structlog.get_logger()

MOST_BYTES = 64 * 1024
"""Far more than rules need; what is larger is something else."""


class PolicyFile:
    """One policy file, or none (`path` None): then there are no rules, and nothing is read again."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    async def read(self) -> Policy:
        """The policy as the file has it now; `PolicyError` when it cannot be read or is broken."""
        if self.path is None:
            return NO_POLICY
        # In a thread: the file may lie on a disk that is slow now.
        policy = await asyncio.to_thread(read_policy, self.path)
        log.info("policy read", file=str(self.path), allow=len(policy.allow), deny=len(policy.deny))
        return policy

    def move(self, path: Path | None) -> None:
        """Read another file from now on, or none."""
        self.path = path

    def part(self, store: Store) -> Reloadable:
        """As a part of `Reload`: put into the store what the file has now; a broken one changes nothing."""

        async def again() -> Mapping[str, object] | None:
            policy = await self.read()
            with store.change(ChangeSource.RECONCILE):
                store.put_policy(policy)
            return None if self.path is None else {"file": str(self.path)}

        return Reloadable("policy", again, PolicyError)


def read_policy(path: Path) -> Policy:
    """Read and parse a policy file of at most `MOST_BYTES`; `PolicyError`, in one line, names file and fault."""
    try:
        return parse_policy(tomllib.loads(_content(path).decode()))
    except OSError as error:
        raise PolicyError(f"policy file {path}: {error.strerror}") from error
    except PolicyError as error:
        raise PolicyError(f"policy file {path}: {error}") from None
    except RecursionError:
        raise PolicyError(f"policy file {path}: is nested too deeply") from None
    except ValueError as error:  # no UTF-8, no TOML, or a number with thousands of digits
        raise PolicyError(f"policy file {path}: {error}") from error


def _content(path: Path) -> bytes:
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise PolicyError("is no regular file")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise PolicyError(f"is larger than {MOST_BYTES} bytes")
    return content


def _open(path: str, flags: int) -> int:
    """Without waiting for who writes to a pipe, and without taking a terminal for the process's own."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
