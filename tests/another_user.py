"""A program run as another user, from a process that may have gRPC's threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NOBODY = "nobody"


def as_user(user: str | int, group: str | int, command: Sequence[str | Path]) -> list[str | Path]:
    """The command that runs `command` as `user` with `group` and no other group; root only.

    Not `subprocess`'s own `user` and `group`: with those the child is a fork and no vfork, gRPC's handlers of a fork
    run in it, and a poller thread that they start there now and then ends it by SIGSEGV before it runs anything.
    """
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--", *command]
