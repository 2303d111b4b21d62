"""The doors that the configuration asks for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from hostdevd.config import Config
from hostdevd.core.limits import Limits
from hostdevd.front.addresses import Address, ListenError, parse_address
from hostdevd.front.doors import Doors, TlsFiles


def doors_of(config: Config) -> Doors:
    """Where to listen; `ListenError` names what makes no sense."""
    tls = tls_of(config)
    addresses = tuple(parse_address(text, with_tls=tls is not None) for text in config.listen)
    if tls is not None and not any(address.tls for address in addresses):
        tls = None
    return Doors(
        addresses,
        read_only_of(config),
        config.socket_mode,
        config.socket_read_only_mode,
        config.socket_group,
        tls,
        config.tls_spiffe_trust_domain,
    )


def read_only_of(config: Config) -> Address | None:
    """The socket for looking only."""
    if config.socket_read_only is None:
        return None
    address = parse_address(config.socket_read_only, with_tls=True)
    if address.path is None:
        raise ListenError(f"socket.read_only {config.socket_read_only}: give unix:/path")
    if any(Path(address.path) == parse_address(text, with_tls=True).path for text in config.listen):
        raise ListenError(f"socket.read_only {config.socket_read_only}: is in listen too")
    return address


def metrics_of(config: Config) -> Address | None:
    """Where metrics are served: without TLS, whatever certificates there are."""
    text = config.metrics
    if text is None:
        return None
    try:
        address = parse_address(text, with_tls=True)
    except ListenError:
        raise ListenError(f"metrics {text}: give unix:/path, of at most 100 bytes, or a loopback host:port") from None
    if address.tls:
        raise ListenError(
            f"metrics {text}: they are served in plain HTTP, on a loopback address or a unix socket only; for other"
            " machines, put an agent or a proxy before it"
        )
    return address


def tls_of(config: Config) -> TlsFiles | None:
    """The certificates; all three files or none."""
    given = {"certificate": config.tls_certificate, "key": config.tls_key, "client_ca": config.tls_client_ca}
    missing = [name for name, path in given.items() if path is None]
    if config.tls_certificate is not None and config.tls_key is not None and config.tls_client_ca is not None:
        return TlsFiles(config.tls_certificate, config.tls_key, config.tls_client_ca)
    if len(missing) == len(given):
        if config.tls_spiffe_trust_domain is not None:
            raise ListenError("tls: spiffe_trust_domain is for certificates: give certificate, key and client_ca")
        return None
    lacks = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    raise ListenError(f"tls: certificate, key and client_ca go together: {lacks}")


def limits_of(config: Config) -> Limits:
    """How much callers may ask for."""
    return Limits(**{limit.name: getattr(config, f"limit_{limit.name}") for limit in fields(Limits)})
