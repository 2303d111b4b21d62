"""The command line of the service: `hostdevd serve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Before gRPC is imported: its C library would write lines of its own beside ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from hostdevd import __version__
from hostdevd.app import run
from hostdevd.config import OPTIONS, ConfigError, from_environment
from hostdevd.ops.logs import configure_logs
from hostdevd.options import flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 usage."""
    given = _parser().parse_args(arguments)
    configure_logs()
    try:
        config = from_environment(flags.given(OPTIONS, given), given.config)
    except ConfigError as error:
        for fault in error.faults:
            print(f"hostdevd: {fault}", file=sys.stderr)  # noqa: T201  one clear line each
        return 1
    return run(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostdevd", description="Hands a host's devices to virtual machines and takes them back."
    )
    parser.add_argument("--version", action="version", version=f"hostdevd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the service", description="Run the service until SIGTERM.")
    serve.add_argument("--config", metavar="FILE", help="TOML file of options")
    flags.add_flags(serve, OPTIONS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
