"""Who calls: what a connection proves about its other end.

A listener finds it out (the kernel for a unix socket, TLS for TCP), the rights are judged by it, the audit names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Proof(StrEnum):
    """What the identity rests on."""

    NONE = "none"
    LOOPBACK = "loopback"
    PEER = "peer"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class Caller:
    """The other end of a connection.

    `uid`, `gids` and `pid` are the kernel's word on a unix socket's peer at its connect (SO_PEERCRED, SO_PEERGROUPS);
    `sans` are the subject alternative names of a verified client certificate as `DNS:...`, `URI:...`, `IP:...` or
    `EMAIL:...` (a SPIFFE id is the URI). `read_only` is a property of the socket, not of who is at its other end.
    """

    proof: Proof = Proof.NONE
    uid: int | None = None
    gids: tuple[int, ...] = ()
    pid: int | None = None
    sans: tuple[str, ...] = ()
    read_only: bool = False

    @property
    def name(self) -> str:
        """What `created_by`, the request ids' owner and the audit call it: stable over connections, never empty."""
        if self.proof is Proof.PEER:
            return f"uid:{self.uid}"
        if self.proof is Proof.CERTIFICATE and self.sans:
            return next((san for san in self.sans if san.startswith("URI:spiffe://")), self.sans[0])
        return str(self.proof)


UNKNOWN = Caller()
LOOPBACK = Caller(Proof.LOOPBACK)
