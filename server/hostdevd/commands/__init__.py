"""The commands of `hostdevd`. Each module adds its own to the command line, and imports what it runs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hostdevd.config import DEFAULT_FILE, OPTIONS, named_file
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
    return collect(OPTIONS, given(OPTIONS, arguments), os.environ, named_file(arguments.config))


def complain(faults: Iterable[str]) -> int:
    """Say what is wrong, a line each; the exit status."""
    for fault in faults:
        print(f"hostdevd: {fault}", file=sys.stderr)
    return 1
