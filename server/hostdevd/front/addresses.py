"""What `listen` may name: unix sockets, TCP on loopback, and TCP anywhere with TLS."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

_PATH_BYTES = 100
"""Of the 108 of `sun_path`; some are for temporary names."""
_MAX_PORT = 65535
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")


class ListenError(Exception):
    """An address that cannot be listened on, in one line that says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address: a path, or a host and port, with TLS or without."""

    text: str
    path: Path | None = None
    host: str = ""
    port: int = 0
    tls: bool = False

    def shown(self, port: int) -> str:
        """The address as clients take it, with the real port."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{port}"


def parse_address(text: str, *, with_tls: bool = False) -> Address:
    """Read `unix:/path`, `host:port` or `tls:host:port`; `ListenError` for anything else.

    `host:port` is plain TCP on loopback, where `tls:` asks for TLS, and TLS elsewhere. `with_tls` tells whether there
    are certificates to do that with.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > _PATH_BYTES:
            raise ListenError(f"listen {text}: the path must be absolute and at most {_PATH_BYTES} bytes long")
        return Address(text, path=Path(path))
    asked = text.startswith("tls:")
    host, colon, port = text.removeprefix("tls:").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise ListenError(f"listen {text}: give unix:/path, host:port or tls:host:port")
    tls = asked or not _is_loopback(host)
    if tls and not with_tls:
        why = "tls: needs" if asked else "plain TCP is served on a loopback address only; elsewhere it needs"
        raise ListenError(f"listen {text}: {why} certificates: [tls] certificate, key and client_ca")
    return Address(text, host=host, port=int(port), tls=tls)


def check_trust_domain(text: str) -> None:
    """ValueError for what is no name of a SPIFFE trust domain."""
    if not _TRUST_DOMAIN.fullmatch(text):
        raise ValueError("must be the name of a SPIFFE trust domain, without spiffe://")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
