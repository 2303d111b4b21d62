"""The commands of `hostdevd`. Each module adds its own to the command line, and imports what it runs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostdevd.config import DEFAULT_FILE, OPTIONS, Config, configured, named_file
from hostdevd.options.flags import add_flags, given
from hostdevd.options.layers import Found, collect

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  it has no other name
else:
    Commands = Any


def add_config(parser: argparse.ArgumentParser) -> None:
    """The flag that names the configuration file."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file of options (default {DEFAULT_FILE}, where there is one)"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """All that `hostdevd serve` takes."""
    add_config(parser)
    add_flags(parser, OPTIONS)


def found(arguments: argparse.Namespace) -> Found:
    """What a command with `add_options`, the environment and the file say."""
    return _found(arguments, named_file(arguments.config))


def _found(arguments: argparse.Namespace, file: Path | None) -> Found:
    return collect(OPTIONS, given(OPTIONS, arguments), os.environ, file)


def reading(arguments: argparse.Namespace) -> Callable[[], Config]:
    """The way to read the same again and again; `ConfigError` as from `configured`.

    A file that was read once is the file from then on: while it is away (an editor exchanges it, a mount failed), that
    is an error, and not a service without options.
    """
    settled: Path | None = None

    def read() -> Config:
        nonlocal settled
        file = settled or named_file(arguments.config)
        config = configured(_found(arguments, file))
        settled = file
        return config

    return read


def complain(faults: Iterable[str]) -> int:
    """Say what is wrong, a line each; the exit status."""
    for fault in faults:
        print(f"hostdevd: {fault}", file=sys.stderr)
    return 1
