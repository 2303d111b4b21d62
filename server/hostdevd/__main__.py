"""The command line: `hostdevd serve`, and what an operator asks beside it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Before gRPC is imported: its C library would write lines of its own beside ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from hostdevd import __version__
from hostdevd.commands import auditing, check, configuration, serving

COMMANDS = (serving, check, auditing, configuration)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 usage."""
    given = _parser().parse_args(arguments)
    status: int = given.run(given)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostdevd", description="Hands a host's devices to virtual machines and takes them back."
    )
    parser.add_argument("--version", action="version", version=f"hostdevd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
