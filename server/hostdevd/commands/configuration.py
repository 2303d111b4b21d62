"""`hostdevd config`: is it right, what is in force and why, and what could be said."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator

from hostdevd.commands import Commands, add_options, complain, found
from hostdevd.config import CONFIG_VARIABLE, DEFAULT_FILE, OPTIONS, Config, named_file
from hostdevd.options.example import example_file, literal
from hostdevd.options.layers import Source, did_you_mean
from hostdevd.options.rows import PREFIX

HEADING = f"""\
The options of hostdevd, each with its default. Read from --config, else HOSTDEVD_CONFIG, else {DEFAULT_FILE}.
A flag of `hostdevd serve` goes before the environment variable, and that before this file.
`hostdevd config check` says what is wrong, `hostdevd config show` what is in force and where it comes from."""


def add(commands: Commands) -> None:
    """Add the commands."""
    about = "check, show or write the configuration"
    parsers = commands.add_parser("config", help=about, description=about.capitalize() + ".").add_subparsers(
        dest="config_command", required=True, metavar="COMMAND"
    )
    check = parsers.add_parser(
        "check",
        help="say all that is wrong with it",
        description="Say all that is wrong with the options and with the files that they name; exit status 1 if any. "
        "Warnings, of what is right and hardly meant, leave it 0.",
    )
    add_options(check)
    check.set_defaults(run=_check)
    show = parsers.add_parser(
        "show",
        help="show every option, its value and where that comes from",
        description="Show every option, its value and where that comes from: as `serve` with the same flags has it.",
    )
    add_options(show)
    show.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form (default table)")
    show.set_defaults(run=_show)
    example = parsers.add_parser(
        "example",
        help="write a file of all options",
        description="Write a configuration file with every option commented: what it means, and its default.",
    )
    example.set_defaults(run=_example)


def _check(given: argparse.Namespace) -> int:
    from hostdevd.checking import faults  # noqa: PLC0415  the others need no gRPC
    from hostdevd.doubts import doubts  # noqa: PLC0415

    options = found(given)
    wrong = list(faults(options))
    wrong += _misspelt(name for name in os.environ if name.startswith(PREFIX))
    if wrong:
        return complain(dict.fromkeys(wrong))
    file = named_file(given.config)
    print(
        f"{file}: is right" if file is not None else "no file: the defaults, flags and variables are right", flush=True
    )
    complain(f"warning: {doubt}" for doubt in doubts(options))
    return 0


def _misspelt(variables: Iterable[str]) -> Iterator[str]:
    """Others may have the prefix, too; what is like one of ours is probably meant as one."""
    known = [row.variable.removeprefix(PREFIX) for row in OPTIONS]
    for name in sorted({*variables} - {CONFIG_VARIABLE, *(row.variable for row in OPTIONS)}):
        meant = did_you_mean(name.removeprefix(PREFIX), known)
        if meant:
            yield f"unknown environment variable {name}{meant.replace('mean ', f'mean {PREFIX}')}"


def _show(given: argparse.Namespace) -> int:
    options = found(given)
    if options.faults:
        return complain(options.faults)
    config = Config(**options.values)
    values = [(row, row.kind.plain(getattr(config, row.name))) for row in OPTIONS]
    places = {row.key: options.places.get(row.name, "") for row in OPTIONS}
    sources = {row.key: options.sources.get(row.name, Source.DEFAULT) for row in OPTIONS}
    if given.output == "json":
        told = {
            row.key: {"value": value, "source": sources[row.key], "place": places[row.key], "reloads": row.reloads}
            for row, value in values
        }
        print(json.dumps(told, indent=2))
        return 0
    from hostdev.cli.output import Printer, table  # noqa: PLC0415  only where it is drawn

    shown = table(
        ("OPTION", "VALUE", "SOURCE", "PLACE"),
        [
            (row.key, "not set" if value is None else literal(value), sources[row.key], places[row.key])
            for row, value in values
        ],
    )
    Printer().draw(shown)
    return 0


def _example(_: argparse.Namespace) -> int:
    sys.stdout.write(written_example())
    return 0


def written_example() -> str:
    """The file as the repository has it in deploy/."""
    return example_file(HEADING, OPTIONS)
