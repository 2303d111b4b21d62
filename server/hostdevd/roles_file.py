"""The roles file: what it is, with the users and groups of this host."""

from __future__ import annotations

import grp
import pwd

from hostdevd.core.roles import Names, Roles, RolesError, parse_roles
from hostdevd.rules_file import Kind


def _uid(user: str) -> int:
    return pwd.getpwnam(user).pw_uid


def _gid(group: str) -> int:
    return grp.getgrnam(group).gr_gid


ROLES_FILE: Kind[Roles | None] = Kind(
    name="roles",
    parse=lambda document: parse_roles(document, Names(_uid, _gid)),
    error=RolesError,
    default=None,
    counts=lambda roles: {"rules": len(roles.rules) if roles is not None else 0},
)
