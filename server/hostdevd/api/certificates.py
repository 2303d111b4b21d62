"""Mutual TLS: the service's certificate and its clients' authorities, read again when their files have changed.

gRPC asks at each handshake; connections that are there keep what they began with. TLS 1.2 is the least that gRPC's
library speaks.
"""

from __future__ import annotations

import os
import ssl
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog

from hostdevd.api.expiry import end
from hostdevd.front.addresses import ListenError
from hostdevd.front.doors import TlsFiles

log = structlog.get_logger()

_MOST_BYTES = 1024 * 1024
_QUIET_S = 60.0
"""Handshakes come by the thousand: so long nothing more is said of files that cannot be read."""
_NOT_READ = "certificates could not be read again, the old ones stay"
_Signature = tuple[tuple[int, ...], ...]


class Certificates:
    """What is in force, and the files that it came from. `ListenError` when they are not fit at the start."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = self._signature()
        self._quiet_until = 0.0
        self._first, self.ends = _configuration(files)
        """`ends`: when the certificates in force end, see `expiry.end`, by the option that names their file."""

    def credentials(self) -> grpc.ServerCredentials:
        """For one port: a client must have a certificate of one of the authorities."""
        made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._first, self._changed, require_client_authentication=True
        )
        return made

    def _changed(self) -> Any:
        """What is new since the last time, or None. Called in threads of gRPC's; it must not raise."""
        with self._lock:
            try:
                now = self._signature()
                if now == self._seen:
                    return None
                new, ends = _configuration(self._files)
            except (_UnreadableError, OSError) as error:  # they may be good: at the next handshake it is tried again
                if self._may_tell():
                    log.error(_NOT_READ, reason=str(error))  # noqa: TRY400  the reason says it all
                return None
            except ListenError as error:  # one of two files was replaced so far, or they are no good
                self._seen = now
                log.error("new certificates are refused, the old ones stay", reason=str(error))  # noqa: TRY400
                return None
            except Exception:
                if self._may_tell():
                    log.exception(_NOT_READ)
                return None
            self._seen, self.ends = now, ends
        log.info("certificates read again", certificate=str(self._files.certificate))
        return new

    def _may_tell(self) -> bool:
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _QUIET_S
        return True

    def _signature(self) -> _Signature:
        return tuple(_identity(path) for path in (self._files.certificate, self._files.key, self._files.client_ca))


def _identity(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_certificates(files: TlsFiles) -> None:
    """`ListenError` when they are not fit."""
    _configuration(files)


def _configuration(files: TlsFiles) -> tuple[Any, Mapping[str, float]]:
    certificate, key = _read("certificate", files.certificate), _read("key", files.key, secret=True)
    authorities = _read("client_ca", files.client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # What was read is judged, not what the files may have become since.
        with _in_memory(certificate) as certificate_path, _in_memory(key) as key_path:
            context.load_cert_chain(certificate_path, key_path, password=_no_password)
    except _EncryptedError:
        raise ListenError(f"tls: key {files.key} needs a password: give one that does not") from None
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None)
        why = reason.replace("_", " ").lower() if reason else "no certificate or no key in PEM"
        raise ListenError(f"tls: {files.certificate} and {files.key} do not go together: {why}") from None
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise ListenError(f"tls: client_ca {files.client_ca}: there is no certificate in PEM in it") from None
    # An authority that has ended may stand beside the one that followed it.
    ends = {"certificate": end(certificate, min), "client_ca": end(authorities, max)}
    return (
        grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authorities),
        {name: at for name, at in ends.items() if at is not None},
    )


class _UnreadableError(ListenError):
    """It is not the certificates that are at fault."""


class _EncryptedError(Exception):
    """A key that OpenSSL wants a password for."""


def _read(what: str, path: Path, *, secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise _UnreadableError(f"tls: {what} {path}: {error.strerror}") from None
    if secret and mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ListenError(f"tls: {what} {path} can be read by everybody: chmod o= {path}")
    return content


def _no_password() -> bytes:
    raise _EncryptedError


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path to this content; OpenSSL reads certificates with their keys from files alone."""
    with open(os.memfd_create("hostdevd"), "wb") as file:  # noqa: PTH123  a descriptor
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
