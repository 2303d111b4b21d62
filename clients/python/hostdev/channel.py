"""How a client reaches its server: addresses and channel options."""

from __future__ import annotations

import os
import re

import grpc

DEFAULT_ADDRESS = "unix:/run/hostdevd/hostdevd.sock"
ADDRESS_VARIABLE = "HOSTDEV_ADDRESS"

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
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


def open_channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """A channel to `address`; it connects with the first call. Without credentials it is not encrypted."""
    # Without a scheme, gRPC would take a host's name for one.
    target = address if address.startswith("unix:") else f"dns:///{address}"
    if credentials is None:
        return grpc.insecure_channel(target, OPTIONS)
    return grpc.secure_channel(target, credentials, OPTIONS)
