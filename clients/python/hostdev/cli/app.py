"""hostdevctl put together: global options, commands, and the one place that turns failures into exit statuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hostdev.channel import ADDRESS_VARIABLE, DEFAULT_ADDRESS, Tls, address_or_default
from hostdev.cli import admin, assignments, attach, detach, devices, groups, holders, host, manual, tree, watch, why
from hostdev.cli.anywhere import complete_with_globals_first, with_globals_first
from hostdev.cli.failures import BROKEN_PIPE, INTERRUPTED, REFUSED, Refusal, abandon_output, report
from hostdev.cli.output import Output, line, note
from hostdev.cli.session import Session
from hostdev.client import HostdevClient
from hostdev.errors import HostdevApiError


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
    epilog="Exit status: 0 done (a detach may still be DETACHING), 1 refused or failed, 2 usage, 3 unavailable.",
)


def _show_version(asked: bool) -> None:  # noqa: FBT001 (typer's callback)
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 (no other run needs it)

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
        typer.Option("--tls-ca", exists=True, dir_okay=False, help="Encrypt; trust this CA (PEM) [HOSTDEV_TLS_CA]."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert", exists=True, dir_okay=False, help="This client's certificate (PEM) [HOSTDEV_TLS_CERT]."
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", exists=True, dir_okay=False, help="Its private key (PEM) [HOSTDEV_TLS_KEY]."),
    ] = None,
    tls_server_name: Annotated[
        str,
        typer.Option(
            "--tls-server-name",
            metavar="NAME",
            help="The name in the server's certificate, where the address has another [HOSTDEV_TLS_SERVER_NAME].",
        ),
    ] = "",
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Open the session that all commands share."""
    del show_version
    files = (tls_ca, tls_cert, tls_key)
    try:
        # What the environment says of TLS is for addresses that can be encrypted, so the client reads it by itself.
        given = any(files) or tls_server_name
        client = HostdevClient(address, tls=Tls.from_environment(*files, tls_server_name) if given else None)
    except ValueError as error:
        raise typer.BadParameter(f"{error} (--tls-ca, --tls-cert with --tls-key)") from None
    except OSError as error:
        raise typer.BadParameter(f"{error.filename}: {error.strerror}") from None
    context.obj = Session(client, output)
    context.call_on_close(client.close)


for _part in (host, devices, tree, why, groups, attach, detach, assignments, holders, watch, admin, manual):
    _part.register(app)


def run(argv: Sequence[str]) -> None:
    """Run hostdevctl; ends with SystemExit."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A name that this terminal cannot show is no reason to fail.
        sys.stdout.reconfigure(errors="replace")
    complete_with_globals_first(os.environ)
    app(args=with_globals_first(argv), prog_name="hostdevctl")
