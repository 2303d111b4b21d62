"""Man pages of the server: `manual.py command` is hostdevd(8), `manual.py options` is hostdevd.toml(5).

The first is written from the parser of the command line, the second from the table of options, so neither can differ
from the program.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from hostdevd.__main__ import _parser
from hostdevd.config import DEFAULT_FILE, OPTIONS
from hostdevd.options.example import literal
from hostdevd.options.rows import Row

_SIGNALS = (
    ("SIGTERM", "Refuse new calls, end those that run, exit 0."),
    ("SIGHUP", "Read the configuration, and the files that it names, again; hostdevd.toml(5) says what applies."),
)
_STATUS = (("0", "Done."), ("1", "Failed; the reasons are on standard error, a line each."), ("2", "Wrong usage."))
_FILES = (
    (str(DEFAULT_FILE), "The configuration, see hostdevd.toml(5)."),
    ("/run/hostdevd/hostdevd.sock", "Where it listens by default. Whoever is in the group hostdevd may connect."),
    ("/var/lib/hostdevd", "What survives a restart. `sqlite3 state.sqlite .backup` copies it while the service runs."),
)


def command() -> Iterator[str]:
    """hostdevd(8)."""
    parser = _parser()
    yield '.TH HOSTDEVD 8 "" hostdevd "System Administration"'
    yield from _section("NAME", r"hostdevd \- hands a host's devices to virtual machines and takes them back")
    yield from _section("SYNOPSIS", r".B hostdevd", r"\fICOMMAND\fR [\fIOPTION\fR]...")
    yield from _section(
        "DESCRIPTION",
        _text(
            "hostdevd serves the devices of a KVM/libvirt host by gRPC: it lists them, says why one may not be "
            "assigned, attaches a whole IOMMU group or nothing, and takes it back. Its command line is hostdevctl(1)."
        ),
    )
    yield ".SH COMMANDS"
    yield from _commands(parser, "")
    yield from _list("SIGNALS", _SIGNALS)
    yield from _list("EXIT STATUS", _STATUS)
    yield from _list("FILES", _FILES)
    yield from _section("SEE ALSO", r"\fBhostdevctl\fR(1), \fBhostdevd.toml\fR(5), \fBvirsh\fR(1)")


def options() -> Iterator[str]:
    """hostdevd.toml(5)."""
    yield '.TH HOSTDEVD.TOML 5 "" hostdevd "File Formats"'
    yield from _section("NAME", r"hostdevd.toml \- options of hostdevd")
    yield from _section("SYNOPSIS", _bold(str(DEFAULT_FILE)))
    yield from _section(
        "DESCRIPTION",
        _text(
            "A TOML file. A flag of hostdevd serve goes before the environment variable, that before this file, that "
            "before the default. hostdevd config check says what is wrong, hostdevd config show what is in force and "
            "where it comes from, hostdevd config example writes this file with all options commented."
        ),
    )
    for table in sorted({row.table: None for row in OPTIONS}, key=bool):
        yield f".SH {_text(f'TABLE [{table}]' if table else 'OPTIONS')}"
        for row in OPTIONS:
            if row.table == table:
                yield from _option(row)
    yield from _section("SEE ALSO", r"\fBhostdevd\fR(8)")


def _option(row: Row) -> Iterator[str]:
    default = row.kind.plain(row.default)
    told = f"Default {literal(default)}" if default is not None else f"Not set; for example {literal(row.example)}"
    also = ", ".join(filter(None, (row.flag, row.variable)))
    yield ".TP"
    yield rf"{_bold(row.key.rpartition('.')[2])} = \fI{_text(row.metavar)}\fR"
    yield _text(f"{row.about}. {told}. {also}.{' A SIGHUP applies it.' if row.reloads else ''}")


def _commands(parser: argparse.ArgumentParser, before: str) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001  argparse hands out its options in no other way
        if not isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  the same
            continue
        for name, below in action.choices.items():
            if any(isinstance(one, argparse._SubParsersAction) for one in below._actions):  # noqa: SLF001  the same
                yield from _commands(below, f"{before}{name} ")
                continue
            yield ".TP"
            yield _bold(f"{before}{name}")
            yield _text(below.description or "")
            yield ".RS"
            yield from _flags(below)
            yield ".RE"


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # noqa: SLF001  the same
        yield ".TP"
        names = ", ".join(map(_bold, action.option_strings)) or rf"\fI{_text(str(action.metavar or action.dest))}\fR"
        value = "|".join(map(str, action.choices)) if action.choices else action.metavar
        takes = action.option_strings and action.nargs != 0
        yield rf"{names} \fI{_text(str(value or action.dest.upper()))}\fR" if takes else names
        yield _text((action.help or "").replace("%%", "%"))


def _section(title: str, *lines: str) -> Iterator[str]:
    yield f".SH {title}"
    yield from lines


def _list(title: str, entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for term, meaning in entries:
        yield ".TP"
        yield _bold(term)
        yield _text(meaning)


def _bold(text: str) -> str:
    return rf"\fB{_text(text)}\fR"


def _text(text: str) -> str:
    """As roff takes it: no requests at the beginning of a line, hyphens as they are typed."""
    escaped = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(one if one.isascii() else f"\\[u{ord(one):04X}]" for one in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


PAGES = {"command": command, "options": options}

if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in PAGES[sys.argv[1]]())
