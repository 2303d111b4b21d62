"""When certificates end.

Python's ssl tells that of authorities alone, and of a service's own certificate to its peers. No library for more is
among what hostdevd needs, and here OpenSSL has taken the certificates before: their order is all that is relied on
(RFC 5280, section 4.1), whatever else is in them is passed over.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----\s(.*?)-----END ", re.DOTALL)
_BEFORE_VALIDITY = 3
"""Serial number, signature algorithm, issuer; an explicit version stands before them, or not."""
_VERSION = 0xA0
_UTC_TIME = 0x17
_LONG = 0x80


def end(pem: bytes, of: Callable[[Iterable[float]], float]) -> float | None:
    """When the first (`min`) or last (`max`) of these certificates ends, in seconds since the epoch.

    None where that cannot be read.
    """
    try:
        ends = [_end(found) for found in _PEM.findall(pem)]
        return of(ends) if ends else None
    except (ValueError, IndexError, StopIteration):
        return None


def _end(base64: bytes) -> float:
    der = ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}\n{base64.decode('ascii')}\n{ssl.PEM_FOOTER}\n")
    _, certificate = next(_parts(der))
    _, signed = next(_parts(certificate))
    parts = [content for tag, content in _parts(signed) if tag != _VERSION]
    _, (tag, end) = _parts(parts[_BEFORE_VALIDITY])
    text = end.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _parts(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that stand one after the other in DER: each one's tag and content."""
    at = 0
    while at < len(der):
        tag, length, at = der[at], der[at + 1], at + 2
        if length & _LONG:
            after = at + (length & ~_LONG)
            length, at = int.from_bytes(der[at:after]), after
        yield tag, der[at : at + length]
        at += length
