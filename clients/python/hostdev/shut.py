"""A socket that this user may not connect to: who may, and what to do. gRPC says no more than `Permission denied`."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from pathlib import Path

_DENIED = re.compile(r"unix:(?P<path>/[^\n]*?)(?: error)?: (?:connect: )?Permission denied(?: \(\d+\))?$")


def shut_socket(details: str) -> Path | None:
    """The socket that the kernel kept this process from, by gRPC's words for a failed call; None for all else."""
    found = _DENIED.search(details)
    return None if found is None else Path(found["path"].rpartition("unix:")[2])


def explain_shut(path: Path) -> str:
    """Who may connect to it instead of this user, and how he comes to be one of them."""
    user = _user(os.geteuid())
    text = f"the user {user} may not connect to {path}"
    try:
        door = path.stat()
    except OSError:
        return f"{text}, nor look into its directory: use sudo, or have whoever runs hostdevd open the directory"
    if not door.st_mode & stat.S_IWGRP or door.st_gid == 0:
        return f"{text}: {_user(door.st_uid)} may; use sudo"
    if door.st_gid in {os.getegid(), *os.getgroups()}:
        return f"{text}, though he is in its group {_group(door.st_gid)}: one of its directories is closed to him"
    group = _group(door.st_gid)
    if user in _members(door.st_gid):
        return f"{text}: the group {group} may, and he is in it from his next login on; log in again"
    return (
        f"{text}: the group {group} may; use sudo, or `sudo usermod --append --groups {group} {user}` and log in again"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _members(gid: int) -> list[str]:
    try:
        return grp.getgrgid(gid).gr_mem
    except KeyError:
        return []
