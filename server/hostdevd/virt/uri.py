"""Which libvirt URIs the service talks to; known without libvirt, so that the configuration can be checked."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SCHEME = re.compile(r"(?P<driver>[a-z]+)(?:\+(?P<transport>[a-z0-9]+))?", re.ASCII)
_TRANSPORTS = frozenset({"unix", "ssh", "tls", "tcp"})
_REMOTE = frozenset({"ssh", "tls", "tcp"})
_PATHS = {
    "qemu": re.compile(r"/system|/session"),
    # The built-in host, or a file with one.
    "test": re.compile(r"/default|/.+"),
}
_HINT = "use qemu:///system, or test:///default"


def check_uri(uri: str) -> None:
    """Refuse a URI that can never connect (ValueError with the reason); an absent daemon is waited for."""
    fault = _fault(uri)
    if fault is not None:
        raise ValueError(f"libvirt URI {uri!r}: {fault}; {_HINT}")


def is_remote(uri: str) -> bool:
    """Whether libvirt answers from another machine than this one; for a URI that `check_uri` took."""
    scheme = _SCHEME.fullmatch(urlsplit(uri).scheme)
    return bool(urlsplit(uri).hostname) or (scheme is not None and scheme["transport"] in _REMOTE)


def _fault(uri: str) -> str | None:
    if not uri.isprintable() or " " in uri:
        return "it has white space or control characters"
    try:
        parts = urlsplit(uri)
        host = parts.hostname
        _ = parts.port
    except ValueError as error:
        return str(error)
    scheme = _SCHEME.fullmatch(parts.scheme)
    if scheme is None or "://" not in uri:
        return "it is not of the form driver[+transport]://[host]/path"
    driver, transport = scheme["driver"], scheme["transport"]
    faults = {
        f"the driver {driver!r} is neither qemu nor test": driver not in _PATHS,
        f"the transport {transport!r} is none of {', '.join(sorted(_TRANSPORTS))}": transport is not None
        and transport not in _TRANSPORTS,
        "the transport needs a host": transport in _REMOTE and not host,
        "a host needs a transport other than unix": bool(host) and transport == "unix",
        f"the path {parts.path!r} is unknown": driver in _PATHS and _PATHS[driver].fullmatch(parts.path) is None,
        "a fragment means nothing": bool(parts.fragment),
    }
    return next((fault for fault, holds in faults.items() if holds), None)
