"""What is wrong with options that are well-formed: addresses and URIs, and the files that they name.

The service says the same when it starts, but only the first of it.
"""

from __future__ import annotations

import grp
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

from hostdevd.api.certificates import check_certificates
from hostdevd.config import BUILTIN, OPTIONS, Config
from hostdevd.core.policy import PolicyError
from hostdevd.core.roles import RolesError
from hostdevd.doors import metrics_of, read_only_of, tls_of
from hostdevd.front.addresses import Address, ListenError, parse_address
from hostdevd.ops.telemetry import TelemetryError, check_tracing
from hostdevd.options.layers import Found
from hostdevd.policy_file import POLICY_FILE
from hostdevd.roles_file import ROLES_FILE
from hostdevd.rules_file import read_rules
from hostdevd.sim.extras import read_extras
from hostdevd.sim.nodefile import read_node_file
from hostdevd.virt.uri import check_uri

Host = ipaddress.IPv4Address | ipaddress.IPv6Address
_LOCAL = ("127.0.0.1", "::1")

_REFUSALS = (ValueError, OSError, ListenError, PolicyError, RolesError, TelemetryError)

RUNTIME_DIRECTORY = Path("/run/hostdevd")
"""The unit makes it for as long as the service runs; a check before is none of a missing directory."""


def _connect(config: Config) -> None:
    if config.simulate is None:
        check_uri(config.connect)


def _listen(config: Config) -> None:
    addresses = [parse_address(text, with_tls=config.tls_certificate is not None) for text in config.listen]
    for number, address in enumerate(addresses):
        _check_path(address)
        _check_alone(address, addresses[:number])


def _read_only(config: Config) -> None:
    address = read_only_of(config)
    if address is not None:
        _check_path(address)


def _check_path(address: Address) -> None:
    """As the start has it: nobody makes the directory of a socket, and a file that is none is left alone."""
    if address.path is None:
        return
    if not address.path.parent.is_dir() and address.path.parent != RUNTIME_DIRECTORY:
        raise ValueError(f"{address.text}: there is no directory {address.path.parent}")
    if address.path.exists() and not address.path.is_socket():
        raise ValueError(f"{address.text}: {address.path} exists and is no socket")


def _check_alone(address: Address, others: Iterable[Address]) -> None:
    for other in others:
        if _are_one(address, other):
            what = "is named twice" if address.text == other.text else f"is the same as {other.text}"
            raise ValueError(f"{address.text}: {what}")


def _are_one(one: Address, other: Address) -> bool:
    if one.path is not None or other.path is not None:
        return one.path is not None and other.path is not None and one.path.resolve() == other.path.resolve()
    if one.port != other.port or one.port == 0:  # each 0 is a port of its own
        return False
    return one.host == other.host or any(_overlap(*pair) for pair in product(_hosts(one), _hosts(other)))


def _hosts(address: Address) -> tuple[Host, ...]:
    """None for a name, whose addresses are known at the start alone."""
    with suppress(ValueError):
        return tuple(map(ipaddress.ip_address, _LOCAL if address.host == "localhost" else (address.host,)))
    return ()


def _overlap(one: Host, other: Host) -> bool:
    """The same address, or one that is every other's too; `::` is IPv4's as well."""
    pairs = ((one, other), (other, one))
    return one == other or any(every.is_unspecified and every.version >= host.version for every, host in pairs)


def _group(config: Config) -> None:
    group = config.socket_group
    if group is None or (group.isascii() and group.isdigit()):
        return
    if config.socket_read_only is not None or any(text.startswith("unix:") for text in config.listen):
        try:
            grp.getgrnam(group)
        except KeyError:
            raise ValueError(f"there is no group {group}") from None


def _state_dir(config: Config) -> None:
    """The start makes the directory, and none above it."""
    directory = config.state_dir
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is no directory")
    if not directory.parent.is_dir():
        raise ValueError(f"{directory}: there is no directory {directory.parent}")


def _tracing(config: Config) -> None:
    if config.tracing is not None:
        check_tracing()


def _tls(config: Config) -> None:
    files = tls_of(config)
    if files is not None:
        check_certificates(files)


def _metrics(config: Config) -> None:
    address = metrics_of(config)
    if address is not None:
        _check_path(address)
        _check_alone(address, _served(config))


def _served(config: Config) -> Iterator[Address]:
    """Where calls are answered; what is wrong with it is told elsewhere."""
    for text in (*config.listen, *([config.socket_read_only] if config.socket_read_only is not None else ())):
        with suppress(ListenError):
            yield parse_address(text, with_tls=True)


def _policy(config: Config) -> None:
    if config.policy is not None:
        read_rules(POLICY_FILE, config.policy)


def _roles(config: Config) -> None:
    if config.roles is not None:
        read_rules(ROLES_FILE, config.roles)


def _simulate(config: Config) -> None:
    if config.simulate is not None and config.simulate != BUILTIN:
        read_node_file(Path(config.simulate))
        read_extras(Path(f"{config.simulate}.toml"))


def _sysroot(config: Config) -> None:
    if not config.sysroot.is_dir():
        raise ValueError(f"{config.sysroot} is no directory")


CHECKS: dict[str, Callable[[Config], None]] = {
    "connect": _connect,
    "listen": _listen,
    "metrics": _metrics,
    "policy": _policy,
    "roles": _roles,
    "simulate": _simulate,
    "state_dir": _state_dir,
    "sysroot": _sysroot,
    "tracing": _tracing,
    "socket_group": _group,
    "socket_read_only": _read_only,
    "tls_certificate": _tls,
}
"""By option; each raises one of `_REFUSALS` with what is wrong, in one line."""


def faults(found: Found) -> Iterator[str]:
    """All that is wrong, a line each, as far as can be told without starting: where it stands, and why."""
    yield from found.faults
    # The rest is judged by itself, with defaults in the place of what is wrong.
    wrong = found.sources.keys() - found.values.keys()
    config = Config(**found.values)
    for row in OPTIONS:
        if row.name in CHECKS and row.name not in wrong:
            try:
                CHECKS[row.name](config)
            except _REFUSALS as error:
                yield f"{found.places.get(row.name, f'the default of {row.key}')}: {error}"
