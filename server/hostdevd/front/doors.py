"""All that is configured about where the service listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hostdevd.front.addresses import Address

SOCKET_MODE = 0o660
READ_ONLY_MODE = 0o666


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate, its chain behind it, with its key, and the authorities of the clients."""

    certificate: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True, slots=True)
class Doors:
    """The public addresses, and one for looking only. `group` is a name or number; None leaves the service's own.

    `tls` is there when an address asks for it. With `trust_domain` a certificate must have a SPIFFE id of it.
    """

    addresses: tuple[Address, ...]
    read_only: Address | None = None
    mode: int = SOCKET_MODE
    read_only_mode: int = READ_ONLY_MODE
    group: str | None = None
    tls: TlsFiles | None = None
    trust_domain: str | None = None

    @property
    def all(self) -> tuple[Address, ...]:
        """Every address."""
        return (*self.addresses, self.read_only) if self.read_only is not None else self.addresses

    @property
    def first_path(self) -> Path | None:
        """A socket file that the service has a lock on."""
        return next((address.path for address in self.all if address.path is not None), None)
