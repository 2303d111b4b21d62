"""hostdevctl put together: global options, commands, and the one place that turns failures into exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hostdev.channel import ADDRESS_VARIABLE, DEFAULT_ADDRESS, Tls, address_or_default
from hostdev.cli import admin, assignments, attach, detach, devices, groups, holders, host, tree, watch, why
from hostdev.cli.failures import BROKEN_PIPE, INTERRUPTED, REFUSED, Refusal, abandon_output, report
from hostdev.cli.output import Output, line, note
from hostdev.cli.session import Session
from hostdev.client import HostdevClient
from hostdev.errors import HostdevApiError

_GLOBAL = ("--address", "--output", "-o")


class Commands(TyperGroup):
    """Runs a command; whatever goes wrong becomes a line on standard error and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run what was parsed; raises only what typer itself handles."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except (HostdevApiError, Refusal) as error:
            address = ctx.obj.client.address if isinstance(ctx.obj, Session) else ""
            raise typer.Exit(report(error, address)) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            abandon_output()
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            if os.environ.get("HOSTDEVCTL_DEBUG"):
                raise
            note(f"hostdevctl: internal error: {type(error).__name__}: {error} (HOSTDEVCTL_DEBUG=1 tells where)")
            raise typer.Exit(REFUSED) from None
        return result


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it is piped and searched, too
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Assign this host's devices to virtual machines, take them back, see who has them.",
    epilog="Exit status: 0 done, 1 refused or failed, 2 usage, 3 unavailable.",
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 (typer's callback)
    if not asked:
        return
    try:
        line(f"hostdevctl {version('hostdevd-client')}")
    except PackageNotFoundError:
        line("hostdevctl, not installed")
    raise typer.Exit


def _checked_address(address: str | None) -> str:
    try:
        return address_or_default(address)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Option(
            envvar=ADDRESS_VARIABLE,
            callback=_checked_address,
            metavar="ADDRESS",
            help="unix:/path or host:port of the server.",
            show_default=DEFAULT_ADDRESS,
        ),
    ] = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Form of the answer.")] = Output.TABLE,
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="HOSTDEV_TLS_CA", exists=True, dir_okay=False, help="Encrypt; trust this CA (PEM)."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(envvar="HOSTDEV_TLS_CERT", exists=True, dir_okay=False, help="This client's certificate (PEM)."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="HOSTDEV_TLS_KEY", exists=True, dir_okay=False, help="Its private key (PEM)."),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Open the session that all commands share."""
    del show_version
    client = HostdevClient(address, tls=_tls(tls_ca, tls_cert, tls_key))
    context.obj = Session(client, output)
    context.call_on_close(client.close)


def _tls(ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
    if ca is None and certificate is None and key is None:
        return None
    try:
        return Tls(ca, certificate, key)
    except ValueError:
        raise typer.BadParameter("--tls-cert and --tls-key go together") from None


for _part in (host, devices, tree, why, groups, attach, detach, assignments, holders, watch, admin):
    _part.register(app)


def with_globals_first(argv: Sequence[str]) -> list[str]:
    """Let `-o json` and `--address ADDRESS` stand anywhere: no command has options of these names."""
    moved: list[str] = []
    rest: list[str] = []
    waiting = iter(argv)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _GLOBAL:
            moved += [argument, *(value for value in (next(waiting, None),) if value is not None)]
        elif argument.startswith(("--address=", "--output=")) or (
            argument.startswith("-o") and argument[2:] in list(Output)
        ):
            moved.append(argument)
        else:
            rest.append(argument)
    return moved + rest


def run(argv: Sequence[str]) -> None:
    """Run hostdevctl; ends with SystemExit."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A name that this terminal cannot show is no reason to fail.
        sys.stdout.reconfigure(errors="replace")
    app(args=with_globals_first(argv), prog_name="hostdevctl")
