"""The layers that options come from: flags before the environment, that before the file, that before the default."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hostdevd.options.rows import PREFIX, Row
from hostdevd.options.writable import refuse_writable


class Source(StrEnum):
    """Where a value comes from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Found:
    """What the layers have, by the rows' names, of what is not left to its default; and what is wrong, in lines.

    `places` are for people: `/etc/file.toml: key`, a variable, a flag. A row with a source and no value is wrong.
    """

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def collect(
    rows: Sequence[Row], arguments: Mapping[str, Any], environment: Mapping[str, str], file: Path | None
) -> Found:
    """Read all layers. An argument that is None was not given; text is parsed, other values are as in the file.

    What a later layer hides is judged too: a fault in the file is told whatever the flags are.
    """
    found = Found()
    found.faults.extend(_by_flag(rows, environment))
    for source, told in (
        (Source.FILE, _from_file(rows, file, found.faults) if file is not None else ()),
        (Source.ENVIRONMENT, _from_environment(rows, environment)),
        (Source.FLAG, _from_arguments(rows, arguments)),
    ):
        for row, where, given in told:
            try:
                is_text = isinstance(given, str) and source is not Source.FILE
                found.values[row.name] = row.kind.parse(given) if is_text else row.kind.read(given)
            except ValueError as error:
                found.faults.append(f"{where}: {error}")
                found.values.pop(row.name, None)  # of a layer below, which is not meant
            found.sources[row.name] = source
            found.places[row.name] = where
    return found


def _by_flag(rows: Sequence[Row], environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that are named as a flag where the option has another name: to pass over one may open the service."""
    variables = {row.variable for row in rows}
    for row in rows:
        guessed = f"{PREFIX}{row.flag.removeprefix('--').upper().replace('-', '_')}"
        if row.flag and guessed in environment and guessed not in variables:
            yield f"unknown environment variable {guessed}; did you mean {row.variable}?"


Told = Iterator[tuple[Row, str, Any]]
"""A row, where a value for it stands, and the value as it stands there."""


def _from_arguments(rows: Sequence[Row], arguments: Mapping[str, Any]) -> Told:
    for row in rows:
        if arguments.get(row.name) is not None:
            yield row, row.flag, arguments[row.name]


def _from_environment(rows: Sequence[Row], environment: Mapping[str, str]) -> Told:
    for row in rows:
        text = environment.get(row.variable)
        if text is not None and (text or not row.kind.empty_is_unset):
            yield row, row.variable, text


def _from_file(rows: Sequence[Row], file: Path, faults: list[str]) -> Told:
    try:
        with file.open("rb") as opened:
            refuse_writable(file, os.fstat(opened.fileno()).st_mode)
            document = tomllib.load(opened)
    except OSError as error:
        faults.append(f"{file}: {error.strerror}")
        return
    except RecursionError:
        faults.append(f"{file}: is nested too deeply")
        return
    except ValueError as error:  # no UTF-8, no TOML, or a number with thousands of digits
        faults.append(f"{file}: {error}")
        return
    by_key = {row.key: row for row in rows}
    tables = {".".join(parts[:end]) for row in rows for parts in [row.key.split(".")] for end in range(1, len(parts))}
    for key, value in _leaves(document, "", tables):
        if key in by_key:
            yield by_key[key], f"{file}: {key}", value
        elif key in tables:
            faults.append(f"{file}: {key}: must be a table, begun with [{key}]")
        else:
            shown = key if key.isprintable() else repr(key)
            meant = did_you_mean(key, tables if isinstance(value, dict) else by_key)
            faults.append(f"{file}: unknown key {shown}{meant}")


def _leaves(table: Mapping[str, Any], prefix: str, tables: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Keys with their values; below what is no table of ours nothing is looked for."""
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and key in tables:
            yield from _leaves(value, f"{key}.", tables)
        else:
            yield key, value


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean listen?`, or nothing when nothing is like it."""
    close = difflib.get_close_matches(word, known, 1, 0.7)
    return f"; did you mean {close[0]}?" if close else ""
