"""Who a call is from: what the front knows of the connection, and what TLS has verified of the client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

import grpc.aio

from hostdevd.core.caller import UNKNOWN, Caller, Proof
from hostdevd.front.door import Visitor

Rpc = grpc.aio.ServicerContext[Any, Any]

CALLER: ContextVar[Caller] = ContextVar("caller", default=UNKNOWN)
"""Of the call that is being answered. It stays when the connection has gone meanwhile."""

_ABSTRACT = "unix-abstract:"
_KINDS = {"peer_dns": "DNS", "peer_uri": "URI", "peer_ip": "IP", "peer_email": "EMAIL"}
"""gRPC's names of what a certificate says, and OpenSSL's."""
_SPIFFE = "peer_spiffe_id"
"""Set when the certificate is one as SPIFFE wants it: with one URI, which is the id."""


def connection_of(rpc: Rpc) -> str:
    """The name of a call's connection at the front; empty: it did not come by it."""
    peer: str = rpc.peer() or ""
    return peer.removeprefix(_ABSTRACT) if peer.startswith(_ABSTRACT) else ""


class Callers:
    """Tells who calls. `trust_domain`: only certificates with a SPIFFE id of it are an identity."""

    def __init__(self, visitor: Callable[[str], Visitor | None], trust_domain: str | None) -> None:
        self._visitor = visitor
        self._trusted = None if trust_domain is None else f"spiffe://{trust_domain}/"

    def of(self, rpc: Rpc) -> Caller:
        """The caller; `UNKNOWN` when nothing proves who it is."""
        visitor = self._visitor(connection_of(rpc))
        if visitor is None:
            return UNKNOWN
        return visitor.caller or self._certified(rpc.auth_context())

    def _certified(self, proven: Mapping[str, Iterable[bytes]]) -> Caller:
        ids = tuple(_readable(proven.get(_SPIFFE, ())))
        if self._trusted is not None and not (len(ids) == 1 and ids[0].startswith(self._trusted)):
            return UNKNOWN
        sans = tuple(f"{kind}:{one}" for name, kind in _KINDS.items() for one in _readable(proven.get(name, ())))
        return Caller(Proof.CERTIFICATE, sans=sans) if sans else UNKNOWN


def _readable(values: Iterable[bytes]) -> Iterable[str]:
    """Names as policies can have them: what is not printable ASCII could look like another one."""
    for value in values:
        if value.isascii() and (text := value.decode("ascii")).isprintable() and text:
            yield text
