"""What is wrong with options that are well-formed: addresses and URIs, and the files that they name.

The service says the same when it starts, but only the first of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from hostdevd.api.certificates import check_certificates
from hostdevd.config import BUILTIN, OPTIONS, Config
from hostdevd.core.policy import PolicyError
from hostdevd.core.roles import RolesError
from hostdevd.doors import read_only_of, tls_of
from hostdevd.front.addresses import ListenError, parse_address
from hostdevd.options.layers import Found
from hostdevd.policy_file import POLICY_FILE
from hostdevd.roles_file import ROLES_FILE
from hostdevd.rules_file import read_rules
from hostdevd.sim.extras import read_extras
from hostdevd.sim.nodefile import read_node_file
from hostdevd.virt.uri import check_uri

_REFUSALS = (ValueError, OSError, ListenError, PolicyError, RolesError)


def _connect(config: Config) -> None:
    if config.simulate is None:
        check_uri(config.connect)


def _listen(config: Config) -> None:
    for text in config.listen:
        parse_address(text, with_tls=config.tls_certificate is not None)


def _read_only(config: Config) -> None:
    read_only_of(config)


def _tls(config: Config) -> None:
    files = tls_of(config)
    if files is not None:
        check_certificates(files)


def _metrics(config: Config) -> None:
    if config.metrics is not None:
        parse_address(config.metrics)


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
    "sysroot": _sysroot,
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
