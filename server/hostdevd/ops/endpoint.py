"""Where traces are sent to."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_endpoint(url: str) -> None:
    """ValueError unless it is the address of a collector: `http://host:4318`, with a path of its own or not."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, or half an IPv6 address
        usable = False
    if not usable:
        raise ValueError("must be http://host:port or https://host:port, with or without a path")


def traces_url(endpoint: str) -> str:
    """The URL that spans are posted to: OTLP's own path, unless the endpoint has one."""
    return endpoint if urlsplit(endpoint).path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
