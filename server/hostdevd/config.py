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

from hostdevd.core.profiles import PROFILES
from hostdevd.ops.endpoint import check_endpoint
from hostdevd.ops.logs import FORMATS, LEVELS
from hostdevd.options.kinds import DIRECTORY, FILE, SWITCH, choice, switch_or_file, text, texts
from hostdevd.options.layers import Found, collect
from hostdevd.options.rows import option, rows_of

BUILTIN = ""
"""The value of `simulate` that means the built-in simulated host."""
CONFIG_VARIABLE = "HOSTDEVD_CONFIG"
DEFAULT_FILE = Path("/etc/hostdevd/hostdevd.toml")


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
        "Addresses to serve at: unix:/path or a loopback host:port (port 0: a free one)",
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

    # The table [sriov].
    sriov_socket: Path = option(
        Path("/run/hostdevd-sriov.sock"),
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
