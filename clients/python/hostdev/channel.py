"""How a client reaches its server: addresses, encryption and channel options."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from hostdev.policy import service_config

DEFAULT_ADDRESS = "unix:/run/hostdevd/hostdevd.sock"
ADDRESS_VARIABLE = "HOSTDEV_ADDRESS"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
_LOOPBACK = re.compile(r"localhost|127(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}|\[::1\]", re.IGNORECASE)
_MAX_PORT = 65535

OPTIONS: tuple[tuple[str, str | int], ...] = (
    # A page ends at 2 MiB, so gRPC's own limit leaves room for one device of any size.
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # hostdevd allows a ping every 5 seconds, also while a call waits for a guest without a word.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # a minute otherwise, whatever the line above says
    ("grpc.http2.max_pings_without_data", 0),
    # A server that restarts is back within seconds: gRPC would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # A host's own service is reached directly, whatever proxy the environment names for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", "hostdevd-client"),
)


def address_or_default(address: str | None) -> str:
    """The address itself, else the environment's HOSTDEV_ADDRESS, else the local socket of hostdevd.

    Raises:
        ValueError: the address is neither `unix:/path` nor `host:port`.
    """
    chosen = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    if chosen.startswith("unix:") and len(chosen) > len("unix:"):
        return chosen
    matched = _HOST_PORT.fullmatch(chosen)
    if matched is None or int(matched["port"]) > _MAX_PORT:
        raise ValueError(f"{chosen!r} is no address: give unix:/path or host:port")
    return chosen


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption: PEM files of the authority to trust, and of this client's certificate with its key (mutual TLS).

    Without `ca`, the system's authorities are trusted. `server_name` is the name in the server's certificate where it
    is not the one in the address.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key go together")

    @classmethod
    def from_environment(
        cls,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str = "",
    ) -> Self | None:
        """What is given, the rest as HOSTDEV_TLS_CA, _CERT, _KEY and _SERVER_NAME say; None if nothing is said."""
        said = {name: os.environ.get(f"HOSTDEV_TLS_{name}") or None for name in ("CA", "CERT", "KEY", "SERVER_NAME")}
        chosen = (ca or said["CA"], certificate or said["CERT"], key or said["KEY"])
        name = server_name or said["SERVER_NAME"] or ""
        return cls(*chosen, name) if any(chosen) or name else None

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC takes.

        Raises:
            OSError: one of the files cannot be read.
        """
        ca, key, certificate = (
            None if path is None else Path(path).read_bytes() for path in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


@dataclass(frozen=True, slots=True)
class Connection:
    """All that a channel needs, whatever kind of channel it is."""

    address: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, str | int], ...]

    @classmethod
    def to(cls, address: str | None, tls: Tls | None, credentials: grpc.ChannelCredentials | None) -> Self:
        """Address and encryption as given, else from the environment. Credentials go before `tls`.

        Without encryption only a socket or a loopback address will do: who can listen on the way can give devices
        away. A socket is not encrypted: what the environment says of TLS is for other addresses.

        Raises:
            ValueError: no address, another machine's without encryption, a socket with `tls`, or half a pair of
                certificate and key.
            OSError: a file of `tls` cannot be read.
        """
        chosen = address_or_default(address)
        options = [*OPTIONS, ("grpc.service_config", service_config())]
        if chosen.startswith("unix:"):
            if tls is not None:
                raise ValueError("a local socket is not encrypted: leave tls out")
            return cls(chosen, credentials, tuple(options))
        if credentials is None and (tls := tls or Tls.from_environment()) is not None:
            credentials = tls.credentials()
            if tls.server_name:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
        if credentials is None and not _LOOPBACK.fullmatch(chosen.rpartition(":")[0]):
            raise ValueError(f"{chosen} is another machine: give tls")
        return cls(chosen, credentials, tuple(options))

    @property
    def target(self) -> str:
        """The address as gRPC has it: without a scheme, it would take a host's name for one."""
        return self.address if self.address.startswith("unix:") else f"dns:///{self.address}"

    def open(self) -> grpc.Channel:
        """A channel that connects with the first call."""
        if self.credentials is None:
            return grpc.insecure_channel(self.target, self.options)
        return grpc.secure_channel(self.target, self.credentials, self.options)

    def open_async(self) -> grpc.aio.Channel:
        """The same for asyncio."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, self.options)
