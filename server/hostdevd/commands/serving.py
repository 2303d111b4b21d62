"""`hostdevd serve`: run the service."""

from __future__ import annotations

import argparse

from hostdevd.commands import Commands, add_options, complain, reading
from hostdevd.config import ConfigError
from hostdevd.ops.logs import configure_logs


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser("serve", help="run the service", description="Run the service until SIGTERM.")
    add_options(parser)
    parser.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run it; 0, or 1 when it cannot be served."""
    read = reading(given)
    try:
        config = read()
    except ConfigError as error:
        return complain(error.faults)
    configure_logs(config.log_level, config.log_format)
    from hostdevd import app  # noqa: PLC0415  the other commands do without the service

    return app.run(config, read)
