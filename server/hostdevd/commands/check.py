"""`hostdevd check`: is the service there, and the host fit? For people, and as a readiness probe."""

from __future__ import annotations

import argparse
import os

from hostdevd.commands import Commands, add_config, complain
from hostdevd.config import ConfigError, load, named_file

TIMEOUT_S = 3.0
_ANYWHERE = ("0.0.0.0:", "[::]:")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="ask the running service whether the host is fit",
        description="Ask the running service whether it and the host are fit for assigning devices: exit status 0, "
        "or 1 when a check has failed or nobody answers. A readiness probe.",
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="unix:/path or host:port (default the first one that is configured)"
    )
    add_config(parser)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=TIMEOUT_S,
        help=f"how long an answer may take (default {TIMEOUT_S:g})",
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form (default table)")
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:  # noqa: PLR2004  an hour, which is for ever here
        raise ValueError(text)
    return seconds


def run(given: argparse.Namespace) -> int:
    """Show `GetHost`'s report; 0, or 1 when a check has failed or no report came in time."""
    from hostdev.cli.host import host_sheet  # noqa: PLC0415  the other commands do without a client
    from hostdev.cli.output import Output, Printer  # noqa: PLC0415
    from hostdev.cli.words import plain, word  # noqa: PLC0415
    from hostdev.client import HostdevClient  # noqa: PLC0415
    from hostdev.errors import HostdevError  # noqa: PLC0415
    from hostdev.v1 import host_pb2  # noqa: PLC0415

    address = given.address
    try:
        address = address or _configured_address(given.config)
        with HostdevClient(address, timeout_s=given.timeout) as client:
            host = client.get_host()
    except ConfigError as error:
        return complain(error.faults)
    except (HostdevError, OSError, ValueError) as error:
        return complain([plain(f"{address}: {' '.join(str(error).split())}")])
    Printer(Output(given.output)).resource(host, host.name, *host_sheet(host))
    failed = [check for check in host.checks if check.status == host_pb2.HOST_CHECK_STATUS_FAIL]
    return complain(plain(f"{word(check, 'code')} failed: {check.message}") for check in failed) if failed else 0


def _configured_address(file: str | None) -> str:
    """Where a service with this configuration listens; a socket before a port, which may want a certificate."""
    listen = load({}, os.environ, named_file(file)).listen
    address = next((one for one in listen if one.startswith("unix:")), listen[0]).removeprefix("tls:")
    if address.endswith(":0") or address.startswith(_ANYWHERE):
        raise ConfigError(f"listen {address}: is nothing to connect to; say with --address where the service is")
    return address
