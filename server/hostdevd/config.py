"""Options from the command line, the environment (`HOSTDEVD_...`) and a TOML file, in that order of weight."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostdevd.core.profiles import PROFILES

DEFAULT_LISTEN = ("unix:/run/hostdevd/hostdevd.sock",)
DEFAULT_STATE_DIR = "/var/lib/hostdevd"
BUILTIN = ""
"""The value of `simulate` that means the built-in simulated host."""


class ConfigError(Exception):
    """An option that makes no sense, in one line that names it."""


@dataclass(frozen=True, slots=True)
class Config:
    """All options of `hostdevd serve`."""

    connect: str = "qemu:///system"
    listen: tuple[str, ...] = DEFAULT_LISTEN
    state_dir: Path = Path(DEFAULT_STATE_DIR)
    simulate: str | None = None
    sysroot: Path = Path("/")
    reflection: bool = True
    profile: str = "default"
    policy: Path | None = None
    metrics: str | None = None


# Option, key in the file (dots are tables), environment variable.
_KEYS = {
    "connect": ("connect", "HOSTDEVD_CONNECT"),
    "listen": ("listen", "HOSTDEVD_LISTEN"),
    "state_dir": ("state_dir", "HOSTDEVD_STATE_DIR"),
    "simulate": ("simulate", "HOSTDEVD_SIMULATE"),
    "sysroot": ("sysroot", "HOSTDEVD_SYSROOT"),
    "reflection": ("reflection", "HOSTDEVD_REFLECTION"),
    "profile": ("eligibility.profile", "HOSTDEVD_ELIGIBILITY_PROFILE"),
    "policy": ("eligibility.policy", "HOSTDEVD_ELIGIBILITY_POLICY"),
    "metrics": ("metrics", "HOSTDEVD_METRICS"),
}


def load(arguments: Mapping[str, Any], environment: Mapping[str, str], file: Path | None) -> Config:
    """Put the options together; an argument that is None was not given. `ConfigError` for nonsense."""
    from_file = _flat(_read(file)) if file is not None else {}
    known = {key for key, _ in _KEYS.values()}
    for key in from_file:
        if key not in known:
            raise ConfigError(f"{file}: unknown key {key}")
    values: dict[str, Any] = {}
    for option, (key, variable) in _KEYS.items():
        if arguments.get(option) is not None:
            values[option] = _convert(option, arguments[option], f"--{option.replace('_', '-')}")
        elif variable in environment and (environment[variable] or option != "simulate"):
            values[option] = _from_text(option, environment[variable], variable)
        elif key in from_file:
            values[option] = _convert(option, from_file[key], f"{file}: {key}")
    return Config(**values)


def from_environment(arguments: Mapping[str, Any], file: str | None) -> Config:
    """`load` with the process's environment; `HOSTDEVD_CONFIG` names the file where `file` does not."""
    given = file or os.environ.get("HOSTDEVD_CONFIG")
    return load(arguments, os.environ, Path(given) if given else None)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _from_text(option: str, text: str, where: str) -> Any:
    if option == "listen":
        addresses = tuple(address for address in text.split(",") if address)
        if not addresses:
            raise ConfigError(f"{where}: must name an address to listen at")
        return addresses
    if text.lower() in _WORDS and option in {"reflection", "simulate"}:
        return _convert(option, _WORDS[text.lower()], where)
    if option == "reflection":
        raise ConfigError(f"{where}: must be true or false")
    return _convert(option, text, where)


_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _convert(option: str, value: Any, where: str) -> Any:
    if option == "listen":
        if not isinstance(value, list | tuple) or not value or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{where}: must be a list of addresses")
        return tuple(value)
    if option == "reflection":
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: must be true or false")
        return value
    if option == "simulate" and isinstance(value, bool):
        return BUILTIN if value else None
    if not isinstance(value, str):
        raise ConfigError(f"{where}: must be text")
    if option == "policy" and not value:
        raise ConfigError(f"{where}: must be the path of a file")
    if option in {"state_dir", "sysroot", "policy"}:
        return Path(value)
    if option == "profile" and value not in PROFILES:
        raise ConfigError(f"{where}: must be one of {', '.join(sorted(PROFILES))}")
    return value
