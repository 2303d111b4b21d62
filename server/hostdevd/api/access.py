"""Who a call is from and what he may: by the roles file, or without one by how he got here."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import grpc.aio
import structlog

from hostdevd.core.audit import Entry
from hostdevd.core.caller import Caller, Proof
from hostdevd.core.rights import ALL, Permission, Rights, no_identity, not_allowed, without_roles
from hostdevd.core.roles import NO_RULE, Roles, RolesError
from hostdevd.core.sight import Sight
from hostdevd.core.store import Store

log = structlog.get_logger()

_OPEN = (
    "no roles file is configured: whoever reaches the unix socket or a loopback port, or has a client certificate,"
    " may do everything"
)

Rpc = grpc.aio.ServicerContext[Any, Any]

MOST_CALLERS = 4096
"""Whose rights are kept; beyond them all are found anew."""

ENTRY: ContextVar[Entry | None] = ContextVar("entry", default=None)
"""What the audit log is to have of the call that is being answered."""


class Access:
    """The roles of one service; `put` replaces them while it runs."""

    def __init__(self, store: Store, roles: Roles | None, identify: Callable[[Rpc], Caller]) -> None:
        self._store = store
        self._roles = roles
        self._identify = identify
        self._whole = Sight(store, ALL)
        self._known: dict[Caller, tuple[Rights, Sight]] = {}
        self.on_change: list[Callable[[], None]] = []
        """Called after each `put`."""
        if roles is None:
            log.warning(_OPEN)
        _warn_of_none(roles)

    def put(self, roles: Roles | None) -> None:
        """Judge by these roles from now on, running streams too.

        `RolesError` for none where there are some: a line that is lost from a file must not let everybody in.
        """
        if roles is None and self._roles is not None:
            raise RolesError("no roles file is configured any more: to open access to everybody, restart the service")
        _warn_of_none(roles)
        self._roles = roles
        self._known.clear()
        for listener in self.on_change:
            listener()

    def caller(self, rpc: Rpc) -> Caller:
        """Who a call is from."""
        return self._identify(rpc)

    def require(self, caller: Caller, permission: Permission) -> None:
        """`NO_IDENTITY`, or `NOT_ALLOWED` when there is nothing at all that the permission holds for."""
        if caller.proof is Proof.NONE:
            raise no_identity()
        rights, _ = self._of(caller)
        if not rights.has(permission):
            raise not_allowed(permission, caller)

    def sight(self, rpc: Rpc) -> Sight:
        """What a call that the gate let in may see and do."""
        if self._roles is None:  # nobody is narrowed: who may read sees all, who may change may change all
            return self._whole
        return self._of(self._identify(rpc))[1]

    def watching(self, rpc: Rpc, permission: Permission) -> Sight:
        """The same for a stream, again and again while it lives: what was allowed when it began may not be now."""
        if self._roles is not None:
            self.require(self._identify(rpc), permission)
        return self.sight(rpc)

    def _of(self, caller: Caller) -> tuple[Rights, Sight]:
        known = self._known.get(caller)
        if known is None:
            rights = without_roles(caller) if self._roles is None else self._roles.rights(caller)
            known = rights, Sight(self._store, rights, caller)
            if len(self._known) >= MOST_CALLERS:
                self._known.clear()
            self._known[caller] = known
        return known


def _warn_of_none(roles: Roles | None) -> None:
    if roles is not None and not roles.rules:
        log.warning(NO_RULE)
