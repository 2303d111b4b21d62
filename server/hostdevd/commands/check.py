"""`hostdevd check`: is the service there, and the host fit? For people, and as a probe for readiness and liveness.

Where roles keep the caller from reading the host, the health service answers in its place: that one answers everybody.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from hostdevd.commands import Commands, add_config, complain
from hostdevd.config import ConfigError, load, named_file

TIMEOUT_S = 3.0
_SERVING = "SERVING"
_HOW_TO_BE_SHOWN = {
    "NOT_ALLOWED": "a rule with the role viewer for this user",
    "NO_IDENTITY": "a certificate with a name that hostdevd takes (a subject alternative name)",
}
"""Reasons why a caller does not get the host, and what he would get it by; the service is well for all that."""
_ANYWHERE = ("0.0.0.0:", "[::]:")


def add(commands: Commands) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="ask the running service whether the host is fit",
        description="Ask the running service whether it and the host are fit for assigning devices: exit status 0, "
        "or 1 when a check has failed or nobody answers. A readiness probe. Who may not read the host gets the health "
        "service's word: 0 when it is SERVING. With --alive a liveness probe. Where the service listens with TLS only, "
        "HOSTDEV_TLS_CA, HOSTDEV_TLS_CERT and HOSTDEV_TLS_KEY name PEM files: its authority, a client's certificate, "
        "and its key.",
    )
    parser.add_argument(
        "--alive", action="store_true", help="ask only whether the service answers, well or not, and whoever asks"
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
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:  # noqa: PLR2004  an hour, which is for ever here
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to an hour")
    return seconds


def run(given: argparse.Namespace) -> int:
    """Show what is asked for; 0, or 1 when a check has failed or no answer came in time."""
    from hostdev.cli.words import plain  # noqa: PLC0415  the other commands do without a client
    from hostdev.errors import HostdevError  # noqa: PLC0415

    address = given.address
    try:
        address = address or _configured_address(given.config)
        return _alive(address, given) if given.alive else _ready(address, given)
    except ConfigError as error:
        return complain(error.faults)
    except (HostdevError, OSError, ValueError) as error:
        return complain([plain(f"{address}: {' '.join(str(error).split())}")])


def _ready(address: str, given: argparse.Namespace) -> int:
    """`GetHost`'s report, or whether the service is serving where that is not the caller's to read."""
    from hostdev.cli.host import host_sheet  # noqa: PLC0415  the other commands do without a client
    from hostdev.cli.output import Output, Printer  # noqa: PLC0415
    from hostdev.cli.words import plain, word  # noqa: PLC0415
    from hostdev.client import HostdevClient  # noqa: PLC0415
    from hostdev.errors import HostdevApiError  # noqa: PLC0415
    from hostdev.v1 import host_pb2  # noqa: PLC0415

    try:
        with HostdevClient(address, timeout_s=given.timeout) as client:
            host = client.get_host()
    except HostdevApiError as error:
        if error.reason not in _HOW_TO_BE_SHOWN:
            raise
        health = _health(address, given.timeout)
        how = _HOW_TO_BE_SHOWN[error.reason]
        why = f"{error.reason}: the host's checks are not shown; {how} shows them"
        _say(given, plain(f"{address}: {health} ({why})"), {"health": health, "reason": error.reason})
        return 0 if health == _SERVING else complain([f"{address}: the service is {health}"])
    Printer(Output(given.output)).resource(host, host.name, *host_sheet(host))
    failed = [check for check in host.checks if check.status == host_pb2.HOST_CHECK_STATUS_FAIL]
    return complain(plain(f"{word(check, 'code')} failed: {check.message}") for check in failed) if failed else 0


def _alive(address: str, given: argparse.Namespace) -> int:
    """Whatever status the service has for the question: it lives. What gRPC says in its place does not count."""
    health = _health(address, given.timeout)
    _say(given, f"{address}: alive ({health})", {"health": health})
    return 0


def _health(address: str, timeout_s: float) -> str:
    """`grpc.health.v1`'s word for the whole service, or the status that it answers with; `HostdevApiError`."""
    import grpc  # noqa: PLC0415  as above
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    from hostdev.channel import Connection  # noqa: PLC0415
    from hostdev.errors import HostdevApiError  # noqa: PLC0415

    with Connection.to(address, None, None).open() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # whose types lack its methods
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                raise HostdevApiError.from_rpc_error(error, "Check") from error
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _say(given: argparse.Namespace, line: str, told: dict[str, str]) -> None:
    print(json.dumps(told) if given.output == "json" else line)


def _configured_address(file: str | None) -> str:
    """Where a service with this configuration listens; a socket before a port, which may want a certificate."""
    listen = load({}, os.environ, named_file(file)).listen
    address = next((one for one in listen if one.startswith("unix:")), listen[0]).removeprefix("tls:")
    if address.endswith(":0") or address.startswith(_ANYWHERE):
        raise ConfigError(f"listen {address}: is nothing to connect to; say with --address where the service is")
    return address
