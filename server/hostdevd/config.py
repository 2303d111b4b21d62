"""The options of `hostdevd serve`: one table, from which flags, variables, the example file and the docs come.

They are given on the command line, in the environment (`HOSTDEVD_...`) and in a TOML file, in that order of weight.
To add one, add a field here, below those of its table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostdevd.core.limits import Limits
from hostdevd.core.profiles import PROFILES
from hostdevd.front.addresses import check_trust_domain
from hostdevd.front.doors import READ_ONLY_MODE, SOCKET_MODE
from hostdevd.ops.endpoint import check_endpoint
from hostdevd.ops.logs import FORMATS, LEVELS
from hostdevd.options.kinds import DIRECTORY, FILE, MODE, SWITCH, choice, integer, switch_or_file, text, texts
from hostdevd.options.layers import Found, collect
from hostdevd.options.rows import option, rows_of

BUILTIN = ""
"""The value of `simulate` that means the built-in simulated host."""
CONFIG_VARIABLE = "HOSTDEVD_CONFIG"
DEFAULT_FILE = Path("/etc/hostdevd/hostdevd.toml")
_LIMITS = Limits()
_COUNT = integer(1, 1_000_000)


class ConfigError(Exception):
    """Options that make no sense: one line for each, which names it and says what would be right."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Config:
    """All options of `hostdevd serve`; see `options.rows.Row` for what a row says."""

    connect: str = option(
        "qemu:///system", text("URI"), "connect", "The libvirt daemon whose host is served", flag="--connect"
    )
    listen: tuple[str, ...] = option(
        ("unix:/run/hostdevd/hostdevd.sock",),
        texts("ADDRESS", "addresses"),
        "listen",
        "Addresses to serve at: unix:/path, a loopback host:port, or tls:host:port (port 0: a free one)",
        flag="--listen",
    )
    state_dir: Path = option(
        Path("/var/lib/hostdevd"), DIRECTORY, "state_dir", "What survives a restart is kept here", flag="--state-dir"
    )
    simulate: str | None = option(
        None,
        switch_or_file(BUILTIN),
        "simulate",
        "Serve a simulated host: the node file of libvirt's test driver, or true for the built-in one",
        flag="--simulate",
        example=True,
    )
    sysroot: Path = option(
        Path("/"), DIRECTORY, "sysroot", "The root below which /sys and /proc are read", flag="--sysroot"
    )
    reflection: bool = option(
        True,  # noqa: FBT003  the default
        SWITCH,
        "reflection",
        "Tell clients the API's schema: gRPC reflection, which grpcurl and buf curl use",
        flag="--no-reflection",
    )
    metrics: str | None = option(
        None,
        text("ADDRESS"),
        "metrics",
        "Serve Prometheus metrics at this loopback host:port, or unix:/path, under /metrics",
        flag="--metrics",
        example="127.0.0.1:9478",
    )

    # The table [eligibility].
    profile: str = option(
        "default",
        choice(sorted(PROFILES)),
        "eligibility.profile",
        "Which PCI classes may be assigned",
        flag="--profile",
    )
    policy: Path | None = option(
        None,
        FILE,
        "eligibility.policy",
        "TOML file of rules that allow and deny devices",
        flag="--policy",
        example="/etc/hostdevd/policy.toml",
        reloads=True,
    )

    # The table [access].
    roles: Path | None = option(
        None,
        FILE,
        "access.roles",
        "TOML file of who may what; without one, whoever gets in at all may everything",
        flag="--roles",
        example="/etc/hostdevd/roles.toml",
        reloads=True,
    )

    # The table [audit].
    audit_keep_days: int = option(
        400,
        integer(1, 36_500, "DAYS"),
        "audit.keep_days",
        "Rows of the audit log older than this are removed, once the clock has been steady for an hour",
    )
    audit_keep_rows: int = option(
        100_000,
        integer(1_000, 10_000_000, "ROWS"),
        "audit.keep_rows",
        "Beyond so many the oldest rows are removed: of what began nothing (refusals) at half of them already",
    )

    # The table [sriov].
    sriov_socket: Path = option(
        Path("/run/hostdevd-sriov/helper.sock"),
        FILE,
        "sriov.socket",
        "Where the helper listens that sets the number of SR-IOV virtual functions as root",
    )

    # The table [tracing].
    tracing: str | None = option(
        None,
        text("URL", check_endpoint),
        "tracing.endpoint",
        "Send OpenTelemetry traces to this collector, by OTLP over HTTP; needs hostdevd[otel]",
        example="http://127.0.0.1:4318",
    )

    # The table [log].
    log_level: str = option(
        "info", choice(LEVELS), "log.level", "Log lines below this level are left out", reloads=True
    )
    log_format: str = option(
        "auto",
        choice(FORMATS),
        "log.format",
        "Form of the log on standard error; auto is console, for people, on a terminal, and json elsewhere",
        reloads=True,
    )

    # The table [socket].
    socket_group: str | None = option(
        None,
        text("GROUP"),
        "socket.group",
        "The group, by name or number, that the sockets are given to, instead of the service's own",
        example="libvirt",
    )
    socket_mode: int = option(SOCKET_MODE, MODE, "socket.mode", "Who may connect to the sockets in listen")
    socket_read_only: str | None = option(
        None,
        text("ADDRESS"),
        "socket.read_only",
        "A further unix:/path, at which nothing can be changed",
        example="unix:/run/hostdevd/hostdevd-ro.sock",
    )
    socket_read_only_mode: int = option(READ_ONLY_MODE, MODE, "socket.read_only_mode", "Who may connect to that one")

    # The table [tls].
    tls_certificate: Path | None = option(
        None,
        FILE,
        "tls.certificate",
        "The service's certificate, in PEM, with its chain; read again when it has changed",
        example="/etc/hostdevd/tls/server.pem",
    )
    tls_key: Path | None = option(
        None,
        FILE,
        "tls.key",
        "The key of the certificate, in PEM; not readable by everybody",
        example="/etc/hostdevd/tls/server.key",
    )
    tls_client_ca: Path | None = option(
        None,
        FILE,
        "tls.client_ca",
        "The authorities whose certificates clients must have, in PEM",
        example="/etc/hostdevd/tls/clients.pem",
    )
    tls_spiffe_trust_domain: str | None = option(
        None,
        text("DOMAIN", check_trust_domain),
        "tls.spiffe_trust_domain",
        "Only clients whose certificate has a SPIFFE id of this trust domain",
        example="example.org",
    )

    # The table [limits].
    limit_mutations_per_minute: int = option(
        _LIMITS.mutations_per_minute,
        _COUNT,
        "limits.mutations_per_minute",
        "Changes (Attach, Detach and the like, without dry runs) that a caller may ask for in a minute",
    )
    limit_mutations_per_minute_total: int = option(
        _LIMITS.mutations_per_minute_total,
        _COUNT,
        "limits.mutations_per_minute_total",
        "The same of all callers together",
    )
    limit_reads: int = option(
        _LIMITS.reads,
        _COUNT,
        "limits.reads",
        "Calls of a caller that read, and dry runs, at the same time",
    )
    limit_reads_total: int = option(
        _LIMITS.reads_total,
        _COUNT,
        "limits.reads_total",
        "The same of all callers together",
    )
    limit_mutations: int = option(
        _LIMITS.mutations,
        _COUNT,
        "limits.mutations",
        "Changes that a caller waits for at the same time",
    )
    limit_mutations_total: int = option(
        _LIMITS.mutations_total,
        _COUNT,
        "limits.mutations_total",
        "The same of all callers together",
    )
    limit_watchers: int = option(
        _LIMITS.watchers,
        _COUNT,
        "limits.watchers",
        "Watches that a caller has open",
    )
    limit_watchers_total: int = option(
        _LIMITS.watchers_total,
        _COUNT,
        "limits.watchers_total",
        "The same of all callers together",
    )
    limit_connections: int = option(
        _LIMITS.connections,
        _COUNT,
        "limits.connections",
        "Connections of a user at the sockets, or of an address (of IPv6, a /64) with TLS",
    )
    limit_connections_total: int = option(
        _LIMITS.connections_total,
        _COUNT,
        "limits.connections_total",
        "The same of all callers, some kept for each kind of address; each takes three of the process's open files",
    )
    limit_streams_per_connection: int = option(
        _LIMITS.streams_per_connection,
        _COUNT,
        "limits.streams_per_connection",
        "Calls at the same time on one connection; a client keeps the next ones to itself",
    )


OPTIONS = rows_of(Config)


def configured(found: Found) -> Config:
    """The options as they were found; `ConfigError` names all that is nonsense."""
    if found.faults:
        raise ConfigError(*found.faults)
    return Config(**found.values)


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], file: Path | None) -> Config:
    """Put the options together; an argument that is None was not given. `ConfigError` as from `configured`."""
    return configured(collect(OPTIONS, arguments, environment, file))


def named_file(file: str | None) -> Path | None:
    """The configuration file: that of `--config`, else of `HOSTDEVD_CONFIG`, else the one of this host, if any."""
    given = file or os.environ.get(CONFIG_VARIABLE)
    if given:
        return Path(given)
    try:
        return DEFAULT_FILE if DEFAULT_FILE.exists() else None
    except OSError:  # that it cannot be looked at is told when it is read
        return DEFAULT_FILE
