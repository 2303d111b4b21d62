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
from hostdevd.options.kinds import DIRECTORY, FILE, SWITCH, choice, switch_or_file, text, texts
from hostdevd.options.layers import collect
from hostdevd.options.rows import option, rows_of

BUILTIN = ""
"""The value of `simulate` that means the built-in simulated host."""
CONFIG_VARIABLE = "HOSTDEVD_CONFIG"


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
        "Serve Prometheus metrics at this loopback host:port, under /metrics",
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
        "TOML file of rules that allow and deny devices; a SIGHUP has it read again",
        flag="--policy",
        example="/etc/hostdevd/policy.toml",
    )


OPTIONS = rows_of(Config)


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], file: Path | None) -> Config:
    """Put the options together; an argument that is None was not given. `ConfigError` names all that is nonsense."""
    found = collect(OPTIONS, arguments, environment, file)
    if found.faults:
        raise ConfigError(*found.faults)
    return Config(**found.values)


def named_file(file: str | None, environment: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file: the one of `--config`, else that of `HOSTDEVD_CONFIG`, else none."""
    given = file or environment.get(CONFIG_VARIABLE)
    return Path(given) if given else None


def from_environment(arguments: Mapping[str, Any], file: str | None) -> Config:
    """`load` with the process's environment; `HOSTDEVD_CONFIG` names the file where `file` does not."""
    return load(arguments, os.environ, named_file(file))
