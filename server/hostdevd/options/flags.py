"""Flags of a command line, from the table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from hostdevd.options.example import literal
from hostdevd.options.kinds import SWITCH
from hostdevd.options.rows import Row

_FALSE = "--no-"


def add_flags(parser: argparse.ArgumentParser, rows: Sequence[Row]) -> None:
    """A flag for each row that has one. One that was not given is None."""
    for row in rows:
        if not row.flag:
            continue
        told = _help(row)
        if row.kind is SWITCH:
            says_false = row.flag.startswith(_FALSE)
            parser.add_argument(row.flag, dest=row.name, action="store_const", const=not says_false, help=told)
            continue
        more: dict[str, Any] = {"metavar": None if row.kind.choices else row.metavar}
        if row.kind.is_many:
            more["action"] = "append"
        if row.kind.bare is not None:
            more |= {"nargs": "?", "const": row.kind.bare}
        parser.add_argument(row.flag, dest=row.name, choices=row.kind.choices or None, help=told, **more)


def given(rows: Sequence[Row], arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, by the rows' names."""
    return {row.name: getattr(arguments, row.name) for row in rows if row.flag}


def _help(row: Row) -> str:
    if row.kind is SWITCH:
        told = f"do not {row.about[0].lower()}{row.about[1:]}" if row.flag.startswith(_FALSE) else row.about
        return told.replace("%", "%%")
    many = "; may be given again" if row.kind.is_many else ""
    default = row.kind.plain(row.default)
    values = default if isinstance(default, list) else [default]
    shown = ", ".join(one if isinstance(one, str) else literal(one) for one in values if one is not None)
    return f"{row.about}{many}{f' (default {shown})' if shown else ''}".replace("%", "%%")
