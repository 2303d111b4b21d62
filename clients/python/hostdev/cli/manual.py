"""manual: hostdevctl's man page, written from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from hostdev.cli.output import line

_ENVIRONMENT = (
    ("HOSTDEV_ADDRESS", "The server, as \\-\\-address has it."),
    (
        "HOSTDEV_TLS_CA, HOSTDEV_TLS_CERT, HOSTDEV_TLS_KEY, HOSTDEV_TLS_SERVER_NAME",
        "As \\-\\-tls\\-ca, \\-\\-tls\\-cert, \\-\\-tls\\-key, \\-\\-tls\\-server\\-name have them; not for sockets.",
    ),
    ("HOSTDEVCTL_DEBUG", "Set to 1: where an internal error comes from."),
)
_STATUS = (
    (
        "0",
        "Done. So is a detach that the guest has not answered yet: its state DETACHING is told; the server goes on.",
    ),
    ("1", "Refused or failed; the reason is on standard error, with what to do."),
    ("2", "Wrong usage."),
    ("3", "Unavailable: no answer, or an attach that did not come to its end within \\-\\-wait."),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("manual")(manual)


def manual(context: typer.Context) -> None:
    """Write this man page. `hostdevctl manual | man -l -` shows it."""
    for text in page(context.find_root().command):
        line(text)


def page(root: Any) -> Iterator[str]:
    """The page in roff, of the tree of commands below `root`."""
    yield '.TH HOSTDEVCTL 1 "" hostdevd "User Commands"'
    yield ".SH NAME"
    yield r"hostdevctl \- assign this host's devices to virtual machines, take them back, see who has them"
    yield ".SH SYNOPSIS"
    yield r".B hostdevctl"
    yield r"[\fIOPTION\fR]... \fICOMMAND\fR [\fIARGUMENT\fR]..."
    yield ".SH DESCRIPTION"
    yield _escaped(root.help or "")
    yield ".PP"
    yield _escaped(
        "A DEVICE is libvirt's name of it (pci_0000_04_00_0), its uid, a PCI address (0000:04:00.0, 04:00.0), or a "
        "network interface or disk (eth1, sda) that it has. A VM is a name or a UUID."
    )
    yield ".PP"
    yield _escaped(
        "With -o json, --watch of devices and holders prints the messages of their watch; of assignments, eligible and "
        'groups a line for each row, {"kind": ..., "item": ...}: kind is CHANGE_KIND_UPSERT for what is there, new or '
        "changed, CHANGE_KIND_REMOVE for what is gone; item is what the list has."
    )
    yield ".SH OPTIONS"
    yield "These may stand anywhere on the line."
    yield from _options(root)
    yield ".SH COMMANDS"
    yield from _commands(root, "")
    yield from _definitions("EXIT STATUS", _STATUS)
    yield from _definitions("ENVIRONMENT", _ENVIRONMENT)


def _commands(group: Any, before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        full = f"{before}{name}"
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        if getattr(command, "commands", None):
            if getattr(command, "invoke_without_command", False):
                yield from _heading(full, ())
                yield _escaped(inspect.cleandoc(command.help or ""))
            yield from _commands(command, f"{full} ")
            continue
        yield from _heading(full, arguments)
        yield _escaped(inspect.cleandoc(command.help or ""))
        for argument in arguments:
            if argument.help:
                yield ".RS"
                yield ".TP"
                yield rf"\fI{_escaped(argument.metavar or argument.name)}\fR"
                yield _escaped(argument.help)
                yield ".RE"
        options = list(_options(command))
        if options:
            yield ".RS"
            yield from options
            yield ".RE"


def _heading(name: str, arguments: Any) -> Iterator[str]:
    yield ".TP"
    shown = " ".join(
        rf"\fI{_escaped(one.metavar or one.name.upper())}\fR"
        if one.required
        else rf"[\fI{_escaped(one.metavar or one.name.upper())}\fR]"
        for one in arguments
    )
    yield rf"\fB{_escaped(name)}\fR {shown}".rstrip()


def _options(command: Any) -> Iterator[str]:
    for option in command.params:
        if option.param_type_name != "option" or option.hidden:
            continue
        names = ", ".join(rf"\fB{_escaped(name)}\fR" for name in option.opts)
        choices = getattr(option.type_descriptor, "choices", None)
        value = "" if option.is_flag else (option.metavar or "|".join(map(str, choices or ())) or option.name.upper())
        yield ".TP"
        yield f"{names} \\fI{_escaped(value)}\\fR" if value else names
        yield _escaped(option.help or "")


def _definitions(title: str, entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for term, meaning in entries:
        yield ".TP"
        yield rf"\fB{term}\fR"
        yield meaning


def _escaped(text: str) -> str:
    """Text that roff takes as it is: no requests at the beginning of a line, hyphens as they are typed."""
    joined = " ".join(text.split()).replace("…", "...")
    escaped = joined.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
